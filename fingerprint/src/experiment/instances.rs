//! Missing rates over several modified models.

use std::collections::BTreeMap;

use super::draws::MissingRates;
use crate::error::{Error, Result};
use crate::statistics::{Interval, Z_95, student_factor_95};

/// Missing rates of one generator against one kind of attack, one entry per modified model.
///
/// Models modified from one network share that network and its bag of samples: they are alike. So rates
/// are averaged per network first, and intervals speak about networks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instances(Vec<(u64, MissingRates)>);

impl Instances {
    /// Adds a model modified from the network of that number.
    pub fn push(&mut self, network: u64, rates: MissingRates) {
        self.0.push((network, rates));
    }

    /// The single models and the network each came from.
    #[must_use]
    pub fn as_slice(&self) -> &[(u64, MissingRates)] {
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

    /// Number of networks they came from.
    #[must_use]
    pub fn n_networks(&self) -> usize {
        let mut networks: Vec<u64> = self.0.iter().map(|(network, _)| *network).collect();
        networks.sort_unstable();
        networks.dedup();
        networks.len()
    }

    /// Mean over the networks of the share of draws that `n_samples` samples miss. `None` without
    /// models or where one has no such number of samples.
    #[must_use]
    pub fn mean(&self, n_samples: usize) -> Option<f64> {
        Some(mean(&self.network_means(n_samples)?))
    }

    /// The largest share of missed draws of any model.
    #[must_use]
    pub fn worst(&self, n_samples: usize) -> Option<f64> {
        let rates: Option<Vec<f64>> =
            self.0.iter().map(|(_, rates)| rates.rate(n_samples)).collect();
        rates?.into_iter().reduce(f64::max)
    }

    /// A 95 % interval of the mean over networks like these: Student's interval of the networks'
    /// means, widened to Wilson's interval over the draws where that is wider (networks that all miss
    /// nothing say little about the next one, but never less than their draws).
    ///
    /// With a single network it is Wilson's interval: about that network and its bag only.
    ///
    /// # Errors
    /// - [`Error::NothingToJudge`] without models.
    /// - [`Error::IndexOutOfRange`] unless `n_samples` is one of every model.
    pub fn interval(&self, n_samples: usize) -> Result<Interval> {
        let means = self.network_means(n_samples).filter(|_| n_samples > 0).ok_or_else(|| {
            let len = self.0.iter().map(|(_, rates)| rates.most()).min().unwrap_or(0);
            if self.is_empty() {
                Error::NothingToJudge { what: "missing rates" }
            } else {
                Error::IndexOutOfRange { what: "number of samples", index: n_samples, len }
            }
        })?;
        let mut ends = (Vec::new(), Vec::new());
        for (_, rates) in &self.0 {
            let interval = rates.interval(n_samples, Z_95)?;
            ends.0.push(interval.low);
            ends.1.push(interval.high);
        }
        let within = Interval { low: mean(&ends.0), high: mean(&ends.1) };
        if means.len() < 2 {
            return Ok(within);
        }
        let center = mean(&means);
        let squares: Vec<f64> = means.iter().map(|value| (value - center).powi(2)).collect();
        let n = count(means.len());
        let error = (mean(&squares) / (n - 1.0)).sqrt() * student_factor_95(means.len());
        Ok(Interval {
            low: within.low.min(center - error).max(0.0),
            high: within.high.max(center + error).min(1.0),
        })
    }

    /// Mean rate of the models of each network.
    fn network_means(&self, n_samples: usize) -> Option<Vec<f64>> {
        let mut by_network: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        for (network, rates) in &self.0 {
            by_network.entry(*network).or_default().push(rates.rate(n_samples)?);
        }
        let means: Vec<f64> = by_network.values().map(|rates| mean(rates)).collect();
        (!means.is_empty()).then_some(means)
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / count(values.len())
}

#[expect(clippy::cast_precision_loss, reason = "a few models")]
fn count(n: usize) -> f64 {
    n as f64
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
    fn networks_that_differ_widen_the_interval_and_instances_do_not_narrow_it() {
        let of = |n_detecting: &[usize], n_instances: usize| {
            let mut instances = Instances::default();
            for (network, &n) in (0_u64..).zip(n_detecting) {
                (0..n_instances).for_each(|_| instances.push(network, instance(n)));
            }
            instances
        };
        let (alike, mixed) = (of(&[50; 5], 1), of(&[10, 30, 50, 70, 90], 1));
        let (narrow, wide) = (alike.interval(1).unwrap(), mixed.interval(1).unwrap());
        assert!(narrow.contains(0.5) && wide.contains(0.5));
        assert!(wide.high - wide.low > 3.0 * (narrow.high - narrow.low), "{wide:?} {narrow:?}");
        assert!((mixed.mean(1).unwrap() - 0.5).abs() < 0.03);
        assert!((mixed.worst(1).unwrap() - 0.9).abs() < 0.03);
        // Five models of each network are not five times as many networks.
        let repeated = of(&[10, 30, 50, 70, 90], 5);
        assert_eq!((repeated.len(), repeated.n_networks()), (25, 5));
        let again = repeated.interval(1).unwrap();
        assert!((again.low - wide.low).abs() < 1e-9 && (again.high - wide.high).abs() < 1e-9);
        // s = 0.1 of 3 values: 4.303·0.1/√3.
        let three = of(&[40, 50, 60], 1);
        let rates: Vec<f64> = three.as_slice().iter().map(|(_, r)| r.rate(1).unwrap()).collect();
        let center = rates.iter().sum::<f64>() / 3.0;
        let deviation = rates.iter().map(|r| (r - center).powi(2)).sum::<f64>() / 2.0;
        let expected = 4.303 * (deviation / 3.0).sqrt();
        assert!((three.interval(1).unwrap().high - center - expected).abs() < 1e-9);
    }

    #[test]
    fn zero_misses_do_not_promise_zero() {
        let mut perfect = Instances::default();
        perfect.push(0, instance(100));
        let interval = perfect.interval(1).unwrap();
        assert!(interval.low == 0.0 && interval.high > 0.0);
    }

    #[test]
    fn empty_lists_and_unknown_numbers_are_refused() {
        assert!(Instances::default().interval(1).is_err());
        assert_eq!(Instances::default().mean(1), None);
        let mut one = Instances::default();
        one.push(0, instance(50));
        assert!(one.interval(4).is_err() && one.interval(0).is_err());
    }
}
