//! Canaries for a client that has no weights: inputs, and the scores an honest masked run may give.
//!
//! A data owner under the trust setting `masked` cannot evaluate the network, and even an honest run is
//! exact up to one unit per refreshed value only. The model's owner therefore prepares a pack: inputs
//! with a range for each score, so wide that an honest run leaves it except with a stated probability
//! ([`nn_poly::integer::IntegerNetwork::masked_scores`]). They ride in secret slots through the whole
//! network, and only their final scores are compared.
//!
//! ```text
//!  owner   Plan + samples ─ CanaryPack::make ─► file ─► data owner, beside the public part of the plan
//!  client  CanaryPack::inputs ─► secret slots ─► … ─► scores ─ is_tolerated ─► judge_masked
//! ```

use serde::{Deserialize, Serialize};

use nn_poly::artifact::{self, Magic};
use nn_poly::integer::{IntegerMatrix, Interval, TOLERANCE_BITS};
use nn_poly::plan::{Digest, Plan, PublicPlan, Trust};

use crate::error::{Error, Result};
use crate::statistics::Hypergeometric;

/// First bytes of a pack.
pub const PACK_MAGIC: Magic = *b"SDLCNPCK";
/// Format version written and read by this build.
pub const PACK_VERSION: u32 = 1;
/// Largest pack: 256 MiB.
pub const MAX_PACK_BYTES: usize = 1 << 28;
/// What the digests of packs are derived from.
const IDENTITY_CONTEXT: &str = "securedl canary pack identity 1";
/// Most canaries of a pack.
pub const MAX_PACK_CANARIES: usize = 1 << 12;

/// Comparisons of ranges by which canaries of a pack are told apart, at most: the packs of strangers cost no
/// more than a second.
const MAX_COMPARISONS: usize = 1 << 28;

/// Canaries with tolerated scores, bound to a masked plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanaryPack(Content);

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    plan: Digest,
    public: Digest,
    private: Digest,
    n_inputs: u32,
    n_scores: u32,
    n_bounds: u64,
    /// Canary after canary.
    inputs: Vec<i32>,
    /// `(low, high)` of every score, canary after canary.
    ranges: Vec<(i64, i64)>,
}

/// How sharp the tolerances of a pack are: what its owner and its users can tell from the pack alone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sharpness {
    /// Canaries of the pack.
    pub n_canaries: usize,
    /// Mean width of a score's range, as a share of how far the middles of a canary's ranges lie
    /// apart: above 1, a wrong score mostly looks like an honest one.
    pub width_share: f64,
    /// Canaries whose best class is the same for all tolerated scores: a wrong label is out of
    /// tolerance. None of a network with a single score.
    pub n_decided: usize,
    /// Most canaries that may tolerate one and the same vector of scores (an upper bound): if all of
    /// them, a server may ignore its inputs.
    pub n_alike: usize,
}

impl CanaryPack {
    /// Compute what honest masked runs of these inputs (one per column) may give.
    ///
    /// Cost: the network once for each input, in intervals.
    ///
    /// # Errors
    /// - [`Error::CountOutOfRange`] for no inputs, or too many.
    /// - [`Error::Network`] unless the plan is masked and the inputs are of its grid.
    pub fn make(plan: &Plan, inputs: &IntegerMatrix) -> Result<Self> {
        plan.public().expect_trust(Trust::Masked, "a pack of canaries")?;
        check_count("canaries", inputs.ncols(), MAX_PACK_CANARIES)?;
        let scores = plan.network().masked_scores(inputs)?;
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let content = Content {
            plan: plan.digest(),
            public: plan.public_digest(),
            private: plan.private_digest(),
            n_inputs: narrow(inputs.nrows()),
            n_scores: narrow(scores.ranges.nrows()),
            n_bounds: scores.n_bounds,
            inputs: inputs.t().iter().copied().collect(),
            ranges: scores.ranges.t().iter().map(|range| (range.low, range.high)).collect(),
        };
        content.check()?;
        Ok(Self(content))
    }

