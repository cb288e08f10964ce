//! Networks that take fewer rounds: stages joined without a refresh in between.

use ndarray::{Array2, Axis};

use super::Prepared;
use crate::error::{Error, Result};
use crate::integer::chain::MAX_CHAIN_STEPS;
use crate::integer::{IntegerNetwork, StageOutput};
use crate::model::{LayerBits, Model};
use crate::network::predictions;
use crate::plan::{ActivationSide, ModelFacts};
use crate::quantize::{joinable, quantize_joined, unrounded};

/// Ways of joining that are compared for one number of rounds, at most.
const MOST_WAYS: usize = 4;
/// Ways that are looked at to find these: numbers outgrow 120 bits in some of them.
const MOST_TRIED: usize = 64;
/// Ways that agree with the network before rounding on so much smaller a share of the samples than the
/// best one are left out, however fast they are.
const WORSE_AGREEMENT: f64 = 0.02;
/// Samples on which a joined network is watched, at most: its integers take 128 bits.
const WATCHED_SAMPLES: usize = 2048;

/// How the stages of a model may be joined.
#[derive(Debug)]
pub struct Joining<'a> {
    model: &'a Model,
    bits: &'a LayerBits,
    features: &'a Array2<f32>,
    /// Which stages may run into the next one.
    joinable: Vec<bool>,
    /// Who may evaluate the activations.
    sides: Vec<ActivationSide>,
}

impl<'a> Joining<'a> {
    /// Look at a model.
    ///
    /// # Errors
    /// A network without an integer form.
    pub fn new(
        model: &'a Model,
        bits: &'a LayerBits,
        features: &'a Array2<f32>,
        side: Option<ActivationSide>,
    ) -> Result<Self> {
        let sides = match side {
            Some(side) => vec![side],
            None if model.network().needs_client() => vec![ActivationSide::Client],
            None => vec![ActivationSide::Server, ActivationSide::Client],
        };
        Ok(Self { model, bits, features, joinable: joinable(model.network())?, sides })
    }

    /// Rounds without any joining: one per stage.
    #[must_use]
    pub fn most_rounds(&self) -> usize {
        self.joinable.len()
    }

    /// Rounds when as much is joined as may be.
    #[must_use]
    pub fn fewest_rounds(&self) -> usize {
        fewest_rounds(&self.joinable)
    }

    /// The networks that take exactly `rounds` rounds, none if no numbers of 120 bits hold them; without
    /// those that answer clearly worse than the best one.
    ///
    /// # Errors
    /// - Features of another shape.
    /// - [`Error::NotAtServer`] if the server is to evaluate what is no polynomial.
    pub(super) fn prepare(&self, rounds: usize) -> Result<Vec<Prepared>> {
        // Evenly over the data, which may be in the order of their classes.
        let n_samples = self.features.nrows();
        let step = n_samples.div_ceil(WATCHED_SAMPLES).max(1);
        let rows: Vec<usize> = (0..n_samples).step_by(step).collect();
        let features = self.features.select(Axis(0), &rows);
        let inputs = self.model.spec().preprocessing.apply(&features)?;
        let answers = predictions(&unrounded(self.model.network())?.outputs(&inputs)?);
        let watched = Watched { inputs, answers };
        let mut prepared: Vec<Prepared> = Vec::new();
        let mut n_found = 0;
        for joins in ways(&self.joinable, rounds) {
            let before = prepared.len();
            for &side in &self.sides {
                // Where no activation is left to the client, both sides have the same network.
                let joined = self.joined(&joins, side, &watched)?;
                let is_new = |joined: &Prepared| {
                    !prepared.iter().any(|other| is_same(&other.network, &joined.network))
                };
                prepared.extend(joined.filter(is_new));
            }
            n_found += usize::from(prepared.len() > before);
            if n_found == MOST_WAYS {
                break;
            }
        }
        let best = prepared.iter().filter_map(|of| of.agreement).fold(0.0, f64::max);
        let is_worse = |agreement: f64| agreement < best - WORSE_AGREEMENT;
        prepared.retain(|of| !of.agreement.is_some_and(is_worse));
        Ok(prepared)
    }

    fn joined(
        &self,
        joins: &[bool],
        side: ActivationSide,
        watched: &Watched,
    ) -> Result<Option<Prepared>> {
        let ends = match side {
            ActivationSide::Server => StageOutput::Pooled,
            ActivationSide::Client => StageOutput::Linear,
        };
        let spec = self.model.spec();
        let (network, preprocessing) = (self.model.network(), &spec.preprocessing);
        let quantized = match quantize_joined(
            network,
            preprocessing,
            &watched.inputs,
            self.bits,
            joins,
            ends,
        ) {
            Ok(quantized) => quantized,
            // Joined or not, the server cannot evaluate it.
            Err(error @ Error::NotAtServer { .. }) if self.sides == [ActivationSide::Server] => {
                return Err(error);
            }
            // A stage that ends before its activation cannot end after it.
            Err(
                Error::ChainTooWide { .. }
                | Error::Accumulator { .. }
                | Error::NotAtServer { .. }
                | Error::OutOfRange { .. },
            ) => return Ok(None),
            Err(error) => return Err(error),
        };
        let inputs = quantized.network.input().quantize(watched.inputs.view())?;
        let observed = quantized.network.evaluate(&inputs)?;
        let facts = ModelFacts::of(self.model, quantized.score_step);
        let agreement = Some(watched.agreement(&observed.predictions()));
        Ok(Some(Prepared { network: quantized.network, observed, facts, agreement }))
    }
}

