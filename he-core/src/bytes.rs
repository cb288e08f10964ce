//! The wire format of ciphertexts: bit-packed, canonical, checked.
//!
//! # Format v1
//!
//! A request ciphertext is its polynomial `c_0`; a reply ciphertext is `c_0, c_1, …`. Polynomials
//! follow each other in that order, each as its limbs in order. A limb of N residues modulo `q` with
//! `b = ceil(log2 q)` bits takes `N·b/8` bytes, packed *vertically*: with `N = 32·L`, residue
//! `j·L + l` is number `j` of lane `l`, and a lane is `b` words of 32 bits. For `b <= 32`, number `j`
//! occupies bits `[j·b, (j+1)·b)` of its lane; word `w` of all lanes is stored at
//! `[4·w·L, 4·(w+1)·L)`, little-endian. For `b > 32` the low 32 bits of every residue come first (32
//! words per lane, word `j` = number `j`), then the high `b - 32` bits packed as above.
//!
//! Vertical packing shifts all lanes alike, so it vectorises in plain Rust, and the range check comes
//! for free. There is no header: counts, seed, degree and level belong to the message that carries
//! the bytes, and decoding demands the exact length and every residue below its modulus.

use rayon::prelude::*;

use crate::{
    CiphertextBlock, Error, Params, PublicSeed, Result, ring::Ring,
    sampling::MAX_CIPHERTEXTS_PER_SEED,
};

mod packing;

pub(crate) use packing::{pack, unpack};

/// Bytes of one polynomial over the first `n_moduli` moduli.
#[must_use]
pub fn polynomial_bytes(params: &Params, n_moduli: usize) -> usize {
    params.rings().iter().take(n_moduli).map(|r| limb_bytes(params.ring_degree(), r)).sum()
}

/// Bytes of one seeded request ciphertext (its `c_0`, all moduli).
#[must_use]
pub fn request_bytes(params: &Params) -> usize {
    polynomial_bytes(params, params.moduli().len())
}

/// Bytes of one reply ciphertext of the given degree over `n_moduli` moduli.
#[must_use]
pub fn reply_bytes(params: &Params, degree: usize, n_moduli: usize) -> usize {
    (degree + 1) * polynomial_bytes(params, n_moduli)
}

/// Appends the `c_0` polynomials of fresh seeded ciphertexts: what a request carries.
pub fn write_request(block: &CiphertextBlock, out: &mut Vec<u8>) {
    write(block, 1, out);
}

/// Appends every polynomial of every ciphertext: what a reply carries.
pub fn write_reply(block: &CiphertextBlock, out: &mut Vec<u8>) {
    write(block, block.degree() + 1, out);
}

/// Decodes request ciphertexts `first, first + 1, …` into their places in a block of fresh form,
/// expanding each `c_1` from the seed. In parallel.
///
/// # Errors
/// - [`Error::Form`] unless the block has degree 1 and all moduli.
/// - [`Error::Malformed`] unless the bytes are a whole number of ciphertexts that fit the block.
/// - [`Error::Residue`] when a residue is not below its modulus; the block then holds valid residues
///   of no meaning.
/// - [`Error::SeedExhausted`] when an index is beyond those one seed serves.
pub fn read_request_into(
    block: &mut CiphertextBlock,
    first: usize,
    seed: PublicSeed,
    bytes: &[u8],
) -> Result<()> {
    let params = block.params().clone();
    if block.degree() != 1 || block.n_moduli() != params.moduli().len() {
        return Err(Error::Form {
            operation: "decoding a request",
            requirement: "degree 1 and all moduli",
            degree: block.degree(),
            n_moduli: block.n_moduli(),
        });
    }
    let layout = Layout::new(&params, 1, params.moduli().len());
    let count = layout.count(block, first, bytes)?;
    let end = u32::try_from(first.saturating_add(count)).unwrap_or(u32::MAX);
    if end > MAX_CIPHERTEXTS_PER_SEED {
        return Err(Error::SeedExhausted { max: MAX_CIPHERTEXTS_PER_SEED });
    }
    let n = params.ring_degree();
    read(block, first, count, &layout, bytes)?;
    for ((limb, limb_number), ring) in (0..).zip(0_u32..).zip(params.rings()) {
        let rows = block.limb_mut(limb).get_mut(first * 2 * n..(first + count) * 2 * n);
        let rows = rows.unwrap_or_default().par_chunks_mut(2 * n).enumerate();
        rows.for_each_init(Vec::new, |buffer, (i, row)| {
            let index = u32::try_from(first + i).unwrap_or(u32::MAX);
            let c1 = row.get_mut(n..).unwrap_or_default();
            seed.expand(index, limb_number, ring, c1, buffer);
        });
    }
    Ok(())
}

/// Decodes reply ciphertexts `first, first + 1, …` into their places in a block whose degree and
/// moduli say what is expected. In parallel.
///
/// # Errors
/// - [`Error::Malformed`] unless the bytes are a whole number of ciphertexts that fit the block.
/// - [`Error::Residue`] when a residue is not below its modulus; the block then holds valid residues
///   of no meaning.
pub fn read_reply_into(block: &mut CiphertextBlock, first: usize, bytes: &[u8]) -> Result<()> {
    let params = block.params().clone();
    let layout = Layout::new(&params, block.degree() + 1, block.n_moduli());
    let count = layout.count(block, first, bytes)?;
    read(block, first, count, &layout, bytes)
}

