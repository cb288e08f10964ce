//! Activation and sum pool of a stage, one linear output at a time.
//!
//! Partial pool sums exist only between the first and the last term of their window, so with outputs
//! arriving in order the memory is a few rows of the pooled volume, not the whole linear output.

use super::structure::{ActivationKind, StageStructure, SumPool};
use super::weights::Quadratic;

/// Turns rows of linear outputs into rows of pooled values.
///
/// Relies on the caller for bounds: every absorbed value lies in a domain for which the stage's tail
/// was proven not to overflow ([`super::ranges::prove_tail`] or [`super::ranges::prove_stage`]).
pub(super) struct Tail {
    activation: ActivationKind,
    quadratic: Option<Quadratic>,
    pool: Option<SumPool>,
    n_channels: usize,
    activated: Vec<i64>,
    /// One entry per pooled output; present while some but not all of its terms have arrived.
    partial: Vec<Option<PartialSum>>,
    /// Buffers of finished sums, for the next ones.
    spare: Vec<Vec<i64>>,
}

struct PartialSum {
    sum: Vec<i64>,
    n_missing: usize,
}

impl Tail {
    pub(super) fn new(
        structure: &StageStructure,
        quadratic: Option<&Quadratic>,
        n_samples: usize,
    ) -> Self {
        let n_partial = structure.pool.map_or(0, |_| structure.n_outputs());
        Self {
            activation: structure.activation,
            quadratic: quadratic.cloned(),
            pool: structure.pool,
            n_channels: structure.n_channels(),
            activated: vec![0; n_samples],
            partial: std::iter::repeat_with(|| None).take(n_partial).collect(),
            spare: Vec::new(),
        }
    }

    /// Take the values of linear output `output_idx`; pass every pooled output this completes to
    /// `emit`. Without a pool that is the output itself. Each output must come once.
    pub(super) fn absorb(
        &mut self,
        output_idx: usize,
        values: &[i64],
        emit: &mut dyn FnMut(usize, &[i64]),
    ) {
        self.activate(output_idx % self.n_channels, values);
        let Some(pool) = self.pool else {
            emit(output_idx, &self.activated);
            return;
        };
        let (activated, partial, spare) = (&self.activated, &mut self.partial, &mut self.spare);
        pool.for_each_window(output_idx, |window| {
            let Some(slot) = partial.get_mut(window) else { return };
            let mut entry = slot.take().unwrap_or_else(|| PartialSum {
                sum: spare.pop().map_or_else(
                    || vec![0; activated.len()],
                    |mut sum| {
                        sum.fill(0);
                        sum
                    },
                ),
                n_missing: pool.n_terms(),
            });
            for (sum, &v) in entry.sum.iter_mut().zip(activated) {
                *sum += v;
            }
            entry.n_missing -= 1;
            if entry.n_missing == 0 {
                emit(window, &entry.sum);
                spare.push(entry.sum);
            } else {
                *slot = Some(entry);
            }
        });
    }

    /// Apply the activation to a row. No branch depends on a value.
    fn activate(&mut self, channel: usize, values: &[i64]) {
        let out = &mut self.activated;
        match (self.activation, &self.quadratic) {
            (ActivationKind::Relu, _) => {
                out.iter_mut().zip(values).for_each(|(out, &z)| *out = z.max(0));
            }
            (ActivationKind::Quadratic, Some(quadratic)) => {
                let (a, b, c) = quadratic.coefficients(channel);
                if (a, b, c) == (1, 0, 0) {
                    out.iter_mut().zip(values).for_each(|(out, &z)| *out = z * z);
                } else {
                    let a = i64::from(a);
                    out.iter_mut().zip(values).for_each(|(out, &z)| *out = (a * z + b) * z + c);
                }
            }
            (ActivationKind::Identity | ActivationKind::Quadratic, _) => {
                out.iter_mut().zip(values).for_each(|(out, &z)| *out = z);
            }
        }
    }
}
