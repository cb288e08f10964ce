//! Ciphertext parameters of one segment, rebuilt and checked from its public description.

use core::fmt;

use he_core::{
    CiphertextBlock, CoefficientEncoder, Encoder, EvaluationKeys, KeySet, LinearMap, Params,
    ParamsSpec, SecretKey, SlotEncoder,
};
use rand::CryptoRng;

use super::error::{Error, Result};
use crate::plan::{Packing, Segment, Window};

/// Everything public that encryption, evaluation and decryption of one segment need.
///
/// Built from plan data only; 128-bit security is checked here again, so a hostile plan cannot talk
/// a client into weak parameters. Cost: about a millisecond (transforms).
#[derive(Debug, Clone)]
pub struct SegmentContext {
    params: Params,
    encoder: Encoder,
    window: Window,
    n_inputs: usize,
    n_outputs: usize,
    /// Moduli left after each step of a chain.
    step_moduli: Vec<usize>,
    relinearizes: bool,
    is_linear: bool,
    /// A block without ciphertexts, of the form of a reply.
    reply_form: CiphertextBlock,
}

/// The secret key of one segment of one batch, and what requests carry of it. Zeroized on drop, never
/// printed.
pub struct SegmentKey {
    secret: SecretKey,
    /// Packed, public; nothing where ciphertexts are not relinearized.
    relinearization: Vec<u8>,
}

impl fmt::Debug for SegmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentKey").field("secret", &self.secret).finish_non_exhaustive()
    }
}

impl SegmentContext {
    /// Rebuilds the parameters of segment number `index`.
    ///
    /// # Errors
    /// - [`Error::Arithmetic`] when the ring is not secure or not well formed.
    /// - [`Error::OtherArithmetic`] when this build orders evaluation points differently.
    /// - [`Error::Inconsistent`] when packing, window and ring contradict each other.
    pub fn new(index: usize, segment: &Segment) -> Result<Self> {
        let ring = &segment.ring;
        let spec = ParamsSpec {
            ring_degree: ring.ring_degree as usize,
            plaintext_modulus: ring.plaintext_modulus,
            moduli: ring.moduli.clone(),
        };
        let params = Params::with_special_moduli(spec, ring.special_modulus.into_iter().collect())?;
        if params.digest() != ring.params_digest {
            return Err(Error::OtherArithmetic { segment: index });
        }
        let inconsistent =
            |what, expected, actual| Error::Inconsistent { segment: index, what, expected, actual };
        let (encoder, modulus) = match segment.packing {
            Packing::Slots => (Encoder::Slots(SlotEncoder::new(&params)?), ring.plaintext_modulus),
            Packing::Coefficients { radix_bits, samples_per_coefficient } => {
                if segment.n_squares() > 0 {
                    return Err(inconsistent("packing of a segment with a square", 0, 1));
                }
                let k = samples_per_coefficient as usize;
                let encoder = CoefficientEncoder::new(&params, radix_bits, k)?;
                (Encoder::Coefficients(encoder), 1 << radix_bits)
            }
        };
        let window = segment.window;
        if u128::from(window.modulus) != modulus {
            return Err(inconsistent("window", modulus, window.modulus.into()));
        }
        let reply_moduli = ring.reply_moduli as usize;
        let n_moduli = params.moduli().len();
        if reply_moduli == 0 || reply_moduli > n_moduli {
            return Err(inconsistent(
                "number of reply moduli",
                n_moduli as u128,
                reply_moduli as u128,
            ));
        }
        let step_moduli = segment.chain.as_ref().map_or(&[][..], |part| &part.step_moduli);
        let step_moduli: Vec<usize> = step_moduli.iter().map(|&left| left as usize).collect();
        let mut most = n_moduli;
        for &left in &step_moduli {
            if left < reply_moduli || left > most {
                return Err(inconsistent(
                    "number of moduli after a step",
                    most as u128,
                    left as u128,
                ));
            }
            most = left;
        }
        // Replies that are checked word by word keep all moduli; masked ones are not.
        let is_linear = segment.n_squares() == 0;
        let keeps_all = is_linear && segment.mask.is_none();
        if keeps_all && reply_moduli != n_moduli {
            return Err(inconsistent(
                "reply moduli of a linear segment",
                n_moduli as u128,
                reply_moduli as u128,
            ));
        }
        let mut reply_form = CiphertextBlock::zeros(&params, 0, 1, n_moduli)?;
        let relinearizes = segment.relinearizes();
        for &left in &step_moduli {
            reply_form = reply_form.square()?;
            if relinearizes {
                reply_form = reply_form.relinearized_form()?;
            }
            reply_form = reply_form.mod_switch_to(left)?;
        }
        if segment.evaluates_activation {
            reply_form = reply_form.square()?;
        }
        Ok(Self {
            reply_form: reply_form.mod_switch_to(reply_moduli)?,
            params,
            encoder,
            window,
            n_inputs: segment.n_inputs as usize,
            n_outputs: segment.n_outputs as usize,
            step_moduli,
            relinearizes,
            is_linear,
        })
    }

