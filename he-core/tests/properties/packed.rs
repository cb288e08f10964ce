//! The one-pass operations on packed ciphertexts equal their separate steps, byte for byte.

use crate::{
    cases, generator,
    reference::{block_of, random_words},
    ring_degrees, toy,
};
use he_core::{
    BlockEncryptor, CiphertextBlock, CoefficientEncoder, Decryptor, Encoder, Error, LinearMap,
    Params, ParamsSpec, SecretKey, SlotEncoder, WordCheck, bytes,
};
use proptest::prelude::*;
use rand::Rng;

const N_INPUTS: usize = 19;

/// An encoder of each kind over one to three primes.
fn encoder(n: usize, kind: usize) -> Encoder {
    let coefficients = |bits: &[u32], radix: u32, k: usize| {
        let params = toy(n, 1 << (radix as usize * k), bits);
        Encoder::Coefficients(CoefficientEncoder::new(&params, radix, k).unwrap())
    };
    let slots = |log2_t: u32, bits: &[u32]| {
        let t = ParamsSpec::smallest_slot_modulus(n, 1 << log2_t).unwrap();
        Encoder::Slots(SlotEncoder::new(&toy(n, t.into(), bits)).unwrap())
    };
    match kind {
        0 => slots(16, &[30]),
        1 => slots(26, &[46, 47]),
        2 => slots(13, &[25]),
        3 => slots(40, &[47, 46, 45]),
        4 => coefficients(&[30], 14, 1),
        5 => coefficients(&[47], 15, 2),
        6 => coefficients(&[47, 46], 16, 5),
        7 => coefficients(&[47, 46], 46, 2),
        8 => coefficients(&[47, 46], 31, 3),
        _ => coefficients(&[46, 47], 20, 3),
    }
}

fn params(encoder: &Encoder) -> Params {
    let values = vec![0; encoder.value_count()];
    encoder.encode(&values).unwrap().params().clone()
}

/// Values that fit, the largest among them.
fn values(encoder: &Encoder, seed: u64) -> Vec<i64> {
    let mut rng = generator(seed);
    let max = match encoder {
        Encoder::Slots(_) => i64::MAX,
        Encoder::Coefficients(_) => {
            let k = encoder.value_count() / params(encoder).ring_degree();
            (1 << (params(encoder).plaintext_modulus().ilog2() as usize / k)) - 1
        }
    };
    (0..encoder.value_count())
        .map(|_| match rng.random_range(0..4) {
            0 => max,
            1 => -max,
            _ => rng.random_range(-max..=max),
        })
        .collect()
}

fn dense(n_out: usize, n_in: usize, seed: u64) -> LinearMap {
    let mut rng = generator(seed);
    let weights: Vec<i32> = (0..n_in * n_out).map(|_| rng.random_range(-99..=99)).collect();
    LinearMap::dense(n_out, n_in, &weights, &vec![-5; n_out]).unwrap()
}

