//! The wire format: canonical, exact in length, refused when anything is out of place.

use crate::{
    cases, generator,
    reference::{block_of, pack, random_words},
    ring_degrees, toy,
};
use he_core::{CiphertextBlock, Error, ParamsSpec, PublicSeed, bytes};
use proptest::prelude::*;
use rand::{Rng, RngCore};

/// Every residue size there is.
const ALL_BITS: std::ops::RangeInclusive<u32> = 11..=47;

#[test]
fn every_residue_size_round_trips_as_the_text_says() {
    let mut tested = 0;
    for bits in ALL_BITS {
        // Some sizes have no prime at this degree.
        let Ok(spec) = ParamsSpec::with_bits(64, 12_289, &[bits]) else { continue };
        tested += 1;
        let params = he_core::Params::insecure_new(spec).unwrap();
        let words = random_words(&params, 3, 2, &mut generator(bits.into()));
        let block = block_of(&params, 2, &words);
        assert_eq!(block.limb(0), words[0].concat(), "{bits} bits: read");
        let mut out = Vec::new();
        bytes::write_reply(&block, &mut out);
        let q = params.moduli()[0];
        let expected: Vec<u8> = words[0]
            .iter()
            .flat_map(|row| row.chunks(64).flat_map(|p| pack(p, q)).collect::<Vec<_>>())
            .collect();
        assert_eq!(out, expected, "{bits} bits: written");
        assert_eq!(bytes::polynomial_bytes(&params, 1), 64 * bits as usize / 8);
        assert_eq!(out.len(), 3 * bytes::reply_bytes(&params, 2, 1));
    }
    assert!(tested >= 35, "{tested} sizes");
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn replies_round_trip_in_pieces(
        n in ring_degrees(),
        degree in 1_usize..=3,
        switch: bool,
        cut in 0_usize..=4,
        seed: u64,
    ) {
        let params = toy(n, 65_537, &[30, 47, 33]);
        let mut block =
            block_of(&params, degree, &random_words(&params, 4, degree, &mut generator(seed)));
        if switch {
            block = block.mod_switch_down().unwrap();
        }
        let mut out = vec![0xAB];
        bytes::write_reply(&block, &mut out);
        let size = bytes::reply_bytes(&params, degree, block.n_moduli());
        prop_assert_eq!(out.len(), 1 + 4 * size);
        let mut read = CiphertextBlock::zeros(&params, 4, degree, block.n_moduli()).unwrap();
        let (first, second) = out[1..].split_at(cut * size);
        bytes::read_reply_into(&mut read, 0, first).unwrap();
        bytes::read_reply_into(&mut read, cut, second).unwrap();
        prop_assert_eq!(read, block);
    }

    /// Any damage is an error, or a block that is in range and writes the very bytes it was read
    /// from: there is one encoding per block.
    #[test]
    fn damaged_bytes_are_refused_or_canonical(
        bits in ALL_BITS,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        length in -2_i32..=2,
        request: bool,
        seed: u64,
    ) {
        let Ok(spec) = ParamsSpec::with_bits(64, 12_289, &[bits]) else { return Ok(()) };
        let params = he_core::Params::insecure_new(spec).unwrap();
        let q = params.moduli()[0];
        let block = block_of(&params, 1, &random_words(&params, 2, 1, &mut generator(seed)));
        let mut out = Vec::new();
        if request { bytes::write_request(&block, &mut out) } else { bytes::write_reply(&block, &mut out) }
        for (index, value) in &damage {
            let index = index.index(out.len());
            out[index] = *value;
        }
        out.resize(out.len().saturating_add_signed(length as isize), 0xFF);
        let mut read = CiphertextBlock::zeros(&params, 2, 1, 1).unwrap();
        let result = if request {
            bytes::read_request_into(&mut read, 0, PublicSeed([1; 32]), &out)
        } else {
            bytes::read_reply_into(&mut read, 0, &out)
        };
        prop_assert!(read.limb(0).iter().all(|&x| x < q), "residues stay in range");
        match result {
            Ok(()) => {
                prop_assert_eq!(length, 0);
                let mut again = Vec::new();
                if request {
                    bytes::write_request(&read, &mut again);
                } else {
                    bytes::write_reply(&read, &mut again);
                }
                prop_assert_eq!(again, out);
            }
            Err(Error::Malformed { .. }) => prop_assert_ne!(length, 0),
            Err(Error::Residue { modulus, .. }) => prop_assert_eq!(modulus, q),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    #[test]
    fn random_bytes_never_panic(raw in prop::collection::vec(any::<u8>(), 0..2000), first: usize) {
        let params = toy(32, 12_289, &[11, 33]);
        let mut block = CiphertextBlock::zeros(&params, 3, 1, 2).unwrap();
        drop(bytes::read_reply_into(&mut block, first, &raw));
        drop(bytes::read_request_into(&mut block, first, PublicSeed([0; 32]), &raw));
        drop(bytes::read_reply_into(&mut block, first % 4, &raw));
    }
}

#[test]
fn a_residue_at_its_modulus_is_refused_wherever_it_stands() {
    for bits in [11, 30, 31, 33, 46, 47] {
        let params = toy(64, 12_289, &[20, bits]);
        let q = params.moduli()[1];
        let size = bytes::reply_bytes(&params, 1, 2);
        let polynomial = bytes::polynomial_bytes(&params, 2);
        let mut rng = generator(bits.into());
        for _ in 0..20 {
            let mut words = vec![0; 64];
            words[rng.random_range(0..64)] = q + rng.next_u64() % ((1 << bits) - q);
            let (index, part) = (rng.random_range(0..3), rng.random_range(0..2));
            let mut out = vec![0; 3 * size];
            let start = index * size + (part + 1) * polynomial - 64 * bits as usize / 8;
            out[start..start + 64 * bits as usize / 8].copy_from_slice(&pack(&words, q));
            let mut block = CiphertextBlock::zeros(&params, 3, 1, 2).unwrap();
            let error = bytes::read_reply_into(&mut block, 0, &out).unwrap_err();
            assert_eq!(error, Error::Residue { ciphertext: index, modulus: q });
        }
    }
}

#[test]
fn places_and_forms_are_checked() {
    let params = toy(64, 12_289, &[30, 31]);
    let seed = PublicSeed([3; 32]);
    let mut block = CiphertextBlock::zeros(&params, 2, 1, 2).unwrap();
    let one = vec![0; bytes::request_bytes(&params)];
    assert!(bytes::read_request_into(&mut block, 1, seed, &one).is_ok());
    for first in [2, 3, usize::MAX] {
        let refused = bytes::read_request_into(&mut block, first, seed, &one);
        assert!(matches!(refused, Err(Error::Malformed { .. })), "{first}");
    }
    let three = vec![0; 3 * one.len()];
    let refused = bytes::read_request_into(&mut block, 0, seed, &three);
    assert!(matches!(refused, Err(Error::Malformed { expected: 2, actual: 3, .. })));
    for (degree, n_moduli) in [(2, 2), (1, 1)] {
        let mut wrong = CiphertextBlock::zeros(&params, 2, degree, n_moduli).unwrap();
        let refused = bytes::read_request_into(&mut wrong, 0, seed, &one);
        assert!(matches!(refused, Err(Error::Form { .. })));
    }
}

/// The seed expansion as the text of `sampling.rs` describes it, from the block cipher up.
fn reference_expansion(seed: [u8; 32], index: u32, limb: u32, q: u64, n: usize) -> Vec<u64> {
    use aes::cipher::{BlockEncrypt, KeyInit};
    let mut message = b"securedl c1 v1\0\0".to_vec();
    message.extend(index.to_le_bytes());
    message.extend(limb.to_le_bytes());
    message.extend(q.to_le_bytes());
    let hash = *blake3::keyed_hash(&seed, &message).as_bytes();
    let cipher = aes::Aes128::new_from_slice(&hash[..16]).unwrap();
    let mut counter = u128::from_be_bytes(hash[16..].try_into().unwrap());
    let mut stream = std::iter::from_fn(move || {
        let mut block = counter.to_be_bytes().into();
        counter = counter.wrapping_add(1);
        cipher.encrypt_block(&mut block);
        Some(<[u8; 16]>::from(block))
    })
    .flatten();
    let width = if q < 1 << 32 { 4 } else { 6 };
    let mask = u64::MAX >> q.leading_zeros();
    let mut out = Vec::new();
    while out.len() < n {
        let mut draw = [0; 8];
        draw[..width].iter_mut().for_each(|b| *b = stream.next().unwrap());
        let draw = u64::from_le_bytes(draw) & mask;
        if draw < q {
            out.push(draw);
        }
    }
    out
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn seeds_expand_as_the_text_says(bits in ALL_BITS, seed: [u8; 32], first in 0_usize..3, below: u64) {
        // Any prime of the size, not only the largest: some reject almost half of the draws.
        let below = (1 << (bits - 1)) + below % (1 << (bits - 1));
        let Some(q) = (1..=below / 128).rev().map(|k| 128 * k + 1).find(|&q| is_prime(q)) else {
            return Ok(());
        };
        prop_assume!((1 << 10..=he_core::MAX_MODULUS).contains(&q) && q != 1153);
        let spec = ParamsSpec { ring_degree: 64, plaintext_modulus: 2, moduli: vec![1153, q] };
        let params = he_core::Params::insecure_new(spec).unwrap();
        let mut block = CiphertextBlock::zeros(&params, 4, 1, 2).unwrap();
        let zeros = vec![0; bytes::request_bytes(&params)];
        bytes::read_request_into(&mut block, first, PublicSeed(seed), &zeros).unwrap();
        for (limb, q) in [(0_u32, 1153), (1, q)] {
            let expected = reference_expansion(seed, first as u32, limb, q, 64);
            let c1 = &block.limb(limb as usize)[(2 * first + 1) * 64..(2 * first + 2) * 64];
            prop_assert_eq!(c1, &expected[..]);
        }
    }
}

fn is_prime(q: u64) -> bool {
    // Fermat to a few bases: a composite that passes is refused by `Params`, loudly.
    let power = |base: u64| {
        let (mut result, mut x, mut e) = (1_u128, u128::from(base), q - 1);
        while e > 0 {
            if e & 1 == 1 {
                result = result * x % u128::from(q);
            }
            x = x * x % u128::from(q);
            e >>= 1;
        }
        result
    };
    q > 20 && [2, 3, 5, 7, 11, 13].iter().all(|&base| power(base) == 1)
}
