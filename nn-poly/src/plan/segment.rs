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
}

impl Segment {
    /// Degree of a reply in the secret key: 2 after a square, otherwise 1.
    #[must_use]
    pub const fn reply_degree(&self) -> u32 {
        if self.evaluates_activation { 2 } else { 1 }
    }

    /// Samples one block carries, canaries included.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.packing.capacity(self.ring.ring_degree)
    }

    /// Bytes of one request payload: `n_inputs · N · Σ ceil(log2 q_i) / 8`, without the seed.
    #[must_use]
    pub fn request_bytes(&self) -> u64 {
        let bits = u64::from(self.ring.ring_degree) * u64::from(self.ring.request_bits());
        u64::from(self.n_inputs) * (bits / 8)
    }

    /// Bytes of one reply payload: `n_outputs · (degree+1) · N · Σ_kept ceil(log2 q_i) / 8`.
    #[must_use]
    pub fn reply_bytes(&self) -> u64 {
        let bits = u64::from(self.ring.ring_degree) * u64::from(self.ring.reply_bits());
        u64::from(self.n_outputs) * u64::from(self.reply_degree() + 1) * (bits / 8)
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
