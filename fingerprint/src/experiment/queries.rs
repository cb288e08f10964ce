//! From detection probabilities to numbers of queries.

use crate::error::{Error, Result};
use crate::statistics::{Hypergeometric, Interval, Z_95, wilson_interval};

/// The missing rates the papers' table of queries is about.
pub const MISSING_TARGETS: [f64; 7] = [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2];

/// Independent samples, each detecting with probability `p`, needed to miss with probability at most
/// `target`: the smallest `n` with `(1 − p)^n ≤ target`. `None` if there is none (`p = 0`).
///
/// This is what fresh samples cost; samples drawn without repetition from one bag need fewer
/// ([`queries_needed_in_bag`]).
///
/// # Errors
/// - [`Error::InvalidSetting`] unless `0 ≤ p ≤ 1` and `0 < target < 1`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positive; a cast saturates, and p > 2^-53 keeps it below 2^60"
)]
pub fn queries_needed(p: f64, target: f64) -> Result<Option<u64>> {
    check_probability("detection probability", p)?;
    check_target(target)?;
    if p == 0.0 {
        return Ok(None);
    }
    if p >= 1.0 {
        return Ok(Some(1));
    }
    let exact = target.ln() / (-p).ln_1p();
    // Rounding of the logarithms must not add a query where the quotient is a whole number.
    Ok(Some((exact - 1e-9 * exact.max(1.0)).ceil().max(1.0) as u64))
}

/// Independent samples needed to miss with probability at most `target` on average over models, each
/// of which a sample detects with its own probability: the smallest `n` with
/// `mean((1 − p_i)^n) ≤ target`. `None` if there is none.
///
/// More than [`queries_needed`] says for the mean of the probabilities: the models that are hard to
/// detect decide.
///
/// # Errors
/// - [`Error::NothingToJudge`] without models.
/// - [`Error::InvalidSetting`] unless every `p` is in `0..=1` and `0 < target < 1`.
pub fn queries_needed_on_average(probabilities: &[f64], target: f64) -> Result<Option<u64>> {
    check_target(target)?;
    for &p in probabilities {
        check_probability("detection probability", p)?;
    }
    let hardest = probabilities.iter().copied().reduce(f64::min);
    let Some(hardest) = hardest else {
        return Err(Error::NothingToJudge { what: "detection probabilities" });
    };
    #[expect(clippy::cast_precision_loss, reason = "a few models; queries far below 2^53")]
    let missing = |n: u64| {
        let shares = probabilities.iter().map(|p| ((-p).ln_1p() * n as f64).exp());
        shares.sum::<f64>() / probabilities.len() as f64
    };
    // Enough for every model is enough on average; without that, ask the others.
    let enough = match queries_needed(hardest, target)? {
        Some(enough) => enough,
        None if missing(1 << 60) <= target => 1 << 60,
        None => return Ok(None),
    };
    let (mut low, mut high) = (0, enough);
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        if missing(middle) <= target * (1.0 + 1e-9) { high = middle } else { low = middle }
    }
    Ok(Some(high))
}

/// Samples needed when they are drawn without repetition from a bag of `n_samples`, of which
/// `n_detecting` detect: the smallest `n` with `C(N−m, n)/C(N, n) ≤ target`. `None` if no sample
/// detects.
///
/// # Errors
/// - [`Error::InvalidSetting`] unless `0 < target < 1`.
/// - [`Error::CountOutOfRange`] if more samples detect than there are.
pub fn queries_needed_in_bag(n_samples: u64, n_detecting: u64, target: f64) -> Result<Option<u64>> {
    check_target(target)?;
    Hypergeometric::new(n_samples, n_detecting, 0)?;
    if n_detecting == 0 {
        return Ok(None);
    }
    let misses = |n| Ok::<f64, Error>(Hypergeometric::new(n_samples, n_detecting, n)?.ln_none());
    // All but m samples and one more detect for certain; the probability falls with every sample.
    let (mut low, mut high) = (0, n_samples - n_detecting + 1);
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        if misses(middle)? <= target.ln() { high = middle } else { low = middle }
    }
    Ok(Some(high))
}

/// A 95 % interval of the share of random choices of `n_queries` *fresh* samples that miss, after
/// `n_detecting` of `n_samples` generated ones detected.
///
/// `(1 − p)^n` falls with `p`, so the ends are those of Wilson's interval for `p`. Draws from a bag,
/// however many, know nothing of other bags: intervals over draws are about the bag at hand.
///
/// # Errors
/// - Those of [`wilson_interval`].
pub fn fresh_missing_interval(
    n_samples: u64,
    n_detecting: u64,
    n_queries: u32,
) -> Result<Interval> {
    let detection = wilson_interval(n_detecting, n_samples, Z_95)?;
    let missing = |p: f64| (1.0 - p).powf(f64::from(n_queries));
    Ok(Interval { low: missing(detection.high), high: missing(detection.low) })
}

/// How many times fewer queries: `baseline / ours`, where both are known.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts of queries")]
pub fn efficiency(baseline: Option<u64>, ours: Option<u64>) -> Option<f64> {
    Some(baseline? as f64 / ours.filter(|&n| n > 0)? as f64)
}

