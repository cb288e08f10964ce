//! Average, sum and maximum pooling.

use serde::{Deserialize, Serialize};

use super::parallel::{for_each_chunk, map_chunks2};
use super::{Fault, Padding};
use crate::tensor::{Scalar, Shape};

/// What a pooling window is reduced to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PoolKind {
    /// Mean of the window.
    Average,
    /// Sum of the window.
    Sum,
    /// Maximum of the window; not a polynomial.
    Max,
}

/// Reduce windows of an image, channel by channel.
///
/// Shapes: input `[h, w, c]`; output `[⌊(h + top + bottom − window₀)/stride₀⌋ + 1, ⌊(w + left + right −
/// window₁)/stride₁⌋ + 1, c]`. Rows and columns that no window reaches are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "StoredPool2d", into = "StoredPool2d")]
pub struct Pool2d {
    /// Mean, sum or maximum.
    pub kind: PoolKind,
    /// Rows and columns of a window, each at least 1.
    pub window: (usize, usize),
    /// Step between windows, each at least 1.
    pub stride: (usize, usize),
    /// By how much windows reach beyond the image, on each side less than a window. Of maxima only: there
    /// is nothing outside that could win. (Averages that count zeros outside are convolutions:
    /// [`Conv2d::average_pool`](super::Conv2d::average_pool).)
    pub padding: Padding,
}

/// A pool as model files hold it. Padding came later than the others, and only some kinds have it.
#[derive(Serialize, Deserialize)]
struct StoredPool2d {
    kind: StoredKind,
    window: (usize, usize),
    stride: (usize, usize),
}

#[derive(Serialize, Deserialize)]
enum StoredKind {
    Average,
    Sum,
    Max,
    PaddedMax(Padding),
}

impl From<Pool2d> for StoredPool2d {
    fn from(pool: Pool2d) -> Self {
        let Pool2d { kind, window, stride, padding } = pool;
        let kind = match kind {
            PoolKind::Average => StoredKind::Average,
            PoolKind::Sum => StoredKind::Sum,
            PoolKind::Max if padding.is_none() => StoredKind::Max,
            PoolKind::Max => StoredKind::PaddedMax(padding),
        };
        Self { kind, window, stride }
    }
}

impl TryFrom<StoredPool2d> for Pool2d {
    type Error = &'static str;

    fn try_from(stored: StoredPool2d) -> Result<Self, Self::Error> {
        let StoredPool2d { kind, window, stride } = stored;
        let (kind, padding) = match kind {
            StoredKind::Average => (PoolKind::Average, Padding::NONE),
            StoredKind::Sum => (PoolKind::Sum, Padding::NONE),
            StoredKind::Max => (PoolKind::Max, Padding::NONE),
            StoredKind::PaddedMax(padding) if padding.is_none() => {
                return Err("a padded pool without padding");
            }
            StoredKind::PaddedMax(padding) => (PoolKind::Max, padding),
        };
        Ok(Self { kind, window, stride, padding })
    }
}

impl Pool2d {
    /// Adjacent windows that do not overlap.
    #[must_use]
    pub fn tiles(kind: PoolKind, window: (usize, usize)) -> Self {
        Self { kind, window, stride: window, padding: Padding::NONE }
    }

    /// One window over the whole plane of `input`, or `None` unless it is an image.
    #[must_use]
    pub fn global(kind: PoolKind, input: &Shape) -> Option<Self> {
        input.as_image().map(|(height, width, _)| Self::tiles(kind, (height, width)))
    }