proptest! {
    #![proptest_config(cases(48))]

    /// Same generator, same bytes: in one pass or in steps, with a check or without, however the
    /// block is cut; and the check accepts the honest reply to it and no other.
    #[test]
    fn requests_in_one_pass_are_those_of_the_steps(
        n in ring_degrees(), kind in 0_usize..10, cut in 0..=N_INPUTS, checked: bool, seed: u64,
    ) {
        let encoder = encoder(n, kind);
        let params = params(&encoder);
        let key = SecretKey::generate(&params, &mut generator(seed));
        let rows: Vec<_> = (0..N_INPUTS as u64).map(|i| values(&encoder, seed ^ i)).collect();
        let plaintexts: Vec<_> = rows.iter().map(|row| encoder.encode(row).unwrap()).collect();
        let mut steps = BlockEncryptor::new(&key, &mut generator(!seed));
        let block = steps.encrypt_next(&plaintexts).unwrap();
        let mut expected = Vec::new();
        bytes::write_request(&block, &mut expected);

        let map = dense(4, N_INPUTS, seed);
        let mut check = WordCheck::new(&map, &params, 2, &mut generator(seed + 1)).unwrap();
        let mut encryptor = BlockEncryptor::new(&key, &mut generator(!seed));
        prop_assert_eq!(encryptor.seed(), steps.seed());
        let mut out = vec![0xAB; expected.len()];
        let (first, second) = out.split_at_mut(cut * bytes::request_bytes(&params));
        for part in [first, second] {
            let fill = |i: usize, row: &mut [i64]| {
                assert!(row.iter().all(|&x| x == 0), "rows arrive zeroed");
                row.copy_from_slice(&rows[i]);
                Ok::<(), Error>(())
            };
            let check = checked.then_some(&mut check);
            encryptor.encrypt_packed(&encoder, check, fill, part).unwrap();
        }
        prop_assert!(out == expected);
        if !checked {
            return Ok(());
        }
        let honest = map.apply(&block).unwrap();
        let mut reply = Vec::new();
        bytes::write_reply(&honest, &mut reply);
        let size = bytes::reply_bytes(&params, 1, params.moduli().len());
        // Received up to some point, then again from the start.
        let again = cut % 4;
        check.absorb_reply_bytes(0, &reply[..again * size]).unwrap();
        check.restart_replies();
        check.absorb_reply_bytes(again, &reply[again * size..]).unwrap();
        check.absorb_reply_bytes(0, &reply[..again * size]).unwrap();
        prop_assert_eq!(check.finish(), Ok(()));
    }

    #[test]
    fn replies_in_one_pass_are_those_of_the_steps(
        n in ring_degrees(), kind in 0_usize..10, degree in 1_usize..=4, fewer in 0_usize..3,
        fraction in -1.0..=1.0_f64, squared: bool, seed: u64,
    ) {
        let encoder = encoder(n, kind);
        let params = params(&encoder);
        let key = SecretKey::generate(&params, &mut generator(seed));
        let n_moduli = params.moduli().len().saturating_sub(fewer).max(1);
        let mut words = random_words(&params, 5, degree, &mut generator(!seed));
        words.truncate(n_moduli);
        let mut block = block_of(&params, degree, &words);
        if squared {
            // Products multiply plaintext factors, which the form says.
            block = block.square().unwrap();
        }
        let mut reply = Vec::new();
        bytes::write_reply(&block, &mut reply);
        let k = encoder.value_count() / n;
        let modulus = match &encoder {
            Encoder::Slots(_) => params.plaintext_modulus(),
            Encoder::Coefficients(_) => 1 << (params.plaintext_modulus().ilog2() as usize / k),
        };
        let low = (fraction * modulus as f64) as i64;
        let decryptor = Decryptor::new(&key);
        let mut out = vec![7; 5 * encoder.value_count()];
        decryptor.decrypt_packed(&encoder, &block, low, &reply, &mut out).unwrap();
        for (i, row) in out.chunks(encoder.value_count()).enumerate() {
            let message = decryptor.decrypt(&block, i).unwrap();
            let expected = encoder.decode_from(&message, low).unwrap();
            prop_assert_eq!(row, &expected[..]);
        }
    }

    /// Hostile bytes meet the same error wherever they are read.
    #[test]
    fn damaged_replies_are_refused_alike(
        kind in prop::sample::select(vec![0_usize, 1, 3, 5, 6]),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..3),
        length in -2_i32..=2,
        seed: u64,
    ) {
        let encoder = encoder(64, kind);
        let params = params(&encoder);
        let n_moduli = params.moduli().len();
        let key = SecretKey::generate(&params, &mut generator(seed));
        let words = random_words(&params, 11, 1, &mut generator(!seed));
        let mut reply = Vec::new();
        bytes::write_reply(&block_of(&params, 1, &words), &mut reply);
        for (index, value) in &damage {
            let index = index.index(reply.len());
            reply[index] = *value;
        }
        reply.resize(reply.len().saturating_add_signed(length as isize), 0xFF);
        let mut block = CiphertextBlock::zeros(&params, 11, 1, n_moduli).unwrap();
        let read = bytes::read_reply_into(&mut block, 0, &reply);
        let mut out = vec![0; 11 * encoder.value_count()];
        let decryptor = Decryptor::new(&key);
        let opened = decryptor.decrypt_packed(&encoder, &block, 0, &reply, &mut out);
        let map = dense(11, 2, seed);
        let mut check = WordCheck::new(&map, &params, 1, &mut generator(seed)).unwrap();
        let checked = check.absorb_reply_bytes(0, &reply);
        // With several damaged ciphertexts any of them may be named.
        let kind = |result: Result<(), Error>| match result {
            Err(Error::Residue { modulus, .. }) => Err(modulus),
            Err(Error::Malformed { .. }) => Err(0),
            Ok(()) => Ok(()),
            Err(other) => panic!("{other}"),
        };
        let (read, opened, checked) = (kind(read), kind(opened), kind(checked));
        prop_assert_eq!(read.is_ok(), opened.is_ok());
        prop_assert_eq!(read.is_ok(), checked.is_ok());
        prop_assert_eq!(read == Err(0), opened == Err(0));
        prop_assert_eq!(read == Err(0), checked == Err(0));
        prop_assert_eq!(length != 0, read == Err(0));
    }
}

#[test]
fn a_damaged_ciphertext_is_named() {
    let encoder = encoder(64, 1);
    let params = params(&encoder);
    let key = SecretKey::generate(&params, &mut generator(1));
    let words = random_words(&params, 20, 1, &mut generator(2));
    let mut reply = Vec::new();
    bytes::write_reply(&block_of(&params, 1, &words), &mut reply);
    let size = bytes::reply_bytes(&params, 1, 2);
    reply[13 * size..14 * size].fill(0xFF);
    let expected = Error::Residue { ciphertext: 13, modulus: params.moduli()[0] };
    let mut out = vec![0; 20 * 64];
    let decryptor = Decryptor::new(&key);
    let form = CiphertextBlock::zeros(&params, 0, 1, 2).unwrap();
    let refused = decryptor.decrypt_packed(&encoder, &form, 0, &reply, &mut out).unwrap_err();
    assert_eq!(refused, expected);
    let mut check = WordCheck::new(&dense(20, 1, 1), &params, 1, &mut generator(3)).unwrap();
    assert_eq!(check.absorb_reply_bytes(0, &reply).unwrap_err(), expected);
    assert_eq!(
        refused.offset_by(100),
        Error::Residue { ciphertext: 113, modulus: params.moduli()[0] }
    );
}

