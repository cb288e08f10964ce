//! Segments of several polynomial steps: each is evaluated as a whole, band by band, before the next.
//!
//! Until the last step nothing of the reply exists, and all of them may take minutes. So between bands,
//! between the products of a band and within its linear map, the sink is asked with an empty piece whether
//! the rest is still wanted.

use core::ops::ControlFlow;

use he_core::{
    CiphertextBlock, EvaluationKeys, LinearMap, PooledQuadratic, Quadratic, Storage, Wanted,
};

use super::{
    BAND_BYTES, Band, ReceivedRequest, SegmentEvaluator, bands, row_bytes, server_quadratic,
};
use crate::encrypted::context::SegmentContext;
use crate::encrypted::error::Result;
use crate::encrypted::map::step_map;
use crate::encrypted::pool::StoragePool;
use crate::integer::{StageStructure, StageWeights};
use crate::plan::Segment;

/// One step of a chain, ready to be evaluated.
#[derive(Debug)]
pub(super) struct ChainEvaluator {
    map: LinearMap,
    bands: Vec<Band>,
    /// Polynomials of a ciphertext after it.
    n_polynomials: usize,
    /// Moduli left after it.
    n_moduli: usize,
}

/// The steps of a stage's chain, if it has one.
pub(super) fn chain_evaluators(
    context: &SegmentContext,
    structure: &StageStructure,
    weights: &StageWeights,
) -> Result<Vec<ChainEvaluator>> {
    let steps = structure.chain.as_ref().map_or(&[][..], |chain| &chain.steps);
    let numbered = (0_u32..).zip(steps.iter().zip(&weights.chain));
    numbered
        .zip(context.step_moduli())
        .map(|((number, (step, numbers)), &n_moduli)| {
            let of_channel =
                |channel| server_quadratic(context, numbers.coefficients(step, channel));
            let quadratics: Vec<Quadratic> =
                (0..step.linear.n_channels()).map(of_channel).collect();
            let (squared, n_polynomials) = polynomials(number, context.relinearizes());
            let fitting = (BAND_BYTES / row_bytes(context, squared)).max(1);
            Ok(ChainEvaluator {
                map: step_map(context, step, numbers)?,
                bands: bands(&step.linear, step.pool.as_ref(), Some(&quadratics), fitting),
                n_polynomials,
                n_moduli,
            })
        })
        .collect()
}

/// Polynomials of a ciphertext after the square of step `number`, and at the end of the step.
fn polynomials(number: u32, relinearizes: bool) -> (usize, usize) {
    let grown = (2 << number) + 1;
    if relinearizes { (3, 2) } else { (grown, grown) }
}

impl ChainEvaluator {
    pub(super) fn n_inputs(&self) -> usize {
        self.map.n_inputs()
    }

    fn n_results(&self) -> usize {
        self.bands.iter().map(Band::n_results).sum()
    }

    /// The step on a whole block, relinearized if there are keys, its moduli dropped. `None`: not wanted any
    /// more.
    fn apply(
        &self,
        input: &CiphertextBlock,
        keys: Option<&EvaluationKeys>,
        storage: Storage,
        wanted: &mut Wanted<'_>,
    ) -> Result<Option<CiphertextBlock>> {
        let mut form = input.select(&[])?.square()?;
        if keys.is_some() {
            form = form.relinearized_form()?;
        }
        let form = form.mod_switch_to(self.n_moduli)?;
        let mut out = form.zeros_like(self.n_results(), storage)?;
        let mut first = 0;
        for band in &self.bands {
            let Some(mut results) = squared_band(&self.map, input, band, wanted)? else {
                return Ok(None);
            };
            if let Some(keys) = keys {
                if wanted().is_break() {
                    return Ok(None);
                }
                results = results.relinearize(keys)?;
            }
            let results = results.mod_switch_to(self.n_moduli)?;
            out.write_at(first, &results)?;
            first += results.count();
        }
        Ok(Some(out))
    }
}

