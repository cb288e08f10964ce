//! Bytes of keys: seeded, bit-packed, checked.
//!
//! # Format v1
//!
//! A key file starts with a byte for its version (1), a byte for its kind (1 a public key, 2 evaluation
//! keys) and the digest of its parameters (32 bytes). A public key follows with its seed (32 bytes)
//! and the polynomial `b`. Evaluation keys follow with a byte that is 1 if a relinearisation key is
//! present and 0 if not, the number of Galois keys (u32, little-endian), their exponents (u32 each,
//! odd, below 2N, ascending, not 1), then the relinearisation key and the Galois keys in that order:
//! each its seed and the polynomials `b` of its digits. A polynomial is its limbs over the ciphertext
//! moduli and the special moduli, packed as in [`crate::bytes`]. The polynomials `a` expand from the
//! seed.

use super::{
    EvaluationKeys, PublicKey, SwitchingKey,
    evaluation::{GaloisKey, check_special},
    switching::n_digits,
};
use crate::{
    Error, Params, PublicSeed, Result,
    bytes::{limb_bytes, pack, unpack},
    galois::permutation,
    ring::Ring,
    scratch::Pool,
};

const VERSION: u8 = 1;
const PUBLIC: u8 = 1;
const EVALUATION: u8 = 2;
const SEED: usize = 32;
const HEADER: usize = 2 + 32;

impl PublicKey {
    /// Bytes of a public key of these parameters.
    #[must_use]
    pub fn byte_len(params: &Params) -> usize {
        HEADER + SEED + polynomial_bytes(params)
    }

    /// Writes the key: its seed and one packed polynomial.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let params = self.params();
        let mut out = Vec::with_capacity(Self::byte_len(params));
        write_header(params, PUBLIC, &mut out);
        out.extend_from_slice(&self.seed().0);
        for (ring, words) in params.key_rings().zip(self.limbs()) {
            write_limb(words, ring, &mut out);
        }
        out
    }

    /// Reads a key of the given parameters.
    ///
    /// Nothing is allocated before the length is right.
    ///
    /// # Errors
    /// - [`Error::MalformedKey`] when version, kind or length differ, [`Error::ParamsMismatch`] when
    ///   the parameters do.
    /// - [`Error::KeyResidue`] when a residue is not below its modulus.
    pub fn from_bytes(params: &Params, bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader { bytes };
        reader.header(params, PUBLIC)?;
        reader.exactly(SEED + polynomial_bytes(params))?;
        let mut key = Self::from_seed(params, reader.seed()?);
        for (ring, words) in params.key_rings().zip(key.limbs_mut()) {
            reader.limb(ring, words)?;
        }
        Ok(key)
    }
}

impl EvaluationKeys {
    /// Writes all keys.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let n_bytes = Self::byte_len(&self.params, self.count(), self.galois.len());
        let mut out = Vec::with_capacity(n_bytes);
        write_header(&self.params, EVALUATION, &mut out);
        out.push(u8::from(self.relinearization.is_some()));
        let count = u32::try_from(self.galois.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&count.to_le_bytes());
        for g in self.galois.keys() {
            out.extend_from_slice(&g.to_le_bytes());
        }
        let galois = self.galois.values().map(|galois| &galois.key);
        for key in self.relinearization.iter().chain(galois) {
            write_switching(&self.params, key, &mut out);
        }
        out
    }

    /// Reads keys of the given parameters: at most `max_keys` of them.
    ///
    /// Nothing is allocated before counts and length are right. Each key then takes
    /// `16·N·digits·(moduli + special moduli)` bytes of memory: limit `max_keys` accordingly.
    ///
    /// # Errors
    /// - [`Error::Form`] when the parameters have no special modulus.
    /// - [`Error::MalformedKey`] when version, kind, exponents, the number of keys or the length
    ///   differ, [`Error::ParamsMismatch`] when the parameters do.
    /// - [`Error::KeyResidue`] when a residue is not below its modulus.
    pub fn from_bytes(params: &Params, max_keys: usize, bytes: &[u8]) -> Result<Self> {
        check_special(params)?;
        let mut reader = Reader { bytes };
        reader.header(params, EVALUATION)?;
        let flag = reader.byte()?;
        if flag > 1 {
            return malformed("relinearisation flag", 1, flag.into());
        }
        let count = reader.u32()? as usize;
        if count.saturating_add(flag.into()) > max_keys {
            return malformed("number of keys, at most", max_keys, count + usize::from(flag));
        }
        let n_keys = count + usize::from(flag);
        let wanted = n_keys.saturating_mul(switching_bytes(params)).saturating_add(4 * count);
        reader.exactly(wanted)?;
        let mut elements: Vec<u32> = Vec::with_capacity(count);
        for _ in 0..count {
            let g = reader.u32()?;
            let previous = elements.last().copied().unwrap_or(1);
            if g <= previous || g.is_multiple_of(2) || g as usize >= 2 * params.ring_degree() {
                return malformed(
                    "exponent of an automorphism, above",
                    previous as usize,
                    g as usize,
                );
            }
            elements.push(g);
        }
        let relinearization = match flag {
            0 => None,
            _ => Some(reader.switching(params)?),
        };
        let galois = elements.into_iter().map(|g| {
            let key = reader.switching(params)?;
            let permutation = permutation(params.ring_degree(), g);
            Ok((g, GaloisKey { key, permutation }))
        });
        let galois = galois.collect::<Result<_>>()?;
        let (scratch, products) = (Pool::new(), Pool::new());
        Ok(Self { params: params.clone(), relinearization, galois, scratch, products })
    }

    /// Bytes of `n_keys` key-switching keys of which `n_galois` belong to automorphisms.
    #[must_use]
    pub fn byte_len(params: &Params, n_keys: usize, n_galois: usize) -> usize {
        HEADER + 5 + 4 * n_galois + n_keys * switching_bytes(params)
    }
}