/// Decodes one reply ciphertext into words `[limb][polynomial][N]`.
///
/// # Errors
/// [`Error::Residue`] (of ciphertext 0) when a residue is not below its modulus.
pub(crate) fn read_ciphertext(
    params: &Params,
    degree: usize,
    n_moduli: usize,
    bytes: &[u8],
    words: &mut [u64],
) -> Result<()> {
    let n = params.ring_degree();
    let polynomial = polynomial_bytes(params, n_moduli);
    let mut offset = 0;
    for (ring, row) in params.rings().iter().zip(words.chunks_exact_mut((degree + 1) * n)) {
        let len = limb_bytes(n, ring);
        for (words, bytes) in row.chunks_exact_mut(n).zip(bytes.chunks_exact(polynomial)) {
            let bytes = bytes.get(offset..offset + len).unwrap_or_default();
            if !unpack(bytes, ring.bits(), ring.value(), words) {
                return Err(Error::Residue { ciphertext: 0, modulus: ring.value() });
            }
        }
        offset += len;
    }
    Ok(())
}

/// Decodes one limb of linear reply ciphertexts over all moduli into rows of `2N` words.
///
/// # Errors
/// [`Error::Residue`] when a residue is not below its modulus.
pub(crate) fn read_limb(
    params: &Params,
    limb: usize,
    bytes: &[u8],
    words: &mut [u64],
) -> Result<()> {
    let n = params.ring_degree();
    let polynomial = polynomial_bytes(params, params.moduli().len());
    let offset = polynomial_bytes(params, limb);
    let Some(ring) = params.rings().get(limb) else { return Ok(()) };
    let pieces = words.chunks_exact_mut(n).zip(bytes.chunks_exact(polynomial));
    for (index, (words, bytes)) in pieces.enumerate() {
        let bytes = bytes.get(offset..offset + limb_bytes(n, ring)).unwrap_or_default();
        if !unpack(bytes, ring.bits(), ring.value(), words) {
            return Err(Error::Residue { ciphertext: index / 2, modulus: ring.value() });
        }
    }
    Ok(())
}

/// Where the parts of one ciphertext lie in its bytes.
struct Layout {
    n_polynomials: usize,
    polynomial: usize,
    /// Offset of each limb in a polynomial.
    limbs: Vec<usize>,
}

impl Layout {
    fn new(params: &Params, n_polynomials: usize, n_moduli: usize) -> Self {
        let mut limbs = Vec::with_capacity(n_moduli);
        let mut polynomial = 0;
        for ring in params.rings().iter().take(n_moduli) {
            limbs.push(polynomial);
            polynomial += limb_bytes(params.ring_degree(), ring);
        }
        Self { n_polynomials, polynomial, limbs }
    }

    fn ciphertext(&self) -> usize {
        self.n_polynomials * self.polynomial
    }

    fn count(&self, block: &CiphertextBlock, first: usize, bytes: &[u8]) -> Result<usize> {
        let size = self.ciphertext();
        let count = bytes.len() / size;
        if !bytes.len().is_multiple_of(size) {
            return Err(Error::Malformed {
                what: "bytes of whole ciphertexts",
                expected: (count * size) as u64,
                actual: bytes.len() as u64,
            });
        }
        if first.checked_add(count).is_none_or(|end| end > block.count()) {
            return Err(Error::Malformed {
                what: "ciphertexts left in the block",
                expected: block.count().saturating_sub(first) as u64,
                actual: count as u64,
            });
        }
        Ok(count)
    }
}

/// Bytes of N residues modulo one prime.
pub(crate) fn limb_bytes(n: usize, ring: &Ring) -> usize {
    n / 32 * 4 * ring.bits() as usize
}

fn write(block: &CiphertextBlock, n_polynomials: usize, out: &mut Vec<u8>) {
    let layout = Layout::new(block.params(), n_polynomials, block.n_moduli());
    let n = block.params().ring_degree();
    let start = out.len();
    out.resize(start + block.count() * layout.ciphertext(), 0);
    let bytes = out.get_mut(start..).unwrap_or_default();
    bytes.par_chunks_mut(layout.ciphertext()).enumerate().for_each(|(index, bytes)| {
        for (p, bytes) in bytes.chunks_exact_mut(layout.polynomial).enumerate() {
            for ((limb, ring), &offset) in block.rings().iter().enumerate().zip(&layout.limbs) {
                let words = block.row(limb, index).get(p * n..(p + 1) * n).unwrap_or_default();
                let bytes = bytes.get_mut(offset..offset + limb_bytes(n, ring)).unwrap_or_default();
                pack(words, ring.bits(), bytes);
            }
        }
    });
}

fn read(
    block: &mut CiphertextBlock,
    first: usize,
    count: usize,
    layout: &Layout,
    bytes: &[u8],
) -> Result<()> {
    let params = block.params().clone();
    let (n, row_len) = (params.ring_degree(), block.row_len());
    for ((limb, ring), &offset) in params.rings().iter().enumerate().zip(&layout.limbs) {
        let rows = block.limb_mut(limb).get_mut(first * row_len..(first + count) * row_len);
        rows.unwrap_or_default()
            .par_chunks_mut(row_len)
            .zip(bytes.par_chunks(layout.ciphertext()))
            .enumerate()
            .try_for_each(|(i, (row, bytes))| {
                let polynomials = row.chunks_exact_mut(n).zip(bytes.chunks(layout.polynomial));
                for (words, bytes) in polynomials {
                    let bytes = bytes.get(offset..offset + limb_bytes(n, ring)).unwrap_or_default();
                    if !unpack(bytes, ring.bits(), ring.value(), words) {
                        let modulus = ring.value();
                        return Err(Error::Residue { ciphertext: first + i, modulus });
                    }
                }
                Ok(())
            })?;
    }
    Ok(())
}
