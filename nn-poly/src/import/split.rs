//! Parts of a data set, and the seeded split of sources without a test part.

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Which part of a data set to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Split {
    /// The part for training and calibration.
    Train,
    /// The part for measuring accuracy.
    Test,
    /// Everything: training part first.
    All,
}

impl fmt::Display for Split {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Train => "train",
            Self::Test => "test",
            Self::All => "all",
        })
    }
}

impl FromStr for Split {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "train" => Ok(Self::Train),
            "test" => Ok(Self::Test),
            "all" => Ok(Self::All),
            _ => Err(Error::UnknownName {
                what: "split",
                actual: name.into(),
                expected: "train, test or all",
            }),
        }
    }
}

/// How to cut a source without its own test part; stored in the model so that everyone who uses the
/// model holds out the same samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SplitSpec {
    /// Seed of the shuffle.
    pub seed: u64,
    /// Share of the test part, above 0 and below 1.
    pub test_fraction: f64,
}

impl Default for SplitSpec {
    /// 20 % for testing, seed 0.
    fn default() -> Self {
        Self { seed: 0, test_fraction: 0.2 }
    }
}

impl SplitSpec {
    /// Check the fraction.
    ///
    /// # Errors
    /// - [`Error::InvalidSetting`] unless `0 < test_fraction < 1`.
    pub fn check(&self) -> Result<()> {
        if self.test_fraction > 0.0 && self.test_fraction < 1.0 {
            return Ok(());
        }
        Err(Error::InvalidSetting {
            setting: "test fraction",
            value: self.test_fraction,
            requirement: "above 0 and below 1",
        })
    }

    /// Positions of the samples of `split`, ascending; `labels` are the strata.
    ///
    /// Each class gives `round(test_fraction · n)` of its `n` samples to the test part, but keeps at
    /// least one for training and, from two samples on, gives at least one. The same labels and spec
    /// always give the same split, and the two parts are disjoint and complete.
    ///
    /// # Errors
    /// - [`Error::InvalidSetting`] unless `0 < test_fraction < 1`.
    pub fn positions(&self, labels: &[u32], split: Split) -> Result<Vec<usize>> {
        self.check()?;
        if split == Split::All {
            return Ok((0..labels.len()).collect());
        }
        let by_class = shuffled_by_class(labels, self.seed);
        let mut chosen = Vec::new();
        for class in by_class.chunk_by(|left, right| left.0 == right.0) {
            let (test, train) = class.split_at(self.n_test(class.len()));
            let part = if split == Split::Test { test } else { train };
            chosen.extend(part.iter().map(|&(_, position)| position));
        }
        chosen.sort_unstable();
        Ok(chosen)
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts are far below 2^53 and the product is not negative"
    )]
    fn n_test(&self, n: usize) -> usize {
        let wanted = (self.test_fraction * n as f64).round() as usize;
        wanted.clamp(usize::from(n > 1), n.saturating_sub(1))
    }
}

/// Positions of the samples of each of `n_folds` parts, ascending; `labels` are the strata.
///
/// Every sample is in one part. Parts differ by at most one sample, and by at most one in each class.
/// The same labels and seed always give the same parts.
///
/// # Errors
/// - [`Error::InvalidSetting`] unless there are two folds at least, and not more than samples.
pub fn stratified_folds(labels: &[u32], n_folds: usize, seed: u64) -> Result<Vec<Vec<usize>>> {
    if n_folds < 2 || n_folds > labels.len() {
        #[expect(clippy::cast_precision_loss, reason = "for an error message")]
        let value = n_folds as f64;
        return Err(Error::InvalidSetting {
            setting: "number of folds",
            value,
            requirement: "at least 2, and not more than the samples",
        });
    }
    let mut dealt = shuffled_by_class(labels, seed);
    let mut folds = vec![Vec::with_capacity(labels.len().div_ceil(n_folds)); n_folds];
    // Classes follow one another, so dealing on from one to the next balances the totals, too.
    for (fold, (_, position)) in (0..n_folds).cycle().zip(dealt.drain(..)) {
        if let Some(fold) = folds.get_mut(fold) {
            fold.push(position);
        }
    }
    for fold in &mut folds {
        fold.sort_unstable();
    }
    Ok(folds)
}

