//! Weight matrices as products of thin factors.
//!
//! A matrix `m × n` of rank `r` is stored as `r (m + n)` numbers, or as it is if that is no less. The
//! ranks share one budget: singular values enter in order of their energy (as a share of their
//! layer's) per number stored, so that small last layers are not starved.
//!
//! # Source
//! Denton et al. 2014, "Exploiting Linear Structure Within Convolutional Networks for Efficient
//! Evaluation"; the common budget is our own.

use nalgebra::{DMatrix, SVD};
use nn_poly::network::Network;

use super::compress::judge_saving;
use super::retrain::{Duration, Retraining};
use super::weights::{self, WeightTensor, count_of, single};
use super::{Aftermath, AttackData, AttackOptions, AttackSuccess, Method, Tools, share};
use crate::error::{Error, Result};

#[derive(Clone, Debug)]
pub(super) struct LowRank {
    kept_share: f64,
    retraining: Retraining,
}

impl LowRank {
    pub(super) fn new(kept_share: f64, duration: Duration, options: &AttackOptions) -> Self {
        Self { kept_share, retraining: Retraining::repairing(duration, options) }
    }

    /// The ranks of a network's layers under the budget.
    fn ranks(&self, network: &Network<f32>) -> Result<Vec<usize>> {
        let mut layers = network.layers().to_vec();
        let spectra = weights::tensors(&mut layers)
            .iter()
            .map(|tensor| {
                let values = decompose(tensor)?.values;
                Ok(Spectrum { extents: (tensor.n_rows, tensor.row_len()), values })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(choose_ranks(&spectra, self.kept_share))
    }
}

/// The singular values of one layer, largest first.
#[derive(Clone, Debug)]
struct Spectrum {
    extents: (usize, usize),
    values: Vec<f64>,
}

/// Numbers stored for a matrix of these extents at rank `rank`.
fn stored((n_rows, n_columns): (usize, usize), rank: usize) -> usize {
    (rank * (n_rows + n_columns)).min(n_rows * n_columns)
}

/// Ranks, at least 1 each, that keep the most energy within a share of all numbers.
fn choose_ranks(spectra: &[Spectrum], kept_share: f64) -> Vec<usize> {
    let n_total = spectra.iter().map(|spectrum| spectrum.extents.0 * spectrum.extents.1).sum();
    let budget = count_of(kept_share, n_total);
    let mut candidates: Vec<(f64, usize)> = Vec::new();
    for (layer, Spectrum { extents, values }) in spectra.iter().enumerate() {
        let energy: f64 = values.iter().map(|value| value * value).sum();
        let cost = share(extents.0 + extents.1, 1).unwrap_or(1.0);
        let worth = |value: &f64| value * value / energy.max(f64::MIN_POSITIVE) / cost;
        candidates.extend(values.iter().skip(1).map(|value| (worth(value), layer)));
    }
    // Within a layer the values fall, so they are taken in order.
    candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut ranks = vec![1; spectra.len()];
    let mut n_stored: usize = spectra.iter().map(|spectrum| stored(spectrum.extents, 1)).sum();
    let mut is_full = vec![false; spectra.len()];
    for (_, layer) in candidates {
        let (Some(rank), Some(spectrum), Some(is_full)) =
            (ranks.get_mut(layer), spectra.get(layer), is_full.get_mut(layer))
        else {
            continue;
        };
        let more = stored(spectrum.extents, *rank + 1) - stored(spectrum.extents, *rank);
        if *is_full || n_stored + more > budget {
            *is_full = true;
            continue;
        }
        *rank += 1;
        n_stored += more;
    }
    ranks
}

/// A matrix with at least as many columns as rows (a layer's weights, or their transpose), its
/// singular values, largest first, and its left singular vectors.
struct Decomposition {
    wide: DMatrix<f64>,
    is_transposed: bool,
    values: Vec<f64>,
    vectors: DMatrix<f64>,
}

/// Decompose by way of `Aᵀ = QR`: the square `Rᵀ` has the same singular values and left vectors as
/// `A = RᵀQᵀ`, and a layer's long side then costs one pass only.
fn decompose(tensor: &WeightTensor<'_>) -> Result<Decomposition> {
    /// Sweeps after which a decomposition is given up; it usually takes a handful per value.
    const MAX_SWEEPS: usize = 100_000;
    let matrix = weights::matrix(tensor);
    let matrix = DMatrix::from_row_iterator(matrix.nrows(), matrix.ncols(), matrix.iter().copied());
    let is_transposed = matrix.nrows() > matrix.ncols();
    let wide = if is_transposed { matrix.transpose() } else { matrix };
    let square = wide.transpose().qr().r().transpose();
    let failure = Error::InvalidSetting {
        setting: "number of sweeps of a singular value decomposition",
        value: f64::from(u32::try_from(MAX_SWEEPS).unwrap_or(u32::MAX)),
        requirement: "enough to converge; the weights are out of the range of 64-bit numbers",
    };
    let svd = SVD::try_new(square, true, false, f64::EPSILON, MAX_SWEEPS).ok_or(failure)?;
    let values = svd.singular_values.iter().copied().collect();
    let vectors = svd.u.expect("invariant: the left vectors were asked for");
    Ok(Decomposition { wide, is_transposed, values, vectors })
}

/// Replace the weights by the nearest matrix of rank `rank`: their projection on the first `rank`
/// singular vectors.
fn project(tensor: &mut WeightTensor<'_>, rank: usize) -> Result<()> {
    if rank >= tensor.n_rows.min(tensor.row_len()) {
        return Ok(());
    }
    let Decomposition { wide, is_transposed, vectors, .. } = decompose(tensor)?;
    let kept = vectors.columns(0, rank);
    let projected = kept * (kept.transpose() * wide);
    // Matrices are stored by column here and weights by row.
    let by_row = if is_transposed { projected } else { projected.transpose() };
    for (weight, value) in tensor.values.iter_mut().zip(by_row.iter()) {
        *weight = single(*value);
    }
    Ok(())
}

fn project_all(network: &Network<f32>, ranks: &[usize]) -> Result<Network<f32>> {
    let mut outcome = Ok(());
    let projected = weights::edit(network, |tensors| {
        outcome = tensors.iter_mut().zip(ranks).try_for_each(|(t, &rank)| project(t, rank));
    })?;
    outcome.map(|()| projected)
}

impl Method for LowRank {
    fn tamper(
        &self,
        deployed: &Network<f32>,
        data: &AttackData<'_>,
        tools: &mut Tools<'_>,
    ) -> Result<Network<f32>> {
        let ranks = self.ranks(deployed)?;
        let network = project_all(deployed, &ranks)?;
        self.retraining
            .run_epochs(network, data.train(), tools, |trained| project_all(trained, &ranks))
    }

    fn success(&self, aftermath: &Aftermath<'_>) -> Result<Option<AttackSuccess>> {
        let ranks = self.ranks(aftermath.before)?;
        let mut layers = aftermath.after.layers().to_vec();
        let extents: Vec<(usize, usize)> = weights::tensors(&mut layers)
            .iter()
            .map(|tensor| (tensor.n_rows, tensor.row_len()))
            .collect();
        let n_stored: usize =
            extents.iter().zip(&ranks).map(|(&extents, &rank)| stored(extents, rank)).sum();
        let n_total = extents.iter().map(|(rows, columns)| rows * columns).sum();
        let saved = share(n_stored, n_total).map(|kept| 1.0 - kept);
        Ok(saved.map(|saved| judge_saving(aftermath, saved, 1.0 - self.kept_share)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "tests")]
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    fn tensor(values: &mut [f32], n_rows: usize) -> WeightTensor<'_> {
        WeightTensor { values, n_rows, quantizer: None }
    }

    proptest! {
        #[test]
        fn a_projection_has_its_rank_and_is_the_nearest(
            seed: u64, n_rows in 1_usize..8, n_columns in 1_usize..8, rank in 1_usize..8,
        ) {
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let before: Vec<f32> = (0..n_rows * n_columns)
                .map(|_| weights::standard_normal(&mut rng) as f32)
                .collect();
            let mut after = before.clone();
            project(&mut tensor(&mut after, n_rows), rank).unwrap();
            let spectrum = |values: &[f32]| {
                let mut values = values.to_vec();
                decompose(&tensor(&mut values, n_rows)).unwrap().values
            };
            let (full, low) = (spectrum(&before), spectrum(&after));
            for (idx, value) in low.iter().enumerate() {
                let expected = if idx < rank { full[idx] } else { 0.0 };
                prop_assert!((value - expected).abs() < 1e-5, "{idx}: {value} {expected}");
            }
            let distance: f64 = before
                .iter()
                .zip(&after)
                .map(|(a, b)| f64::from(a - b).powi(2))
                .sum();
            let dropped: f64 = full.iter().skip(rank).map(|v| v * v).sum();
            prop_assert!((distance - dropped).abs() < 1e-4 * (1.0 + dropped));
        }

        #[test]
        fn ranks_stay_within_the_budget(
            extents in prop::collection::vec((2_usize..30, 2_usize..30), 1..5), kept in 0.3..1.0_f64,
        ) {
            let spectra: Vec<Spectrum> = extents
                .iter()
                .map(|&extents| {
                    let n = extents.0.min(extents.1);
                    let values = (0..n).map(|idx| 1.0 / f64::from(idx as u32 + 1)).collect();
                    Spectrum { extents, values }
                })
                .collect();
            let ranks = choose_ranks(&spectra, kept);
            let n_total: usize = extents.iter().map(|e| e.0 * e.1).sum();
            let n_stored: usize =
                extents.iter().zip(&ranks).map(|(&e, &rank)| stored(e, rank)).sum();
            let least: usize = extents.iter().map(|&e| stored(e, 1)).sum();
            prop_assert!(n_stored <= count_of(kept, n_total).max(least));
            for (rank, extents) in ranks.iter().zip(&extents) {
                prop_assert!((1..=extents.0.min(extents.1)).contains(rank));
            }
        }
    }
}
