//! Randomness: expansion of public seeds (part of the wire format), secret errors and keys.
//!
//! # Seed expansion (format v1)
//!
//! Polynomial `c_1` of ciphertext `index`, limb `limb`, modulus `q` is sampled directly in
//! evaluation form: `BLAKE3-keyed(key = seed, "securedl c1 v1\0\0" ‖ index ‖ limb ‖ q)` (integers
//! little-endian, u32, u32, u64) gives 32 bytes: an AES-128 key and the initial big-endian counter
//! of AES-CTR. The key stream is read in little-endian draws of 4 bytes (q below 2^32) or 6 bytes;
//! a draw is masked to `ceil(log2 q)` bits and accepted when below q. The N first accepted draws are
//! the polynomial. (AES-CTR expands 8 KiB in about 1.2 µs; FrodoKEM expands its public matrix the
//! same way.)
//!
//! Keys (public, relinearisation, Galois) expand the same way in the domain `"securedl key v1\0"`, with
//! the digit in place of the index.
//!
//! Errors and secrets come from separate keys that never leave the process.

use aes::cipher::{KeyIvInit, StreamCipher};
use rand_core::{CryptoRng, RngCore};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{
    ring::Ring,
    scratch::{reserve_secret, written_zeros},
    security::ERROR_BOUND,
    simd::{read_wide_draws, vectorize},
};

type Aes128Ctr = ctr::Ctr128BE<aes::Aes128>;

/// Ciphertexts one seed may serve.
pub(crate) const MAX_CIPHERTEXTS_PER_SEED: u32 = 1 << 24;

/// Public seed of one block of ciphertexts: sent in place of the polynomials `c_1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicSeed(pub [u8; 32]);

/// Secret seed of the errors of one block.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct ErrorSeed([u8; 32]);

impl PublicSeed {
    /// Draws a fresh seed.
    pub(crate) fn generate(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        Self(seed)
    }

    /// Expands polynomial `c_1` of one ciphertext and limb into `out` (evaluation form, below q).
    /// `buffer` is scratch.
    pub(crate) fn expand(
        &self,
        index: u32,
        limb: u32,
        ring: &Ring,
        out: &mut [u64],
        buffer: &mut Vec<u8>,
    ) {
        let mut stream = key_stream(&self.0, b"securedl c1 v1\0\0", index, limb, ring.value());
        sample_uniform(&mut stream, ring.value(), out, buffer);
    }

    /// Expands the uniform polynomial of one digit of a key, as [`PublicSeed::expand`] in another
    /// domain.
    pub(crate) fn expand_key(&self, digit: u32, limb: u32, ring: &Ring, out: &mut [u64]) {
        let mut stream = key_stream(&self.0, b"securedl key v1\0", digit, limb, ring.value());
        sample_uniform(&mut stream, ring.value(), out, &mut Vec::new());
    }
}

impl ErrorSeed {
    pub(crate) fn generate(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut seed = Self([0; 32]);
        rng.fill_bytes(&mut seed.0);
        seed
    }

    /// A seed that somebody else drew, or derived from a secret.
    pub(crate) fn from_secret(seed: [u8; 32]) -> Self {
        Self(seed)
    }

    /// Samples centred binomial errors (η = 21, in [-21, 21]) of one ciphertext. `buffer` is scratch
    /// and holds secrets afterwards.
    pub(crate) fn sample(&self, index: u32, out: &mut [i8], buffer: &mut Vec<u8>) {
        let mut stream = key_stream(&self.0, b"securedl error 1", index, 0, 0);
        sample_centred_binomial(&mut stream, out, buffer);
    }
}

fn key_stream(seed: &[u8; 32], domain: &[u8; 16], index: u32, limb: u32, q: u64) -> Aes128Ctr {
    let mut message = [0_u8; 32];
    let (name, numbers) = message.split_at_mut(16);
    name.copy_from_slice(domain);
    let packed = u128::from(index) | u128::from(limb) << 32 | u128::from(q) << 64;
    numbers.copy_from_slice(&packed.to_le_bytes());
    let hash = Zeroizing::new(*blake3::keyed_hash(seed, &message).as_bytes());
    let (key, counter) = hash.split_at(16);
    Aes128Ctr::new(key.into(), counter.into())
}