/// Linear map, quadratic and pool of one band. `None`: not wanted any more.
///
/// Fresh ciphertexts take the fused pass; others are computed step by step.
fn squared_band(
    map: &LinearMap,
    input: &CiphertextBlock,
    band: &Band,
    wanted: &mut Wanted<'_>,
) -> Result<Option<CiphertextBlock>> {
    let linear = band.linear.clone();
    if let (Some(activated), 1, 1) = (&band.activated, input.degree(), input.correction()) {
        let mut results = input.select(&[])?.square()?;
        let flow = map.apply_pooled_while(input, linear, activated, &mut results, wanted)?;
        return Ok(flow.is_continue().then_some(results));
    }
    let first = linear.start;
    let mut z = input.select(&[])?;
    if map.apply_range_while(input, linear, &mut z, wanted)?.is_break() {
        return Ok(None);
    }
    let Some(activated) = &band.activated else { return Ok(Some(z)) };
    if wanted().is_break() {
        return Ok(None);
    }
    let mut quadratics = vec![Quadratic::SQUARE; z.count()];
    let place = |member: &u32| (*member as usize).saturating_sub(first);
    for PooledQuadratic { members, quadratic } in activated {
        for member in members {
            if let Some(of_member) = quadratics.get_mut(place(member)) {
                *of_member = *quadratic;
            }
        }
    }
    let squares = z.quadratic(&quadratics)?;
    let is_alone = |(i, result): (usize, &PooledQuadratic)| matches!(result.members.as_slice(), [one] if place(one) == i);
    if activated.len() == squares.count() && activated.iter().enumerate().all(is_alone) {
        return Ok(Some(squares));
    }
    if wanted().is_break() {
        return Ok(None);
    }
    let members: Vec<Vec<usize>> =
        activated.iter().map(|result| result.members.iter().map(place).collect()).collect();
    Ok(Some(squares.sums(&members)?))
}

impl SegmentEvaluator {
    /// As [`SegmentEvaluator::evaluate`], for a segment with a chain.
    pub(super) fn evaluate_chain(
        &self,
        request: &ReceivedRequest,
        sink: &mut dyn FnMut(Vec<u8>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let (block, keys) = (request.ciphertexts(), request.keys());
        if self.context.relinearizes() && keys.is_none() {
            let (key, request) = ("relinearisation".to_owned(), "KeySet::with_relinearization");
            return Err(he_core::Error::MissingKey { key, request }.into());
        }
        let mut values: Option<CiphertextBlock> = None;
        for step in &self.steps {
            let storage = self.pool.take(self.step_bytes(step));
            let input = values.as_ref().unwrap_or(block);
            let Some(next) = step.apply(input, keys, storage, &mut || sink(Vec::new()))? else {
                return Ok(ControlFlow::Break(()));
            };
            if let Some(before) = values.replace(next) {
                self.pool.give(before.into_storage());
            }
        }
        let input = values.as_ref().unwrap_or(block);
        let mut flow = ControlFlow::Continue(());
        for band in &self.bands {
            let results = squared_band(&self.map, input, band, &mut || sink(Vec::new()))?;
            flow = match results {
                Some(results) => self.emit(&results, sink)?,
                None => ControlFlow::Break(()),
            };
            if flow.is_break() {
                break;
            }
        }
        if let Some(values) = values {
            self.pool.give(values.into_storage());
        }
        Ok(flow)
    }

    fn step_bytes(&self, step: &ChainEvaluator) -> usize {
        let of_all = row_bytes(&self.context, step.n_polynomials);
        step.n_results() * of_all / self.context.params().moduli().len().max(1) * step.n_moduli
    }

    /// What the steps of the chain add to the memory of a request: at most two steps' values exist at
    /// one time, and the intermediate blocks of a band.
    pub(super) fn chain_memory_bytes(&self) -> u64 {
        let sizes: Vec<usize> = self.steps.iter().map(|step| self.step_bytes(step)).collect();
        peak(&sizes)
    }
}

/// As [`SegmentEvaluator::chain_memory_bytes`], from the description of a segment alone.
pub(super) fn memory_bytes(segment: &Segment, structure: &StageStructure) -> u64 {
    let (Some(chain), Some(part)) = (&structure.chain, &segment.chain) else { return 0 };
    let sizes: Vec<usize> = chain
        .steps
        .iter()
        .zip(&part.step_moduli)
        .zip(0..)
        .map(|((step, &n_moduli), number)| {
            let (_, n_polynomials) = polynomials(number, segment.relinearizes());
            let row = n_polynomials * segment.ring.ring_degree as usize * size_of::<u64>();
            step.n_outputs() * row * n_moduli as usize
        })
        .collect();
    peak(&sizes)
}

/// Values of a step and of the one before it, and of a band its linear outputs, their squares, and
/// both again while moduli are dropped.
fn peak(sizes: &[usize]) -> u64 {
    if sizes.is_empty() {
        return 0;
    }
    let before = std::iter::once(&0).chain(sizes);
    let largest = before
        .zip(sizes)
        .map(|(before, now)| StoragePool::most_for(*before) + StoragePool::most_for(*now));
    let last = sizes.last().copied().map_or(0, StoragePool::most_for);
    (largest.max().unwrap_or(0).max(last) + 4 * BAND_BYTES) as u64
}
