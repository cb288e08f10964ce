//! The step of a grid with the least squared error, by a one-dimensional search.
//!
//! The error of a grid as a function of its step is a smooth valley (clipping on one side, rounding on
//! the other) with small ripples where single values change their grid point. A coarse scan finds the
//! valley, Brent's method its bottom, and the better of the two is taken. Everything is
//! deterministic: fixed order of summation, ties go to the larger step.

use argmin::core::{CostFunction, Executor, State};
use argmin::solver::brent::BrentOpt;

use crate::layer::round_half_up;

/// Candidates of the coarse scan, evenly spaced up to the step that clips nothing.
const SCAN: u32 = 40;
/// Iterations of Brent's method: it shrinks a bracket of two scan steps below 1 % of one.
const REFINEMENTS: u64 = 16;
/// Steps below this share of the largest are not considered: nearly everything would be clipped.
const SMALLEST_SHARE: f64 = 1.0 / 32.0;

/// Integers a value is rounded to: `min ..= max`, zero among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Levels {
    pub(super) min: i32,
    pub(super) max: i32,
}

/// A step and the mean squared error it causes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fit {
    pub(super) step: f32,
    pub(super) error: f64,
}

/// The best step for `values` on `levels`; `None` if all values are zero or of the sign that the
/// levels lack.
pub(super) fn best_step(values: &[f32], levels: Levels) -> Option<Fit> {
    let largest = values
        .iter()
        .map(|&v| {
            let limit = if v < 0.0 { levels.min } else { levels.max };
            if limit == 0 { 0.0 } else { f64::from(v) / f64::from(limit) }
        })
        .fold(0.0, f64::max);
    if !(largest.is_finite() && single(largest).is_normal()) {
        return None;
    }
    let error_of = |share: f64| mean_squared_error(values, levels, single(share * largest));
    let (mut best, mut least) = (1.0, error_of(1.0));
    for candidate in (0..SCAN).rev() {
        let share =
            SMALLEST_SHARE + (1.0 - SMALLEST_SHARE) * f64::from(candidate) / f64::from(SCAN);
        let error = error_of(share);
        if error < least {
            (best, least) = (share, error);
        }
    }
    let spacing = (1.0 - SMALLEST_SHARE) / f64::from(SCAN);
    let bracket = ((best - spacing).max(SMALLEST_SHARE), (best + spacing).min(1.0));
    if let Some((share, error)) = refine(&error_of, bracket)
        && error < least
    {
        (best, least) = (share, error);
    }
    Some(Fit { step: single(best * largest), error: least })
}

/// Brent's method inside a bracket; `None` if the solver fails.
fn refine(error_of: &dyn Fn(f64) -> f64, (low, high): (f64, f64)) -> Option<(f64, f64)> {
    let solver = BrentOpt::new(low, high).set_tolerance(1e-6, 1e-6);
    let result = Executor::new(Valley(error_of), solver)
        .configure(|state| state.max_iters(REFINEMENTS))
        .run()
        .ok()?;
    let state = result.state();
    Some((*state.get_best_param()?, state.get_best_cost()))
}

/// The error as a cost function of the share of the largest step.
struct Valley<'a>(&'a dyn Fn(f64) -> f64);

impl CostFunction for Valley<'_> {
    type Param = f64;
    type Output = f64;

    fn cost(&self, share: &f64) -> Result<f64, argmin::core::Error> {
        Ok((self.0)(*share))
    }
}

/// Mean squared distance of the values from their grid points.
#[expect(clippy::cast_precision_loss, reason = "a count of values")]
fn mean_squared_error(values: &[f32], levels: Levels, step: f32) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "grid ends are below 2^17")]
    let (min, max) = (levels.min as f32, levels.max as f32);
    let error = |&v: &f32| {
        let nearest = round_half_up(v / step).max(min).min(max) * step;
        f64::from(v - nearest) * f64::from(v - nearest)
    };
    values.iter().map(error).sum::<f64>() / values.len().max(1) as f64
}

#[expect(clippy::cast_possible_truncation, reason = "rounds to nearest")]
fn single(v: f64) -> f32 {
    v as f32
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::cast_precision_loss, reason = "tests")]
    use super::*;

    fn normal_sample(n: u16) -> Vec<f32> {
        // Quantiles of a standard normal by bisection on an accurate enough distribution function.
        let cdf = |x: f64| 1.0 / (1.0 + (-1.5976 * x - 0.070_565_992 * x * x * x).exp());
        (0..n)
            .map(|i| {
                let p = (f64::from(i) + 0.5) / f64::from(n);
                let (mut low, mut high) = (-6.0, 6.0);
                for _ in 0..50 {
                    let middle = 0.5 * (low + high);
                    if cdf(middle) < p { low = middle } else { high = middle }
                }
                single(low)
            })
            .collect()
    }

    #[test]
    fn grids_for_normal_values_match_the_literature() {
        // Optimal uniform quantizers of N(0, 1) (Max 1960, table II): 8 levels have step 0.586 and
        // error 0.0374, 16 levels step 0.335 and error 0.0115. Ours has one level less, at zero.
        let values = normal_sample(20_000);
        let fit = best_step(&values, Levels { min: -7, max: 7 }).unwrap();
        assert!((fit.step - 0.355).abs() < 0.02, "{fit:?}");
        assert!((fit.error - 0.0130).abs() < 0.0007, "{fit:?}");
        let fit = best_step(&values, Levels { min: -3, max: 3 }).unwrap();
        assert!((fit.step - 0.65).abs() < 0.03, "{fit:?}");
        assert!((fit.error - 0.0467).abs() < 0.003, "{fit:?}");
    }

    #[test]
    fn the_search_is_at_least_as_good_as_a_fine_scan() {
        let values =
            (0..97_u16).map(|i| (f32::from(i * 31 % 97) - 40.0).powi(3)).collect::<Vec<_>>();
        let levels = Levels { min: -7, max: 7 };
        let fit = best_step(&values, levels).unwrap();
        let largest = 56_f32.powi(3) / 7.0;
        let scanned = (32..=1000_u16)
            .map(|i| mean_squared_error(&values, levels, largest * f32::from(i) / 1000.0))
            .fold(f64::MAX, f64::min);
        assert!(fit.error <= scanned * 1.02, "{} against {scanned}", fit.error);
    }

    #[test]
    fn exact_grids_are_found_and_empty_ones_refused() {
        let levels = Levels { min: 0, max: 15 };
        let fit = best_step(&[0.0, 0.5, 7.5, 3.0], levels).unwrap();
        assert_eq!(fit, Fit { step: 0.5, error: 0.0 });
        for values in [[].as_slice(), &[0.0; 3], &[-1.0]] {
            assert_eq!(best_step(values, levels), None);
        }
    }
}