/// A key stream as a generator, for samplers that take one.
pub(crate) struct StreamRng(Aes128Ctr);

impl StreamRng {
    /// The draws of ternary polynomial `index` of a secret seed.
    pub(crate) fn ternary(seed: &[u8; 32], index: u32) -> Self {
        Self(key_stream(seed, b"securedl ternary", index, 0, 0))
    }
}

impl RngCore for StreamRng {
    fn next_u32(&mut self) -> u32 {
        rand_core::impls::next_u32_via_fill(self)
    }

    fn next_u64(&mut self) -> u64 {
        rand_core::impls::next_u64_via_fill(self)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        bytes.fill(0);
        self.0.apply_keystream(bytes);
    }
}

impl CryptoRng for StreamRng {}

/// Fills `out` with integers uniform in `[-2^bits, 2^bits)`, `bits` at most 61, from a secret seed.
pub(crate) fn sample_flood(seed: &[u8; 32], bits: u32, out: &mut [i64]) {
    let mut stream = key_stream(seed, b"securedl flood 1", 0, 0, 0);
    let mut bytes = Zeroizing::new(vec![0_u8; out.len() * 8]);
    stream.apply_keystream(&mut bytes);
    let (mask, half) = ((2_u64 << bits) - 1, 1_i64 << bits);
    for (x, draw) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *x = (u64::from_le_bytes(*draw) & mask).cast_signed() - half;
    }
}

/// Fills `out` with uniform residues below `q`: masked rejection sampling. `buffer` is scratch.
fn sample_uniform(stream: &mut Aes128Ctr, q: u64, out: &mut [u64], buffer: &mut Vec<u8>) {
    let bits = u64::BITS - q.leading_zeros();
    let mask = u64::MAX >> (u64::BITS - bits);
    let width = if bits <= 32 { 4 } else { 6 };
    let mut rest = out;
    while !rest.is_empty() {
        let wanted = rest.len();
        reserve_secret(buffer, wanted * width + PADDING_BYTES);
        buffer.clear();
        buffer.resize(wanted * width + PADDING_BYTES, 0);
        let Some(bytes) = buffer.get_mut(..wanted * width) else { return };
        stream.apply_keystream(bytes);
        let kept = if read_draws(buffer, width, mask, q, rest) { wanted } else { compact(rest, q) };
        rest = rest.get_mut(kept..).unwrap_or_default();
    }
}

/// Moves the residues below `q` to the front, in order, and returns how many there are.
fn compact(draws: &mut [u64], q: u64) -> usize {
    let mut kept = 0;
    for i in 0..draws.len() {
        if draws.get(i).is_some_and(|&x| x < q) {
            draws.swap(i, kept);
            kept += 1;
        }
    }
    kept
}

/// A draw of 6 bytes is read as 8 and masked, or eight draws as 64 bytes.
const PADDING_BYTES: usize = 16;

/// Reads masked little-endian draws and returns whether all are below `q`.
fn read_draws(bytes: &[u8], width: usize, mask: u64, q: u64, out: &mut [u64]) -> bool {
    let done = if width == 6 { read_wide_draws(bytes, mask, out) } else { 0 };
    vectorize(
        #[inline(always)]
        || {
            if width == 4 {
                for (x, draw) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *x = u64::from(u32::from_le_bytes(*draw)) & mask;
                }
            } else {
                for (i, x) in out.iter_mut().enumerate().skip(done) {
                    let draw = bytes.get(6 * i..6 * i + 8).and_then(|draw| draw.try_into().ok());
                    *x = u64::from_le_bytes(draw.unwrap_or_default()) & mask;
                }
            }
            // One bit, not a branch per draw.
            out.iter().fold(0, |bad, &x| bad | q.wrapping_sub(x + 1)) >> 63 == 0
        },
    )
}

