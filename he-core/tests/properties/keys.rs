//! Bytes of public and evaluation keys from strangers: one encoding each, of one set of parameters.

use std::mem::size_of;

use crate::reference::pack;
use crate::switching::{Round, params};
use crate::{cases, generator};
use he_core::{Error, EvaluationKeys, KeySet, Params, ParamsSpec, PublicKey, SecretKey};
use proptest::prelude::*;

const N: usize = 32;
/// Version, kind and digest of the parameters.
const HEADER: usize = 34;
const SEED: usize = 32;

/// Two ciphertext moduli of different sizes and a special one.
fn small() -> Params {
    params(N, 13, &[41, 30], &[47])
}

fn keys(params: &Params, set: &KeySet) -> EvaluationKeys {
    let key = SecretKey::generate(params, &mut generator(1));
    EvaluationKeys::generate(&key, set, &mut generator(2)).unwrap()
}

fn three() -> KeySet {
    KeySet::new().with_relinearization().with_rotation(1).with_row_swap()
}

fn public(params: &Params) -> PublicKey {
    PublicKey::generate(&SecretKey::generate(params, &mut generator(1)), &mut generator(3))
}

/// Moduli of a key's limbs, special ones last.
fn limbs(params: &Params) -> Vec<u64> {
    [params.moduli(), params.special_moduli()].concat()
}

/// Bytes of one packed limb.
fn limb_bytes(q: u64) -> usize {
    pack(&[0; N], q).len()
}

proptest! {
    #![proptest_config(cases(256))]

    /// Altered keys are refused, or they are other keys with just these bytes: nothing is read that would
    /// not be written again, and a cut or longer file is no key.
    #[test]
    fn altered_keys_are_refused_or_canonical(
        is_public: bool,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        length in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let params = small();
        let good = if is_public { public(&params).to_bytes() } else { keys(&params, &three()).to_bytes() };
        let mut bytes = good.clone();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(length) = length {
            bytes.resize(length.index(good.len() + 50), 0);
        }
        let again = if is_public {
            PublicKey::from_bytes(&params, &bytes).map(|key| key.to_bytes())
        } else {
            EvaluationKeys::from_bytes(&params, 3, &bytes).map(|keys| keys.to_bytes())
        };
        if let Ok(again) = again {
            prop_assert_eq!(again.len(), good.len());
            prop_assert_eq!(again, bytes);
        }
    }

    /// No bytes at all make a reader panic.
    #[test]
    fn arbitrary_bytes_are_no_keys(
        bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0_u8..4, max_keys in 0_usize..5,
    ) {
        let params = small();
        // Behind a right header as well.
        let headed = [&[1, kind], &params.digest()[..], &bytes].concat();
        for bytes in [&bytes, &headed] {
            prop_assert!(PublicKey::from_bytes(&params, bytes).is_err());
            let read = EvaluationKeys::from_bytes(&params, max_keys, bytes);
            prop_assert!(read.is_err() || read.is_ok_and(|keys| keys.count() == 0));
        }
    }
}

/// One residue at its modulus or above, in every limb of every digit of every key.
#[test]
fn residues_out_of_range_are_refused_wherever_they_stand() {
    let params = small();
    let limbs = limbs(&params);
    let polynomial: usize = limbs.iter().map(|&q| limb_bytes(q)).sum();
    let check = |good: &[u8],
                 first: usize,
                 n_polynomials: usize,
                 per_key: usize,
                 read: &dyn Fn(&[u8]) -> Option<Error>| {
        assert!(read(good).is_none());
        let mut n_places = 0;
        for number in 0..n_polynomials {
            let key_start = first + number / per_key * (SEED + per_key * polynomial) + SEED;
            let mut start = key_start + number % per_key * polynomial;
            for &q in &limbs {
                let mut words = [0; N];
                words[(number * 7 + n_places) % N] = q;
                let mut bytes = good.to_vec();
                bytes[start..start + limb_bytes(q)].copy_from_slice(&pack(&words, q));
                assert_eq!(read(&bytes), Some(Error::KeyResidue { modulus: q }), "{number}");
                words.fill(q - 1);
                bytes[start..start + limb_bytes(q)].copy_from_slice(&pack(&words, q));
                assert_eq!(read(&bytes), None, "the largest residue");
                start += limb_bytes(q);
                n_places += 1;
            }
        }
        assert_eq!(first + n_polynomials / per_key * (SEED + per_key * polynomial), good.len());
        n_places
    };
    let evaluation = keys(&params, &three()).to_bytes();
    // One digit per ciphertext modulus; flag, count and two exponents stand before the first seed.
    let first = HEADER + 1 + 2 * size_of::<u32>() + size_of::<u32>();
    let read = |bytes: &[u8]| EvaluationKeys::from_bytes(&params, 3, bytes).err();
    assert_eq!(check(&evaluation, first, 6, 2, &read), 18);
    let read = |bytes: &[u8]| PublicKey::from_bytes(&params, bytes).err();
    assert_eq!(check(&public(&params).to_bytes(), HEADER, 1, 1, &read), 3);
}

