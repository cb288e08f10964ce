//! Activations that are no polynomials, as look-up tables on integers.
//!
//! A table takes an integer `z` of unit `u` to the nearest point of a grid to `f(u z)`. It is found run
//! by run: between two turning points of `f` the rounded values rise or fall, so that the end of a run
//! is found by exponential and binary search.
//!
//! Where the values go to the next stage one by one (or the largest of each window does), the grid is
//! that of the next stage, and nothing is rounded twice. Values beyond it are one beyond it in the
//! table, so that the clamp of the refresh counts them. Where a window is summed, the grid is up to 16
//! times finer, and the refresh divides; values are limited only where a single one fixes the result.

use crate::approximate::Function;
use crate::integer::{LookupTable, MAX_TABLE_RUNS, MAX_TABLE_VALUE, StepFunction};

/// Bits by which the grid before a sum is finer than the one after it, if the table may be so long.
const EXTRA_BITS: u32 = 4;
/// Largest magnitude of an integer for which a table is made: it is exact in double precision.
const MAX_REACH: f64 = 4_503_599_627_370_496.0;

/// The integers of one channel before its activation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Preactivation {
    /// What one unit stands for; positive.
    pub(super) unit: f64,
    /// No magnitude is larger.
    pub(super) reach: f64,
}

/// Where the values of a table go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// What one unit of the next stage's grid stands for.
    pub(super) step: f64,
    /// Smallest integer of that grid.
    pub(super) min: i32,
    /// Largest integer of that grid.
    pub(super) max: i32,
    /// How a window of values is summed, if it is.
    pub(super) sum: Option<Window>,
}

/// A window that is summed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// Values of a window.
    pub(super) n_terms: f64,
    /// By what the sum is divided.
    pub(super) divisor: f64,
}

/// A table, and what one unit of its values stands for.
#[derive(Debug)]
pub(super) struct Tabulated {
    pub(super) table: LookupTable,
    pub(super) step: f64,
}

/// Tabulate `function` for every channel, or once if all channels have one unit.
///
/// `None` if the tables would have too many runs, or integers reach too far.
pub(super) fn tabulate(
    function: &Function,
    channels: &[Preactivation],
    target: &Target,
) -> Option<Tabulated> {
    let first = channels.first()?;
    let reach = channels.iter().fold(0.0_f64, |most, channel| most.max(channel.reach));
    let one = [Preactivation { reach, ..*first }];
    let channels =
        if channels.iter().all(|c| c.unit == first.unit) { one.as_slice() } else { channels };
    let most_extra = if target.sum.is_some() { EXTRA_BITS } else { 0 };
    (0..=most_extra).rev().find_map(|extra| {
        let step = target.step / f64::from(1_u32 << extra);
        let (low, high) = limits(function, channels, target, step);
        let rounded = Rounded { function, step, low, high };
        let mut left = MAX_TABLE_RUNS;
        let functions = channels
            .iter()
            .map(|channel| {
                let function = rounded.steps(*channel, left)?;
                left -= function.n_runs();
                Some(function)
            })
            .collect::<Option<Vec<_>>>()?;
        Some(Tabulated { table: LookupTable::new(functions).ok()?, step })
    })
}

/// The smallest and the largest value worth telling apart, in units of `step`.
///
/// One value: one beyond the grid. A sum of `n` terms, divided by `d`: a term `v` with
/// `v + (n − 1)·least ≥ d·(max + 1)` takes the sum beyond the grid whatever the others are.
fn limits(
    function: &Function,
    channels: &[Preactivation],
    target: &Target,
    step: f64,
) -> (f64, f64) {
    let (low, high) = (f64::from(target.min) - 1.0, f64::from(target.max) + 1.0);
    let (low, high) = match target.sum {
        None => (low, high),
        Some(Window { n_terms, divisor }) => {
            let finer = target.step / step * divisor;
            let (least, most) = extremes(function, channels);
            let others = n_terms - 1.0;
            let low = low * finer - others * (most / step).max(0.0) - 1.0;
            (low, high * finer - others * (least / step).min(0.0) + 1.0)
        }
    };
    let limit = f64::from(MAX_TABLE_VALUE);
    (low.floor().max(-limit), high.ceil().min(limit))
}

