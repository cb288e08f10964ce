//! Keys, seeds and degrees: what encryption promises beyond the plaintext.

use std::collections::HashSet;

use crate::{
    cases, generator,
    reference::{block_of, power_words, random_words},
    ring_degrees, toy,
};
use he_core::{
    BlockEncryptor, CiphertextBlock, Decryptor, Error, Params, ParamsSpec, Plaintext, PublicSeed,
    SecretKey, SlotEncoder, bytes,
};
use proptest::prelude::*;
use rand::RngCore;

fn plaintexts(params: &Params, count: usize) -> Vec<Plaintext> {
    let encoder = SlotEncoder::new(params).unwrap();
    (0..count).map(|i| encoder.encode(&vec![i as i64; params.ring_degree()]).unwrap()).collect()
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn the_same_generator_gives_the_same_bytes(n in ring_degrees(), seed: u64) {
        let params = toy(n, 65_537, &[30, 47]);
        let run = || {
            let mut rng = generator(seed);
            let key = SecretKey::generate(&params, &mut rng);
            let mut encryptor = BlockEncryptor::new(&key, &mut rng);
            let block = encryptor.encrypt_next(&plaintexts(&params, 3)).unwrap();
            let mut out = encryptor.seed().0.to_vec();
            bytes::write_request(&block, &mut out);
            out
        };
        prop_assert_eq!(run(), run());
    }

    /// However a block is cut into calls, its ciphertexts are those of one call, and their seeds'
    /// expansions are what the receiver computes.
    #[test]
    fn encryptors_hand_out_each_index_once(n in ring_degrees(), cut in 0_usize..=5, seed: u64) {
        let params = toy(n, 65_537, &[31, 46]);
        let key = SecretKey::generate(&params, &mut generator(seed));
        let plaintexts = plaintexts(&params, 5);
        let mut whole = BlockEncryptor::new(&key, &mut generator(!seed));
        let expected = whole.encrypt_next(&plaintexts).unwrap();
        let mut parts = BlockEncryptor::new(&key, &mut generator(!seed));
        let blocks = [&plaintexts[..cut], &plaintexts[cut..]].map(|p| parts.encrypt_next(p).unwrap());
        prop_assert_eq!(&CiphertextBlock::concatenate(&blocks).unwrap(), &expected);

        let mut out = Vec::new();
        bytes::write_request(&expected, &mut out);
        let mut received = CiphertextBlock::zeros(&params, 5, 1, 2).unwrap();
        bytes::read_request_into(&mut received, 0, whole.seed(), &out).unwrap();
        prop_assert_eq!(received, expected);
        // No two polynomials c_1 agree, neither here nor in what comes next.
        let next = whole.encrypt_next(&plaintexts).unwrap();
        let expected = CiphertextBlock::concatenate(&[parts.encrypt_next(&plaintexts).unwrap()]).unwrap();
        prop_assert_eq!(&next, &expected);
    }

    #[test]
    fn ciphertexts_of_any_degree_decrypt(power in 1_usize..=4, seed: u64) {
        let params = toy(32, 12_289, &[47, 46]);
        let encoder = SlotEncoder::new(&params).unwrap();
        let mut rng = generator(seed);
        let key = SecretKey::generate(&params, &mut rng);
        let values: Vec<i64> = (0..32).map(|_| i64::from(rng.next_u32() % 12_289)).collect();
        let plaintext = encoder.encode(&values).unwrap();
        let block = BlockEncryptor::new(&key, &mut rng).encrypt_next(&[plaintext]).unwrap();
        let raised = block_of(&params, power, &power_words(&block, power));
        let message = Decryptor::new(&key).decrypt(&raised, 0).unwrap();
        let decoded = encoder.decode_from(&message, 0).unwrap();
        for (&actual, &x) in decoded.iter().zip(&values) {
            let expected = (0..power).fold(1, |y, _| y * x % 12_289);
            prop_assert_eq!(actual, expected);
        }
    }

    /// The centred lift of two residues is the integer itself, at the ends of its range too.
    #[test]
    fn wrong_keys_and_random_words_decrypt_without_panicking(seed: u64, degree in 1_usize..=15) {
        let params = toy(32, 12_289, &[47, 46, 11]);
        let mut rng = generator(seed);
        let key = SecretKey::generate(&params, &mut rng);
        let block = block_of(&params, degree, &random_words(&params, 1, degree, &mut rng));
        for n_moduli in 1..=3 {
            let block = block.mod_switch_to(n_moduli).unwrap();
            let message = Decryptor::new(&key).decrypt(&block, 0).unwrap();
            let decoded = SlotEncoder::new(&params).unwrap().decode_from(&message, 0).unwrap();
            prop_assert!(decoded.iter().all(|x| (0..12_289).contains(x)));
        }
    }
}

