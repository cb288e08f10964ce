//! Many choices of a few samples from one bag.

use rand::seq::index;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::statistics::{Interval, wilson_interval};

/// How many choices are drawn, and from what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrawSpec {
    /// Choices drawn. Default 10,000, as in the papers.
    pub draws: u32,
    /// Samples drawn at random from the bag for each choice before a selection rule picks from them:
    /// without it a greedy rule would return the same choice every time. Default 100, as in the code
    /// of He, Zhang and Lee.
    pub pool: usize,
    /// Most samples of one choice. Default 10.
    pub most: usize,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for DrawSpec {
    fn default() -> Self {
        Self { draws: 10_000, pool: 100, most: 10, seed: 0 }
    }
}

/// Choices of up to `most` samples from a bag, best first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draws {
    n_candidates: usize,
    most: usize,
    /// Choice by choice, each `most` long and without repetition.
    chosen: Vec<u32>,
}

impl Draws {
    /// Choices made uniformly at random without repetition.
    ///
    /// # Errors
    /// - [`Error::CountOutOfRange`]: no draw, no sample per choice.
    /// - [`Error::TooFewCandidates`]: the bag holds fewer than `spec.most` samples.
    pub fn random(n_candidates: usize, spec: &DrawSpec) -> Result<Self> {
        let whole = DrawSpec { pool: spec.most, ..*spec };
        Self::chosen_by(n_candidates, &whole, |pool, _| Ok(pool.to_vec()))
    }

    /// For each draw a random pool of `spec.pool` samples of the bag (all, if there are fewer), from
    /// which `choose` picks `spec.most`, best first.
    ///
    /// The same seed gives the same draws for any number of threads: each has a stream of its own.
    ///
    /// # Errors
    /// - [`Error::CountOutOfRange`]: no draw, no sample per choice.
    /// - [`Error::TooFewCandidates`]: fewer than `spec.most` samples in the bag or in the pool.
    /// - [`Error::LengthMismatch`]: `choose` picked another number.
    /// - [`Error::IndexOutOfRange`]: `choose` picked a sample outside its pool, or one twice.
    /// - Those of `choose`.
    pub fn chosen_by(
        n_candidates: usize,
        spec: &DrawSpec,
        choose: impl Fn(&[usize], &mut ChaCha8Rng) -> Result<Vec<usize>> + Sync,
    ) -> Result<Self> {
        let DrawSpec { draws, pool, most, seed } = *spec;
        for (name, actual) in
            [("number of draws", u64::from(draws)), ("samples per choice", most as u64)]
        {
            if actual == 0 {
                return Err(Error::CountOutOfRange { name, actual, min: 1, max: u32::MAX.into() });
            }
        }
        let pool = pool.min(n_candidates);
        if most > pool {
            return Err(Error::TooFewCandidates { wanted: most, available: pool });
        }
        let chosen = (0..draws)
            .into_par_iter()
            .map(|draw| {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                rng.set_stream(u64::from(draw));
                let candidates = index::sample(&mut rng, n_candidates, pool).into_vec();
                let picked = choose(&candidates, &mut rng)?;
                check_choice(&picked, &candidates, most)
            })
            .collect::<Result<Vec<Vec<u32>>>>()?
            .concat();
        Ok(Self { n_candidates, most, chosen })
    }

    /// Samples in the bag.
    #[must_use]
    pub fn n_candidates(&self) -> usize {
        self.n_candidates
    }

    /// How often no sample of a choice detects, for the first 1 to `most` of its samples.
    ///
    /// # Errors
    /// - [`Error::LengthMismatch`]: `detected` has not one entry per sample of the bag.
    pub fn missing(&self, detected: &[bool]) -> Result<MissingRates> {
        if detected.len() != self.n_candidates {
            let (expected, actual) = (self.n_candidates, detected.len());
            return Err(Error::LengthMismatch { what: "the list of detections", expected, actual });
        }
        let mut missed = vec![0_u64; self.most];
        let mut draws = 0;
        for choice in self.chosen.chunks_exact(self.most) {
            draws += 1;
            let detects = |&&sample: &&u32| detected.get(sample as usize).copied().unwrap_or(false);
            let first = choice.iter().position(|sample| detects(&sample)).unwrap_or(self.most);
            // The first `first` samples of the choice miss, so every NS up to that does.
            missed.iter_mut().take(first).for_each(|count| *count += 1);
        }
        Ok(MissingRates { draws, missed })
    }
}

/// The picked samples as they are stored, if they come from the pool and are as many as wanted.
fn check_choice(picked: &[usize], pool: &[usize], most: usize) -> Result<Vec<u32>> {
    if picked.len() != most {
        let (expected, actual) = (most, picked.len());
        return Err(Error::LengthMismatch { what: "a choice of samples", expected, actual });
    }
    let mut left = pool.to_vec();
    picked
        .iter()
        .map(|&index| {
            let position = left.iter().position(|&candidate| candidate == index);
            let fault =
                Error::IndexOutOfRange { what: "sample of the pool", index, len: pool.len() };
            let taken = position.map(|position| left.swap_remove(position)).ok_or(fault)?;
            // A bag has at most a million samples.
            Ok(u32::try_from(taken).unwrap_or(u32::MAX))
        })
        .collect()
}

/// How many of the draws from one bag missed one modified model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingRates {
    draws: u64,
    /// Entry `i` counts the draws whose first `i + 1` samples detect nothing; never rising.
    missed: Vec<u64>,
}