/// Smallest and largest value on all channels.
fn extremes(function: &Function, channels: &[Preactivation]) -> (f64, f64) {
    let reach =
        channels.iter().fold(0.0_f64, |most, channel| most.max(channel.reach * channel.unit));
    let inside = function.turning_points().into_iter().filter(|x| x.abs() < reach);
    let values = inside.chain([-reach, reach]).map(|x| function.value(x));
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)))
}

/// A function in units of `step`, rounded half up and limited.
struct Rounded<'a> {
    function: &'a Function,
    step: f64,
    low: f64,
    high: f64,
}

impl Rounded<'_> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "integers below 2^52, limited to 2^30"
    )]
    fn at(&self, unit: f64, z: i64) -> i32 {
        let y = self.function.value(unit * z as f64);
        (y / self.step + 0.5).floor().clamp(self.low, self.high) as i32
    }

    /// All runs of one channel; `None` if there are more than `most`.
    #[expect(clippy::cast_possible_truncation, reason = "checked against 2^52")]
    fn steps(&self, channel: Preactivation, most: usize) -> Option<StepFunction> {
        let Preactivation { unit, reach } = channel;
        if !(reach < MAX_REACH && unit.is_finite() && unit > 0.0) {
            return None;
        }
        let reach = reach.ceil() as i64;
        let (mut starts, mut values) = (Vec::new(), Vec::<i32>::new());
        let turns = self.function.turning_points().into_iter().map(|x| (x / unit).floor());
        let turns = turns.map(|z| z.clamp(-MAX_REACH, MAX_REACH) as i64);
        let inside = turns.filter(|z| (-reach..reach).contains(z));
        let mut z = -reach;
        for end in inside.chain([reach]) {
            while z <= end {
                let value = self.at(unit, z);
                if values.is_empty() {
                    values.push(value);
                } else if values.last() != Some(&value) {
                    starts.push(z);
                    values.push(value);
                }
                if values.len() > most {
                    return None;
                }
                z = last_of_run(z, end, |z| self.at(unit, z) == value) + 1;
            }
        }
        StepFunction::new(starts, values).ok()
    }
}

