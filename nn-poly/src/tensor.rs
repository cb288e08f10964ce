//! Shapes and batch tensors: checked, channel-last, row-major.

use std::fmt;
use std::iter::Sum;

use ndarray::{Array2, ArrayView2, ArrayView4, ArrayViewMut2, Axis, NdFloat};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::error::{Error, Result};

/// Real numbers a network can be made of: `f32` for work, `f64` for checks.
pub trait Scalar: NdFloat + Default + Sum + Serialize + DeserializeOwned + Unpin + 'static {
    /// The nearest representable number.
    fn from_f64(value: f64) -> Self;

    /// The same number in double precision (exact for both implementations).
    fn as_f64(self) -> f64;

    /// The nearest representable number to a count.
    #[must_use]
    fn from_count(count: usize) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "nearest is what is promised")]
        Self::from_f64(count as f64)
    }
}

impl Scalar for f32 {
    #[expect(clippy::cast_possible_truncation, reason = "rounds to nearest")]
    fn from_f64(value: f64) -> Self {
        value as Self
    }

    fn as_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Scalar for f64 {
    fn from_f64(value: f64) -> Self {
        value
    }

    fn as_f64(self) -> f64 {
        self
    }
}

/// The axes of one sample: `[n]`, `[rows, columns]` or `[height, width, channels]`.
///
/// Invariant: 1 to 3 axes, none empty, at most [`Shape::MAX_VALUES`] values.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<usize>", into = "Vec<usize>")]
pub struct Shape(Vec<usize>);

impl Shape {
    /// Largest number of values in one sample: 16,777,216, a 2,365 × 2,365 color image.
    pub const MAX_VALUES: usize = 1 << 24;

    /// Check `dims` and make them a shape.
    ///
    /// # Errors
    /// - [`Error::InvalidShape`] unless there are 1 to 3 axes, none of them empty, with a product of
    ///   at most [`Self::MAX_VALUES`].
    pub fn new(dims: impl Into<Vec<usize>>) -> Result<Self> {
        let dims = dims.into();
        let reason = if !(1..=3).contains(&dims.len()) {
            Some("a shape has 1 to 3 axes")
        } else if dims.contains(&0) {
            Some("no axis may be empty")
        } else if dims
            .iter()
            .try_fold(1_usize, |product, &dim| product.checked_mul(dim))
            .is_none_or(|product| product > Self::MAX_VALUES)
        {
            Some("at most 16777216 values per sample are supported")
        } else {
            None
        };
        match reason {
            Some(reason) => Err(Error::InvalidShape { dims, reason }),
            None => Ok(Self(dims)),
        }
    }

    /// An image `[height, width, channels]`.
    ///
    /// # Errors
    /// - [`Error::InvalidShape`] as for [`Self::new`].
    pub fn image(height: usize, width: usize, channels: usize) -> Result<Self> {
        Self::new([height, width, channels])
    }

    /// A vector `[n]`.
    ///
    /// # Errors
    /// - [`Error::InvalidShape`] as for [`Self::new`].
    pub fn vector(n: usize) -> Result<Self> {
        Self::new([n])
    }

    /// The axes, outermost first.
    #[must_use]
    pub fn dims(&self) -> &[usize] {
        &self.0
    }

    /// Number of values in one sample: the product of the axes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a shape is never empty")]
    pub fn len(&self) -> usize {
        self.0.iter().product()
    }

    /// Length of the last axis: channels of an image, length of a vector.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.0.last().copied().unwrap_or(1)
    }

    /// `(height, width, channels)` if this is an image.
    #[must_use]
    pub fn as_image(&self) -> Option<(usize, usize, usize)> {
        match *self.0 {
            [height, width, channels] => Some((height, width, channels)),
            _ => None,
        }
    }

    /// The vector shape with the same number of values.
    #[must_use]
    pub fn flattened(&self) -> Self {
        Self(vec![self.len()])
    }
}

impl TryFrom<Vec<usize>> for Shape {
    type Error = Error;

    fn try_from(dims: Vec<usize>) -> Result<Self> {
        Self::new(dims)
    }
}

impl From<Shape> for Vec<usize> {
    fn from(shape: Shape) -> Self {
        shape.0
    }
}

/// `28×28×1`.
impl fmt::Display for Shape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (axis_idx, dim) in self.0.iter().enumerate() {
            if axis_idx > 0 {
                formatter.write_str("×")?;
            }
            write!(formatter, "{dim}")?;
        }
        Ok(())
    }
}

/// `Shape(28×28×1)`.
impl fmt::Debug for Shape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Shape({self})")
    }
}

/// A batch of samples of one [`Shape`].
///
/// Layout: one row per sample, each sample channel-last and row-major, all contiguous. A batch of
/// images is therefore also an NHWC array ([`Self::as_images`]), and flattening moves nothing.
/// Invariant: `values` is in standard layout with `shape.len()` columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<A> {
    shape: Shape,
    values: Array2<A>,
}

impl<A: Scalar> Tensor<A> {
    /// Give rows of values a sample shape; copies only if `values` is not in standard layout.
    ///
    /// # Errors
    /// - [`Error::ShapeMismatch`] if a row has not `shape.len()` values.
    pub fn new(shape: Shape, values: Array2<A>) -> Result<Self> {
        if values.ncols() != shape.len() {
            return Err(Error::ShapeMismatch {
                what: "a row of the batch",
                expected: shape.dims().to_vec(),
                actual: vec![values.ncols()],
            });
        }
        let values = if values.is_standard_layout() {
            values
        } else {
            values.as_standard_layout().into_owned()
        };
        Ok(Self { shape, values })
    }