/// Blocks, keys and indices are never mixed up silently.
#[test]
fn misuse_is_an_error() {
    let params = toy(32, 12_289, &[30]);
    let other = toy(32, 65_537, &[30]);
    let key = SecretKey::generate(&params, &mut generator(1));
    let mut encryptor = BlockEncryptor::new(&key, &mut generator(2));
    let refused = encryptor.encrypt_next(&plaintexts(&other, 1));
    assert!(matches!(refused, Err(Error::ParamsMismatch { .. })));
    let block = encryptor.encrypt_next(&plaintexts(&params, 2)).unwrap();
    let decryptor = Decryptor::new(&key);
    assert!(matches!(decryptor.decrypt(&block, 2), Err(Error::Index { index: 2, count: 2, .. })));
    let other_key = SecretKey::generate(&other, &mut generator(1));
    let refused = Decryptor::new(&other_key).decrypt(&block, 0);
    assert!(matches!(refused, Err(Error::ParamsMismatch { .. })));
    assert!(CiphertextBlock::zeros(&params, 1, 0, 1).is_err());
    assert!(CiphertextBlock::zeros(&params, 1, 16, 1).is_err());
    assert!(CiphertextBlock::zeros(&params, 1, 1, 0).is_err());
    assert!(CiphertextBlock::zeros(&params, 1, 1, 2).is_err());
    assert!(matches!(
        CiphertextBlock::zeros(&params, usize::MAX / 2, 1, 1),
        Err(Error::Index { .. })
    ));
}

/// Two keys from two seeds differ, two from one seed agree, and printing a key prints no words.
#[test]
fn keys_compare_and_print_without_leaking() {
    let params = toy(64, 12_289, &[30]);
    let key = |seed| SecretKey::generate(&params, &mut generator(seed));
    assert!(key(1) == key(1));
    assert!(key(1) != key(2));
    let printed = format!("{:?}", key(1));
    assert!(printed.contains("SecretKey") && printed.ends_with(".. }"), "{printed}");
    let plaintext = SlotEncoder::new(&params).unwrap().encode(&[7; 64]).unwrap();
    assert!(!format!("{plaintext:?}").contains('7'.to_string().repeat(2).as_str()));
    let key = key(1);
    let encryptor = BlockEncryptor::new(&key, &mut generator(2));
    assert!(format!("{encryptor:?}").contains("[secret]"));
}

/// Seeds of two encryptors of one key differ, so no (key, seed, index) repeats.
#[test]
fn every_encryptor_draws_its_own_seed() {
    let params = Params::new(ParamsSpec::with_bits(2048, 65_537, &[30]).unwrap()).unwrap();
    let mut rng = generator(9);
    let key = SecretKey::generate(&params, &mut rng);
    let seeds: HashSet<PublicSeed> =
        (0..100).map(|_| BlockEncryptor::new(&key, &mut rng).seed()).collect();
    assert_eq!(seeds.len(), 100);
    let plaintext = plaintexts(&params, 1);
    let mut first = BlockEncryptor::new(&key, &mut rng);
    let polynomials: HashSet<Vec<u64>> =
        (0..50).map(|_| first.encrypt_next(&plaintext).unwrap().limb(0)[2048..].to_vec()).collect();
    assert_eq!(polynomials.len(), 50, "every c_1 is new");
}