    /// `average_pool`, `sum_pool` or `max_pool`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self.kind {
            PoolKind::Average => "average_pool",
            PoolKind::Sum => "sum_pool",
            PoolKind::Max => "max_pool",
        }
    }

    pub(super) fn output_shape(&self, input: &Shape) -> Result<Shape, Fault> {
        let Some((height, width, channels)) = input.as_image() else {
            return Err(Fault::Input("pooling takes an image of height, width and channels"));
        };
        if self.window.0 == 0 || self.window.1 == 0 || self.stride.0 == 0 || self.stride.1 == 0 {
            return Err(Fault::Input("window and stride of a pool must be at least 1"));
        }
        let Padding { top, bottom, left, right } = self.padding;
        if self.kind != PoolKind::Max && !self.padding.is_none() {
            return Err(Fault::Input("only maxima are padded; other pools are convolutions then"));
        }
        if top.max(bottom) >= self.window.0 || left.max(right) >= self.window.1 {
            return Err(Fault::Input("the padding of a pool must be smaller than its window"));
        }
        let extent = |size: usize, padding: usize, window: usize, stride: usize| {
            size.checked_add(padding)?.checked_sub(window).map(|span| span / stride + 1)
        };
        let rows = extent(height, top.saturating_add(bottom), self.window.0, self.stride.0);
        let columns = extent(width, left.saturating_add(right), self.window.1, self.stride.1);
        let (Some(rows), Some(columns)) = (rows, columns) else {
            return Err(Fault::Input("the pooling window is larger than the image"));
        };
        Shape::image(rows, columns, channels)
            .map_err(|_| Fault::Input("the output image is empty or too large"))
    }

    /// Weight of each value in the result: 1, or one over the window size.
    fn factor<A: Scalar>(&self) -> A {
        match self.kind {
            PoolKind::Average => A::from_count(self.window.0 * self.window.1).recip(),
            PoolKind::Sum | PoolKind::Max => A::one(),
        }
    }

    /// Pool a batch; `input_shape` was accepted by [`Self::output_shape`].
    #[expect(clippy::indexing_slicing, reason = "windows lie inside the image by construction")]
    pub(crate) fn forward<A: Scalar>(&self, input_shape: &Shape, input: &[A], output: &mut [A]) {
        let Some(plane) = Plane::new(self, input_shape) else { return };
        let factor = self.factor::<A>();
        let operands = (input, plane.input_len());
        for_each_chunk(operands, (output, plane.output_len()), |input, output| {
            let samples = input.chunks_exact(plane.input_len());
            for (input, output) in samples.zip(output.chunks_exact_mut(plane.output_len())) {
                if self.kind == PoolKind::Max {
                    output.fill(A::neg_infinity());
                } else {
                    output.fill(A::zero());
                }
                plane.for_each_pair(|from, to| {
                    let source = &input[from..from + plane.channels];
                    for (y, &x) in output[to..to + plane.channels].iter_mut().zip(source) {
                        *y = if self.kind == PoolKind::Max { y.max(x) } else { *y + x };
                    }
                });
                for y in output {
                    *y *= factor;
                }
            }
        });
    }

    /// Write the gradient of the input; that of a maximum goes to the first value which attains it.
    pub(crate) fn backward<A: Scalar>(
        &self,
        input_shape: &Shape,
        input: &[A],
        output_gradient: &[A],
        input_gradient: &mut [A],
    ) {
        if self.kind != PoolKind::Max {
            return self.spread(input_shape, output_gradient, input_gradient);
        }
        if let Some(plane) = Plane::new(self, input_shape) {
            plane.backward_max(input, output_gradient, input_gradient);
        }
    }

    /// Write the gradient of the input of an average or a sum: the same for every input.
    #[expect(clippy::indexing_slicing, reason = "windows lie inside the image by construction")]
    pub(crate) fn spread<A: Scalar>(
        &self,
        input_shape: &Shape,
        output_gradient: &[A],
        input_gradient: &mut [A],
    ) {
        let Some(plane) = Plane::new(self, input_shape) else { return };
        let factor = self.factor::<A>();
        let upstream = (output_gradient, plane.output_len());
        for_each_chunk(upstream, (input_gradient, plane.input_len()), |upstream, gradient| {
            let samples = upstream.chunks_exact(plane.output_len());
            for (upstream, gradient) in samples.zip(gradient.chunks_exact_mut(plane.input_len())) {
                gradient.fill(A::zero());
                plane.for_each_pair(|to, from| {
                    let source = &upstream[from..from + plane.channels];
                    for (dx, &dy) in gradient[to..to + plane.channels].iter_mut().zip(source) {
                        *dx += factor * dy;
                    }
                });
            }
        });
    }

    /// Position of the input each output of one sample is equal to; `None` unless this is a maximum.
    pub(crate) fn winners<A: Scalar>(
        &self,
        input_shape: &Shape,
        input: &[A],
    ) -> Option<Vec<usize>> {
        let plane = Plane::new(self, input_shape).filter(|_| self.kind == PoolKind::Max)?;
        let mut winners = vec![0; plane.output_len()];
        plane.find_winners(input, &mut winners);
        Some(winners)
    }
}