    /// Check that the pack is of this plan: of its public part, which with the private part's digest gives
    /// the plan's.
    ///
    /// # Errors
    /// [`Error::OtherPlan`] otherwise.
    pub fn check_plan(&self, public: &PublicPlan) -> Result<()> {
        let Content { plan, public: own, private, n_inputs, n_scores, .. } = self.0;
        let n_expected = (public.input_shape.len(), public.class_names.len());
        let fits = own == public.digest()
            && plan == Plan::digest_of_parts(own, private)
            && (n_inputs as usize, n_scores as usize) == n_expected
            && self.0.inputs.iter().all(|&x| public.input.interval().contains(x.into()));
        if fits { Ok(()) } else { Err(Error::OtherPlan) }
    }

    /// The plan whose server is asked.
    #[must_use]
    pub fn plan(&self) -> Digest {
        self.0.plan
    }

    /// A digest of everything in the pack, the digest of its plan included: what its owner signs.
    ///
    /// # Errors
    /// [`Error::Network`] never for a checked pack.
    pub fn identity(&self) -> Result<Digest> {
        Ok(Digest(blake3::derive_key(IDENTITY_CONTEXT, &self.to_bytes()?)))
    }

    /// Number of canaries, at least one.
    #[must_use]
    pub fn n_canaries(&self) -> usize {
        self.0.inputs.len() / (self.0.n_inputs as usize).max(1)
    }

    /// The inputs of canary `canary`, on the plan's grid; empty if there is none.
    #[must_use]
    pub fn inputs(&self, canary: usize) -> &[i32] {
        let n = self.0.n_inputs as usize;
        self.0.inputs.get(canary * n..(canary + 1) * n).unwrap_or_default()
    }

    /// The ranges of the scores of canary `canary`.
    pub fn ranges(&self, canary: usize) -> impl Iterator<Item = Interval> + '_ {
        let n = self.0.n_scores as usize;
        let ranges = self.0.ranges.get(canary * n..(canary + 1) * n).unwrap_or_default();
        ranges.iter().map(|&(low, high)| Interval { low, high })
    }

    /// Whether an honest run may give these scores for canary `canary`.
    #[must_use]
    pub fn is_tolerated(&self, canary: usize, scores: &[i128]) -> bool {
        scores.len() == self.0.n_scores as usize
            && self.ranges(canary).zip(scores).all(|(range, &score)| {
                (i128::from(range.low)..=i128::from(range.high)).contains(&score)
            })
    }

    /// `−log2` of the probability that an honest run of all canaries leaves a range.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a logarithm of a count")]
    pub fn false_alarm_bits(&self) -> f64 {
        f64::from(TOLERANCE_BITS) - (self.0.n_bounds.max(1) as f64).log2()
    }

    /// How much the tolerance leaves to be seen.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    pub fn sharpness(&self) -> Sharpness {
        let (mut shares, mut n_decided) = (0.0, 0);
        for canary in 0..self.n_canaries() {
            let middle = |range: Interval| (range.low as f64 + range.high as f64) / 2.0;
            let middles: Vec<f64> = self.ranges(canary).map(middle).collect();
            let highest = middles.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let lowest = middles.iter().copied().fold(f64::INFINITY, f64::min);
            let width: f64 = self.ranges(canary).map(|range| range.width() as f64).sum();
            shares += width / middles.len().max(1) as f64 / (highest - lowest).max(1.0);
            n_decided += usize::from(self.is_decided(canary));
        }
        let n_canaries = self.n_canaries();
        let width_share = shares / n_canaries.max(1) as f64;
        Sharpness { n_canaries, width_share, n_decided, n_alike: self.n_alike() }
    }

    /// Whether all tolerated scores of a canary have one best class, of several.
    fn is_decided(&self, canary: usize) -> bool {
        let best = self.ranges(canary).max_by_key(|range| range.low);
        let best = best.map_or(i64::MIN, |range| range.low);
        let n_rivals = self.ranges(canary).filter(|range| range.high >= best).count();
        self.0.n_scores > 1 && n_rivals == 1
    }

    /// Most canaries that may have a vector of scores in common, bounded twice: by the most ranges of one
    /// score that overlap, and by the most canaries that one of them shares any vector with.
    fn n_alike(&self) -> usize {
        let overlapping = (0..self.0.n_scores as usize).map(|score| self.n_overlapping(score));
        let bound = overlapping.min().unwrap_or(0);
        let n = self.n_canaries();
        if n.saturating_mul(self.0.ranges.len()) > MAX_COMPARISONS {
            return bound;
        }
        let meet = |a: usize, b: usize| {
            let mut pairs = self.ranges(a).zip(self.ranges(b));
            pairs.all(|(a, b)| a.low <= b.high && b.low <= a.high)
        };
        let of_one = |a: usize| (0..n).filter(|&b| meet(a, b)).count();
        bound.min((0..n).map(of_one).max().unwrap_or(0))
    }

    /// Most ranges of one score with a value in common.
    fn n_overlapping(&self, score: usize) -> usize {
        let ranges = self.0.ranges.iter().skip(score).step_by((self.0.n_scores as usize).max(1));
        // Where one value is the end of a range and the start of another, both contain it.
        let mut ends: Vec<(i64, bool)> =
            ranges.flat_map(|&(low, high)| [(low, false), (high, true)]).collect();
        ends.sort_unstable();
        let (mut n_open, mut most) = (0_usize, 0);
        for (_, is_end) in ends {
            n_open = if is_end { n_open.saturating_sub(1) } else { n_open + 1 };
            most = most.max(n_open);
        }
        most
    }

    /// The file.
    ///
    /// # Errors
    /// [`Error::Network`] never for a checked pack.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        Ok(artifact::encode(PACK_MAGIC, PACK_VERSION, &self.0)?)
    }

    /// Decode and check bytes from anywhere. Memory: proportional to the bytes.
    ///
    /// # Errors
    /// - [`Error::Network`] around what is wrong with the file: too long, of another kind or version,
    ///   damaged.
    /// - [`Error::CountOutOfRange`], [`Error::LengthMismatch`] or [`Error::MalformedPack`] if its parts
    ///   do not fit together.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let content: Content = artifact::decode(PACK_MAGIC, PACK_VERSION, bytes, MAX_PACK_BYTES)?;
        content.check()?;
        Ok(Self(content))
    }
}

