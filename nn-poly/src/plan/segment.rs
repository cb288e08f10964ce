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
    /// A prime that only the relinearization key has besides the others: with it every step of a chain but the
    /// last ends with two polynomials again, without it ciphertexts grow.
    pub special_modulus: Option<u64>,
    /// Digest of the parameters as the arithmetic builds them, order of evaluation points included:
    /// two builds that order points differently refuse each other's plans.
    pub params_digest: [u8; 32],
}

impl RingSpec {
    /// Bits of one residue of each limb, `ceil(log2 q_i)`, in the order of the moduli.
    pub fn moduli_bits(&self) -> impl Iterator<Item = u32> + '_ {
        self.moduli.iter().map(|&q| residue_bits(q))
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

    /// Most multiplications in a row whose products decrypt, if messages are as good as uniform, whenever moduli
    /// are dropped.
    ///
    /// A phase has at least its message, with coefficients of deviation `t/√12`, and a product typically the
    /// `√N`-fold product of two phases. So every multiplication brings it `log2(t·√(N/12))` bits nearer
    /// to the modulus, which dropping moduli does not undo.
    #[must_use]
    pub fn multiplicative_depth(&self) -> u32 {
        let growth = 0.5 * (f64::from(self.ring_degree) / 12.0).log2();
        let per_product = (self.log2_plaintext_modulus() + growth).max(1.0);
        let depth = self.log2_ciphertext_modulus() / per_product;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bits")]
        let depth = depth as u32;
        depth
    }

    /// `log2` of the special modulus, which counts in the security of the ring like the others; 0 without one.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a logarithm of a 62-bit prime")]
    pub fn log2_special_modulus(&self) -> f64 {
        self.special_modulus.map_or(0.0, |p| (p as f64).log2())
    }

    /// `log2 t`.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a logarithm")]
    pub fn log2_plaintext_modulus(&self) -> f64 {
        (self.plaintext_modulus as f64).log2()
    }
}

/// Bits of a residue modulo `q`.
fn residue_bits(q: u64) -> u32 {
    64 - q.saturating_sub(1).leading_zeros()
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
/// Bytes of evaluation keys beside their polynomials: version, kind, digest of parameters, which keys there
/// are, seed.
const EVALUATION_KEY_HEADER: u64 = 2 + 32 + 5 + 32;
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
    /// Random points that blocks carry beyond those of the settings, the same for all residues, since a server
    /// with a relinearization key can reach higher degrees; 0 without one.
    pub further_points: u32,
}

impl Segment {
    /// Squares the server evaluates in a row.
    #[must_use]
    pub fn n_squares(&self) -> u32 {
        let steps = self.chain.as_ref().map_or(0, |part| part.step_moduli.len());
        u32::try_from(steps).unwrap_or(u32::MAX) + u32::from(self.evaluates_activation)
    }

    /// Whether ciphertexts are brought back to two polynomials after every step of a chain, by a key that
    /// requests carry; if not, they grow.
    #[must_use]
    pub fn relinearizes(&self) -> bool {
        self.chain.is_some() && self.ring.special_modulus.is_some()
    }

    /// Degree of a reply in the secret key: doubled by every square, but for those that are relinearized.
    #[must_use]
    pub fn reply_degree(&self) -> u32 {
        if self.relinearizes() {
            return 1 << u32::from(self.evaluates_activation);
        }
        1_u32.checked_shl(self.n_squares()).unwrap_or(u32::MAX)
    }

    /// `log2` of the total degree of the polynomials that a server can evaluate in a slot: what the
    /// soundness of random points rests on.
    ///
    /// Without a relinearization key the degree of a reply tells it; with one, the noise of products does:
    /// [`RingSpec::multiplicative_depth`].
    #[must_use]
    pub fn log2_reachable_degree(&self) -> u32 {
        let honest = self.n_squares();
        if self.relinearizes() { self.ring.multiplicative_depth().max(honest) } else { honest }
    }

    /// Random points of a block beyond those that settings ask for: 0 but for [`ChainPart::further_points`].
    #[must_use]
    pub fn n_further_points(&self) -> u64 {
        self.chain.as_ref().map_or(0, |part| u64::from(part.further_points))
    }

    /// Fewest further points that make up for the higher degree: with two more, the default of the settings, a
    /// block shows at least what two points would if no server could exceed the honest degree. 0 without a
    /// relinearization key.
    ///
    /// `None`: a point would show less than [`MIN_POINT_BITS`].
    pub(super) fn fewest_further_points(&self) -> Option<u32> {
        if !self.relinearizes() {
            return Some(0);
        }
        let log2_t = self.ring.log2_plaintext_modulus();
        let per_point = log2_t - f64::from(self.log2_reachable_degree());
        if per_point < MIN_POINT_BITS {
            return None;
        }
        let wanted = 2.0 * (log2_t - f64::from(self.n_squares()));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most 2·64/4"
        )]
        let n_points = (wanted / per_point).ceil() as u32;
        Some(n_points.saturating_sub(2))
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

    /// Bytes of the relinearization key with which a request begins: its header, its seed, and for every
    /// modulus one polynomial over all moduli and the special one; 0 if there is none.
    ///
    /// As [`he_core::EvaluationKeys::byte_len`], before there are parameters.
    #[must_use]
    pub fn relinearization_key_bytes(&self) -> u64 {
        let (Some(special), Some(_)) = (self.ring.special_modulus, &self.chain) else { return 0 };
        let bits = u64::from(self.ring.request_bits() + residue_bits(special));
        let polynomial = u64::from(self.ring.ring_degree) * bits / 8;
        EVALUATION_KEY_HEADER + self.ring.moduli.len() as u64 * polynomial
    }

    /// Bytes of one request payload: `n_inputs · N · Σ ceil(log2 q_i) / 8`, without the seed, after the
    /// relinearization key if there is one.
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
        u64::from(self.n_inputs) * (bits / 8) + of_mask + self.relinearization_key_bytes()
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

/// Whether the server brings ciphertexts of a chain back to two polynomials after every step but the last,
/// with a key it gets for that.
///
/// Ciphertexts that grow need no key, and tell by their degree what was computed; those that do not cost
/// a key switch each, and a modulus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Relinearization {
    /// Where it is cheaper: by a planner's objective, or else by expected time.
    #[default]
    Cheapest,
    /// Ciphertexts grow.
    Never,
    /// In every chain.
    Always,
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
    /// Whether ciphertexts are relinearized.
    pub relinearization: Relinearization,
}

/// Fewest bits that a random point shows of a polynomial of the highest degree a server can reach.
pub const MIN_POINT_BITS: f64 = 4.0;

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
