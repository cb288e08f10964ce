//! What the comparison of one block's canaries and replicas showed, neuron by neuron.

use core::fmt;

use crate::canary::BlockCounts;
use crate::error::{Error, Result};

/// How much of what the client knows about one output neuron of one block does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NeuronComparison {
    /// Network canaries whose value is wrong.
    pub canaries_failed: u32,
    /// Random points whose value is wrong in every slot that carries them.
    pub points_failed: u32,
    /// Random points whose value is wrong in some of the slots that carry them, not in all.
    pub points_split: u32,
    /// Pairs (sample, further replica) that disagree with the sample's replica 0.
    pub replicas_differing: u32,
}

impl NeuronComparison {
    /// Whether everything the client knows about this neuron holds.
    pub fn is_clean(&self) -> bool {
        let Self { canaries_failed, points_failed, points_split, replicas_differing } = self;
        (canaries_failed | points_failed | points_split | replicas_differing) == 0
    }
}

/// The comparisons of one block in one segment; filled by
/// [`SlotLayout::compare`](crate::SlotLayout::compare), judged by [`judge`](crate::judge).
///
/// Make one per block and segment. When output neurons are decrypted by several workers, give each
/// worker its own and [`merge`](Self::merge) them.
#[derive(Clone)]
pub struct BlockObservation {
    // Counts of the layout seen first; a layout with other counts is refused.
    counts: Option<BlockCounts>,
    neurons: Vec<Option<NeuronComparison>>,
    /// Per random point: at how many neurons it failed in every slot.
    failures_of_point: Vec<u32>,
    n_compared: usize,
}

/// Where the comparison of one neuron is written down.
pub(crate) struct Findings<'a> {
    /// To be set to the comparison.
    pub(crate) neuron: &'a mut Option<NeuronComparison>,
    /// To be raised by one for every point that failed; as long as the layout's points.
    pub(crate) failures_of_point: &'a mut [u32],
}

impl fmt::Debug for BlockObservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockObservation")
            .field("n_neurons", &self.neurons.len())
            .field("n_compared", &self.n_compared)
            .field("n_failed", &self.failed_neurons().count())
            .finish_non_exhaustive()
    }
}

impl BlockObservation {
    /// Prepares for a segment with `n_neurons` output neurons, none of them compared yet.
    pub fn new(n_neurons: usize) -> Self {
        Self {
            counts: None,
            neurons: vec![None; n_neurons],
            failures_of_point: Vec::new(),
            n_compared: 0,
        }
    }

    /// Output neurons of the segment.
    pub fn n_neurons(&self) -> usize {
        self.neurons.len()
    }

    /// Neurons compared so far.
    pub fn n_compared(&self) -> usize {
        self.n_compared
    }

    /// Whether every neuron has been compared.
    pub fn is_complete(&self) -> bool {
        self.n_compared == self.neurons.len()
    }

    /// Whether no comparison failed so far.
    pub fn is_clean(&self) -> bool {
        self.failed_neurons().next().is_none()
    }

    /// The neurons at which some comparison failed, with the counts.
    pub fn failed_neurons(&self) -> impl Iterator<Item = (usize, NeuronComparison)> + '_ {
        self.neurons
            .iter()
            .enumerate()
            .filter_map(|(neuron, comparison)| Some((neuron, (*comparison)?)))
            .filter(|(_, comparison)| !comparison.is_clean())
    }

    /// Takes over the comparisons of `other`, made on other neurons of the same block.
    ///
    /// # Errors
    /// - [`Error::LengthMismatch`]: the two belong to different segments or blocks.
    /// - [`Error::ComparedTwice`]: a neuron was compared in both; `self` then holds part of `other`
    ///   and must be dropped.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.neurons.len() != other.neurons.len() {
            return Err(Error::LengthMismatch {
                what: "the observation to merge",
                expected: self.neurons.len(),
                actual: other.neurons.len(),
            });
        }
        let Some(counts) = other.counts else {
            return Ok(());
        };
        for (neuron, comparison) in other.neurons.iter().enumerate() {
            if let Some(comparison) = comparison {
                *self.admit(neuron, counts)?.neuron = Some(*comparison);
            }
        }
        for (sum, failures) in self.failures_of_point.iter_mut().zip(&other.failures_of_point) {
            *sum += failures;
        }
        Ok(())
    }

    /// At how many neurons each random point failed in every slot that carries it.
    pub(super) fn failures_of_point(&self) -> &[u32] {
        &self.failures_of_point
    }

    /// Opens the page of a neuron that has not been compared yet.
    pub(crate) fn admit(&mut self, neuron: usize, counts: BlockCounts) -> Result<Findings<'_>> {
        let len = self.neurons.len();
        let known = *self.counts.get_or_insert(counts);
        if known != counts {
            return Err(Error::LengthMismatch {
                what: "the samples of the compared block",
                expected: known.samples(),
                actual: counts.samples(),
            });
        }
        self.failures_of_point.resize(counts.random_points(), 0);
        let entry = self.neurons.get_mut(neuron).ok_or(Error::IndexOutOfRange {
            what: "output neuron",
            index: neuron,
            len,
        })?;
        if entry.is_some() {
            return Err(Error::ComparedTwice { neuron });
        }
        self.n_compared += 1;
        Ok(Findings { neuron: entry, failures_of_point: &mut self.failures_of_point })
    }
}