impl Content {
    fn check(&self) -> Result<()> {
        let (n_inputs, n_scores) = (self.n_inputs as usize, self.n_scores as usize);
        check_count("inputs of a canary", n_inputs, 1 << 22)?;
        check_count("scores of a canary", n_scores, 1 << 16)?;
        let n_canaries = self.inputs.len() / n_inputs;
        check_count("canaries", n_canaries, MAX_PACK_CANARIES)?;
        let of = |what, expected: usize, actual: usize| {
            let wrong = Error::LengthMismatch { what, expected, actual };
            if expected == actual { Ok(()) } else { Err(wrong) }
        };
        of("inputs of the canaries", n_canaries * n_inputs, self.inputs.len())?;
        of("tolerated scores", n_canaries * n_scores, self.ranges.len())?;
        if self.ranges.iter().any(|(low, high)| low > high) || self.n_bounds > 1 << 50 {
            return Err(Error::MalformedPack);
        }
        Ok(())
    }
}

fn check_count(name: &'static str, actual: usize, max: usize) -> Result<()> {
    if (1..=max).contains(&actual) {
        return Ok(());
    }
    let [actual, max] = [actual as u64, max as u64];
    Err(Error::CountOutOfRange { name, actual, min: 1, max })
}

/// Fewest bits with which cheating on *every* sample must be noticed for a run to count as verified:
/// otherwise it is missed at least every other time.
pub const LEAST_BITS: f64 = 1.0;

/// What canaries within their tolerance are worth: `−log2` of the chance that cheating stays
/// unnoticed, of each block. What moves no canary's score beyond its tolerance is *not* noticed,
/// whatever the bits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MaskedSoundness {
    /// Canaries of each block.
    pub n_canaries: usize,
    /// The server gives every sample a wrong label.
    pub every_label_bits: f64,
    /// The server answers without the inputs: the same scores to every sample, or any others that it
    /// chooses or draws for each slot.
    pub ignored_inputs_bits: f64,
    /// The server gives wrong labels to at least one percent of a block's samples, in whatever slots it
    /// picks.
    pub one_percent_bits: f64,
    /// As that, to one sample.
    pub one_sample_bits: f64,
    /// An honest server is accused with at most `2^-false_alarm_bits`, per run with all canaries.
    pub false_alarm_bits: f64,
}

