//! Small exact statistics: binomials, the hypergeometric distribution, Wilson's interval.
//!
//! Everything works with natural logarithms where numbers are too large or too small for `f64`.
//! Relative accuracy is about `1e-12`, checked against integer arithmetic and identities.

#![expect(
    clippy::cast_precision_loss,
    reason = "counts enter logarithms and ratios; 2^53 is far above any population used here"
)]

use crate::error::{Error, Result};
use crate::word_check::check_number;

/// Two-sided 95 % quantile of the standard normal distribution.
pub const Z_95: f64 = 1.959_963_984_540_054;

/// Two-sided 99.9 % quantile of the standard normal distribution.
pub const Z_99_9: f64 = 3.290_526_731_491_894;

/// Two-sided 99.9999 % quantile of the standard normal distribution, for tests that run often.
pub const Z_99_9999: f64 = 4.891_638_475_699_413;

/// 97.5 % quantiles of Student's t distribution for 1 to 30 degrees of freedom (to 3 decimals; beyond,
/// [`Z_95`] is off by less than 4 %).
const STUDENT_97_5: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];

/// The factor on the standard error for a two-sided 95 % interval of a mean of `n` values from a normal
/// distribution; infinite for fewer than 2.
#[must_use]
pub fn student_factor_95(n: usize) -> f64 {
    match n {
        0 | 1 => f64::INFINITY,
        n => STUDENT_97_5.get(n - 2).copied().unwrap_or(Z_95),
    }
}

/// A closed interval of probabilities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Whether `value` lies in the interval, ends included.
    pub fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

/// Wilson's score interval for a probability after `successes` in `trials` independent trials.
///
/// With `p = successes/trials` and quantile `z`:
/// `(p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n)`. Unlike `p ± z·σ` it stays inside `[0, 1]`
/// and is meaningful for 0 successes. Example: 0 of 100 at 95 % gives `[0, 0.037]`.
///
/// # Errors
/// - [`Error::CountOutOfRange`]: no trials, or more successes than trials.
/// - [`Error::NumberOutOfRange`]: `z` is negative or not finite.
///
/// # Source
/// E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
/// J. Amer. Statist. Assoc. 22 (1927).
pub fn wilson_interval(successes: u64, trials: u64, z: f64) -> Result<Interval> {
    check_at_most("trials", trials, 1, u64::MAX)?;
    check_at_most("successes", successes, 0, trials)?;
    check_number("the normal quantile", z, 0.0)?;
    let n = trials as f64;
    let p = successes as f64 / n;
    let shrink = 1.0 + z * z / n;
    let center = (p + z * z / (2.0 * n)) / shrink;
    let half_width = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt() / shrink;
    Ok(Interval {
        low: if successes == 0 { 0.0 } else { (center - half_width).max(0.0) },
        high: if successes == trials { 1.0 } else { (center + half_width).min(1.0) },
    })
}

/// Natural logarithm of `n!`.
///
/// Exact product up to 20, Stirling's series with four terms above (relative error below `1e-14`).
pub fn ln_factorial(n: u64) -> f64 {
    if n <= 20 {
        return ((1..=n).product::<u64>() as f64).ln();
    }
    let x = n as f64;
    let inverse = 1.0 / x;
    let square = inverse * inverse;
    let series =
        inverse * (1.0 / 12.0 - square * (1.0 / 360.0 - square * (1.0 / 1260.0 - square / 1680.0)));
    x * x.ln() - x + 0.5 * (core::f64::consts::TAU * x).ln() + series
}

/// Natural logarithm of the binomial coefficient `C(n, k)`; `−∞` if `k > n`.
///
/// A sum of `ln((n−k+i)/i)` while the shorter side has at most 128 terms, differences of
/// [`ln_factorial`] above that.
pub fn ln_binomial(n: u64, k: u64) -> f64 {
    if k > n {
        return f64::NEG_INFINITY;
    }
    let short = k.min(n - k);
    if short <= 128 {
        (1..=short).map(|i| ((n - short + i) as f64 / i as f64).ln()).sum()
    } else {
        ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)
    }
}

/// Drawing without replacement: `drawn` of `population` items, of which `marked` are marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hypergeometric {
    population: u64,
    marked: u64,
    drawn: u64,
}

impl Hypergeometric {
    /// Checks the three counts.
    ///
    /// # Errors
    /// [`Error::CountOutOfRange`] if `marked` or `drawn` exceeds `population`.
    pub fn new(population: u64, marked: u64, drawn: u64) -> Result<Self> {
        check_at_most("marked items", marked, 0, population)?;
        check_at_most("drawn items", drawn, 0, population)?;
        Ok(Self { population, marked, drawn })
    }

    /// Natural logarithm of the probability that exactly `hits` marked items are drawn:
    /// `C(K, x)·C(N−K, n−x) / C(N, n)`.
    pub fn ln_probability(&self, hits: u64) -> f64 {
        let Self { population, marked, drawn } = *self;
        if hits > drawn || hits > marked {
            return f64::NEG_INFINITY;
        }
        ln_binomial(marked, hits) + ln_binomial(population - marked, drawn - hits)
            - ln_binomial(population, drawn)
    }