/// Extents of one pooling operation.
struct Plane {
    pool: Pool2d,
    height: usize,
    width: usize,
    channels: usize,
    rows: usize,
    columns: usize,
}

impl Plane {
    fn new(pool: &Pool2d, input: &Shape) -> Option<Self> {
        let (height, width, channels) = input.as_image()?;
        let (rows, columns, _) = pool.output_shape(input).ok()?.as_image()?;
        Some(Self { pool: *pool, height, width, channels, rows, columns })
    }

    fn input_len(&self) -> usize {
        self.height * self.width * self.channels
    }

    fn output_len(&self) -> usize {
        self.rows * self.columns * self.channels
    }

    /// The gradient of maxima: each output's goes to one input.
    #[expect(clippy::indexing_slicing, reason = "windows lie inside the image by construction")]
    fn backward_max<A: Scalar>(&self, input: &[A], upstream: &[A], gradient: &mut [A]) {
        let (n_in, n_out) = (self.input_len(), self.output_len());
        map_chunks2((input, n_in), (upstream, n_out), (gradient, n_in), |input, upstream, into| {
            let samples = input
                .chunks_exact(n_in)
                .zip(upstream.chunks_exact(n_out))
                .zip(into.chunks_exact_mut(n_in));
            let mut winners = vec![0; n_out];
            for ((input, upstream), gradient) in samples {
                self.find_winners(input, &mut winners);
                gradient.fill(A::zero());
                for (&winner, &dy) in winners.iter().zip(upstream) {
                    gradient[winner] += dy;
                }
            }
        });
    }

    /// Write the position of the first largest value of every window of one sample.
    #[expect(clippy::indexing_slicing, reason = "windows lie inside the image by construction")]
    fn find_winners<A: Scalar>(&self, input: &[A], winners: &mut [usize]) {
        winners.fill(usize::MAX);
        self.for_each_pair(|from, to| {
            for channel in 0..self.channels {
                let (from, winner) = (from + channel, &mut winners[to + channel]);
                if input.get(*winner).is_none_or(|&most| input[from] > most) {
                    *winner = from;
                }
            }
        });
    }

