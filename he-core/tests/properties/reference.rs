//! Slow, obvious references: the packing of the format text, modular sums, chosen residues.

use he_core::{CiphertextBlock, Group, PADDING, Params, bytes};
use rand::{Rng, RngCore};

/// Bits of a residue modulo `q`.
pub(crate) fn bits_of(q: u64) -> u32 {
    u64::BITS - q.leading_zeros()
}

/// Packs residues bit by bit, as the text of `he_core::bytes` says.
pub(crate) fn pack(residues: &[u64], q: u64) -> Vec<u8> {
    let (bits, lanes) = (bits_of(q), residues.len() / 32);
    let mut out = vec![0_u8; residues.len() / 8 * bits as usize];
    let (low_bits, high_start) = (bits.min(32), 32 * lanes * 4);
    for (i, &x) in residues.iter().enumerate() {
        let (j, lane) = (i / lanes, i % lanes);
        let mut set = |start: usize, width: u32, bit: u32| {
            // Bit `bit` of number `j` in a section whose numbers have `width` bits.
            let position = j as u32 * width + bit;
            let (word, offset) = ((position / 32) as usize, position % 32);
            let byte = start + 4 * (word * lanes + lane) + (offset / 8) as usize;
            out[byte] |= 1 << (offset % 8);
        };
        for bit in 0..low_bits {
            if x >> bit & 1 == 1 {
                set(0, low_bits, bit);
            }
        }
        for bit in 32..bits {
            if x >> bit & 1 == 1 {
                set(high_start, bits - 32, bit - 32);
            }
        }
    }
    out
}

/// A block whose words are given as `[limb][ciphertext][word]`.
pub(crate) fn block_of(params: &Params, degree: usize, words: &[Vec<Vec<u64>>]) -> CiphertextBlock {
    let (n, count) = (params.ring_degree(), words[0].len());
    let mut block = CiphertextBlock::zeros(params, count, degree, words.len()).unwrap();
    let mut bytes = Vec::new();
    for index in 0..count {
        for polynomial in 0..=degree {
            for (limb, &q) in words.iter().zip(params.moduli()) {
                bytes.extend(pack(&limb[index][polynomial * n..(polynomial + 1) * n], q));
            }
        }
    }
    bytes::read_reply_into(&mut block, 0, &bytes).unwrap();
    block
}

/// A residue that is likely to sit on a boundary: of the modulus, of a digit, of a carry.
pub(crate) fn boundary_residue(q: u64, rng: &mut impl RngCore) -> u64 {
    match rng.random_range(0..8) {
        0 => 0,
        1 => rng.random_range(1..3),
        2 => q - rng.random_range(1..=3),
        3 => q / 2 + rng.random_range(0..2),
        4 => 0x7FFF % q,
        5 => 0x8000_7FFF % q,
        6 => 0x7FFF_8000_8000 % q,
        _ => rng.random_range(0..q),
    }
}

/// Random words `[limb][ciphertext][word]` for a block of `count` ciphertexts.
pub(crate) fn random_words(
    params: &Params,
    count: usize,
    degree: usize,
    rng: &mut impl RngCore,
) -> Vec<Vec<Vec<u64>>> {
    let len = (degree + 1) * params.ring_degree();
    let row = |q: u64, rng: &mut _| (0..len).map(|_| boundary_residue(q, rng)).collect();
    params.moduli().iter().map(|&q| (0..count).map(|_| row(q, rng)).collect()).collect()
}

/// `W·x + b` for one word of every input, in exact integers, reduced at the end.
pub(crate) fn linear(
    groups: &[Group],
    bias: &[i64],
    input: impl Fn(usize) -> u64,
    bias_word: u64,
    q: u64,
) -> Vec<u64> {
    let mut out: Vec<i128> =
        bias.iter().map(|&b| (i128::from(b) % i128::from(q)) * i128::from(bias_word)).collect();
    for group in groups {
        for placement in &group.placements {
            for (row, weights) in group.weights.chunks(group.n_taps).enumerate() {
                let output = placement.first_output + row as u32 * placement.output_stride;
                for (&w, &index) in weights.iter().zip(&placement.inputs) {
                    if index != PADDING {
                        out[output as usize] += i128::from(w) * i128::from(input(index as usize));
                    }
                }
            }
        }
    }
    out.into_iter().map(|x| x.rem_euclid(i128::from(q)) as u64).collect()
}

/// `(c_0 + c_1 X)^power` in evaluation form, from a fresh ciphertext.
pub(crate) fn power_words(block: &CiphertextBlock, power: usize) -> Vec<Vec<Vec<u64>>> {
    let n = block.params().ring_degree();
    let limbs = block.params().moduli().iter().enumerate().map(|(limb, &q)| {
        let (c0, c1) = block.limb(limb).split_at(n);
        let mut words = vec![0; (power + 1) * n];
        for i in 0..n {
            let mut polynomial = vec![1_u128];
            for _ in 0..power {
                let mut next = vec![0_u128; polynomial.len() + 1];
                for (j, x) in polynomial.iter().enumerate() {
                    next[j] = (next[j] + x * u128::from(c0[i])) % u128::from(q);
                    next[j + 1] = (next[j + 1] + x * u128::from(c1[i])) % u128::from(q);
                }
                polynomial = next;
            }
            for (j, x) in polynomial.into_iter().enumerate() {
                words[j * n + i] = x as u64;
            }
        }
        vec![words]
    });
    limbs.collect()
}