/// The last `z` up to `end` for which `is_equal` holds, if it holds at `first` and from no `z` on again
/// after it stopped: in as many steps as the logarithm of the distance.
fn last_of_run(first: i64, end: i64, is_equal: impl Fn(i64) -> bool) -> i64 {
    let (mut inside, mut width) = (first, 1);
    let mut outside = loop {
        let next = inside.saturating_add(width);
        if next > end {
            break end + 1;
        }
        if !is_equal(next) {
            break next;
        }
        (inside, width) = (next, width * 2);
    };
    while outside - inside > 1 {
        let middle = inside + (outside - inside) / 2;
        if is_equal(middle) { inside = middle } else { outside = middle }
    }
    inside
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::cast_precision_loss,
        reason = "tests"
    )]
    use proptest::prelude::*;

    use super::*;
    use crate::approximate::SampledFunction;

    fn functions() -> Vec<Function> {
        let points = vec![(-3.0, 1.0), (-1.0, -0.5), (0.5, 2.0), (0.75, 2.0), (2.0, 0.1)];
        let mut all = Function::NAMED.to_vec();
        all.push(Function::LeakyRelu { slope: -0.3 });
        all.push(Function::Sampled(SampledFunction::new(points).unwrap()));
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Everywhere within reach, and not only at some points, a table is the function to half a unit of
        /// its grid, as far as the grid goes; beyond it is one beyond the grid.
        #[test]
        fn tables_are_the_function_to_half_a_unit(
            idx in 0_usize..10, log_unit in -9.0..0.0_f64, log_step in -5.0..0.5_f64,
            reach in 1_i32..3000, bits in 1_u32..9, signed in any::<bool>(),
        ) {
            let function = &functions()[idx];
            let (unit, step) = (log_unit.exp2(), log_step.exp2());
            let span = (1 << bits) - 1;
            let (min, max) = if signed { (-(span / 2), span - span / 2) } else { (0, span) };
            let target = Target { step, min, max, sum: None };
            let channel = Preactivation { unit, reach: f64::from(reach) - 0.5 };
            let Tabulated { table, step } = tabulate(function, &[channel], &target).unwrap();
            prop_assert_eq!(step, target.step);
            for z in -reach..=reach {
                let value = table.channel(0).at(z.into());
                let exact = function.value(unit * f64::from(z));
                let limited = exact.clamp(f64::from(min - 1) * step, f64::from(max + 1) * step);
                let off = (f64::from(value) * step - limited).abs() / step;
                prop_assert!(off <= 0.5 + 1e-9, "{function} at {z}: {value}, {limited}, {off}");
            }
        }

        /// Sums of window values, limited or not, give the same integer after the refresh's clamp.
        #[test]
        fn limits_of_summed_values_never_show(
            idx in 0_usize..10, log_unit in -9.0..-1.0_f64, log_step in -4.0..0.0_f64, bits in 1_u32..6,
            zs in prop::collection::vec(-1500_i64..=1500, 1..10), average in any::<bool>(),
        ) {
            let function = &functions()[idx];
            let (unit, n) = (log_unit.exp2(), zs.len() as f64);
            let divisor = if average { n } else { 1.0 };
            let sum = Some(Window { n_terms: n, divisor });
            let (min, max) = (-(1 << bits) / 2, (1 << bits) - 1);
            let target = Target { step: log_step.exp2(), min, max, sum };
            let channel = Preactivation { unit, reach: 1500.0 };
            let Tabulated { table, step } = tabulate(function, &[channel], &target).unwrap();
            prop_assert_eq!(step * 16.0, target.step);
            let scale = step / divisor / target.step;
            let limited: f64 = zs.iter().map(|&z| f64::from(table.channel(0).at(z))).sum();
            let rounded = |z: i64| (function.value(unit * z as f64) / step + 0.5).floor();
            let free: f64 = zs.iter().map(|&z| rounded(z)).sum();
            let refreshed = |sum: f64| (sum * scale + 0.5).floor().clamp(min.into(), max.into());
            prop_assert_eq!(refreshed(limited), refreshed(free));
        }
    }

    #[test]
    fn channels_of_one_unit_share_a_table() {
        let target = Target { step: 0.1, min: -7, max: 8, sum: None };
        let channel = |unit, reach| Preactivation { unit, reach };
        let shared =
            tabulate(&Function::Gelu, &[channel(0.01, 100.0), channel(0.01, 400.0)], &target);
        assert_eq!(shared.unwrap().table.channels().len(), 1);
        let own = tabulate(&Function::Gelu, &[channel(0.01, 100.0), channel(0.02, 400.0)], &target);
        assert_eq!(own.unwrap().table.channels().len(), 2);
    }

    /// Too many runs: first a coarser grid before the sum, then a refusal.
    #[test]
    fn tables_that_would_be_too_long_are_coarser_or_refused() {
        let channel = |i: u32| Preactivation { unit: 1e-9 * f64::from(i + 1), reach: 1e12 };
        let many: Vec<Preactivation> = (0..40).map(channel).collect();
        let sum = Some(Window { n_terms: 4.0, divisor: 4.0 });
        let target = Target { step: 1e-3, min: 0, max: 4095, sum };
        let coarse = tabulate(&Function::Silu, &many, &target).unwrap();
        assert!(coarse.step > 1e-3 / 16.0 && coarse.table.n_runs() <= MAX_TABLE_RUNS);
        let target = Target { step: 1e-5, min: 0, max: 65_535, sum };
        assert!(tabulate(&Function::Silu, &many, &target).is_none());
        let far = [Preactivation { unit: 1.0, reach: 1e16 }];
        assert!(tabulate(&Function::Tanh, &far, &target).is_none());
    }
}
