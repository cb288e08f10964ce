//! What one segment of a plan fixes: ring, packing, window, range and noise.
//!
//! These are plain data: they say *what* was chosen, and [`crate::encrypted`] builds ciphertext
//! parameters from them. They are checked as a whole when a plan is built or decoded
//! ([`super::PublicPlan::new`]); the security of the ring is checked again where the ring is
//! instantiated, so a plan cannot talk a client into weak parameters.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::integer::Window;

/// Which samples share a plaintext, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Packing {
    /// One sample per slot; needs a prime plaintext modulus `t ≡ 1 (mod 2N)`.
    Slots,
    /// Samples in polynomial coefficients, several per coefficient in radix `2^radix_bits`.
    ///
    /// Only for segments without a product of ciphertexts.
    Coefficients {
        /// Bits of one digit; the window of the segment is `2^radix_bits` wide.
        radix_bits: u32,
        /// Samples per coefficient, at least 1; 2 or more only where the range is proven.
        samples_per_coefficient: u32,
    },
}

impl Packing {
    /// Samples one ciphertext carries: `N` slots, or `N` times the samples per coefficient.
    #[must_use]
    pub fn capacity(&self, ring_degree: u32) -> u64 {
        match *self {
            Self::Slots => u64::from(ring_degree),
            Self::Coefficients { samples_per_coefficient, .. } => {
                u64::from(ring_degree) * u64::from(samples_per_coefficient)
            }
        }
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Slots => f.write_str("slots"),
            Self::Coefficients { radix_bits, samples_per_coefficient } => write!(
                f,
                "coefficients ({samples_per_coefficient} samples each, {radix_bits}-bit digits)"
            ),
        }
    }
}

/// The ring of one segment: degree, ciphertext primes, plaintext modulus.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RingSpec {
    /// `N`, a power of two.
    pub ring_degree: u32,
    /// The primes `q_i`, kept ones first: a reply carries the first `reply_moduli` of them.
    pub moduli: Vec<u64>,
    /// `t`: a prime for [`Packing::Slots`], otherwise at least `2^(radix_bits · samples)`.
    pub plaintext_modulus: u128,
    /// Limbs of a reply, after switching away the others; at least 1.
    pub reply_moduli: u32,
    /// Digest of the parameters as the arithmetic builds them, order of evaluation points included:
    /// two builds that order points differently refuse each other's plans.
    pub params_digest: [u8; 32],
}

impl RingSpec {
    /// Bits of one residue of each limb, `ceil(log2 q_i)`, in the order of the moduli.
    pub fn moduli_bits(&self) -> impl Iterator<Item = u32> + '_ {
        self.moduli.iter().map(|&q| 64 - q.saturating_sub(1).leading_zeros())
    }

    /// `Σ ceil(log2 q_i)` over all limbs: bits of one coefficient of an uploaded polynomial.
    #[must_use]
    pub fn request_bits(&self) -> u32 {
        self.moduli_bits().sum()
    }

    /// `Σ ceil(log2 q_i)` over the limbs of a reply.
    #[must_use]
    pub fn reply_bits(&self) -> u32 {
        self.moduli_bits().zip(0..self.reply_moduli).map(|(bits, _)| bits).sum()
    }

    /// `log2 Q`, with `Q` the product of all moduli.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a logarithm of a 62-bit prime")]
    pub fn log2_ciphertext_modulus(&self) -> f64 {
        self.moduli.iter().map(|&q| (q as f64).log2()).sum()
    }

    /// `log2 t`.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a logarithm")]
    pub fn log2_plaintext_modulus(&self) -> f64 {
        (self.plaintext_modulus as f64).log2()
    }
}

/// Why a range may be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Evidence {
    /// Interval arithmetic over every input of the grid: no input whatever leaves the range.
    Proven,
    /// Observed on calibration data, widened by a margin: an unusual input may leave it, is then
    /// reduced into the window, and its sample is marked `out_of_calibration` where that shows.
    Calibrated,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proven => "proven",
            Self::Calibrated => "calibrated",
        })
    }
}

/// The values a segment may put on the wire, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ValueRange {
    /// Smallest value.
    pub low: i64,
    /// Largest value.
    pub high: i64,
    /// Proven or calibrated.
    pub evidence: Evidence,
}

/// Noise of a segment at its tightest point, average case with a tail of `2^-64` per batch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoiseForecast {
    /// `log2` of the bound on `|m + t·e|`.
    pub log2_noise_bound: f64,
    /// `log2` of half the ciphertext modulus at the same point.
    pub log2_capacity: f64,
}

impl NoiseForecast {
    /// Bits between the bound and the capacity; not negative in any plan.
    #[must_use]
    pub fn margin_bits(&self) -> f64 {
        self.log2_capacity - self.log2_noise_bound
    }
}