/// Fills `out` with the difference of two sums of 21 coin flips; no branch depends on them.
///
/// The coins of place `i` are word `i` of a plane of 32-bit words and word `i` of a plane of 16-bit
/// words, so that lanes of vectors hold whole draws.
fn sample_centred_binomial(stream: &mut Aes128Ctr, out: &mut [i8], buffer: &mut Vec<u8>) {
    const SUM: u64 = (1 << ERROR_BOUND) - 1;
    // As much as the expansions that follow need, so that these bytes are overwritten in place.
    reserve_secret(buffer, out.len() * 6 + PADDING_BYTES);
    buffer.clear();
    buffer.resize(out.len() * 6, 0);
    stream.apply_keystream(buffer);
    let (low, high) = buffer.split_at(out.len() * 4);
    vectorize(
        #[inline(always)]
        || {
            let draws = low.chunks_exact(4).zip(high.chunks_exact(2));
            for (e, (low, high)) in out.iter_mut().zip(draws) {
                let low = u64::from(u32::from_le_bytes(low.try_into().unwrap_or_default()));
                let high = u64::from(u16::from_le_bytes(high.try_into().unwrap_or_default()));
                let draw = low | high << 32;
                let (a, b) = (draw & SUM, (draw >> ERROR_BOUND) & SUM);
                #[expect(clippy::cast_possible_truncation, reason = "at most 21")]
                {
                    *e = (a.count_ones() as i8) - (b.count_ones() as i8);
                }
            }
        },
    );
}

/// Draws a uniform ternary polynomial with coefficients in {-1, 0, 1}.
pub(crate) fn sample_ternary(
    degree: usize,
    rng: &mut (impl CryptoRng + ?Sized),
) -> Zeroizing<Vec<i8>> {
    let mut bytes = Zeroizing::new([0_u8; 64]);
    // Room for all draws of the last buffer.
    let mut coefficients = Zeroizing::new(written_zeros(degree + 4 * bytes.len()));
    let mut kept = 0;
    while kept < degree {
        rng.fill_bytes(bytes.as_mut_slice());
        for &byte in bytes.iter() {
            for shift in [0, 2, 4, 6] {
                let draw = (byte >> shift) & 3;
                // Every draw is stored; one that is discarded is overwritten by the next.
                if let Some(place) = coefficients.get_mut(kept) {
                    *place = draw.cast_signed() - 1;
                }
                kept += usize::from(draw < 3);
            }
        }
    }
    coefficients.truncate(degree);
    coefficients
}