    /// Visit the offsets (input, output) of every window member.
    fn for_each_pair(&self, mut visit: impl FnMut(usize, usize)) {
        let Pool2d { window, stride, padding, .. } = self.pool;
        // What of a window lies on the image, whose extent is `size`.
        let clipped = |first: usize, window: usize, before: usize, size: usize| {
            first.saturating_sub(before)..(first + window).saturating_sub(before).min(size)
        };
        for row in 0..self.rows {
            for column in 0..self.columns {
                let output = (row * self.columns + column) * self.channels;
                for input_row in clipped(row * stride.0, window.0, padding.top, self.height) {
                    let columns = (column * stride.1, window.1, padding.left, self.width);
                    for input_column in clipped(columns.0, columns.1, columns.2, columns.3) {
                        visit((input_row * self.width + input_column) * self.channels, output);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::artifact;

    #[test]
    fn pools_reduce_each_channel_and_ignore_the_rest() {
        let shape = Shape::image(3, 3, 1).unwrap();
        let input = [1.0, 2.0, 9.0, 3.0, 4.0, 9.0, 9.0, 9.0, 9.0];
        let mut output = [0.0];
        Pool2d::tiles(PoolKind::Average, (2, 2)).forward(&shape, &input, &mut output);
        assert_eq!(output, [2.5]);
        Pool2d::tiles(PoolKind::Sum, (2, 2)).forward(&shape, &input, &mut output);
        assert_eq!(output, [10.0]);
        Pool2d::global(PoolKind::Sum, &shape).unwrap().forward(&shape, &input, &mut output);
        assert_eq!(output, [55.0]);
    }

    #[test]
    fn maxima_pass_their_gradient_to_the_first_value_that_attains_them() {
        let shape = Shape::image(1, 4, 1).unwrap();
        let pool = Pool2d { stride: (1, 1), ..Pool2d::tiles(PoolKind::Max, (1, 2)) };
        let input = [-3.0, -1.0, -1.0, -2.0];
        let mut output = [0.0; 3];
        pool.forward(&shape, &input, &mut output);
        assert_eq!(output, [-1.0, -1.0, -1.0]);
        let mut gradient = [7.0; 4];
        pool.backward(&shape, &input, &[1.0, 10.0, 100.0], &mut gradient);
        assert_eq!(gradient, [0.0, 11.0, 100.0, 0.0]);
    }

    #[test]
    fn overlapping_windows_add_their_gradients() {
        let shape = Shape::image(1, 3, 1).unwrap();
        let pool = Pool2d { stride: (1, 1), ..Pool2d::tiles(PoolKind::Sum, (1, 2)) };
        assert_eq!(pool.output_shape(&shape).unwrap(), Shape::image(1, 2, 1).unwrap());
        let mut gradient = [7.0; 3];
        pool.backward(&shape, &[0.0; 3], &[1.0, 10.0], &mut gradient);
        assert_eq!(gradient, [1.0, 11.0, 10.0]);
    }

    #[test]
    fn nothing_outside_the_image_is_a_maximum() {
        let shape = Shape::image(2, 3, 1).unwrap();
        let padding = Padding { top: 1, bottom: 0, left: 1, right: 1 };
        let pool = Pool2d { padding, stride: (1, 2), ..Pool2d::tiles(PoolKind::Max, (2, 2)) };
        assert_eq!(pool.output_shape(&shape).unwrap(), Shape::image(2, 2, 1).unwrap());
        let input = [-4.0, -2.0, -3.0, -1.0, -6.0, -5.0];
        let mut output = [0.0; 4];
        pool.forward(&shape, &input, &mut output);
        assert_eq!(output, [-4.0, -2.0, -1.0, -2.0]);
        let mut gradient = [7.0; 6];
        pool.backward(&shape, &input, &[1.0, 10.0, 100.0, 1000.0], &mut gradient);
        assert_eq!(gradient, [1.0, 1010.0, 0.0, 100.0, 0.0, 0.0]);
        for (kind, padding) in [
            (PoolKind::Max, Padding { top: 2, ..Padding::NONE }),
            (PoolKind::Max, Padding { right: usize::MAX, ..Padding::NONE }),
            (PoolKind::Average, padding),
            (PoolKind::Sum, padding),
        ] {
            assert!(Pool2d { kind, padding, ..pool }.output_shape(&shape).is_err(), "{padding:?}");
        }
    }

    #[test]
    fn bytes_of_pools_without_padding_are_those_before_there_was_any() {
        const MAGIC: artifact::Magic = *b"TESTPOOL";
        // The number of a kind, then numbers of 64 bits.
        let stored = |kind: u32, numbers: &[u64]| {
            let numbers = numbers.iter().flat_map(|n| n.to_le_bytes());
            kind.to_le_bytes().into_iter().chain(numbers).collect::<Vec<u8>>()
        };
        let pool = Pool2d { stride: (3, 4), ..Pool2d::tiles(PoolKind::Max, (1, 2)) };
        let padding = Padding { top: 0, bottom: 1, left: 0, right: 1 };
        for (kind, padding, expected) in [
            (PoolKind::Average, Padding::NONE, stored(0, &[1, 2, 3, 4])),
            (PoolKind::Sum, Padding::NONE, stored(1, &[1, 2, 3, 4])),
            (PoolKind::Max, Padding::NONE, stored(2, &[1, 2, 3, 4])),
            (PoolKind::Max, padding, stored(3, &[0, 1, 0, 1, 1, 2, 3, 4])),
        ] {
            let pool = Pool2d { kind, padding, ..pool };
            let bytes = artifact::encode(MAGIC, 1, &pool).unwrap();
            assert_eq!(bytes[20..20 + expected.len()], expected);
            assert_eq!(artifact::decode::<Pool2d>(MAGIC, 1, &bytes, 1000).unwrap(), pool);
        }
        // One pool has one form.
        let kind = StoredKind::PaddedMax(Padding::NONE);
        let stored = StoredPool2d { kind, window: (1, 2), stride: (3, 4) };
        let bytes = artifact::encode(MAGIC, 1, &stored).unwrap();
        assert!(artifact::decode::<Pool2d>(MAGIC, 1, &bytes, 1000).is_err());
    }
}
