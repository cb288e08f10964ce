//! Values of a chain from their residues: what the blocks of one round's segments hold for the same
//! samples.

use nn_poly::integer::{MAX_CRT_MODULI, Refresher};
use rayon::prelude::*;
use zeroize::Zeroizing;

use super::block::BlockResult;
use super::error::{INVARIANT, Result};
use super::opening::refreshed;
use super::setup::ClientPlan;

/// Output neurons put together at a time.
const ROWS: usize = 16;

/// Decrypted residues of one block: one row per output neuron, one value per sample. Overwritten on
/// drop, never printed.
pub(super) struct Residues {
    rows: Zeroizing<Vec<i64>>,
    n_samples: usize,
}

impl Residues {
    /// Room for `n_rows` rows.
    pub(super) fn new(n_rows: usize, n_samples: usize) -> Self {
        Self { rows: Zeroizing::new(vec![0; n_rows * n_samples]), n_samples }
    }

    /// Takes rows `first, first + 1, …`.
    pub(super) fn write(&mut self, first: usize, rows: &[i64]) {
        let start = first * self.n_samples;
        if let Some(target) = self.rows.get_mut(start..start + rows.len()) {
            target.copy_from_slice(rows);
        }
    }

    pub(super) fn clear(&mut self) {
        self.rows.fill(0);
    }
}

/// What stage `stage` makes of these residues, one set for each of its segments, in their order.
pub(super) fn combine(plan: &ClientPlan, stage: usize, parts: &[Residues]) -> Result<BlockResult> {
    let window = plan.plan().public().crt_window(stage)?.ok_or(INVARIANT)?;
    let (structure, _) = plan.network().stage(stage)?;
    let chain = structure.chain.as_ref().ok_or(INVARIANT)?;
    let first = parts.first().ok_or(INVARIANT)?;
    let n_samples = first.n_samples;
    let mut refresher: Refresher = plan.plan().refresher(stage, n_samples)?;
    let step = (ROWS * n_samples).max(1);
    let mut values = Zeroizing::new(Vec::with_capacity(step));
    for (start, row) in (0..first.rows.len()).step_by(step).zip((0..).step_by(ROWS)) {
        let end = (start + step).min(first.rows.len());
        values.resize(end - start, 0);
        values.par_iter_mut().enumerate().for_each(|(i, value)| {
            let mut residues = [0_u64; MAX_CRT_MODULI];
            for (residue, part) in residues.iter_mut().zip(parts) {
                *residue = part.rows.get(start + i).copied().unwrap_or(0).cast_unsigned();
            }
            *value = chain.descaled(window.combine(residues));
        });
        refresher.absorb_rows(row, &values, n_samples)?;
    }
    refreshed(plan, stage, refresher)
}