/// One round trip: what the server computes and how its values travel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// The stage this segment evaluates.
    pub stage: u32,
    /// Whether the server applies the stage's quadratic activation and sum pool.
    ///
    /// If not, the segment ends with the linear map, and the key holder applies activation and
    /// pool while refreshing.
    pub evaluates_activation: bool,
    /// Ring and moduli.
    pub ring: RingSpec,
    /// How samples share a plaintext.
    pub packing: Packing,
    /// Where outputs are reduced to.
    pub window: Window,
    /// Where outputs are expected.
    pub range: ValueRange,
    /// Noise at the tightest point.
    pub noise: NoiseForecast,
    /// Values uploaded per sample.
    pub n_inputs: u32,
    /// Values downloaded per sample.
    pub n_outputs: u32,
    /// What only segments of a stage with a chain have.
    pub chain: Option<ChainPart>,
    /// What only segments of masked plans have.
    pub mask: Option<MaskPart>,
}

/// A segment of a masked plan computes its stage modulo one prime; all of them travel in one request,
/// so that they share one integer mask.
///
/// Its window is `[0, t)`: residues of masked values, which the key holder puts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MaskPart {
    /// Which residue this segment yields, from 0.
    pub residue: u32,
    /// Segments of this stage.
    pub n_residues: u32,
    /// Masks are below `2^mask_bits`; 0 for the last stage, whose scores are the result.
    pub mask_bits: u32,
    /// Noise in replies is uniform below `2^flood_bits` in magnitude, times the plaintext modulus.
    pub flood_bits: u32,
    /// Earlier stages whose masks are subtracted from what this one reads, each named by a token in the
    /// request; counted at the first residue.
    pub n_tokens: u32,
}

/// Bytes of the token that names the mask of an earlier round.
pub const MASK_TOKEN_BYTES: u64 = 64;
/// Bytes of a public key beside its polynomial: version, kind, digest of parameters, seed.
const PUBLIC_KEY_HEADER: u64 = 2 + 32 + 32;
/// Bytes of the seed of a residue's ciphertexts; that of the first is announced with the request.
const RESIDUE_SEED_BYTES: u64 = 32;

/// A segment of a stage with a chain computes the stage modulo one prime; there may be several, one
/// after the other, which differ in their plaintext modulus only as far as results are concerned.
///
/// Its window is `[0, t)`: residues, which the key holder puts together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChainPart {
    /// Which residue this segment yields, from 0.
    pub residue: u32,
    /// Segments of this stage.
    pub n_residues: u32,
    /// Smallest value after the division by `2^descale`; the window of the stage's values before it
    /// begins at `low · 2^descale`.
    pub low: i64,
    /// Limbs left after each step of the chain, in order.
    pub step_moduli: Vec<u32>,
}

impl Segment {
    /// Squares the server evaluates in a row.
    #[must_use]
    pub fn n_squares(&self) -> u32 {
        let steps = self.chain.as_ref().map_or(0, |part| part.step_moduli.len());
        u32::try_from(steps).unwrap_or(u32::MAX) + u32::from(self.evaluates_activation)
    }

    /// Degree of a reply in the secret key: doubled by every square.
    #[must_use]
    pub fn reply_degree(&self) -> u32 {
        1_u32.checked_shl(self.n_squares()).unwrap_or(u32::MAX)
    }

    /// Segments of its stage: several if values are put together from residues.
    #[must_use]
    pub fn n_residues(&self) -> u32 {
        let in_chain = self.chain.as_ref().map(|part| part.n_residues);
        in_chain.or(self.mask.map(|part| part.n_residues)).unwrap_or(1)
    }

    /// Whether a request of this segment begins a round: it is its stage's only segment, or the first.
    #[must_use]
    pub fn begins_round(&self) -> bool {
        let in_chain = self.chain.as_ref().map(|part| part.residue);
        in_chain.or(self.mask.map(|part| part.residue)).unwrap_or(0) == 0
    }

    /// Samples one block carries, canaries included.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.packing.capacity(self.ring.ring_degree)
    }

    /// Bytes of one request payload: `n_inputs · N · Σ ceil(log2 q_i) / 8`, without the seed.
    ///
    /// In masked plans this is the segment's part of its stage's request: one polynomial more for the
    /// public key, with 66 bytes, the tokens at the first residue and a seed at the others.
    #[must_use]
    pub fn request_bytes(&self) -> u64 {
        let bits = u64::from(self.ring.ring_degree) * u64::from(self.ring.request_bits());
        let of_mask = self.mask.map_or(0, |part| {
            let seed = if part.residue == 0 { 0 } else { RESIDUE_SEED_BYTES };
            seed + PUBLIC_KEY_HEADER + bits / 8 + u64::from(part.n_tokens) * MASK_TOKEN_BYTES
        });
        u64::from(self.n_inputs) * (bits / 8) + of_mask
    }

    /// Bytes of one reply payload: `n_outputs · (degree+1) · N · Σ_kept ceil(log2 q_i) / 8`; the last
    /// residue of a masked stage carries its token too.
    #[must_use]
    pub fn reply_bytes(&self) -> u64 {
        let bits = u64::from(self.ring.ring_degree) * u64::from(self.ring.reply_bits());
        let n_polynomials = u64::from(self.reply_degree()).saturating_add(1);
        let is_last = self.mask.is_some_and(|part| part.residue + 1 == part.n_residues);
        let token = if is_last { MASK_TOKEN_BYTES } else { 0 };
        let of_one = n_polynomials.saturating_mul(bits / 8);
        u64::from(self.n_outputs).saturating_mul(of_one).saturating_add(token)
    }
}