    /// A batch of zeros.
    #[must_use]
    pub fn zeros(shape: Shape, n_samples: usize) -> Self {
        let values = Array2::zeros((n_samples, shape.len()));
        Self { shape, values }
    }

    /// Shape of one sample.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Number of samples.
    #[must_use]
    pub fn n_samples(&self) -> usize {
        self.values.nrows()
    }

    /// The values, one row per sample.
    #[must_use]
    pub fn values(&self) -> ArrayView2<'_, A> {
        self.values.view()
    }

    /// The values, one row per sample, for change in place.
    pub fn values_mut(&mut self) -> ArrayViewMut2<'_, A> {
        self.values.view_mut()
    }

    /// The values as owned rows.
    #[must_use]
    pub fn into_values(self) -> Array2<A> {
        self.values
    }

    /// The batch as an NHWC array, or `None` unless the samples are images.
    #[must_use]
    pub fn as_images(&self) -> Option<ArrayView4<'_, A>> {
        let (height, width, channels) = self.shape.as_image()?;
        self.values.view().into_shape_with_order((self.n_samples(), height, width, channels)).ok()
    }

    /// Check that all values are finite.
    ///
    /// # Errors
    /// - [`Error::NonFiniteInput`] naming the first NaN or infinity and `what` was checked.
    pub fn check_finite(&self, what: &'static str) -> Result<()> {
        check_finite(what, self.values.view())
    }
}

/// Check that all values of a batch are finite.
pub(crate) fn check_finite<A: Scalar>(what: &'static str, values: ArrayView2<'_, A>) -> Result<()> {
    for (sample_idx, row) in values.axis_iter(Axis(0)).enumerate() {
        if let Some((feature_idx, value)) = row.iter().enumerate().find(|(_, v)| !v.is_finite()) {
            let value = value.as_f64();
            return Err(Error::NonFiniteInput { what, sample_idx, feature_idx, value });
        }
    }
    Ok(())
}

/// At most `limit` of the positions `0..n`, ascending, spread over all of them.
///
/// One position from each of `limit` pieces of equal length, to within one, at the multiples of the
/// golden ratio inside them: no order of samples, sorted or periodic, decides which kinds are among them.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a position inside a piece"
)]
pub(crate) fn spread(n: usize, limit: usize) -> Vec<usize> {
    if n <= limit || limit == 0 {
        return (0..n.min(limit)).collect();
    }
    let golden = 0.618_033_988_749_894_9_f64;
    let start = |piece: usize| piece * n / limit;
    (0..limit)
        .map(|piece| {
            let len = start(piece + 1) - start(piece);
            let share = (piece as f64 * golden).fract();
            start(piece) + ((share * len as f64) as usize).min(len - 1)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use ndarray::array;

    use super::*;

    #[test]
    fn shapes_have_one_to_three_axes_and_a_bounded_size() {
        assert_eq!(Shape::image(28, 28, 1).unwrap().len(), 784);
        assert_eq!(Shape::image(2, 3, 4).unwrap().to_string(), "2×3×4");
        for dims in [vec![], vec![1; 4], vec![3, 0], vec![usize::MAX, 2], vec![1 << 13, 1 << 12]] {
            assert!(matches!(Shape::new(dims), Err(Error::InvalidShape { .. })));
        }
    }

    #[test]
    fn a_tensor_is_checked_and_channel_last() {
        let shape = Shape::image(1, 2, 2).unwrap();
        let tensor = Tensor::new(shape.clone(), array![[0.0, 1.0, 2.0, 3.0]]).unwrap();
        assert_eq!(tensor.as_images().unwrap()[[0, 0, 1, 0]], 2.0);
        let error = Tensor::new(shape, array![[0.0, 1.0]]).unwrap_err();
        assert_eq!(error.to_string(), "a row of the batch has shape [2], expected [1, 2, 2]");
        let error = Tensor::new(Shape::vector(2).unwrap(), array![[0.0, f32::NAN]])
            .unwrap()
            .check_finite("batch");
        assert!(matches!(error, Err(Error::NonFiniteInput { feature_idx: 1, .. })));
    }

    #[test]
    fn spread_positions_cover_every_piece_and_favor_no_period() {
        assert_eq!(spread(5, 7), [0, 1, 2, 3, 4]);
        assert_eq!(spread(5, 5), [0, 1, 2, 3, 4]);
        assert_eq!(spread(9, 0), [0; 0]);
        assert_eq!(spread(0, 4), [0; 0]);
        for (n, limit) in [(6, 5), (100, 7), (60_000, 1500), (1_000_003, 1500)] {
            let positions = spread(n, limit);
            assert_eq!(positions.len(), limit);
            assert!(positions.is_sorted_by(|a, b| a < b) && positions.last().unwrap() < &n);
            for (piece, &position) in positions.iter().enumerate() {
                let ideal = piece * n / limit;
                assert!((0..=n / limit).contains(&(position - ideal)), "{piece} of {limit} in {n}");
            }
        }
        // Ten classes, one after the other (sorted) or in turn (periodic): each has its share.
        for class in [|i: usize| i / 6000, |i: usize| i % 10] {
            let mut counts = [0_usize; 10];
            spread(60_000, 1500).into_iter().for_each(|i| counts[class(i)] += 1);
            assert!(counts.iter().all(|&n| n.abs_diff(150) <= 15), "{counts:?}");
        }
    }

    #[test]
    fn a_transposed_array_is_brought_into_standard_layout() {
        let values = array![[1.0, 2.0], [3.0, 4.0]].reversed_axes();
        let tensor = Tensor::new(Shape::vector(2).unwrap(), values).unwrap();
        assert!(tensor.values().is_standard_layout());
        assert_eq!(tensor.values(), array![[1.0, 3.0], [2.0, 4.0]]);
    }
}