    /// Natural logarithm of the probability that no marked item is drawn:
    /// `C(N−K, n)/C(N, n) = C(N−n, K)/C(N, K)`.
    ///
    /// Computed as a product over the smaller of `K` and `n`, so that probabilities close to 1
    /// keep their digits.
    pub fn ln_none(&self) -> f64 {
        let Self { population, marked, drawn } = *self;
        let (factors, avoided) = (marked.min(drawn), marked.max(drawn));
        if factors > population - avoided {
            return f64::NEG_INFINITY;
        }
        (0..factors).map(|i| (-(avoided as f64) / (population - i) as f64).ln_1p()).sum()
    }

    /// Probability that at least `hits` marked items are drawn.
    pub fn tail(&self, hits: u64) -> f64 {
        match hits {
            0 => 1.0,
            1 => -self.ln_none().exp_m1(),
            _ => {
                let most = self.marked.min(self.drawn);
                let sum: f64 = (hits..=most).map(|x| self.ln_probability(x).exp()).sum();
                sum.min(1.0)
            }
        }
    }
}

fn check_at_most(name: &'static str, actual: u64, min: u64, max: u64) -> Result<()> {
    if (min..=max).contains(&actual) {
        Ok(())
    } else {
        Err(Error::CountOutOfRange { name, actual, min, max })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn assert_close(actual: f64, expected: f64, relative: f64) {
        let scale = expected.abs().max(1e-300);
        assert!((actual - expected).abs() <= relative * scale, "{actual} is not {expected}");
    }

    #[test]
    fn factorials_join_smoothly_and_match_known_values() {
        assert_eq!(ln_factorial(0), 0.0);
        assert_eq!(ln_factorial(1), 0.0);
        assert_close(ln_factorial(20), 42.335_616_460_753_485, 1e-15);
        assert_close(ln_factorial(21), 42.335_616_460_753_485 + 21f64.ln(), 1e-15);
        // 170! = 7.257415615307994e306.
        assert_close(ln_factorial(170), 7.257_415_615_307_994e306_f64.ln(), 1e-15);
    }

    #[test]
    fn binomials_of_both_branches_agree_with_each_other() {
        // 128 and 129 lie on either side of the switch; the quotient is (n−128)/129.
        for n in [300_u64, 4_096, 32_768] {
            let step = ln_binomial(n, 129) - ln_binomial(n, 128);
            assert_close(step, ((n - 128) as f64 / 129.0).ln(), 1e-9);
        }
        assert_eq!(ln_binomial(3, 4), f64::NEG_INFINITY);
        assert_close(ln_binomial(52, 5), 2_598_960f64.ln(), 1e-14);
    }

    #[test]
    fn students_factor_falls_towards_the_normal_one() {
        let factors: Vec<f64> = (1..40).map(student_factor_95).collect();
        assert!(factors.windows(2).all(|pair| pair[0] > pair[1] || pair[1] == Z_95));
        assert!(factors[0].is_infinite() && (factors[2] - 4.303).abs() < 1e-12);
        // 1 − F(t) = 0.025 with the closed forms for 1 and 2 degrees of freedom.
        assert!((0.5 - factors[1].atan() / core::f64::consts::PI - 0.025).abs() < 1e-5);
        let t = factors[2];
        assert!((0.5 - t / (2.0 * (2.0 + t * t).sqrt()) - 0.025).abs() < 1e-5);
    }

    #[test]
    fn wilson_matches_published_examples() {
        // Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 81/263, 15/148, 0/20.
        for (x, n, low, high) in
            [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)]
        {
            let interval = wilson_interval(x, n, Z_95).unwrap();
            assert!((interval.low - low).abs() < 5e-5, "{x}/{n}: {interval:?}");
            assert!((interval.high - high).abs() < 5e-5, "{x}/{n}: {interval:?}");
        }
    }

    #[test]
    fn impossible_counts_are_refused() {
        assert!(wilson_interval(0, 0, Z_95).is_err());
        assert!(wilson_interval(2, 1, Z_95).is_err());
        assert!(wilson_interval(1, 2, f64::NAN).is_err());
        assert!(wilson_interval(1, 2, -1.0).is_err());
        assert!(Hypergeometric::new(5, 6, 1).is_err());
        assert!(Hypergeometric::new(5, 1, 6).is_err());
    }

    #[test]
    fn one_canary_in_a_block_catches_one_slot_with_probability_one_in_n() {
        let one = Hypergeometric::new(4_096, 1, 1).unwrap();
        assert_close(one.tail(1), 1.0 / 4_096.0, 1e-12);
        assert_eq!(Hypergeometric::new(10, 6, 5).unwrap().ln_none(), f64::NEG_INFINITY);
    }
}
