//! Linear maps whose weights are shared by many places: dense layers and convolutions alike.

use core::ops::Range;

use he_core::PADDING;
use rayon::prelude::*;

use crate::error::{Error, Result, check_length};

/// Samples that are worked on at once, so that the rows read stay in cache.
const SAMPLES_AT_ONCE: usize = 512;

/// The public shape of a linear layer: one small matrix applied at several placements.
///
/// With `n_rows × n_taps` weights `w` and placements `p`, output `p·n_rows + r` is
/// `Σ_k w[r, k]·x[inputs[p, k]]`: channel-last if placements are positions. A dense layer has one
/// placement of all inputs; a convolution has one per position, which is im2col without copying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gather {
    n_inputs: usize,
    n_rows: usize,
    n_taps: usize,
    /// `[placement][tap]`, each below `n_inputs` or [`PADDING`].
    inputs: Vec<u32>,
}

/// A two-dimensional convolution on channel-last inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Convolution {
    /// Input height, width and channels.
    pub input: [usize; 3],
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Rows of zeros above and below, columns of zeros left and right: the same on both sides.
    pub padding: [usize; 2],
}

/// A rectangle of outputs that is worked on at once.
#[derive(Debug, Clone)]
pub(crate) struct Band {
    pub(crate) placements: Range<usize>,
    pub(crate) rows: Range<usize>,
}

impl Gather {
    /// A dense layer.
    ///
    /// # Errors
    /// As [`Gather::new`].
    pub fn dense(n_outputs: usize, n_inputs: usize) -> Result<Self> {
        let n_inputs_u32 = u32::try_from(n_inputs).unwrap_or(PADDING);
        Self::new(n_inputs, n_outputs, n_inputs, (0..n_inputs_u32).collect())
    }

    /// A convolution with `n_channels` output channels; taps are `[row][column][channel]`.
    ///
    /// # Errors
    /// [`Error::Length`] when a size is zero or the kernel exceeds the padded input.
    pub fn convolution(shape: &Convolution, n_channels: usize) -> Result<Self> {
        let Convolution { input: [height, width, channels], kernel, stride, padding } = *shape;
        let positions = |size: usize, axis: [usize; 3]| {
            let [kernel, stride, padding] = axis;
            let padded = padding.checked_mul(2).and_then(|p| p.checked_add(size));
            let spare = padded.and_then(|padded| padded.checked_sub(kernel));
            match spare {
                Some(spare) if kernel > 0 && stride > 0 => Ok(spare / stride + 1),
                _ => Err(Error::Length { what: "kernel size", expected: size, actual: kernel }),
            }
        };
        let n_down = positions(height, [kernel[0], stride[0], padding[0]])?;
        let n_right = positions(width, [kernel[1], stride[1], padding[1]])?;
        let index = |y: usize, x: usize, c: usize| {
            let y = y.checked_sub(padding[0]).filter(|&y| y < height);
            let x = x.checked_sub(padding[1]).filter(|&x| x < width);
            let flat = y.zip(x).map(|(y, x)| (y * width + x) * channels + c);
            flat.and_then(|i| u32::try_from(i).ok()).unwrap_or(PADDING)
        };
        let mut inputs = Vec::new();
        for (down, right) in (0..n_down).flat_map(|d| (0..n_right).map(move |r| (d, r))) {
            for (y, x) in (0..kernel[0]).flat_map(|y| (0..kernel[1]).map(move |x| (y, x))) {
                let (y, x) = (down * stride[0] + y, right * stride[1] + x);
                inputs.extend((0..channels).map(|c| index(y, x, c)));
            }
        }
        Self::new(height * width * channels, n_channels, kernel[0] * kernel[1] * channels, inputs)
    }

