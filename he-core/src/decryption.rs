//! Decryption of any degree: of a ciphertext in a block, or straight from the bytes of a reply.

use rayon::prelude::*;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    CiphertextBlock, Encoder, Error, Result, SecretKey, bytes,
    ring::Ring,
    scratch::{Pool, reserve_secret},
    simd::vectorize,
};

/// Decrypts ciphertexts of any degree.
pub struct Decryptor<'k> {
    key: &'k SecretKey,
    scratch: Pool<Scratch>,
}

/// Words of one ciphertext, `[limb][polynomial][N]`: secret once the key was applied.
#[derive(Default)]
struct Scratch(Vec<u64>);

impl Drop for Scratch {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// A decrypted polynomial, still in the form `m + t·e` (centred): encoders turn it into integers.
pub struct Message {
    /// As [`Phase`]: the one polynomial, or `low` and `high`.
    words: Zeroizing<Vec<u64>>,
    /// The first of two moduli.
    base: Option<u64>,
    correction: u128,
    plaintext_modulus: u128,
}

/// Centred coefficients of `c_0 + c_1 s + …`.
pub(crate) enum Phase<'a> {
    /// One modulus: in two's complement, below 2^46 in magnitude.
    Narrow(&'a [u64]),
    /// Two moduli: `low + base·high` with `0 <= low < base`, below 2^93 in magnitude.
    Wide {
        /// Residues modulo the first modulus.
        low: &'a [u64],
        /// Signed multiples of it, in two's complement.
        high: &'a [u64],
        /// The first modulus.
        base: u64,
    },
}

impl Phase<'_> {
    /// Number of coefficients.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Narrow(x) => x.len(),
            Self::Wide { low, .. } => low.len(),
        }
    }

    /// One coefficient; zero beyond the end.
    #[cfg(any(test, feature = "hazmat"))]
    pub(crate) fn coefficient(&self, index: usize) -> i128 {
        let word = |words: &[u64]| words.get(index).copied().unwrap_or_default().cast_signed();
        match self {
            Self::Narrow(x) => word(x).into(),
            Self::Wide { low, high, base } => {
                i128::from(word(low)) + i128::from(word(high)) * i128::from(*base)
            }
        }
    }
}

impl Message {
    pub(crate) fn phase(&self) -> Phase<'_> {
        match self.base {
            None => Phase::Narrow(&self.words),
            Some(base) => {
                let (low, high) = self.words.split_at(self.words.len() / 2);
                Phase::Wide { low, high, base }
            }
        }
    }

    pub(crate) fn correction(&self) -> u128 {
        self.correction
    }

    pub(crate) fn plaintext_modulus(&self) -> u128 {
        self.plaintext_modulus
    }
}

impl core::fmt::Debug for Message {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Message").finish_non_exhaustive()
    }
}

impl core::fmt::Debug for Decryptor<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Decryptor").field("key", self.key).finish_non_exhaustive()
    }
}

impl<'k> Decryptor<'k> {
    /// Decrypts with `key`.
    #[must_use]
    pub fn new(key: &'k SecretKey) -> Self {
        Self { key, scratch: Pool::new() }
    }

    /// Decrypts one ciphertext of a block.
    ///
    /// Ciphertexts over more than two moduli are switched down to two first. Cost: `degree`
    /// products and one inverse transform per modulus.
    ///
    /// # Errors
    /// - [`Error::ParamsMismatch`] when the block belongs to other parameters.
    /// - [`Error::Index`] when there is no such ciphertext.
    ///
    /// # Security
    /// No branch or address depends on the key or the message. The caller must have checked the
    /// reply first: see the crate docs.
    pub fn decrypt(&self, block: &CiphertextBlock, index: usize) -> Result<Message> {
        self.key.params().check_same(block.params())?;
        if index >= block.count() {
            return Err(Error::Index { what: "ciphertext", index, count: block.count() });
        }
        if block.n_moduli() > 2 {
            let mut one = block.select(&[index])?;
            while one.n_moduli() > 2 {
                one = one.mod_switch_down()?;
            }
            return self.decrypt(&one, 0);
        }
        let n = block.params().ring_degree();
        let mut words = Zeroizing::new(Vec::with_capacity(n * block.n_moduli()));
        for (limb, ring) in block.rings().iter().enumerate() {
            let mut row = Zeroizing::new(block.row(limb, index).to_vec());
            self.apply_key(ring, limb, &mut row);
            words.extend_from_slice(row.get(..n).unwrap_or_default());
        }
        let base = match block.rings() {
            [r0, r1, ..] => {
                let (low, high) = words.split_at_mut(n);
                compose(r0, r1, low, high);
                Some(r0.value())
            }
            [r0] => {
                centre(r0, &mut words);
                None
            }
            [] => None,
        };
        Ok(Message {
            words,
            base,
            correction: block.correction(),
            plaintext_modulus: block.params().plaintext_modulus(),
        })
    }