fn check_probability(setting: &'static str, value: f64) -> Result<()> {
    if (0.0..=1.0).contains(&value) {
        Ok(())
    } else {
        Err(Error::InvalidSetting { setting, value, requirement: "0 to 1" })
    }
}

fn check_target(value: f64) -> Result<()> {
    if value > 0.0 && value < 1.0 {
        Ok(())
    } else {
        let setting = "wanted missing rate";
        Err(Error::InvalidSetting { setting, value, requirement: "above 0 and below 1" })
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "tests"
    )]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_models_that_are_hard_to_detect_decide() {
        let needed = |p: &[f64], target| queries_needed_on_average(p, target).unwrap();
        for p in [0.05, 0.5, 0.9] {
            for target in MISSING_TARGETS {
                assert_eq!(needed(&[p, p, p], target), queries_needed(p, target).unwrap());
            }
        }
        // Half of the models at 0.5: 0.5^n / 2 ≤ 1e-8.
        assert_eq!(needed(&[1.0, 0.5], 1e-8), Some(26));
        assert_eq!(queries_needed(0.75, 1e-8).unwrap(), Some(14));
        assert_eq!(needed(&[1.0], 1e-8), Some(1));
        assert_eq!(needed(&[0.0, 1.0], 1e-2), None);
        assert!(needed(&[0.0, 1.0], 0.6).is_some());
        assert!(queries_needed_on_average(&[], 0.1).is_err());
        assert!(queries_needed_on_average(&[0.5, 1.5], 0.1).is_err());
    }

    #[test]
    fn fresh_samples_are_less_certain_than_draws_of_a_large_bag() {
        // 450 of 500 detect. Wilson's formula by hand: p in [0.8706, 0.9233].
        let one = fresh_missing_interval(500, 450, 1).unwrap();
        assert!((one.low - 0.0767).abs() < 1e-4 && (one.high - 0.1294).abs() < 1e-4, "{one:?}");
        let three = fresh_missing_interval(500, 450, 3).unwrap();
        assert!((three.high - one.high.powi(3)).abs() < 1e-12 && three.contains(1e-3));
        let certain = fresh_missing_interval(500, 500, 8).unwrap();
        assert!(certain.low == 0.0 && certain.high > 0.0 && certain.high < 1e-15);
        assert!(fresh_missing_interval(0, 0, 1).is_err());
        assert!(fresh_missing_interval(5, 6, 1).is_err());
    }

    #[test]
    fn the_papers_row_of_ordinary_images_follows_from_one_probability() {
        // He, Zhang and Lee, table 5, trojan, non-sensitive samples: p = 0.22 explains all seven.
        let published = [74, 65, 56, 47, 38, 28, 21];
        for (target, expected) in MISSING_TARGETS.into_iter().zip(published) {
            let n = queries_needed(0.22, target).unwrap().unwrap();
            assert!(n.abs_diff(expected) <= 2, "{target}: {n}, published {expected}");
        }
    }

    #[test]
    fn whole_quotients_are_not_rounded_up() {
        assert_eq!(queries_needed(0.9, 1e-8).unwrap(), Some(8));
        assert_eq!(queries_needed(0.5, 0.125).unwrap(), Some(3));
        assert_eq!(queries_needed(1.0, 1e-8).unwrap(), Some(1));
        assert_eq!(queries_needed(0.0, 1e-2).unwrap(), None);
        assert!(queries_needed(1e-15, 1e-8).unwrap().unwrap() > 1 << 50);
        for (p, target) in [(-0.1, 0.1), (f64::NAN, 0.1), (0.5, 0.0), (0.5, 1.0)] {
            assert!(queries_needed(p, target).is_err());
        }
    }

    #[test]
    fn quotients_need_both_sides() {
        assert_eq!(efficiency(Some(74), Some(4)), Some(18.5));
        assert_eq!(efficiency(None, Some(4)), None);
        assert_eq!(efficiency(Some(74), None), None);
    }

    proptest! {
        #[test]
        fn the_number_is_enough_and_one_less_is_not(p in 0.001_f64..0.999, exponent in 1.0_f64..8.0) {
            let target = 10_f64.powf(-exponent);
            let n = queries_needed(p, target).unwrap().unwrap();
            let missing = |n: u64| (1.0 - p).powi(i32::try_from(n).unwrap());
            prop_assert!(missing(n) <= target * (1.0 + 1e-6));
            prop_assert!(n == 1 || missing(n - 1) > target * (1.0 - 1e-6));
        }

        #[test]
        fn a_bag_needs_no_more_than_fresh_samples(n in 2_u64..500, share in 0.01_f64..1.0) {
            let marked = ((n as f64 * share) as u64).clamp(1, n);
            let in_bag = queries_needed_in_bag(n, marked, 1e-3).unwrap().unwrap();
            let fresh = queries_needed(marked as f64 / n as f64, 1e-3).unwrap().unwrap();
            prop_assert!(in_bag <= fresh, "{in_bag} of {n} with {marked}, fresh {fresh}");
            let missing = |k| Hypergeometric::new(n, marked, k).unwrap().ln_none().exp();
            prop_assert!(missing(in_bag) <= 1e-3 * (1.0 + 1e-9));
            prop_assert!(missing(in_bag - 1) > 1e-3 * (1.0 - 1e-9));
        }
    }
}
