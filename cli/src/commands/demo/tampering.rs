//! The smallest cheat there is: one weight, one unit.

use anyhow::{Result, bail};
use nn_poly::plan::Plan;
use serde::Serialize;

/// What was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Tampering {
    /// Segment of the weight.
    pub(super) segment: u32,
    /// Row of the weight: output neuron of a dense layer, map of a convolution.
    pub(super) neuron: usize,
    /// Column of the weight.
    pub(super) input: usize,
    /// The owner's weight.
    pub(super) before: i16,
    /// The server's weight.
    pub(super) after: i16,
    /// Weights of the whole network.
    pub(super) n_weights: usize,
}

/// A copy of `plan` with one weight in the middle of a segment one unit nearer to zero.
///
/// Nearer to zero, so that all ranges stay proven and the change shows nowhere but in the results.
pub(super) fn change_one_weight(plan: &Plan, segment_idx: usize) -> Result<(Tampering, Plan)> {
    let public = plan.public();
    let mut weights = plan.network().weights().to_vec();
    let n_weights = weights.iter().map(|stage| stage.weights.len()).sum();
    let segment = public.segment(segment_idx)?;
    let stage_idx = segment.stage as usize;
    let (structure, _) = plan.network().stage(stage_idx)?;
    let n_columns = structure.linear.taps().max(1);
    let Some(numbers) = weights.get_mut(stage_idx).map(|stage| &mut stage.weights) else {
        bail!("the plan has no weights to change");
    };
    let middle = numbers.len() / 2;
    let is_usable = |(_, weight): &(usize, &mut i16)| **weight != 0;
    let Some((position, weight)) = numbers.iter_mut().enumerate().skip(middle).find(is_usable)
    else {
        bail!("all weights in question are zero; there is nothing to change");
    };
    let before = *weight;
    *weight -= before.signum();
    let change = Tampering {
        segment: u32::try_from(segment_idx)?,
        neuron: position / n_columns,
        input: position % n_columns,
        before,
        after: *weight,
        n_weights,
    };
    Ok((change, Plan::new(public.clone(), weights)?))
}

/// A copy of `plan` in which the weights of a segment that are one unit large are zero: less work, and
/// answers that are mostly right.
pub(super) fn drop_small_weights(plan: &Plan, segment_idx: usize) -> Result<Plan> {
    let public = plan.public();
    let mut weights = plan.network().weights().to_vec();
    let stage_idx = public.segment(segment_idx)?.stage as usize;
    let numbers = weights.get_mut(stage_idx).map(|stage| &mut stage.weights);
    let mut n_dropped = 0_usize;
    for weight in numbers.into_iter().flatten().filter(|weight| weight.abs() == 1) {
        *weight = 0;
        n_dropped += 1;
    }
    if n_dropped == 0 {
        bail!("no weight of this segment is one unit large; there is nothing to drop");
    }
    Ok(Plan::new(public.clone(), weights)?)
}