    /// Decrypts and decodes the packed ciphertexts of a reply, in parallel: the same values as
    /// [`bytes::read_reply_into`], [`Decryptor::decrypt`] and [`Encoder::decode_from`], without a
    /// block in between.
    ///
    /// `bytes` are whole ciphertexts of the form of `form`, a block whose ciphertexts do not matter
    /// (there need be none): its degree, moduli and [`CiphertextBlock::correction`]. `out` gets
    /// [`Encoder::value_count`] values of each, from `low` upwards.
    ///
    /// # Errors
    /// - [`Error::ParamsMismatch`] when encoder, form and key belong to different parameters.
    /// - [`Error::Value`] when the encoder has no such window.
    /// - [`Error::Malformed`] unless bytes and `out` are whole ciphertexts, equally many.
    /// - [`Error::Residue`] when a residue is not below its modulus; `out` is then of no meaning.
    ///
    /// # Security
    /// As [`Decryptor::decrypt`].
    pub fn decrypt_packed(
        &self,
        encoder: &Encoder,
        form: &CiphertextBlock,
        low: i64,
        bytes: &[u8],
        out: &mut [i64],
    ) -> Result<()> {
        let params = self.key.params();
        params.check_same(encoder.params())?;
        encoder.check_low(low)?;
        params.check_same(form.params())?;
        let (degree, n_moduli) = (form.degree(), form.n_moduli());
        let size = bytes::reply_bytes(params, degree, n_moduli);
        let capacity = encoder.value_count();
        let malformed = |what, expected: usize, actual: usize| {
            Err(Error::Malformed { what, expected: expected as u64, actual: actual as u64 })
        };
        let count = bytes.len() / size;
        if !bytes.len().is_multiple_of(size) {
            return malformed("bytes of whole ciphertexts", count * size, bytes.len());
        }
        if out.len() != count * capacity {
            return malformed("values of the ciphertexts", count * capacity, out.len());
        }
        let n_words = n_moduli * form.row_len();
        let rows = bytes.par_chunks_exact(size).zip(out.par_chunks_exact_mut(capacity));
        rows.enumerate().try_for_each(|(i, (bytes, out))| {
            if n_moduli > 2 {
                let mut block = form.like(1, degree, form.correction());
                bytes::read_reply_into(&mut block, 0, bytes).map_err(|e| e.offset_by(i))?;
                let message = self.decrypt(&block, 0)?;
                out.copy_from_slice(&encoder.decode_from(&message, low)?);
                return Ok(());
            }
            self.scratch.with(Scratch::default, |Scratch(words)| {
                reserve_secret(words, n_words);
                words.resize(n_words, 0);
                bytes::read_ciphertext(params, degree, n_moduli, bytes, words)
                    .map_err(|e| e.offset_by(i))?;
                self.open(encoder, form, low, words, out);
                Ok(())
            })
        })
    }

    /// Decrypts and decodes the words `[limb][polynomial][N]` of one ciphertext over one or two
    /// moduli, in place.
    fn open(
        &self,
        encoder: &Encoder,
        form: &CiphertextBlock,
        low: i64,
        words: &mut [u64],
        out: &mut [i64],
    ) {
        let n = form.params().ring_degree();
        for (limb, (ring, row)) in
            form.rings().iter().zip(words.chunks_exact_mut(form.row_len())).enumerate()
        {
            self.apply_key(ring, limb, row);
        }
        // The degree is at least 1: the place of c_1 is free now.
        let (first, second) = words.split_at_mut(form.row_len());
        let (c0, work) = first.split_at_mut(n);
        let work = work.get_mut(..n).unwrap_or_default();
        let phase = match form.rings() {
            [r0, r1, ..] => {
                let high = second.get_mut(..n).unwrap_or_default();
                compose(r0, r1, c0, high);
                Phase::Wide { low: c0, high, base: r0.value() }
            }
            [r0] => {
                centre(r0, c0);
                Phase::Narrow(c0)
            }
            [] => Phase::Narrow(c0),
        };
        encoder.decode_into(&phase, form.correction(), low, work, out);
    }

