//! Canaries: inputs with known results, hidden among the samples of a block.
//!
//! A ciphertext holds one neuron for all slots of a block, so a server that treats all slots alike
//! treats canaries and samples alike, and one that singles slots out must guess which to touch:
//!
//! ```text
//!             LayoutSpec ──► SlotLayout (fresh for every block and segment, secret)
//!                                │ fill: one row of slots per input neuron
//!  samples ──────────────────────┤
//!  CanarySet (known through the  ├──► encrypt ─► server ─► decrypt ──► compare, per output neuron
//!             whole network)     │                                       │          │
//!  RandomPoints (known for one ──┘                          BlockObservation   samples' values
//!             segment, uniform)                                    └► judge ─► Verdict
//! ```
//!
//! - **Network canaries** travel through every segment like a sample. They notice what changes
//!   natural inputs, and name the segment where it happens.
//! - **Random points** are uniform vectors over `Z_t` that live for one segment. They notice every
//!   other polynomial map, including changes that no natural input would ever excite.
//!
//! Expected results come in as data, from the exact integer network and from its evaluation over
//! `Z_t`; this crate neither evaluates networks nor encrypts. How likely a cheating server stays
//! unnoticed is the subject of [`soundness`](crate::soundness).

use core::fmt;

use rand::CryptoRng;
use zeroize::{Zeroize, ZeroizeOnDrop};

use self::layout::check_length;
pub use self::layout::{BlockCounts, LayoutOptions, LayoutSpec, MAX_SLOTS, SlotLayout, SlotRole};
use self::uniform::{uniform_below, uniform_index};
use crate::error::{Error, Result};

mod layout;
mod uniform;

/// Largest plaintext modulus of random points, `2^62`: sums of two residues stay in an `i64`.
pub const MAX_POINT_MODULUS: u64 = 1 << 62;

/// What one canary carries into and out of one segment.
#[derive(Clone, PartialEq, Eq)]
pub struct SegmentValues {
    /// The integers that enter the segment (network input, or refreshed values), per input neuron.
    pub inputs: Vec<i32>,
    /// The integers the client must decrypt, before the refresh, per output neuron.
    pub outputs: Vec<i64>,
}

/// One input whose exact integers are known at every segment of the network.
#[derive(Clone, PartialEq, Eq)]
pub struct NetworkCanary {
    /// The trace, segment by segment, in the order of the plan.
    pub segments: Vec<SegmentValues>,
}

impl fmt::Debug for SegmentValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentValues")
            .field("n_inputs", &self.inputs.len())
            .field("n_outputs", &self.outputs.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for NetworkCanary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkCanary").field("segments", &self.segments).finish_non_exhaustive()
    }
}

/// The network canaries of a run, turned so that each neuron's values lie side by side.
///
/// All canaries have the same shape; a set may be empty. Its values tell how the model treats some
/// inputs, so `Debug` prints shapes only.
#[derive(Clone)]
pub struct CanarySet {
    n_canaries: usize,
    // invariant: both matrices have `n_canaries` columns.
    segments: Vec<SegmentMatrices>,
}

#[derive(Clone)]
struct SegmentMatrices {
    inputs: NeuronMajor,
    outputs: NeuronMajor,
}

/// Row-major matrix: one row per neuron, one column per canary.
#[derive(Clone)]
struct NeuronMajor {
    n_neurons: usize,
    values: Vec<i64>,
}

impl fmt::Debug for CanarySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shapes: Vec<_> =
            self.segments.iter().map(|s| (s.inputs.n_neurons, s.outputs.n_neurons)).collect();
        f.debug_struct("CanarySet")
            .field("n_canaries", &self.n_canaries)
            .field("segment_shapes", &shapes)
            .finish_non_exhaustive()
    }
}

impl CanarySet {
    /// Collects the canaries' traces.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`] if two canaries differ in their number of segments or neurons.
    pub fn new(canaries: &[NetworkCanary]) -> Result<Self> {
        let n_segments = canaries.first().map_or(0, |canary| canary.segments.len());
        let mut columns: Vec<_> = Vec::with_capacity(n_segments);
        for canary in canaries {
            check_length("a canary's list of segments", n_segments, canary.segments.len())?;
        }
        for segment in 0..n_segments {
            let values = || canaries.iter().filter_map(|canary| canary.segments.get(segment));
            columns.push(SegmentMatrices {
                inputs: NeuronMajor::from_columns(values().map(|v| v.inputs.as_slice()))?,
                outputs: NeuronMajor::from_columns(values().map(|v| v.outputs.as_slice()))?,
            });
        }
        Ok(Self { n_canaries: canaries.len(), segments: columns })
    }

    /// Number of canaries.
    pub fn len(&self) -> usize {
        self.n_canaries
    }

    /// Whether the set holds no canary.
    pub fn is_empty(&self) -> bool {
        self.n_canaries == 0
    }