/// What joined networks are fitted to and compared on.
struct Watched {
    inputs: Array2<f32>,
    /// What the network before rounding says.
    answers: Vec<usize>,
}

impl Watched {
    #[expect(clippy::cast_precision_loss, reason = "at most a few thousand samples")]
    fn agreement(&self, answers: &[usize]) -> f64 {
        let n_equal = self.answers.iter().zip(answers).filter(|(a, b)| a == b).count();
        n_equal as f64 / self.answers.len().max(1) as f64
    }
}

/// Rounds when as much is joined as may be.
fn fewest_rounds(joinable: &[bool]) -> usize {
    (joinable.len() - most_joined(joinable, 0)).max(1)
}

/// How many stages can be joined to the ones after them, behind `in_a_row` joined ones: no chain has more
/// than [`MAX_CHAIN_STEPS`] stages before its last.
fn most_joined(joinable: &[bool], mut in_a_row: usize) -> usize {
    let mut n_joined = 0;
    for &may in joinable {
        in_a_row = if may && in_a_row < MAX_CHAIN_STEPS { in_a_row + 1 } else { 0 };
        n_joined += usize::from(in_a_row > 0);
    }
    n_joined
}

/// The first [`MOST_TRIED`] ways to leave out refreshes so that `rounds` stages remain; those that leave
/// out early ones first, whose values are still small.
fn ways(joinable: &[bool], rounds: usize) -> Vec<Vec<bool>> {
    let Some(n_joined) = joinable.len().checked_sub(rounds) else { return Vec::new() };
    let mut found = Vec::new();
    choose(joinable, n_joined, &mut Vec::new(), &mut found);
    found
}

/// Decides about the stages after `chosen`, of which `n` more are to be joined.
fn choose(joinable: &[bool], n: usize, chosen: &mut Vec<bool>, found: &mut Vec<Vec<bool>>) {
    let rest = joinable.get(chosen.len()..).unwrap_or_default();
    let in_a_row = chosen.iter().rev().take_while(|join| **join).count();
    if found.len() == MOST_TRIED || most_joined(rest, in_a_row) < n {
        return;
    }
    let Some(&may) = rest.first() else {
        found.push(chosen.clone());
        return;
    };
    if may && n > 0 && in_a_row < MAX_CHAIN_STEPS {
        chosen.push(true);
        choose(joinable, n - 1, chosen, found);
        chosen.pop();
    }
    chosen.push(false);
    choose(joinable, n, chosen, found);
    chosen.pop();
}

/// Whether two networks compute the same in the same way.
fn is_same(a: &IntegerNetwork, b: &IntegerNetwork) -> bool {
    a.input() == b.input() && a.structure() == b.structure() && a.weights() == b.weights()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests")]
    use super::*;

    #[test]
    fn every_way_leaves_the_rounds_asked_for() {
        let joinable = [true, true, false, true, false];
        let count = |rounds| ways(&joinable, rounds).len();
        assert_eq!([1, 2, 3, 4, 5, 6].map(count), [0, 1, 3, 3, 1, 0]);
        for way in ways(&joinable, 3) {
            assert_eq!(way.iter().filter(|join| **join).count(), 2);
            assert!(way.iter().zip(joinable).all(|(join, may)| may || !join));
        }
        assert_eq!(ways(&[true; 12], 6).len(), MOST_TRIED);
        // A long network: found at once.
        let longest = [true, true, true, false].repeat(100);
        assert_eq!(ways(&[true; 400], 100).first(), Some(&longest));
        assert_eq!(ways(&joinable, 4).first(), Some(&vec![true, false, false, false, false]));
    }

    /// Long networks: no chain is longer than chains may be, and there is a way for every number of rounds
    /// down to the fewest.
    #[test]
    fn no_way_joins_more_stages_than_a_chain_has() {
        let longest = |way: &[bool]| {
            let runs = way.split(|join| !join).map(<[bool]>::len);
            runs.max().unwrap_or(0)
        };
        for n_stages in 1..=13 {
            // The last stage has nothing to run into.
            let mut joinable = vec![true; n_stages];
            joinable[n_stages - 1] = false;
            for gap in 0..n_stages {
                joinable[gap] = false;
                let fewest = fewest_rounds(&joinable);
                assert!(ways(&joinable, fewest - 1).is_empty(), "{joinable:?}");
                for rounds in fewest..=n_stages {
                    let found = ways(&joinable, rounds);
                    assert!(!found.is_empty(), "{joinable:?} in {rounds} rounds");
                    for way in found {
                        assert!(longest(&way) <= MAX_CHAIN_STEPS);
                        let n_joined = way.iter().filter(|join| **join).count();
                        assert_eq!(n_stages - n_joined, rounds);
                        assert!(way.iter().zip(&joinable).all(|(join, may)| *may || !join));
                    }
                }
                joinable[gap] = gap + 1 < n_stages;
            }
        }
    }
}
