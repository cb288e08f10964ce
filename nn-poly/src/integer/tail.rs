//! Activation and pool of a stage, one linear output at a time.
//!
//! Partly pooled windows exist only between the first and the last term of their window, so with outputs
//! arriving in order the memory is a few rows of the pooled volume, not the whole linear output.

use super::structure::{ActivationKind, Pool, Reduction, StageStructure};
use super::weights::Quadratic;

/// Turns rows of linear outputs into rows of pooled values.
///
/// Relies on the caller for bounds: every absorbed value lies in a domain for which the stage's tail
/// was proven not to overflow ([`super::ranges::prove_tail`] or [`super::ranges::prove_stage`]).
pub(super) struct Tail {
    activation: ActivationKind,
    quadratic: Option<Quadratic>,
    pool: Option<Pool>,
    n_channels: usize,
    activated: Vec<i64>,
    /// One entry per pooled output; present while some but not all of its terms have arrived.
    partial: Vec<Option<PartialWindow>>,
    /// Buffers of finished windows, for the next ones.
    spare: Vec<Vec<i64>>,
}

/// Sum or maximum of the values of a window so far.
struct PartialWindow {
    reduced: Vec<i64>,
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
            activation: structure.activation.clone(),
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
        let neutral = match pool.reduction {
            Reduction::Sum => 0,
            Reduction::Max => i64::MIN,
        };
        pool.for_each_window(output_idx, |window| {
            let Some(slot) = partial.get_mut(window) else { return };
            let mut entry = slot.take().unwrap_or_else(|| {
                let mut reduced = spare.pop().unwrap_or_else(|| vec![0; activated.len()]);
                reduced.fill(neutral);
                PartialWindow { reduced, n_missing: pool.n_terms_of(window) }
            });
            let values = entry.reduced.iter_mut().zip(activated);
            match pool.reduction {
                Reduction::Sum => values.for_each(|(sum, &v)| *sum += v),
                Reduction::Max => values.for_each(|(most, &v)| *most = (*most).max(v)),
            }
            entry.n_missing -= 1;
            if entry.n_missing == 0 {
                emit(window, &entry.reduced);
                spare.push(entry.reduced);
            } else {
                *slot = Some(entry);
            }
        });
    }

    /// Apply the activation to a row. No branch depends on a value, but for tables.
    fn activate(&mut self, channel: usize, values: &[i64]) {
        let out = &mut self.activated;
        match (&self.activation, &self.quadratic) {
            (ActivationKind::Table(table), _) => {
                let function = table.channel(channel);
                out.iter_mut().zip(values).for_each(|(out, &z)| *out = function.at(z).into());
            }
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