    /// What every canary carries into neuron `neuron` of segment `segment`: the `canary_values` of
    /// [`SlotLayout::fill`]. Length [`Self::len`].
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`] if the traces have no such segment or neuron. An empty set
    /// answers every index with an empty row.
    pub fn inputs(&self, segment: usize, neuron: usize) -> Result<&[i64]> {
        self.row(segment, neuron, |matrices| &matrices.inputs)
    }

    /// What neuron `neuron` of segment `segment` must decrypt to for every canary: the
    /// `expected_canaries` of [`SlotLayout::compare`]. Length [`Self::len`].
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`] as for [`Self::inputs`].
    pub fn outputs(&self, segment: usize, neuron: usize) -> Result<&[i64]> {
        self.row(segment, neuron, |matrices| &matrices.outputs)
    }

    fn row(
        &self,
        segment: usize,
        neuron: usize,
        side: impl Fn(&SegmentMatrices) -> &NeuronMajor,
    ) -> Result<&[i64]> {
        if self.is_empty() {
            return Ok(&[]);
        }
        let matrices = self.segments.get(segment).ok_or(Error::IndexOutOfRange {
            what: "segment",
            index: segment,
            len: self.segments.len(),
        })?;
        let matrix = side(matrices);
        matrix.values.chunks_exact(self.n_canaries).nth(neuron).ok_or(Error::IndexOutOfRange {
            what: "neuron",
            index: neuron,
            len: matrix.n_neurons,
        })
    }

    /// Picks which of `n_available` candidates become canaries: `k` distinct indices in random
    /// order, every selection being equally likely.
    ///
    /// # Errors
    /// [`Error::TooFewCandidates`] if `k > n_available`.
    pub fn draw_from(
        n_available: usize,
        k: usize,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Vec<usize>> {
        if k > n_available {
            return Err(Error::TooFewCandidates { wanted: k, available: n_available });
        }
        let mut candidates: Vec<usize> = (0..n_available).collect();
        for chosen in 0..k {
            candidates.swap(chosen, chosen + uniform_index(n_available - chosen, rng));
        }
        candidates.truncate(k);
        Ok(candidates)
    }
}

impl NeuronMajor {
    fn from_columns<'a, T>(columns: impl Iterator<Item = &'a [T]> + Clone) -> Result<Self>
    where
        T: Copy + Into<i64> + 'a,
    {
        let n_neurons = columns.clone().next().map_or(0, <[T]>::len);
        for column in columns.clone() {
            check_length("a canary's list of neurons", n_neurons, column.len())?;
        }
        let values = (0..n_neurons)
            .flat_map(|neuron| {
                columns
                    .clone()
                    .filter_map(move |column| column.get(neuron).copied().map(Into::into))
            })
            .collect();
        Ok(Self { n_neurons, values })
    }
}

/// Uniformly random vectors of `Z_t^n` for one segment of one block.
///
/// Evaluate them with the plain network over `Z_t`, put them into the slots that
/// [`SlotLayout::draw`] chose, and compare. Draw new ones for every block and every segment: a
/// server that has seen none of them can do no better than the bound in
/// [`soundness`](crate::soundness).
///
/// # Security
/// Zeroized on drop, not printed: who knows the points can answer them rightly and the rest wrongly.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct RandomPoints {
    modulus: u64,
    n_inputs: usize,
    // invariant: `n_inputs` residues below `modulus` each.
    points: Vec<Vec<u64>>,
}

impl fmt::Debug for RandomPoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RandomPoints")
            .field("n_points", &self.points.len())
            .field("n_inputs", &self.n_inputs)
            .field("modulus", &self.modulus)
            .finish_non_exhaustive()
    }
}

impl RandomPoints {
    /// Draws `n_points` vectors of `n_inputs` residues modulo `modulus`, without bias.
    ///
    /// # Errors
    /// [`Error::CountOutOfRange`] if the modulus is below 2 or above [`MAX_POINT_MODULUS`].
    pub fn draw(
        n_points: usize,
        n_inputs: usize,
        modulus: u64,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Self> {
        if !(2..=MAX_POINT_MODULUS).contains(&modulus) {
            return Err(Error::CountOutOfRange {
                name: "the modulus of random points",
                actual: modulus,
                min: 2,
                max: MAX_POINT_MODULUS,
            });
        }
        let points = (0..n_points)
            .map(|_| (0..n_inputs).map(|_| uniform_below(modulus, rng)).collect())
            .collect();
        Ok(Self { modulus, n_inputs, points })
    }

    /// The points, as residues in `[0, modulus)`: what the plain evaluation over `Z_t` takes.
    pub fn points(&self) -> &[Vec<u64>] {
        &self.points
    }

    /// Writes every point's value at input neuron `neuron`, as the representative in
    /// `(−modulus/2, modulus/2]`: the `point_values` of [`SlotLayout::fill`].
    ///
    /// Shapes: `out (n_points)`.
    ///
    /// # Errors
    /// - [`Error::LengthMismatch`]: `out` has another length.
    /// - [`Error::IndexOutOfRange`]: the segment has no such input.
    pub fn values_into(&self, neuron: usize, out: &mut [i64]) -> Result<()> {
        check_length("the random points' row", self.points.len(), out.len())?;
        for (value, point) in out.iter_mut().zip(&self.points) {
            let &residue = point.get(neuron).ok_or(Error::IndexOutOfRange {
                what: "input neuron",
                index: neuron,
                len: self.n_inputs,
            })?;
            *value = centre(residue, self.modulus);
        }
        Ok(())
    }
}

/// The representative of `residue < modulus ≤ 2^62` in `(−modulus/2, modulus/2]`.
#[expect(clippy::cast_possible_wrap, reason = "both numbers are at most 2^62")]
fn centre(residue: u64, modulus: u64) -> i64 {
    let above = i64::from(residue > modulus / 2);
    residue as i64 - above * modulus as i64
}

#[cfg(test)]
mod tests;
