//! Windows of a plan, applied while a network is evaluated.

use super::StageRule;
use crate::integer::StageOutput;
use crate::integer::interval::Interval;
use crate::integer::refresher::flag_outside;

/// Applies a rule at one place of a stage and keeps account.
pub(super) struct Meter<'a> {
    rule: Option<&'a StageRule>,
    pub(super) seen: Interval,
    pub(super) n_wrapped: u64,
    reduced: Vec<i64>,
}

impl<'a> Meter<'a> {
    pub(super) fn new(rule: Option<&'a StageRule>, place: StageOutput, n_samples: usize) -> Self {
        let rule = rule.filter(|rule| rule.arrivals.takes == place);
        Self { rule, seen: Interval::EMPTY, n_wrapped: 0, reduced: vec![0; n_samples] }
    }

    /// Reduce a row if the rule applies here, flag its samples, and return it.
    pub(super) fn pass<'row>(
        &'row mut self,
        values: &'row [i64],
        flags: &mut [bool],
    ) -> &'row [i64] {
        let range = Interval::of(values);
        let Some(rule) = self.rule else {
            self.seen = self.seen.hull(range);
            return values;
        };
        let values = if rule.window.covers(range.low, range.high) {
            self.seen = self.seen.hull(range);
            values
        } else {
            for (reduced, &v) in self.reduced.iter_mut().zip(values) {
                *reduced = rule.window.reduce(v);
                self.n_wrapped += u64::from(*reduced != v);
            }
            self.seen = self.seen.hull(Interval::of(&self.reduced));
            &self.reduced
        };
        flag_outside(rule.arrivals.expected, values, flags);
        values
    }
}