impl MaskedSoundness {
    /// For blocks of at most `n_samples` samples with `n_canaries` canaries, drawn from a pack of this
    /// sharpness for every block.
    ///
    /// Of the `k` canaries drawn from `K`, `D` are decided, which is hypergeometric. A server that alters
    /// the labels in `a` slots which carry samples or canaries, chosen without knowing which, misses all
    /// decided ones with probability `E[C(n + k − D, a)/C(n + k, a)]`; on every slot with `P(D = 0)`.
    /// Scores that ignore the inputs are tolerated by at most `T` canaries in each slot, so that they pass
    /// with probability at most `T^k/(K·(K − 1)⋯(K − k + 1))`. Derived in `docs/soundness.md`, section 9.
    #[must_use]
    pub fn new(
        n_samples: usize,
        n_canaries: usize,
        sharpness: Sharpness,
        false_alarm_bits: f64,
    ) -> Self {
        let (n, k) = (n_samples as u64, n_canaries as u64);
        let (packed, decided) = (sharpness.n_canaries as u64, sharpness.n_decided as u64);
        let alike = sharpness.n_alike as u64;
        let drawn = |marked: u64| Hypergeometric::new(packed, marked, k).ok();
        let none_of = |marked: u64| drawn(marked).map_or(0.0, |draw| draw.ln_none());
        let ignored: f64 = (0..k.min(packed)).map(|i| ln(alike) - ln(packed - i)).sum();
        let altered = |a: u64| {
            let of_decided = (0..=k).map(|d| {
                let ln_drawn = drawn(decided).map_or(f64::NEG_INFINITY, |x| x.ln_probability(d));
                let missed = Hypergeometric::new(n + k, d, a.clamp(1, n.max(1)));
                (ln_drawn + missed.map_or(0.0, |draw| draw.ln_none())).exp()
            });
            of_decided.sum::<f64>().min(1.0).ln()
        };
        // No count that fits nothing promises anything.
        let is_drawable = drawn(decided).is_some();
        let bits = |ln_missed: f64| {
            let bits = -ln_missed / core::f64::consts::LN_2;
            if is_drawable { bits.clamp(0.0, 128.0) } else { 0.0 }
        };
        Self {
            n_canaries,
            every_label_bits: bits(none_of(decided)),
            ignored_inputs_bits: bits(ignored.min(0.0)),
            one_percent_bits: bits(altered(n.div_ceil(100))),
            one_sample_bits: bits(altered(1)),
            false_alarm_bits,
        }
    }

    /// Whether canaries within their tolerance vouch for anything: cheating on all samples is noticed
    /// more often than not.
    #[must_use]
    pub fn vouches(&self) -> bool {
        self.every_label_bits >= LEAST_BITS && self.ignored_inputs_bits >= LEAST_BITS
    }
}

#[expect(clippy::cast_precision_loss, reason = "at most a few thousand canaries")]
fn ln(count: u64) -> f64 {
    (count as f64).ln()
}

/// What a client without weights may believe about a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum MaskedVerdict {
    /// Every canary's scores are what an honest run may give.
    Tolerated {
        /// What that is worth.
        soundness: MaskedSoundness,
    },
    /// So are they here, but the tolerances are so wide that a server which ignores its inputs, or answers
    /// with wrong labels only, would most likely pass as well ([`MaskedSoundness::vouches`]): nothing
    /// is verified.
    Unverified {
        /// What that is worth.
        soundness: MaskedSoundness,
    },
    /// Some are not: something else was computed.
    Refuted {
        /// Blocks with such a canary, ascending.
        blocks: Vec<u32>,
        /// Canaries whose scores are out of range, over all blocks.
        n_failed: u64,
        /// Canaries in all blocks.
        n_canaries: u64,
    },
}

/// One verdict over all blocks of a run: for each, how many canaries it carried, and how many failed.
#[must_use]
pub fn judge_masked(blocks: &[(u64, u64)], soundness: MaskedSoundness) -> MaskedVerdict {
    let failed = (0..).zip(blocks).filter(|(_, (_, failed))| *failed > 0);
    let failed: Vec<u32> = failed.map(|(block, _)| block).collect();
    match (failed.is_empty(), soundness.vouches()) {
        (true, true) => MaskedVerdict::Tolerated { soundness },
        (true, false) => MaskedVerdict::Unverified { soundness },
        (false, _) => MaskedVerdict::Refuted {
            blocks: failed,
            n_failed: blocks.iter().map(|(_, failed)| failed).sum(),
            n_canaries: blocks.iter().map(|(carried, _)| carried).sum(),
        },
    }
}

#[cfg(test)]
mod tests;
