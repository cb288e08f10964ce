//! Which slot of a block carries what: drawn at random, secret, checked neuron by neuron.

use core::fmt;

use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::uniform::shuffle;
use crate::detect::{BlockObservation, NeuronComparison};
use crate::error::{Error, Result};

/// Largest number of slots per block; bounds every allocation of this module.
pub const MAX_SLOTS: usize = 1 << 20;

/// What a user may choose about a block's slots (unchecked; [`LayoutSpec::new`] checks it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutOptions {
    /// Slots that carry each sample. Default 1. With `r > 1` a server must alter all `r` slots of
    /// a sample alike to stay unnoticed, at `r` times the cost of the batch.
    pub replicas: usize,
    /// Slots that carry inputs with known results through the whole network. Default 16.
    pub network_canaries: usize,
    /// Fewest distinct random points per block. Default 2.
    pub random_points: usize,
    /// Most distinct random points per block, reached when slots are to spare. Default 32. Each
    /// distinct point costs one plain evaluation of the segment over `Z_t`.
    pub max_random_points: usize,
}

impl Default for LayoutOptions {
    fn default() -> Self {
        Self { replicas: 1, network_canaries: 16, random_points: 2, max_random_points: 32 }
    }
}

/// Checked settings of a block's slots: at least one sample fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayoutSpec {
    n_slots: usize,
    options: LayoutOptions,
}

impl LayoutSpec {
    /// Checks the settings for blocks of `n_slots` slots.
    ///
    /// # Errors
    /// - [`Error::CountOutOfRange`]: no slots or more than [`MAX_SLOTS`]; `replicas` or
    ///   `random_points` is zero; `max_random_points < random_points`; a count above `n_slots`.
    /// - [`Error::NoRoomForSamples`]: canaries and points leave no room for one sample.
    pub fn new(n_slots: usize, options: LayoutOptions) -> Result<Self> {
        let LayoutOptions { replicas, network_canaries, random_points, max_random_points } =
            options;
        check_count("n_slots", n_slots, 1, MAX_SLOTS)?;
        check_count("replicas", replicas, 1, n_slots)?;
        check_count("network_canaries", network_canaries, 0, n_slots)?;
        check_count("random_points", random_points, 1, n_slots)?;
        check_count("max_random_points", max_random_points, random_points, MAX_SLOTS)?;
        let spec = Self { n_slots, options };
        if spec.samples_per_block() == 0 {
            return Err(Error::NoRoomForSamples {
                n_slots,
                network_canaries,
                random_points,
                replicas,
            });
        }
        Ok(spec)
    }

    /// Slots per block.
    pub fn n_slots(&self) -> usize {
        self.n_slots
    }

    /// The settings this was made from.
    pub fn options(&self) -> LayoutOptions {
        self.options
    }

    /// Samples a block holds beside its canaries: `⌊(n_slots − canaries − points) / replicas⌋`.
    pub fn samples_per_block(&self) -> usize {
        let LayoutOptions { replicas, network_canaries, random_points, .. } = self.options;
        self.n_slots.saturating_sub(network_canaries + random_points) / replicas
    }

    /// How the slots are shared out when a block carries `n_samples` samples (public counts).
    ///
    /// # Errors
    /// [`Error::SamplesPerBlock`] unless `1 ≤ n_samples ≤ samples_per_block()`.
    pub fn counts(&self, n_samples: usize) -> Result<BlockCounts> {
        let max = self.samples_per_block();
        if n_samples == 0 || n_samples > max {
            return Err(Error::SamplesPerBlock { actual: n_samples, max });
        }
        let LayoutOptions { replicas, network_canaries, max_random_points, .. } = self.options;
        let point_slots = self.n_slots - n_samples * replicas - network_canaries;
        Ok(BlockCounts {
            n_slots: self.n_slots,
            samples: n_samples,
            replicas,
            network_canaries,
            random_points: point_slots.min(max_random_points),
            point_slots,
        })
    }
}

/// How many slots of one block carry what. Public: it follows from settings and sample count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BlockCounts {
    n_slots: usize,
    samples: usize,
    replicas: usize,
    network_canaries: usize,
    random_points: usize,
    // invariant: random_points ≤ point_slots, and samples·replicas + network_canaries +
    // point_slots = n_slots, so that every slot is either a sample's or checked.
    point_slots: usize,
}

impl BlockCounts {
    /// Slots of the block.
    pub fn n_slots(&self) -> usize {
        self.n_slots
    }

    /// Samples in the block.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// Slots per sample.
    pub fn replicas(&self) -> usize {
        self.replicas
    }

    /// Slots that carry network canaries (one each).
    pub fn network_canaries(&self) -> usize {
        self.network_canaries
    }

    /// Distinct random points.
    pub fn random_points(&self) -> usize {
        self.random_points
    }

    /// Slots that carry a random point; above [`Self::random_points`] they hold copies.
    pub fn point_slots(&self) -> usize {
        self.point_slots
    }