/// Draws `count` secret uniform residues modulo `ring`.
pub(crate) fn sample_residues(
    ring: &Ring,
    count: usize,
    rng: &mut (impl CryptoRng + ?Sized),
) -> Zeroizing<Vec<u64>> {
    let mut seed = Zeroizing::new([0; 32]);
    rng.fill_bytes(seed.as_mut_slice());
    let mut stream = key_stream(&seed, b"securedl check 1", 0, 0, ring.value());
    let mut out = Zeroizing::new(vec![0; count]);
    let mut buffer = Zeroizing::new(Vec::with_capacity(8 * count + PADDING_BYTES));
    sample_uniform(&mut stream, ring.value(), &mut out, &mut buffer);
    out
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::cast_precision_loss,
        reason = "tests"
    )]
    use super::*;
    use crate::{Params, ParamsSpec, ring::largest_prime, security::ERROR_DEVIATION};

    #[test]
    fn expansion_is_uniform_and_below_the_modulus() {
        for bits in [25, 30, 32, 33, 46, 47] {
            let degree = 2048;
            let below = (1_u64 << bits).min(crate::MAX_MODULUS + 1);
            let ring = Ring::new(degree, largest_prime(degree, bits, below).unwrap()).unwrap();
            let mut total = 0.0;
            for index in 0..64 {
                let mut out = vec![0; degree];
                PublicSeed([7; 32]).expand(index, 1, &ring, &mut out, &mut Vec::new());
                assert!(out.iter().all(|&x| x < ring.value()));
                total += out.iter().map(|&x| x as f64 / ring.value() as f64).sum::<f64>();
            }
            let mean = total / (64.0 * degree as f64);
            assert!((mean - 0.5).abs() < 0.005, "{bits} bits: mean {mean}");
        }
    }

    #[test]
    fn many_rejections_still_fill_every_place() {
        // 17 = 2^4 + 1 rejects almost half of the draws.
        let mut stream = key_stream(&[1; 32], b"securedl c1 v1\0\0", 0, 0, 17);
        let mut out = vec![99; 4096];
        sample_uniform(&mut stream, 17, &mut out, &mut Vec::new());
        let mut counts = [0; 17];
        for x in out {
            counts[usize::try_from(x).unwrap()] += 1;
        }
        assert!(counts.iter().all(|&c| (150..350).contains(&c)), "{counts:?}");
    }

    #[test]
    fn index_limb_modulus_and_seed_separate_streams() {
        let degree = 32;
        let a = Ring::new(degree, largest_prime(degree, 30, 1 << 30).unwrap()).unwrap();
        let b = Ring::new(degree, largest_prime(degree, 30, a.value()).unwrap()).unwrap();
        let expand = |seed: u8, index, limb, ring: &Ring| {
            let mut out = vec![0; degree];
            PublicSeed([seed; 32]).expand(index, limb, ring, &mut out, &mut Vec::new());
            out
        };
        let base = expand(1, 0, 0, &a);
        assert_eq!(base, expand(1, 0, 0, &a));
        for other in [expand(2, 0, 0, &a), expand(1, 1, 0, &a), expand(1, 0, 1, &a)] {
            assert_ne!(base, other);
        }
        assert_ne!(base, expand(1, 0, 0, &b));
    }

    #[test]
    fn errors_have_the_stated_mean_deviation_and_bound() {
        let spec = ParamsSpec::with_bits(4096, 65537, &[30]).unwrap();
        let params = Params::new(spec).unwrap();
        let (mut sum, mut squares, mut n) = (0.0, 0.0, 0.0);
        for index in 0..64 {
            let mut errors = vec![0; params.ring_degree()];
            ErrorSeed([3; 32]).sample(index, &mut errors, &mut Vec::new());
            for e in errors {
                assert!(i64::from(e).abs() <= ERROR_BOUND);
                sum += f64::from(e);
                squares += f64::from(e) * f64::from(e);
                n += 1.0;
            }
        }
        let deviation = (squares / n - (sum / n).powi(2)).sqrt();
        assert!((sum / n).abs() < 0.03, "mean {}", sum / n);
        assert!((deviation - ERROR_DEVIATION).abs() < 0.02, "deviation {deviation}");
    }

    #[test]
    fn the_key_stream_of_errors_is_overwritten_where_it_is() {
        for bits in [30, 47] {
            let degree = 2048;
            let below = (1_u64 << bits).min(crate::MAX_MODULUS + 1);
            let ring = Ring::new(degree, largest_prime(degree, bits, below).unwrap()).unwrap();
            let mut buffer = Vec::new();
            ErrorSeed([3; 32]).sample(0, &mut vec![0; degree], &mut buffer);
            let (place, room) = (buffer.as_ptr(), buffer.capacity());
            PublicSeed([3; 32]).expand(0, 0, &ring, &mut vec![0; degree], &mut buffer);
            assert_eq!((buffer.as_ptr(), buffer.capacity()), (place, room), "{bits} bits");
        }
    }

    #[test]
    fn secrets_are_balanced_ternary() {
        use rand::SeedableRng;
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(5);
        let s = sample_ternary(30_000, &mut rng);
        for value in -1..=1 {
            let count = s.iter().filter(|&&x| x == value).count();
            assert!((9_600..10_400).contains(&count), "{value}: {count}");
        }
    }
}
