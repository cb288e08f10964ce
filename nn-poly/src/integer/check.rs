//! One way to refuse a number: which thing, which field, what it is, what it may be.

use crate::error::{Error, Result};

/// Refuse `actual` outside `min..=max`.
pub(crate) fn require<T: Into<Wide>>(
    subject: &'static str,
    index: usize,
    field: &'static str,
    actual: T,
    min: T,
    max: T,
) -> Result<()> {
    let (Wide(actual), Wide(min), Wide(max)) = (actual.into(), min.into(), max.into());
    if (min..=max).contains(&actual) {
        Ok(())
    } else {
        Err(Error::OutOfRange { subject, index, field, actual, min, max })
    }
}

/// Any integer this crate compares, widened without loss (`usize` has at most 64 bits).
pub(crate) struct Wide(i128);

macro_rules! widen {
    ($($t:ty),*) => {$(
        impl From<$t> for Wide {
            #[allow(clippy::cast_lossless, reason = "one macro for all widths")]
            fn from(value: $t) -> Self {
                Self(value as i128)
            }
        }
    )*};
}
widen!(usize, u64, i64, u32, i32, i128);