    /// Slots whose honest result the client knows in advance: all that carry no sample.
    pub fn checked_slots(&self) -> usize {
        self.network_canaries + self.point_slots
    }
}

/// What one slot carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SlotRole {
    /// One replica of one sample of the block.
    Sample {
        /// Index of the sample in the block.
        sample: usize,
        /// Which of its replicas.
        replica: usize,
    },
    /// The network canary of this index.
    NetworkCanary(usize),
    /// The random point of this index; spare slots hold further copies of the points.
    RandomPoint(usize),
}

/// A secret, uniformly random assignment of one block's slots.
///
/// Every slot carries something the client checks or uses; none is left over:
///
/// ```text
/// slot     0    1    2    3    4    5    6    7     n_slots = 8, 2 samples × 2 replicas,
/// role    s1b  p0   s0a  c0   s1a  p1   s0b  p0     1 network canary, 2 points, 1 spare → p0
/// ```
///
/// Spare slots of a block that is not full are filled with further random points up to
/// `max_random_points` (each multiplies the chance that a wrong map agrees everywhere by `D/t`),
/// and after that with *copies* of the points. A copy costs no evaluation, yet a server that
/// touches its slot is caught just the same, so that the fewer samples a block holds the harder
/// they are to hit. Zeros would leave slots that may be altered unseen.
///
/// Draw a new layout for every block and every segment: a layout seen once (from a reply
/// that fails, say) must be worth nothing later.
///
/// # Security
/// The positions are the secret that canaries rest on. They are zeroized on drop, never printed,
/// and neither comparable nor serializable. [`Self::fill`] and [`Self::compare`] run over all
/// slots whatever they hold: no branch and no early exit depends on a position or on a value.
/// The order of memory accesses does depend on the positions.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SlotLayout {
    #[zeroize(skip)]
    counts: BlockCounts,
    // invariant: the three lists together hold each of 0..n_slots once, and have the lengths that
    // `counts` says; `fill` and `compare` rely on it for covering the block.
    /// Replica-major: `replica·samples + sample`.
    sample_slots: Vec<u32>,
    canary_slots: Vec<u32>,
    /// Entry `i` carries point `i mod random_points`.
    point_slots: Vec<u32>,
}

