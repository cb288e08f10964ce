//! Missing rates over several modified models.

use rand::Rng;

use super::draws::{MissingRates, stream};
use crate::error::{Error, Result};
use crate::statistics::Interval;

/// Resamplings of the bootstrap.
const RESAMPLINGS: u64 = 2000;

/// Missing rates of one generator against one kind of attack, one entry per modified model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instances(Vec<MissingRates>);

impl Instances {
    /// Adds a modified model.
    pub fn push(&mut self, rates: MissingRates) {
        self.0.push(rates);
    }

    /// The single models.
    #[must_use]
    pub fn as_slice(&self) -> &[MissingRates] {
        &self.0
    }

    /// Number of modified models.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no modified model.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Mean over the models of the share of draws that `n_samples` samples miss. `None` without models
    /// or where one has no such number of samples.
    #[must_use]
    pub fn mean(&self, n_samples: usize) -> Option<f64> {
        let rates = self.rates(n_samples)?;
        Some(mean(&rates))
    }

    /// The largest share of missed draws of any model.
    #[must_use]
    pub fn worst(&self, n_samples: usize) -> Option<f64> {
        self.rates(n_samples)?.into_iter().reduce(f64::max)
    }

    /// A 95 % interval of the mean over models like these: percentiles of means over models drawn
    /// again with repetition, widened to Wilson's interval over all draws where that is wider (few
    /// models that all miss nothing say little about the next one, but never less than their draws).
    ///
    /// With a single model it is Wilson's interval. The same seed gives the same interval.
    ///
    /// # Errors
    /// - [`Error::NothingToJudge`] without models.
    /// - [`Error::IndexOutOfRange`] unless `n_samples` is one of every model.
    pub fn interval(&self, n_samples: usize, seed: u64) -> Result<Interval> {
        let rates = self.rates(n_samples).filter(|_| n_samples > 0).ok_or_else(|| {
            let len = self.0.iter().map(MissingRates::most).min().unwrap_or(0);
            if self.is_empty() {
                Error::NothingToJudge { what: "missing rates" }
            } else {
                Error::IndexOutOfRange { what: "number of samples", index: n_samples, len }
            }
        })?;
        let mut within = Interval { low: 0.0, high: 0.0 };
        for instance in &self.0 {
            let interval = instance.interval(n_samples, crate::statistics::Z_95)?;
            within.low += interval.low;
            within.high += interval.high;
        }
        #[expect(clippy::cast_precision_loss, reason = "a few models")]
        let n = self.0.len() as f64;
        let within = Interval { low: within.low / n, high: within.high / n };
        let mut rng = stream(seed, n_samples as u64);
        let mut means: Vec<f64> = (0..RESAMPLINGS)
            .map(|_| {
                let again: Vec<f64> = rates
                    .iter()
                    .filter_map(|_| rates.get(rng.random_range(0..rates.len())).copied())
                    .collect();
                mean(&again)
            })
            .collect();
        means.sort_unstable_by(f64::total_cmp);
        let at = |position: usize| means.get(position).copied().unwrap_or(0.0);
        let tail = means.len() / 40;
        Ok(Interval {
            low: within.low.min(at(tail)),
            high: within.high.max(at(means.len() - 1 - tail)),
        })
    }

    fn rates(&self, n_samples: usize) -> Option<Vec<f64>> {
        if self.is_empty() {
            return None;
        }
        self.0.iter().map(|instance| instance.rate(n_samples)).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a few models")]
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::super::{DrawSpec, Draws};
    use super::*;

    fn instance(n_detecting: usize) -> MissingRates {
        let spec = DrawSpec { draws: 2000, most: 3, ..DrawSpec::default() };
        let detected: Vec<bool> = (0..100).map(|i| i < n_detecting).collect();
        Draws::random(100, &spec).unwrap().missing(&detected).unwrap()
    }

    #[test]
    fn models_that_differ_widen_the_interval() {
        let mut alike = Instances::default();
        let mut mixed = Instances::default();
        for n in [50, 50, 50, 50, 50] {
            alike.push(instance(n));
        }
        for n in [10, 30, 50, 70, 90] {
            mixed.push(instance(n));
        }
        let (narrow, wide) = (alike.interval(1, 3).unwrap(), mixed.interval(1, 3).unwrap());
        assert!(narrow.contains(0.5) && wide.contains(0.5));
        assert!(wide.high - wide.low > 3.0 * (narrow.high - narrow.low), "{wide:?} {narrow:?}");
        assert!((mixed.mean(1).unwrap() - 0.5).abs() < 0.03);
        assert!((mixed.worst(1).unwrap() - 0.9).abs() < 0.03);
        assert_eq!(mixed.interval(1, 3).unwrap(), wide);
    }

    #[test]
    fn zero_misses_do_not_promise_zero() {
        let mut perfect = Instances::default();
        perfect.push(instance(100));
        let interval = perfect.interval(1, 0).unwrap();
        assert!(interval.low == 0.0 && interval.high > 0.0);
    }

    #[test]
    fn empty_lists_and_unknown_numbers_are_refused() {
        assert!(Instances::default().interval(1, 0).is_err());
        assert_eq!(Instances::default().mean(1), None);
        let mut one = Instances::default();
        one.push(instance(50));
        assert!(one.interval(4, 0).is_err() && one.interval(0, 0).is_err());
    }
}
