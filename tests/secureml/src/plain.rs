//! The same networks in plain fixed point: what the two servers' result is compared with.

use crate::error::{Error, Result, check_length};
use crate::fixed::FRACTION_BITS;
use crate::network::{Network, Step};
use he_core::PADDING;

/// Bits of a magnitude before truncation that leave room for sharing: beyond, truncation fails with
/// a probability above `2^-13` per value.
const MAX_PRODUCT_BITS: u32 = 50;

/// The result of a plain evaluation and how far two servers may be from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainResult {
    /// Outputs in fixed point, row-major (row = neuron, column = sample).
    pub values: Vec<i64>,
    /// Bound on the difference of each output, in units in the last place.
    pub error_ulp: Vec<u64>,
    /// Bits of the largest magnitude before a truncation.
    pub largest_product_bits: u32,
    /// Truncations in this evaluation.
    pub n_truncations: u64,
}

impl PlainResult {
    /// log2 of the probability that any truncation of this evaluation fails, bounded by the sum:
    /// `n·2^(l+1-64)`; minus infinity without truncations.
    #[must_use]
    pub fn log2_failure_probability(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a bound")]
        let count = self.n_truncations as f64;
        count.log2() + f64::from(self.largest_product_bits) + 1.0 - 64.0
    }
}

/// Values and error bounds between two steps.
struct Layer {
    n_samples: usize,
    values: Vec<i128>,
    errors: Vec<u128>,
}

/// What truncations have met.
#[derive(Default)]
struct Met {
    largest: u128,
    count: u64,
}

impl Met {
    /// `floor(x/2^13)`; shares may add up to one more, and truncation makes an error `e` before it
    /// at most `ceil(e/2^13)`.
    fn truncate(&mut self, value: i128, error: u128) -> (i128, u128) {
        self.largest = self.largest.max(value.unsigned_abs().saturating_add(error));
        self.count += 1;
        (value >> FRACTION_BITS, error.div_ceil(1 << FRACTION_BITS) + 1)
    }

    fn bits(&self) -> u32 {
        u128::BITS - self.largest.leading_zeros()
    }
}

impl Network {
    /// Evaluates in plain fixed point with exact products and floors.
    ///
    /// `inputs` are row-major words (row = neuron, column = sample) with
    /// [`crate::FRACTION_BITS`]. With every truncation of shares off by at most one ulp, the result
    /// of the two servers lies within [`PlainResult::error_ulp`] of [`PlainResult::values`]; without
    /// truncations it is equal.
    ///
    /// # Errors
    /// - [`Error::Length`] unless the inputs are whole samples.
    /// - [`Error::Overflow`] when a magnitude before truncation reaches `2^50`.
    pub fn evaluate_plain(&self, inputs: &[i64], n_samples: usize) -> Result<PlainResult> {
        let expected = self.structure().n_inputs().saturating_mul(n_samples);
        check_length("input values", expected, inputs.len())?;
        let values = inputs.iter().map(|&x| x.into()).collect();
        let mut layer = Layer { n_samples, values, errors: vec![0; inputs.len()] };
        let mut met = Met::default();
        for (step, weights) in self.structure().steps().iter().zip(self.weights()) {
            let terms = |output: usize| -> Vec<(i128, usize)> {
                match (step, weights) {
                    (Step::Linear(gather), Some(weights)) => {
                        let (p, row) = (output / gather.n_rows(), output % gather.n_rows());
                        let row = weights.matrix.chunks(gather.n_taps()).nth(row);
                        let taps = gather.placement(p).iter().zip(row.unwrap_or_default());
                        let kept = taps.filter(|(input, _)| **input != PADDING);
                        kept.map(|(&i, &w)| (w.cast_signed().into(), i as usize)).collect()
                    }
                    (Step::Pool { windows, .. }, _) => {
                        let window = windows.get(output).into_iter().flatten();
                        window.map(|&i| (1, i as usize)).collect()
                    }
                    (Step::Square { .. } | Step::Linear(_), _) => Vec::new(),
                }
            };
            let bias = |output: usize| {
                let weights = weights.as_ref()?;
                let bias = weights.bias.get(output % weights.bias.len())?;
                Some(i128::from(bias.cast_signed()))
            };
            layer = match step {
                Step::Square { .. } => layer.square(&mut met),
                Step::Linear(_) => layer.combine(step.n_outputs(), terms, |output, x, e| {
                    met.truncate(x + bias(output).unwrap_or_default(), e)
                }),
                Step::Pool { factor: None, .. } => {
                    layer.combine(step.n_outputs(), terms, |_, x, e| (x, e))
                }
                Step::Pool { factor: Some(factor), .. } => {
                    layer.combine(step.n_outputs(), terms, |_, x, e| {
                        met.truncate(x * i128::from(*factor), e * u128::from(*factor))
                    })
                }
            };
            if met.bits() > MAX_PRODUCT_BITS {
                return Err(Error::Overflow { bits: met.bits(), max: MAX_PRODUCT_BITS });
            }
        }
        let overflow = || Error::Overflow { bits: 64, max: MAX_PRODUCT_BITS };
        let narrow = |x: &i128| i64::try_from(*x).map_err(|_| overflow());
        let narrow_error = |x: &u128| u64::try_from(*x).map_err(|_| overflow());
        Ok(PlainResult {
            values: layer.values.iter().map(narrow).collect::<Result<_>>()?,
            error_ulp: layer.errors.iter().map(narrow_error).collect::<Result<_>>()?,
            largest_product_bits: met.bits(),
            n_truncations: met.count,
        })
    }
}

impl Layer {
    /// Weighted sums of rows, then `finish(output, value, error)`.
    fn combine(
        &self,
        n_outputs: usize,
        terms: impl Fn(usize) -> Vec<(i128, usize)>,
        mut finish: impl FnMut(usize, i128, u128) -> (i128, u128),
    ) -> Self {
        let n_samples = self.n_samples;
        let (mut values, mut errors) = (Vec::new(), Vec::new());
        for output in 0..n_outputs {
            let terms = terms(output);
            for sample in 0..n_samples {
                let (mut value, mut error) = (0, 0);
                for &(w, input) in &terms {
                    let at = input * n_samples + sample;
                    value += w * self.values.get(at).copied().unwrap_or_default();
                    error += w.unsigned_abs() * self.errors.get(at).copied().unwrap_or_default();
                }
                let (value, error) = finish(output, value, error);
                values.push(value);
                errors.push(error);
            }
        }
        Self { n_samples, values, errors }
    }

    fn square(&self, met: &mut Met) -> Self {
        let squares = self.values.iter().zip(&self.errors).map(|(&x, &e)| {
            // |(x + e)² - x²|
            met.truncate(x * x, 2 * x.unsigned_abs() * e + e * e)
        });
        let (values, errors) = squares.unzip();
        Self { n_samples: self.n_samples, values, errors }
    }
}