/// Packed bytes of one polynomial over all limbs of a key.
fn polynomial_bytes(params: &Params) -> usize {
    params.key_rings().map(|ring| limb_bytes(params.ring_degree(), ring)).sum()
}

/// Bytes of one key-switching key.
fn switching_bytes(params: &Params) -> usize {
    SEED + n_digits(params, params.moduli().len()) * polynomial_bytes(params)
}

fn write_header(params: &Params, kind: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&[VERSION, kind]);
    out.extend_from_slice(&params.digest());
}

/// Packs the first N words.
fn write_limb(words: &[u64], ring: &Ring, out: &mut Vec<u8>) {
    let (n, start) = (ring.degree(), out.len());
    out.resize(start + limb_bytes(n, ring), 0);
    let place = out.get_mut(start..).unwrap_or_default();
    pack(words.get(..n).unwrap_or_default(), ring.bits(), place);
}

fn write_switching(params: &Params, key: &SwitchingKey, out: &mut Vec<u8>) {
    let n = params.ring_degree();
    out.extend_from_slice(&key.seed().0);
    for digit in 0..n_digits(params, params.moduli().len()) {
        for (limb, ring) in params.key_rings().enumerate() {
            let words = key.limb(params, limb).get(digit * 2 * n..).unwrap_or_default();
            write_limb(words, ring, out);
        }
    }
}

fn malformed<T>(what: &'static str, expected: usize, actual: usize) -> Result<T> {
    Err(Error::MalformedKey { what, expected: expected as u64, actual: actual as u64 })
}

/// What is left of the bytes of a key.
struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        match self.bytes.split_at_checked(count) {
            Some((head, rest)) => {
                self.bytes = rest;
                Ok(head)
            }
            None => malformed("bytes left, at least", count, self.bytes.len()),
        }
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    fn u32(&mut self) -> Result<u32> {
        let bytes = self.take(4)?.first_chunk().copied().unwrap_or_default();
        Ok(u32::from_le_bytes(bytes))
    }

    fn seed(&mut self) -> Result<PublicSeed> {
        Ok(PublicSeed(self.take(SEED)?.first_chunk().copied().unwrap_or_default()))
    }

    fn header(&mut self, params: &Params, kind: u8) -> Result<()> {
        for (what, expected) in [("version of the key format", VERSION), ("kind of key", kind)] {
            let actual = self.byte()?;
            if actual != expected {
                return malformed(what, expected.into(), actual.into());
            }
        }
        let (expected, actual) = (params.digest(), self.take(32)?);
        if actual != expected {
            let short = |digest: &[u8]| digest.iter().take(6).map(|b| format!("{b:02x}")).collect();
            return Err(Error::ParamsMismatch {
                expected: short(&expected),
                actual: short(actual),
            });
        }
        Ok(())
    }

    /// Demands that exactly `count` bytes are left.
    fn exactly(&self, count: usize) -> Result<()> {
        if self.bytes.len() == count {
            return Ok(());
        }
        malformed("bytes of the keys", count, self.bytes.len())
    }

    /// Reads one packed limb into the first N words.
    fn limb(&mut self, ring: &Ring, words: &mut [u64]) -> Result<()> {
        let n = ring.degree();
        let bytes = self.take(limb_bytes(n, ring))?;
        let words = words.get_mut(..n).unwrap_or_default();
        if unpack(bytes, ring.bits(), ring.value(), words) {
            return Ok(());
        }
        Err(Error::KeyResidue { modulus: ring.value() })
    }

    fn switching(&mut self, params: &Params) -> Result<SwitchingKey> {
        let n = params.ring_degree();
        let mut key = SwitchingKey::from_seed(params, self.seed()?);
        for digit in 0..n_digits(params, params.moduli().len()) {
            for (limb, ring) in params.key_rings().enumerate() {
                let words = key.limb_mut(params, limb).get_mut(digit * 2 * n..);
                self.limb(ring, words.unwrap_or_default())?;
            }
        }
        Ok(key)
    }
}