/// A quadratic activation `a z² + b z + c` at the server, followed by a sum pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PooledSquare {
    /// Terms of one pool window, 1 without a pool.
    pub pool_terms: u32,
    /// Largest `|a|` over the channels.
    pub max_abs_a: u32,
    /// Largest `|b|` over the channels.
    pub max_abs_b: u64,
}

/// What a segment asks of the encryption parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SegmentDemand {
    /// The activation the server evaluates, if any.
    pub activation: Option<PooledSquare>,
    /// Largest magnitude of an uploaded value; radix digits must be wider.
    pub max_abs_input: u64,
    /// Largest magnitude of a bias.
    pub max_abs_bias: u64,
    /// Largest `‖w‖₁` over the rows of the linear map.
    pub max_l1: f64,
    /// Largest `‖w‖₂` over the rows of the linear map.
    pub max_l2: f64,
    /// Smallest value on the wire.
    pub low: i64,
    /// Largest value on the wire.
    pub high: i64,
    /// Whether the range is proven.
    pub evidence: Evidence,
    /// Ciphertexts of a request block.
    pub n_inputs: u32,
    /// Ciphertexts of a reply block.
    pub n_outputs: u32,
    /// Samples a typical batch holds; decides how many share a coefficient.
    pub expected_samples: u64,
}

/// One linear map of a chain with what follows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepDemand {
    /// The quadratic and the pool that follow; none after the last map where the segment ends there.
    pub square: Option<PooledSquare>,
    /// Largest `‖w‖₁` over the rows of the linear map.
    pub max_l1: f64,
    /// Largest `‖w‖₂` over the rows of the linear map.
    pub max_l2: f64,
    /// Multiplications per sample.
    pub n_products: u64,
    /// Values after quadratic and pool.
    pub n_outputs: u32,
}

/// What a stage with a chain asks of the encryption parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct ChainDemand {
    /// Every linear map in order.
    pub steps: Vec<StepDemand>,
    /// Smallest value before the division, or less: a multiple of its unit, at most 0.
    pub low: i128,
    /// Largest value before the division.
    pub high: i128,
    /// Whether that range is proven.
    pub evidence: Evidence,
    /// Largest magnitude of an uploaded value.
    pub max_abs_input: u64,
    /// Ciphertexts of a request block.
    pub n_inputs: u32,
    /// Samples a typical batch holds.
    pub expected_samples: u64,
}

/// The answer to a [`ChainDemand`] for one residue.
#[derive(Clone, Debug, PartialEq)]
pub struct ChosenResidue {
    /// Ring and moduli; its plaintext modulus is the residue's prime.
    pub ring: RingSpec,
    /// Limbs left after each step but the last.
    pub step_moduli: Vec<u32>,
    /// Noise at the tightest point.
    pub noise: NoiseForecast,
    /// Classical security of the ring, bits.
    pub security_bits: u32,
}

/// What a stage of a masked plan asks of the encryption parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MaskedDemand {
    /// The activation, if there is one.
    pub square: Option<PooledSquare>,
    /// Largest `‖w‖₂` over the rows of the linear map.
    pub max_l2: f64,
    /// Multiplications per sample.
    pub n_products: u64,
    /// The product of the plaintext moduli is at least this.
    pub product: u128,
    /// Ciphertexts of a request block, per residue.
    pub n_inputs: u32,
    /// Ciphertexts of a reply block, per residue.
    pub n_outputs: u32,
    /// Samples a typical batch holds.
    pub expected_samples: u64,
}

/// The answer to a [`MaskedDemand`] for one residue.
#[derive(Clone, Debug, PartialEq)]
pub struct ChosenMasked {
    /// Ring and moduli; its plaintext modulus is the residue's prime.
    pub ring: RingSpec,
    /// Bits of the noise that hides how a reply was computed.
    pub flood_bits: u32,
    /// Noise at the tightest point, that one included.
    pub noise: NoiseForecast,
    /// Classical security of the ring, bits.
    pub security_bits: u32,
}

/// The answer to a [`SegmentDemand`].
#[derive(Clone, Debug, PartialEq)]
pub struct ChosenParameters {
    /// Ring and moduli.
    pub ring: RingSpec,
    /// How samples share a plaintext.
    pub packing: Packing,
    /// Where outputs are reduced to; covers the demanded range.
    pub window: Window,
    /// Noise at the tightest point.
    pub noise: NoiseForecast,
    /// Classical security of the ring, bits.
    pub security_bits: u32,
}