/// Labels and positions, class by class, in random order within each.
fn shuffled_by_class(labels: &[u32], seed: u64) -> Vec<(u32, usize)> {
    let mut by_class: Vec<(u32, usize)> =
        labels.iter().enumerate().map(|(position, &label)| (label, position)).collect();
    by_class.sort_unstable();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for class in by_class.chunk_by_mut(|left, right| left.0 == right.0) {
        class.shuffle(&mut rng);
    }
    by_class
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_parts_are_disjoint_complete_and_stratified(
            labels in prop::collection::vec(0_u32..5, 0..200),
            seed in any::<u64>(),
            test_fraction in 0.01..0.99,
        ) {
            let spec = SplitSpec { seed, test_fraction };
            let train = spec.positions(&labels, Split::Train).unwrap();
            let test = spec.positions(&labels, Split::Test).unwrap();
            let mut together = [train.clone(), test.clone()].concat();
            together.sort_unstable();
            prop_assert_eq!(together, spec.positions(&labels, Split::All).unwrap());
            prop_assert_eq!(&test, &spec.positions(&labels, Split::Test).unwrap());
            for class in 0..5 {
                let count = |part: &[usize]| part.iter().filter(|&&p| labels[p] == class).count();
                let (n_train, n_test) = (count(&train), count(&test));
                let n = u32::try_from(n_train + n_test).unwrap();
                let ideal = test_fraction * f64::from(n);
                prop_assert!((f64::from(u32::try_from(n_test).unwrap()) - ideal).abs() <= 1.0);
                prop_assert!(n == 0 || n_train > 0);
                prop_assert!(n < 2 || n_test > 0);
            }
        }
    }

    proptest! {
        #[test]
        fn folds_are_disjoint_complete_and_stratified(
            labels in prop::collection::vec(0_u32..5, 2..200),
            seed in any::<u64>(),
            n_folds in 2_usize..12,
        ) {
            prop_assume!(n_folds <= labels.len());
            let folds = stratified_folds(&labels, n_folds, seed).unwrap();
            prop_assert_eq!(folds.len(), n_folds);
            prop_assert_eq!(&folds, &stratified_folds(&labels, n_folds, seed).unwrap());
            let mut together = folds.concat();
            together.sort_unstable();
            prop_assert_eq!(together, (0..labels.len()).collect::<Vec<_>>());
            let spread = |counts: Vec<usize>| counts.iter().max().unwrap() - counts.iter().min().unwrap();
            prop_assert!(spread(folds.iter().map(Vec::len).collect()) <= 1);
            for class in 0..5 {
                let count = |fold: &Vec<usize>| fold.iter().filter(|&&p| labels[p] == class).count();
                prop_assert!(spread(folds.iter().map(count).collect()) <= 1);
            }
        }
    }

    #[test]
    fn folds_are_refused_that_would_be_empty_or_one() {
        for n_folds in [0, 1, 4] {
            let refused = stratified_folds(&[0, 0, 1], n_folds, 0);
            assert!(matches!(refused, Err(Error::InvalidSetting { .. })), "{n_folds} folds");
        }
        let labels = [0; 50];
        let folds = |seed| stratified_folds(&labels, 5, seed).unwrap();
        assert_ne!(folds(1), folds(2));
    }

    #[test]
    fn another_seed_gives_another_split() {
        let labels = [0; 100];
        let split = |seed| SplitSpec { seed, test_fraction: 0.2 }.positions(&labels, Split::Test);
        assert_ne!(split(1).unwrap(), split(2).unwrap());
        assert_eq!(split(1).unwrap().len(), 20);
    }

    #[test]
    fn a_fraction_outside_the_unit_interval_is_refused() {
        for test_fraction in [0.0, 1.0, -0.5, f64::NAN] {
            let spec = SplitSpec { seed: 0, test_fraction };
            assert!(matches!(spec.positions(&[0], Split::Test), Err(Error::InvalidSetting { .. })));
        }
    }
}