impl fmt::Debug for SlotLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotLayout").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl SlotLayout {
    /// Draws an assignment for a block of `n_samples` samples; all assignments are equally likely.
    ///
    /// Cost: `n_slots` random numbers. The same generator state gives the same layout.
    ///
    /// # Errors
    /// [`Error::SamplesPerBlock`] unless `1 ≤ n_samples ≤ spec.samples_per_block()`.
    ///
    /// # Security
    /// `rng` must be keyed by the operating system, never by a user's seed.
    pub fn draw(
        spec: &LayoutSpec,
        n_samples: usize,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Self> {
        let counts = spec.counts(n_samples)?;
        // MAX_SLOTS < 2^32, so the range of slots is exact in u32.
        let n_slots = u32::try_from(counts.n_slots).unwrap_or(u32::MAX);
        let mut slots = Zeroizing::new((0..n_slots).collect::<Vec<u32>>());
        shuffle(&mut slots, rng);
        let (samples, rest) = slots.split_at(counts.samples * counts.replicas);
        let (canaries, points) = rest.split_at(counts.network_canaries);
        Ok(Self {
            counts,
            sample_slots: samples.to_vec(),
            canary_slots: canaries.to_vec(),
            point_slots: points.to_vec(),
        })
    }

    /// The public counts behind this layout.
    pub fn counts(&self) -> BlockCounts {
        self.counts
    }

    /// The slots that carry replica `replica` of sample 0, 1, …: secret.
    ///
    /// # Errors
    /// [`Error::IndexOutOfRange`] if there are not that many replicas.
    pub fn replica_slots(&self, replica: usize) -> Result<&[u32]> {
        self.sample_slots.chunks_exact(self.counts.samples).nth(replica).ok_or(
            Error::IndexOutOfRange { what: "replica", index: replica, len: self.counts.replicas },
        )
    }

    /// The slots that carry canary 0, 1, …: secret.
    pub fn canary_slots(&self) -> &[u32] {
        &self.canary_slots
    }

    /// The role of every slot, in slot order: secret, meant for examples and tests.
    pub fn roles(&self) -> Vec<SlotRole> {
        let BlockCounts { n_slots, samples, random_points, .. } = self.counts;
        let mut roles = vec![SlotRole::RandomPoint(0); n_slots];
        let mut assign = |slot: u32, role| {
            if let Some(entry) = roles.get_mut(slot as usize) {
                *entry = role;
            }
        };
        for (i, &slot) in self.sample_slots.iter().enumerate() {
            assign(slot, SlotRole::Sample { sample: i % samples, replica: i / samples });
        }
        for (i, &slot) in self.canary_slots.iter().enumerate() {
            assign(slot, SlotRole::NetworkCanary(i));
        }
        for (i, &slot) in self.point_slots.iter().enumerate() {
            assign(slot, SlotRole::RandomPoint(i % random_points));
        }
        roles
    }

    /// Writes one input neuron's value of every slot: the row to encode and encrypt.
    ///
    /// Shapes: `samples (n_samples)`, `canary_values (network_canaries)`,
    /// `point_values (random_points)` -> `out (n_slots)`, every entry of which is overwritten.
    /// Any representatives modulo `t` will do that the encoder takes.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`] if a slice has another length; `out` is then untouched.
    #[expect(
        clippy::indexing_slicing,
        reason = "slots lie below n_slots by construction, and `out` has that length"
    )]
    pub fn fill(
        &self,
        samples: &[i32],
        canary_values: &[i64],
        point_values: &[i64],
        out: &mut [i64],
    ) -> Result<()> {
        self.check_lengths(samples.len(), canary_values.len(), point_values.len())?;
        check_length("the block row", self.counts.n_slots, out.len())?;
        for replica in self.sample_slots.chunks_exact(self.counts.samples) {
            for (&slot, &value) in replica.iter().zip(samples) {
                out[slot as usize] = i64::from(value);
            }
        }
        for (&slot, &value) in self.canary_slots.iter().zip(canary_values) {
            out[slot as usize] = value;
        }
        for copies in self.point_slots.chunks(self.counts.random_points) {
            for (&slot, &value) in copies.iter().zip(point_values) {
                out[slot as usize] = value;
            }
        }
        Ok(())
    }

    /// Compares one output neuron's decrypted slots with what the client knows, notes the result
    /// in `observation`, and extracts the samples' values.
    ///
    /// Shapes: `decrypted (n_slots)`, `expected_canaries (network_canaries)`,
    /// `expected_points (random_points)` -> `samples (n_samples)`, taken from replica 0. Expected
    /// values must be reduced into the same window as the decrypted ones: they are compared as
    /// integers. The extracted values may be used only once the segment's verdict is `Intact`.
    ///
    /// # Errors
    /// - [`Error::LengthMismatch`]: a slice has another length.
    /// - [`Error::IndexOutOfRange`]: the observation has no such neuron.
    /// - [`Error::ComparedTwice`]: this neuron of the block has been compared before.
    #[expect(
        clippy::indexing_slicing,
        reason = "slots lie below n_slots by construction, lengths are checked first"
    )]
    pub fn compare(
        &self,
        neuron_idx: usize,
        decrypted: &[i64],
        expected_canaries: &[i64],
        expected_points: &[i64],
        observation: &mut BlockObservation,
        samples: &mut [i64],
    ) -> Result<()> {
        self.check_lengths(samples.len(), expected_canaries.len(), expected_points.len())?;
        check_length("the decrypted row", self.counts.n_slots, decrypted.len())?;
        let findings = observation.admit(neuron_idx, self.counts)?;
        let differs = |slot: u32, expected: i64| u32::from(decrypted[slot as usize] != expected);

        let mut comparison = NeuronComparison::default();
        for (&slot, &expected) in self.canary_slots.iter().zip(expected_canaries) {
            comparison.canaries_failed += differs(slot, expected);
        }
        for (point, &expected) in expected_points.iter().enumerate() {
            let mut copies = 0;
            let mut copies_failed = 0;
            for &slot in self.point_slots.iter().skip(point).step_by(expected_points.len()) {
                copies += 1;
                copies_failed += differs(slot, expected);
            }
            let failed = u32::from(copies_failed == copies);
            findings.failures_of_point[point] += failed;
            comparison.points_failed += failed;
            comparison.points_split += u32::from(copies_failed != 0) - failed;
        }
        let (first, others) = self.sample_slots.split_at(self.counts.samples);
        for (value, &slot) in samples.iter_mut().zip(first) {
            *value = decrypted[slot as usize];
        }
        for replica in others.chunks_exact(self.counts.samples) {
            for (&slot, &value) in replica.iter().zip(samples.iter()) {
                comparison.replicas_differing += differs(slot, value);
            }
        }
        *findings.neuron = Some(comparison);
        Ok(())
    }

    fn check_lengths(&self, samples: usize, canaries: usize, points: usize) -> Result<()> {
        check_length("the samples' row", self.counts.samples, samples)?;
        check_length("the network canaries' row", self.counts.network_canaries, canaries)?;
        check_length("the random points' row", self.counts.random_points, points)
    }
}

fn check_count(name: &'static str, actual: usize, min: usize, max: usize) -> Result<()> {
    if (min..=max).contains(&actual) {
        return Ok(());
    }
    let [actual, min, max] = [actual as u64, min as u64, max as u64];
    Err(Error::CountOutOfRange { name, actual, min, max })
}

pub(super) fn check_length(what: &'static str, expected: usize, actual: usize) -> Result<()> {
    if expected == actual { Ok(()) } else { Err(Error::LengthMismatch { what, expected, actual }) }
}

#[cfg(test)]
mod tests;