    /// Draws a fresh key: one per segment and batch.
    ///
    /// Cost: some milliseconds where the server relinearizes.
    ///
    /// # Errors
    /// [`Error::Arithmetic`] never for a checked segment.
    pub fn generate_key(&self, rng: &mut (impl CryptoRng + ?Sized)) -> Result<SegmentKey> {
        let secret = SecretKey::generate(&self.params, rng);
        let mut relinearization = Vec::new();
        if self.relinearizes {
            let set = KeySet::new().with_relinearization();
            relinearization = EvaluationKeys::generate(&secret, &set, rng)?.to_bytes();
        }
        Ok(SegmentKey { secret, relinearization })
    }

    /// Values one ciphertext carries: N slots, or N times the samples per coefficient.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.encoder.value_count()
    }

    /// Ciphertexts of a request.
    #[must_use]
    pub fn n_inputs(&self) -> usize {
        self.n_inputs
    }

    /// Ciphertexts of a reply.
    #[must_use]
    pub fn n_outputs(&self) -> usize {
        self.n_outputs
    }

    /// Bytes of one request ciphertext.
    #[must_use]
    pub fn request_ciphertext_bytes(&self) -> usize {
        he_core::bytes::request_bytes(&self.params)
    }

    /// Bytes of one reply ciphertext.
    #[must_use]
    pub fn reply_ciphertext_bytes(&self) -> usize {
        he_core::bytes::reply_bytes(&self.params, self.reply_degree(), self.reply_moduli())
    }

    /// Bytes of the relinearization key with which a request begins; 0 if there is none.
    #[must_use]
    pub fn relinearization_key_bytes(&self) -> usize {
        if self.relinearizes { EvaluationKeys::byte_len(&self.params, 1, 0) } else { 0 }
    }

    /// Bytes of a whole request payload.
    #[must_use]
    pub fn request_bytes(&self) -> u64 {
        let ciphertexts = self.n_inputs as u64 * self.request_ciphertext_bytes() as u64;
        self.relinearization_key_bytes() as u64 + ciphertexts
    }

    /// Bytes of a whole reply payload.
    #[must_use]
    pub fn reply_bytes(&self) -> u64 {
        self.n_outputs as u64 * self.reply_ciphertext_bytes() as u64
    }

    /// log2 of each ciphertext modulus, for the soundness of the word check.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "moduli are below 2^47")]
    pub fn log2_moduli(&self) -> Vec<f64> {
        self.params.moduli().iter().map(|&q| (q as f64).log2()).collect()
    }

    /// Where outputs are reduced to.
    #[must_use]
    pub fn window(&self) -> Window {
        self.window
    }

    /// Whether every word of a reply can be checked: a segment without a square.
    #[must_use]
    pub fn is_linear(&self) -> bool {
        self.is_linear
    }

    /// A constant as slots take it: the representative modulo t nearest to zero. Of coefficients, whose
    /// constants are those of linear maps, it stays as it is.
    pub(super) fn reduce_constant(&self, value: i128) -> i64 {
        match &self.encoder {
            Encoder::Slots(_) => Window::centered(self.window.modulus).reduce_wide(value),
            Encoder::Coefficients(_) => i64::try_from(value).unwrap_or(i64::MAX),
        }
    }

    /// The map with its bias in this segment's packing: a slot's 1 is the constant polynomial, but
    /// packed coefficients need a 1 in every digit of every coefficient.
    pub(super) fn with_unit(&self, map: LinearMap) -> LinearMap {
        match &self.encoder {
            Encoder::Slots(_) => map,
            Encoder::Coefficients(encoder) => map.with_unit(&encoder.ones()),
        }
    }

    pub(super) fn params(&self) -> &Params {
        &self.params
    }

    pub(super) fn reply_degree(&self) -> usize {
        self.reply_form.degree()
    }

    pub(super) fn reply_moduli(&self) -> usize {
        self.reply_form.n_moduli()
    }

    pub(super) fn reply_form(&self) -> &CiphertextBlock {
        &self.reply_form
    }

    pub(super) fn relinearizes(&self) -> bool {
        self.relinearizes
    }

    pub(super) fn step_moduli(&self) -> &[usize] {
        &self.step_moduli
    }

    pub(super) fn encoder(&self) -> &Encoder {
        &self.encoder
    }
}

impl SegmentKey {
    pub(super) fn secret(&self) -> &SecretKey {
        &self.secret
    }

    pub(super) fn relinearization(&self) -> &[u8] {
        &self.relinearization
    }
}
