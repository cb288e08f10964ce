//! Integers in as few bits as their range takes.

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A matrix of integers `base ..= base + 2^bits − 1`, row by row, least significant bit first.
///
/// Invariant (checked when decoded): 1 to 64 bits, exactly as many bytes as the values take, zeros
/// after the last value, no sum above `i64`. Every matrix has one encoding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "PackedSpec", into = "PackedSpec")]
pub(super) struct Packed {
    n_rows: u32,
    n_columns: u32,
    base: i64,
    bits: u8,
    bytes: Vec<u8>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct PackedSpec {
    n_rows: u32,
    n_columns: u32,
    base: i64,
    bits: u8,
    bytes: Vec<u8>,
}

impl TryFrom<PackedSpec> for Packed {
    type Error = Error;

    fn try_from(spec: PackedSpec) -> Result<Self> {
        let PackedSpec { n_rows, n_columns, base, bits, bytes } = spec;
        let packed = Self { n_rows, n_columns, base, bits, bytes };
        packed.check()?;
        Ok(packed)
    }
}

impl From<Packed> for PackedSpec {
    fn from(packed: Packed) -> Self {
        let Packed { n_rows, n_columns, base, bits, bytes } = packed;
        Self { n_rows, n_columns, base, bits, bytes }
    }
}

const MALFORMED: Error = Error::MalformedFingerprint { what: "packed integers" };

impl Packed {
    /// Pack a matrix.
    ///
    /// # Errors
    /// - [`Error::MalformedFingerprint`] if it has 2^32 rows or columns.
    pub(super) fn new(values: &Array2<i64>) -> Result<Self> {
        let low = values.iter().copied().min().unwrap_or(0);
        let high = values.iter().copied().max().unwrap_or(0);
        let span = high.abs_diff(low);
        let bits = u8::try_from((64 - span.leading_zeros()).max(1)).unwrap_or(64);
        let mut writer = BitWriter::default();
        values.iter().for_each(|value| writer.push(value.abs_diff(low), bits));
        let count = |n: usize| u32::try_from(n).map_err(|_| MALFORMED);
        Ok(Self {
            n_rows: count(values.nrows())?,
            n_columns: count(values.ncols())?,
            base: low,
            bits,
            bytes: writer.finish(),
        })
    }

    /// Rows and columns.
    pub(super) fn dim(&self) -> (usize, usize) {
        (self.n_rows as usize, self.n_columns as usize)
    }

    /// The matrix. Memory: at most 64 times the packed bytes.
    pub(super) fn unpack(&self) -> Array2<i64> {
        let mut reader = BitReader { bytes: &self.bytes, held: 0, n_held: 0 };
        let base = self.base;
        Array2::from_shape_simple_fn(self.dim(), || {
            base.wrapping_add_unsigned(reader.take(self.bits))
        })
    }

    /// Bytes of the packed values.
    #[cfg(test)]
    pub(super) fn n_bytes(&self) -> usize {
        self.bytes.len()
    }

    fn check(&self) -> Result<()> {
        if !(1..=64).contains(&self.bits) {
            return Err(MALFORMED);
        }
        let n_values = u64::from(self.n_rows) * u64::from(self.n_columns);
        let n_bits = n_values.checked_mul(self.bits.into()).ok_or(MALFORMED)?;
        if n_bits.div_ceil(8) != self.bytes.len() as u64 {
            return Err(MALFORMED);
        }
        let unused = u32::try_from(self.bytes.len() as u64 * 8 - n_bits).map_err(|_| MALFORMED)?;
        let last = self.bytes.last().copied().unwrap_or(0);
        if unused > 0 && last.leading_zeros() < unused {
            return Err(MALFORMED);
        }
        // Values now are as many as the bytes say, so that reading them costs no more than the file.
        let mut reader = BitReader { bytes: &self.bytes, held: 0, n_held: 0 };
        for _ in 0..n_values {
            self.base.checked_add_unsigned(reader.take(self.bits)).ok_or(MALFORMED)?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    held: u128,
    n_held: u32,
}

impl BitWriter {
    fn push(&mut self, value: u64, bits: u8) {
        self.held |= u128::from(value) << self.n_held;
        self.n_held += u32::from(bits);
        while self.n_held >= 8 {
            self.bytes.push(self.held.to_le_bytes()[0]);
            self.held >>= 8;
            self.n_held -= 8;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        if self.n_held > 0 {
            self.bytes.push(self.held.to_le_bytes()[0]);
        }
        self.bytes
    }
}

struct BitReader<'a> {
    bytes: &'a [u8],
    held: u128,
    n_held: u32,
}

impl BitReader<'_> {
    /// The next value; zeros after the end.
    #[expect(clippy::cast_possible_truncation, reason = "masked to at most 64 bits")]
    fn take(&mut self, bits: u8) -> u64 {
        let bits = u32::from(bits);
        while self.n_held < bits {
            let next = match self.bytes.split_first() {
                Some((&first, rest)) => {
                    self.bytes = rest;
                    first
                }
                None => 0,
            };
            self.held |= u128::from(next) << self.n_held;
            self.n_held += 8;
        }
        let value = (self.held & ((1_u128 << bits) - 1)) as u64;
        self.held >>= bits;
        self.n_held -= bits;
        value
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_those_of_the_range() {
        for (values, n_bytes) in [
            (array![[5_i64, 5, 5]], 1),
            (array![[-8_i64, 7, 0]], 2),
            (array![[0_i64, 255], [1, 2]], 4),
            (array![[0_i64, 256], [1, 2]], 5),
            (array![[i64::MIN, i64::MAX]], 16),
            (Array2::zeros((0, 3)), 0),
        ] {
            let packed = Packed::new(&values).unwrap();
            assert_eq!(packed.n_bytes(), n_bytes, "{values}");
            assert_eq!(packed.unpack(), values);
        }
    }

    #[test]
    fn every_inconsistent_encoding_is_refused() {
        let good = PackedSpec::from(Packed::new(&array![[-8_i64, 7, 0]]).unwrap());
        assert!(Packed::try_from(good.clone()).is_ok());
        let bad: [fn(&mut PackedSpec); 7] = [
            |p| p.bits = 0,
            |p| p.bits = 65,
            |p| p.n_rows = 2,
            |p| p.n_columns = u32::MAX,
            |p| p.bytes.push(0),
            |p| *p.bytes.last_mut().unwrap() |= 0x80,
            |p| p.base = i64::MAX,
        ];
        for (case, alter) in bad.into_iter().enumerate() {
            let mut spec = good.clone();
            alter(&mut spec);
            assert!(Packed::try_from(spec).is_err(), "{case}");
        }
        let mut all = good;
        (all.n_rows, all.n_columns, all.bits) = (u32::MAX, u32::MAX, 64);
        assert!(Packed::try_from(all).is_err());
    }

    proptest! {
        #[test]
        fn packing_loses_nothing(
            values in prop::collection::vec(any::<i64>(), 1..40), shift in 0_u32..64,
        ) {
            let values: Vec<i64> = values.into_iter().map(|v| v >> shift).collect();
            let matrix = Array2::from_shape_vec((1, values.len()), values).unwrap();
            let packed = Packed::new(&matrix).unwrap();
            prop_assert_eq!(packed.unpack(), matrix);
            prop_assert!(packed.check().is_ok());
        }
    }
}