    /// `c_0 + s·(c_1 + s·(…))` in the place of `c_0`: N times its coefficients.
    fn apply_key(&self, ring: &Ring, limb: usize, row: &mut [u64]) {
        let s = self.key.secret(limb);
        let n = s.len();
        for start in (n..row.len()).step_by(n).rev() {
            let (lower, upper) = row.split_at_mut(start);
            let target = lower.get_mut(start - n..).unwrap_or_default();
            ring.multiply_accumulate(target, upper.get(..n).unwrap_or_default(), s);
        }
        ring.inverse_unscaled(row.get_mut(..n).unwrap_or_default());
    }
}

/// Scales what [`Ring::inverse_unscaled`] left and centres it, in two's complement.
fn centre(ring: &Ring, words: &mut [u64]) {
    let (reducer, scale) = (ring.reducer(), ring.scale());
    vectorize(
        #[inline(always)]
        || {
            for x in words {
                *x = reducer.centre(reducer.multiply(x.cast_signed(), scale)).cast_unsigned();
            }
        },
    );
}

/// Scales what [`Ring::inverse_unscaled`] left modulo two primes and composes it, as
/// [`Phase::Wide`]: `second` becomes the upper digit.
///
/// Garner's mixed-radix composition: `x = x0 + q0·((x1 - x0)·q0^-1 mod q1)`, then centred. With
/// `h_i = (q_i - 1)/2`, `x` exceeds `(q0·q1 - 1)/2 = h0 + q0·h1` exactly when its upper digit, plus
/// one if `x0 > h0`, exceeds `h1`; then `q1` is taken from that digit.
fn compose(r0: &Ring, r1: &Ring, first: &mut [u64], second: &mut [u64]) {
    let base = r0.value();
    let inverse = r1.invert(base % r1.value()).expect("invariant: the moduli are distinct primes");
    let (reducer0, reducer1) = (r0.reducer(), r1.reducer());
    let (scale0, scale1) = (r0.scale(), r1.scale());
    let inverse = reducer1.factor(inverse);
    let q1 = r1.value().cast_signed();
    let (h0, h1) = (base.cast_signed() / 2, q1 / 2);
    vectorize(
        #[inline(always)]
        || {
            for (a, b) in first.iter_mut().zip(second) {
                *a = reducer0.multiply(a.cast_signed(), scale0);
                let (low, high) = (a.cast_signed(), reducer1.multiply(b.cast_signed(), scale1));
                let digit = reducer1.multiply(high.cast_signed() - low, inverse).cast_signed();
                let carry = (h0 - low) >> 63;
                *b = (digit - (((h1 - (digit - carry)) >> 63) & q1)).cast_unsigned();
            }
        },
    );
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use crate::ring::largest_prime;

    /// The lift is exact where the halves of both primes meet, which random words never reach.
    #[test]
    fn composition_is_centred_at_every_edge() {
        for (bits0, bits1) in [(11, 12), (30, 47), (47, 46)] {
            let prime = |bits| largest_prime(32, bits, (1 << bits).min(crate::MAX_MODULUS + 1));
            let [r0, r1] = [bits0, bits1].map(|b| Ring::new(32, prime(b).unwrap()).unwrap());
            let (q0, q1) = (i128::from(r0.value()), i128::from(r1.value()));
            let half = (q0 * q1 - 1) / 2;
            let edges = [0, half, half - q0, half - q0 / 2, q0 / 2, q0, q0 * (q1 / 2), q1 - 1];
            for edge in edges {
                for x in edge - 2..=edge + 2 {
                    for x in [x, -x].into_iter().filter(|x| x.abs() <= half) {
                        // 32 times too large, as the transform leaves it.
                        let residue =
                            |q: i128| vec![u64::try_from((32 * x).rem_euclid(q)).unwrap()];
                        let (mut low, mut high) = (residue(q0), residue(q1));
                        compose(&r0, &r1, &mut low, &mut high);
                        let phase = Phase::Wide { low: &low, high: &high, base: r0.value() };
                        assert_eq!(phase.coefficient(0), x, "{q0}·{q1}");
                    }
                }
            }
        }
    }
}