/// One encryptor and one decryptor serve different encoders, with and without a check.
#[test]
fn scratch_takes_the_size_it_needs() {
    let t = ParamsSpec::smallest_slot_modulus(64, 1 << 14).unwrap();
    let params = toy(64, t.into(), &[46, 47]);
    let encoder = Encoder::Slots(SlotEncoder::new(&params).unwrap());
    let key = SecretKey::generate(&params, &mut generator(1));
    let size = bytes::request_bytes(&params);
    let fill = |i: usize, row: &mut [i64]| {
        row.fill(i as i64);
        Ok::<(), Error>(())
    };
    let map = dense(2, 30, 1);
    let run = |checks: [bool; 3]| {
        let mut check = WordCheck::new(&map, &params, 2, &mut generator(2)).unwrap();
        let mut encryptor = BlockEncryptor::new(&key, &mut generator(3));
        let mut out = vec![0; 30 * size];
        for (part, checked) in out.chunks_mut(10 * size).zip(checks) {
            let check = checked.then_some(&mut check);
            encryptor.encrypt_packed(&encoder, check, fill, part).unwrap();
        }
        out
    };
    assert_eq!(run([true, false, true]), run([false, true, false]));
}

#[test]
fn misuse_is_an_error() {
    let encoder = encoder(64, 5);
    let params = params(&encoder);
    let other = self::encoder(64, 0);
    let key = SecretKey::generate(&params, &mut generator(1));
    let mut encryptor = BlockEncryptor::new(&key, &mut generator(2));
    let size = bytes::request_bytes(&params);
    let zeros = |_: usize, _: &mut [i64]| Ok::<(), Error>(());
    let mut out = vec![0; 2 * size];
    let refused = encryptor.encrypt_packed(&other, None, zeros, &mut out);
    assert!(matches!(refused, Err(Error::ParamsMismatch { .. })));
    let refused = encryptor.encrypt_packed(&encoder, None, zeros, &mut out[1..]);
    assert!(matches!(refused, Err(Error::Malformed { .. })));
    let large = |_: usize, row: &mut [i64]| {
        row[3] = 1 << 15;
        Ok::<(), Error>(())
    };
    let refused = encryptor.encrypt_packed(&encoder, None, large, &mut out);
    assert!(matches!(refused, Err(Error::PlaintextRange { .. })));
    let map = dense(2, 3, 1);
    let mut check = WordCheck::new(&map, &params, 1, &mut generator(2)).unwrap();
    let mut encryptor = BlockEncryptor::new(&key, &mut generator(2));
    encryptor.encrypt_packed(&encoder, Some(&mut check), zeros, &mut out).unwrap();
    let refused = encryptor.encrypt_packed(&encoder, Some(&mut check), zeros, &mut out);
    assert!(matches!(refused, Err(Error::Index { .. })), "more inputs than the map has");
    let mut again = BlockEncryptor::new(&key, &mut generator(2));
    let refused = again.encrypt_packed(&encoder, Some(&mut check), zeros, &mut out);
    assert!(matches!(refused, Err(Error::Length { .. })), "an input twice");
    assert!(matches!(check.finish(), Err(Error::Length { expected: 3, actual: 2, .. })));

    let decryptor = Decryptor::new(&key);
    let reply = vec![0; bytes::reply_bytes(&params, 1, 1)];
    let mut rows = vec![0; encoder.value_count()];
    let form = CiphertextBlock::zeros(&params, 0, 1, 1).unwrap();
    let squared = form.square().unwrap();
    let foreign = CiphertextBlock::zeros(&self::params(&other), 0, 1, 1).unwrap();
    let mut open = |encoder: &Encoder, form: &CiphertextBlock, low, len: usize| {
        decryptor.decrypt_packed(encoder, form, low, &reply, &mut rows[..len])
    };
    assert_eq!(open(&encoder, &form, 0, 128), Ok(()));
    assert!(matches!(open(&other, &form, 0, 128), Err(Error::ParamsMismatch { .. })));
    assert!(matches!(open(&encoder, &foreign, 0, 128), Err(Error::ParamsMismatch { .. })));
    assert!(matches!(open(&encoder, &form, 1 << 40, 128), Err(Error::Value { .. })));
    assert!(matches!(open(&encoder, &form, 0, 127), Err(Error::Malformed { .. })));
    assert!(matches!(open(&encoder, &squared, 0, 128), Err(Error::Malformed { .. })));
}