impl MissingRates {
    /// Draws made.
    #[must_use]
    pub fn draws(&self) -> u64 {
        self.draws
    }

    /// Largest number of samples.
    #[must_use]
    pub fn most(&self) -> usize {
        self.missed.len()
    }

    /// Share of draws that `n_samples` samples miss; 1 for none. `None` above [`Self::most`].
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of draws are below 2^32")]
    pub fn rate(&self, n_samples: usize) -> Option<f64> {
        let Some(position) = n_samples.checked_sub(1) else { return Some(1.0) };
        self.missed.get(position).map(|&missed| missed as f64 / self.draws as f64)
    }

    /// Wilson's interval of [`Self::rate`] with normal quantile `z`, over the draws from this bag.
    ///
    /// # Errors
    /// - [`Error::IndexOutOfRange`] unless `n_samples` is 1 to [`Self::most`].
    /// - Those of [`wilson_interval`].
    pub fn interval(&self, n_samples: usize, z: f64) -> Result<Interval> {
        let missed = n_samples.checked_sub(1).and_then(|position| self.missed.get(position));
        let fault = Error::IndexOutOfRange {
            what: "number of samples",
            index: n_samples,
            len: self.missed.len(),
        };
        wilson_interval(*missed.ok_or(fault)?, self.draws, z)
    }

    /// The smallest number of samples that misses at most a share of `target` of the draws.
    #[must_use]
    pub fn samples_for(&self, target: f64) -> Option<usize> {
        (1..=self.most()).find(|&n| self.rate(n).is_some_and(|rate| rate <= target))
    }
}

/// A number that differs for every draw of every bag, from one seed.
pub(super) fn stream(seed: u64, stream: u64) -> impl RngCore {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;
    use crate::statistics::{Hypergeometric, Z_99_9999};

    fn spec(draws: u32, most: usize) -> DrawSpec {
        DrawSpec { draws, most, pool: most, seed: 7 }
    }

    #[test]
    fn random_draws_follow_the_hypergeometric_distribution() {
        let detected: Vec<bool> = (0..500).map(|i| i % 5 < 2).collect();
        let draws = Draws::random(500, &spec(20_000, 8)).unwrap();
        let rates = draws.missing(&detected).unwrap();
        for n in 1..=8 {
            let exact = Hypergeometric::new(500, 200, n as u64).unwrap().ln_none().exp();
            let interval = rates.interval(n, Z_99_9999).unwrap();
            assert!(interval.contains(exact), "{n}: {exact} not in {interval:?}");
        }
    }

    #[test]
    fn nothing_detected_is_always_missed_and_everything_never() {
        let draws = Draws::random(20, &spec(100, 5)).unwrap();
        let none = draws.missing(&[false; 20]).unwrap();
        let all = draws.missing(&[true; 20]).unwrap();
        for n in 1..=5 {
            assert_eq!((none.rate(n), all.rate(n)), (Some(1.0), Some(0.0)));
        }
        assert_eq!((none.rate(0), none.rate(6)), (Some(1.0), None));
        assert_eq!((none.samples_for(0.5), all.samples_for(0.0)), (None, Some(1)));
        assert!(draws.missing(&[true; 19]).is_err());
    }

    #[test]
    fn a_rule_sees_a_random_pool_and_may_pick_only_from_it() {
        let greedy = |pool: &[usize], _: &mut ChaCha8Rng| {
            let mut sorted = pool.to_vec();
            sorted.sort_unstable();
            Ok(sorted.into_iter().take(2).collect())
        };
        let wide = DrawSpec { draws: 50, pool: 1000, most: 2, seed: 1 };
        let draws = Draws::chosen_by(10, &wide, greedy).unwrap();
        assert!(draws.chosen.chunks(2).all(|choice| choice == [0, 1]), "the pool is the whole bag");
        let narrow = Draws::chosen_by(10, &DrawSpec { pool: 4, ..wide }, greedy).unwrap();
        assert!(narrow.chosen.chunks(2).any(|choice| choice != [0, 1]));
        type Choose = fn(&[usize]) -> Vec<usize>;
        let wrong: [Choose; 3] =
            [|p| p.iter().take(1).copied().collect(), |_| vec![77, 78], |p| vec![p[0], p[0]]];
        for choose in wrong {
            assert!(Draws::chosen_by(10, &wide, |pool, _| Ok(choose(pool))).is_err());
        }
    }

    #[test]
    fn impossible_settings_are_refused() {
        assert!(Draws::random(3, &spec(10, 4)).is_err());
        assert!(Draws::random(3, &spec(0, 1)).is_err());
        assert!(Draws::random(3, &spec(10, 0)).is_err());
    }

    proptest! {
        #[test]
        fn rates_never_rise_and_draws_repeat(
            detected in prop::collection::vec(any::<bool>(), 12..60), seed in any::<u64>(),
        ) {
            let spec = DrawSpec { draws: 64, most: 10, pool: 12, seed };
            let draws = Draws::random(detected.len(), &spec).unwrap();
            prop_assert_eq!(&draws, &Draws::random(detected.len(), &spec).unwrap());
            let rates = draws.missing(&detected).unwrap();
            for n in 0..10 {
                prop_assert!(rates.rate(n + 1) <= rates.rate(n));
            }
        }
    }
}