/// Parameters that differ in one number only, some with files of the same length.
#[test]
fn keys_of_other_parameters_are_refused() {
    let params = small();
    let special = |spec: ParamsSpec, bits: &[u32]| {
        let special = spec.further_primes(bits).unwrap();
        Params::insecure_with_special_moduli(spec, special).unwrap()
    };
    let t = params.plaintext_modulus();
    let other_t = ParamsSpec::smallest_slot_modulus(N, u64::try_from(t).unwrap() + 1).unwrap();
    let spec = |n, t, bits: &[u32]| ParamsSpec::with_bits(n, t, bits).unwrap();
    let others = [
        ("plaintext modulus", special(spec(N, other_t.into(), &[41, 30]), &[47])),
        ("ring degree", special(spec(2 * N, t, &[41, 30]), &[47])),
        ("order of moduli", special(spec(N, t, &[30, 41]), &[47])),
        ("number of moduli", special(spec(N, t, &[41]), &[47])),
        ("special modulus", special(spec(N, t, &[41, 30]), &[46])),
        ("number of special moduli", special(spec(N, t, &[41, 30]), &[47, 47])),
    ];
    for (what, other) in others {
        assert_ne!(params, other, "{what}");
        let evaluation = keys(&other, &three()).to_bytes();
        let refused = EvaluationKeys::from_bytes(&params, 9, &evaluation);
        assert!(matches!(refused, Err(Error::ParamsMismatch { .. })), "{what}");
        let refused = PublicKey::from_bytes(&params, &public(&other).to_bytes());
        assert!(matches!(refused, Err(Error::ParamsMismatch { .. })), "{what}");
        // Under the right digest they are of another length, or other keys that decrypt nothing.
        let mut relabeled = evaluation;
        relabeled[2..HEADER].copy_from_slice(&params.digest());
        let read = EvaluationKeys::from_bytes(&params, 9, &relabeled);
        let same_length = relabeled.len() == keys(&params, &three()).to_bytes().len();
        assert!(same_length || matches!(read, Err(Error::MalformedKey { .. })), "{what}");
    }
}

/// Lists of rotations have one form, and what is not in them is named when it is missed.
#[test]
fn lists_of_rotations_are_ascending_odd_and_complete() {
    let params = small();
    let all = KeySet::new().with_rotation(1).with_rotation(2).with_row_swap();
    let good = keys(&params, &all).to_bytes();
    let list = HEADER + 5..HEADER + 5 + 3 * size_of::<u32>();
    let exponents: Vec<u32> = good[list.clone()]
        .chunks(4)
        .map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    assert_eq!(exponents, [3, 9, 63], "powers of three, and 2N - 1");
    let read = |exponents: [u32; 3]| {
        let mut bytes = good.clone();
        let written: Vec<u8> = exponents.iter().flat_map(|g| g.to_le_bytes()).collect();
        bytes[list.clone()].copy_from_slice(&written);
        EvaluationKeys::from_bytes(&params, 3, &bytes)
    };
    assert!(read([3, 9, 63]).is_ok());
    for wrong in [
        [3, 3, 63],
        [9, 3, 63],
        [3, 9, 9],
        [1, 9, 63],
        [3, 10, 63],
        [3, 9, 65],
        [3, 9, u32::MAX],
        [0, 9, 63],
    ] {
        assert!(matches!(read(wrong), Err(Error::MalformedKey { .. })), "{wrong:?}");
    }
    // A key more than announced, or one less.
    for count in [2_u32, 4] {
        let mut bytes = good.clone();
        bytes[HEADER + 1..HEADER + 5].copy_from_slice(&count.to_le_bytes());
        let refused = EvaluationKeys::from_bytes(&params, 9, &bytes);
        assert!(matches!(refused, Err(Error::MalformedKey { .. })), "{count}");
    }
    // Without the rotation by two: read, and missed by name when it is needed.
    let round = Round::new(params.clone(), &KeySet::new().with_rotation(1), 1);
    let fewer = EvaluationKeys::from_bytes(&params, 1, &round.keys.to_bytes()).unwrap();
    let block = round.encrypt(&[vec![1; N]], 2);
    assert!(block.rotate_rows(1, &fewer).is_ok());
    let missed = block.rotate_rows(2, &fewer).unwrap_err();
    assert!(missed.to_string().contains("rotation of rows by 2"), "{missed}");
}

/// What a file claims is compared with its length before anything is made of it: a claim of the most keys
/// there can be costs nothing (counted in the kit's test of memory).
#[test]
fn claims_beyond_the_file_are_refused_at_once() {
    let params = small();
    let good = keys(&params, &three()).to_bytes();
    for count in [3_u32, 1 << 16, u32::MAX - 1, u32::MAX] {
        let mut bytes = good.clone();
        bytes[HEADER + 1..HEADER + 5].copy_from_slice(&count.to_le_bytes());
        for max_keys in [3, usize::MAX] {
            let refused = EvaluationKeys::from_bytes(&params, max_keys, &bytes);
            assert!(matches!(refused, Err(Error::MalformedKey { .. })), "{count} {max_keys}");
        }
    }
}