    /// Any placements: `inputs` is `[placement][tap]`, each an input or [`PADDING`].
    ///
    /// # Errors
    /// - [`Error::Length`] when a size is zero or the inputs are no whole number of placements.
    /// - [`Error::Index`] when an input does not exist or there are `2^32` of them.
    pub fn new(n_inputs: usize, n_rows: usize, n_taps: usize, inputs: Vec<u32>) -> Result<Self> {
        if n_inputs == 0 || n_rows == 0 || n_taps == 0 || inputs.is_empty() {
            return Err(Error::Length { what: "inputs, rows and taps", expected: 1, actual: 0 });
        }
        check_length(
            "taps of whole placements",
            inputs.len().next_multiple_of(n_taps),
            inputs.len(),
        )?;
        let outside = |i: &&u32| **i != PADDING && **i as usize >= n_inputs;
        if let Some(&input) = inputs.iter().find(outside) {
            return Err(Error::Index { what: "input", index: input as usize, count: n_inputs });
        }
        if n_inputs >= PADDING as usize {
            return Err(Error::Index { what: "input", index: n_inputs, count: PADDING as usize });
        }
        Ok(Self { n_inputs, n_rows, n_taps, inputs })
    }

    /// Number of inputs.
    #[must_use]
    pub fn n_inputs(&self) -> usize {
        self.n_inputs
    }

    /// Number of outputs: placements times rows.
    #[must_use]
    pub fn n_outputs(&self) -> usize {
        self.n_placements() * self.n_rows
    }

    /// Rows of the weight matrix: outputs of one placement.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Columns of the weight matrix: inputs of one placement.
    #[must_use]
    pub fn n_taps(&self) -> usize {
        self.n_taps
    }

    /// Weights: rows times taps.
    #[must_use]
    pub fn n_weights(&self) -> usize {
        self.n_rows * self.n_taps
    }

    pub(crate) fn n_placements(&self) -> usize {
        self.inputs.len() / self.n_taps
    }

    /// Inputs of one placement; empty when there is none.
    pub(crate) fn placement(&self, index: usize) -> &[u32] {
        self.inputs.get(index * self.n_taps..(index + 1) * self.n_taps).unwrap_or_default()
    }

    /// Cuts the outputs into rectangles of at most `max` outputs.
    pub(crate) fn bands(&self, max: usize) -> Vec<Band> {
        let rows_at_once = self.n_rows.min(max);
        let placements_at_once = (max / rows_at_once).max(1);
        let mut bands = Vec::new();
        for first in (0..self.n_placements()).step_by(placements_at_once) {
            let placements = first..(first + placements_at_once).min(self.n_placements());
            for row in (0..self.n_rows).step_by(rows_at_once) {
                let rows = row..(row + rows_at_once).min(self.n_rows);
                bands.push(Band { placements: placements.clone(), rows });
            }
        }
        bands
    }

    /// Numbers of a band's outputs: placement by placement.
    pub(crate) fn outputs_of(&self, band: &Band) -> impl Iterator<Item = usize> {
        let (n_rows, rows) = (self.n_rows, band.rows.clone());
        band.placements.clone().flat_map(move |p| rows.clone().map(move |r| p * n_rows + r))
    }

    /// Adds `W·x` to `out`, modulo `2^64`; parallel over outputs.
    ///
    /// `x` is row-major `n_inputs × n_samples`, `out` is `n_outputs × n_samples`: the caller checks.
    pub(crate) fn accumulate(&self, weights: &[u64], x: &[u64], n_samples: usize, out: &mut [u64]) {
        out.par_chunks_mut(n_samples).enumerate().for_each(|(output, out)| {
            let taps = self.placement(output / self.n_rows);
            let row = output % self.n_rows;
            let weights = weights.get(row * self.n_taps..(row + 1) * self.n_taps);
            let weights = weights.unwrap_or_default();
            for (chunk, out) in out.chunks_mut(SAMPLES_AT_ONCE).enumerate() {
                let first = chunk * SAMPLES_AT_ONCE;
                for (&input, &w) in taps.iter().zip(weights).filter(|(i, _)| **i != PADDING) {
                    let start = input as usize * n_samples + first;
                    let x = x.get(start..start + out.len()).unwrap_or_default();
                    for (y, &x) in out.iter_mut().zip(x) {
                        *y = y.wrapping_add(w.wrapping_mul(x));
                    }
                }
            }
        });
    }
}
