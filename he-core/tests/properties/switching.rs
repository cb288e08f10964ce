//! Public keys, relinearisation and rotations: every slot equals plain arithmetic modulo t.

use crate::{cases, generator, toy};
use he_core::{
    BlockEncryptor, CiphertextBlock, Decryptor, Error, EvaluationKeys, KeySet, Params, ParamsSpec,
    PublicKey, RowEncoder, SecretKey,
};
use proptest::prelude::*;
use rand::RngCore;

/// Toy parameters with slots modulo a prime of at least `2^log2_t`.
pub(crate) fn params(n: usize, log2_t: u32, bits: &[u32], special: &[u32]) -> Params {
    let t = ParamsSpec::smallest_slot_modulus(n, 1 << log2_t).unwrap();
    let spec = ParamsSpec::with_bits(n, t.into(), bits).unwrap();
    let special = spec.further_primes(special).unwrap();
    Params::insecure_with_special_moduli(spec, special).unwrap()
}

/// A key holder with evaluation keys.
pub(crate) struct Round {
    params: Params,
    encoder: RowEncoder,
    key: SecretKey,
    pub(crate) keys: EvaluationKeys,
    t: i128,
}

impl Round {
    pub(crate) fn new(params: Params, set: &KeySet, seed: u64) -> Self {
        let key = SecretKey::generate(&params, &mut generator(seed));
        let keys = EvaluationKeys::generate(&key, set, &mut generator(!seed)).unwrap();
        let encoder = RowEncoder::new(&params).unwrap();
        let t = params.plaintext_modulus().cast_signed();
        Self { params, encoder, key, keys, t }
    }

    pub(crate) fn values(&self, seed: u64) -> Vec<i64> {
        let mut rng = generator(seed);
        // Saturated values among random ones.
        let t = self.t as i64;
        (0..self.encoder.slot_count())
            .map(|i| match i % 5 {
                0 => [0, 1, -1, t / 2, t / 2 + 1][i / 5 % 5],
                _ => rng.next_u64().cast_signed(),
            })
            .collect()
    }

    pub(crate) fn encrypt(&self, planes: &[Vec<i64>], seed: u64) -> CiphertextBlock {
        let plaintexts: Vec<_> = planes.iter().map(|p| self.encoder.encode(p).unwrap()).collect();
        BlockEncryptor::new(&self.key, &mut generator(seed)).encrypt_next(&plaintexts).unwrap()
    }

    pub(crate) fn check(
        &self,
        block: &CiphertextBlock,
        index: usize,
        expected: impl Fn(usize) -> i128,
    ) {
        let message = Decryptor::new(&self.key).decrypt(block, index).unwrap();
        let decoded = self.encoder.decode_from(&message, 0).unwrap();
        for (slot, &actual) in decoded.iter().enumerate() {
            assert_eq!(i128::from(actual), expected(slot).rem_euclid(self.t), "slot {slot}");
        }
    }

    pub(crate) fn residue(&self, x: i64) -> i128 {
        i128::from(x).rem_euclid(self.t)
    }

    /// Slot that `slot` shows after a rotation to the left and perhaps a swap.
    pub(crate) fn source(&self, slot: usize, steps: i64, swap: bool) -> usize {
        let columns = self.encoder.columns();
        let (row, column) = (slot / columns, slot % columns);
        let row = if swap { 1 - row } else { row };
        let column = (column as i64 + steps).rem_euclid(columns as i64) as usize;
        row * columns + column
    }
}

/// Moduli and special moduli: one modulus per digit, groups of two and of three with a last one cut
/// short, special moduli no larger than the others, and a single modulus.
fn shapes() -> impl Strategy<Value = (Vec<u32>, Vec<u32>)> {
    prop::sample::select(vec![
        (vec![41, 41, 41, 41], vec![47]),
        (vec![47, 40, 47, 40, 46], vec![47, 47]),
        (vec![40, 40, 40, 40], vec![47, 47, 46]),
        (vec![47, 47, 47, 47], vec![47]),
        (vec![47], vec![47]),
    ])
}

proptest! {
    #![proptest_config(cases(24))]

    /// At every level that leaves room, with equal words from both ways.
    #[test]
    fn relinearised_products_equal_plain_products(
        (bits, special) in shapes(),
        log2_t in prop::sample::select(vec![13_u32, 16]),
        seed: u64,
    ) {
        prop_assume!(bits.len() > 1);
        let set = KeySet::new().with_relinearization();
        let round = Round::new(params(64, log2_t, &bits, &special), &set, seed);
        let planes: Vec<_> = (0..4).map(|i| round.values(seed ^ i)).collect();
        let (mut a, mut b) = (round.encrypt(&planes[..2], seed), round.encrypt(&planes[2..], !seed));
        loop {
            let degree_2 = a.multiply(&b).unwrap();
            let product = degree_2.relinearize(&round.keys).unwrap();
            prop_assert_eq!(product.degree(), 1);
            prop_assert_eq!(&a.multiply_relinearized(&b, &round.keys).unwrap(), &product);
            for index in 0..2 {
                let plain = |i: usize| round.residue(planes[index][i]) * round.residue(planes[index + 2][i]);
                round.check(&product, index, plain);
                if product.n_moduli() > 1 {
                    round.check(&product.mod_switch_down().unwrap(), index, plain);
                }
            }
            if a.n_moduli() == 2 {
                break;
            }
            (a, b) = (a.mod_switch_down().unwrap(), b.mod_switch_down().unwrap());
        }
    }

    #[test]
    fn public_keys_encrypt(
        (bits, special) in shapes(),
        with_special: bool,
        log2_t in prop::sample::select(vec![13_u32, 20, 30]),
        seed: u64,
    ) {
        let special = if with_special { special } else { vec![] };
        let params = params(64, log2_t, &bits, &special);
        let key = SecretKey::generate(&params, &mut generator(seed));
        let public = PublicKey::generate(&key, &mut generator(!seed));
        let public = PublicKey::from_bytes(&params, &public.to_bytes()).unwrap();
        let encoder = RowEncoder::new(&params).unwrap();
        let planes: Vec<Vec<i64>> = (0..2).map(|k| (0..64).map(|i| (seed as i64 >> k) - i).collect()).collect();
        let plaintexts: Vec<_> = planes.iter().map(|p| encoder.encode(p).unwrap()).collect();
        let block = public.encrypt(&plaintexts, &mut generator(seed ^ 7)).unwrap();
        let again = public.encrypt(&plaintexts, &mut generator(seed ^ 8)).unwrap();
        prop_assert_ne!(&block, &again);
        let t = params.plaintext_modulus().cast_signed();
        for (index, plane) in planes.iter().enumerate() {
            let message = Decryptor::new(&key).decrypt(&block, index).unwrap();
            let decoded = encoder.decode_from(&message, 0).unwrap();
            for (&actual, &value) in decoded.iter().zip(plane) {
                prop_assert_eq!(i128::from(actual), i128::from(value).rem_euclid(t));
            }
        }
    }

    #[test]
    fn slot_sums_reach_every_slot((bits, special) in shapes(), seed: u64) {
        let set = KeySet::new().with_slot_sum();
        let round = Round::new(params(32, 13, &bits, &special), &set, seed);
        let values = round.values(seed);
        let block = round.encrypt(std::slice::from_ref(&values), seed);
        let total: i128 = values.iter().map(|&x| round.residue(x)).sum();
        round.check(&block.sum_slots(&round.keys).unwrap(), 0, |_| total);
    }

    /// What is written is read back, and works.
    #[test]
    fn keys_round_trip((bits, special) in shapes(), relinearization: bool, seed: u64) {
        let mut set = KeySet::new().with_rotation(3).with_rotation(-1).with_row_swap();
        if relinearization {
            set = set.with_relinearization();
        }
        let round = Round::new(params(32, 13, &bits, &special), &set, seed);
        let bytes = round.keys.to_bytes();
        let count = round.keys.count();
        prop_assert_eq!(count, set.count(32));
        prop_assert_eq!(bytes.len(), EvaluationKeys::byte_len(&round.params, count, 3));
        let read = EvaluationKeys::from_bytes(&round.params, count, &bytes).unwrap();
        prop_assert_eq!(read.to_bytes(), bytes);
        let values = round.values(seed);
        let block = round.encrypt(std::slice::from_ref(&values), seed);
        let rotated = block.rotate_rows(3, &read).unwrap();
        prop_assert_eq!(&rotated, &block.rotate_rows(3, &round.keys).unwrap());
        round.check(&rotated, 0, |slot| round.residue(values[round.source(slot, 3, false)]));
    }
}

/// Every rotation of a ring, both swaps, at every level, with grouped and single digits.
#[test]
fn all_rotations_move_all_slots() {
    for (bits, special) in [(vec![41, 41, 41], vec![47]), (vec![41, 41, 41], vec![47, 46])] {
        let columns = 16_i64;
        let set = (-columns..=columns).fold(KeySet::new().with_row_swap(), KeySet::with_rotation);
        let round = Round::new(params(32, 16, &bits, &special), &set, 3);
        // Rotations by whole rows need no key, and opposite ones share theirs.
        assert_eq!(round.keys.count(), 16);
        let values = round.values(9);
        let mut block = round.encrypt(std::slice::from_ref(&values), 4);
        loop {
            for steps in -columns..=columns {
                let rotated = block.rotate_rows(steps, &round.keys).unwrap();
                round.check(&rotated, 0, |s| round.residue(values[round.source(s, steps, false)]));
            }
            let swapped = block.swap_rows(&round.keys).unwrap();
            round.check(&swapped, 0, |s| round.residue(values[round.source(s, 0, true)]));
            let Ok(next) = block.mod_switch_down() else { break };
            block = next;
        }
    }
}

#[test]
fn missing_keys_are_named() {
    let none = Round::new(params(32, 13, &[41, 41], &[47]), &KeySet::new(), 1);
    let block = none.encrypt(&[vec![1; 32]], 2);
    assert_eq!(none.keys.count(), 0);
    assert_eq!(block.rotate_rows(0, &none.keys).unwrap(), block);
    assert_eq!(block.rotate_rows(-16, &none.keys).unwrap(), block);
    let check = |result: he_core::Result<CiphertextBlock>, wanted: &str| {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::MissingKey { .. }), "{error}");
        assert!(error.to_string().contains(wanted), "{error}");
    };
    check(block.rotate_rows(5, &none.keys), "rotation of rows by 5 (or -11)");
    check(block.rotate_rows(-3, &none.keys), "rotation of rows by 13 (or -3)");
    check(block.swap_rows(&none.keys), "the swap of rows");
    check(block.sum_slots(&none.keys), "rotation of rows by 1 (or -15)");
    check(block.square().unwrap().relinearize(&none.keys), "relinearisation");
    check(block.multiply_relinearized(&block, &none.keys), "relinearisation");
}

#[test]
fn misfits_are_errors() {
    let set = KeySet::new().with_relinearization().with_rotation(1);
    let round = Round::new(params(32, 13, &[41, 41], &[47]), &set, 1);
    let block = round.encrypt(&[vec![1; 32]], 2);
    let square = block.square().unwrap();
    assert!(matches!(block.relinearize(&round.keys), Err(Error::Form { degree: 1, .. })));
    assert!(matches!(square.rotate_rows(1, &round.keys), Err(Error::Form { degree: 2, .. })));
    let product = square.multiply_relinearized(&square, &round.keys);
    assert!(matches!(product, Err(Error::Form { degree: 2, .. })));
    let two = round.encrypt(&[vec![1; 32], vec![2; 32]], 3);
    let product = block.multiply_relinearized(&two, &round.keys);
    assert!(matches!(product, Err(Error::Length { expected: 1, actual: 2, .. })));
    let lower = block.mod_switch_down().unwrap();
    assert!(matches!(block.multiply_relinearized(&lower, &round.keys), Err(Error::Form { .. })));
    let foreign = Round::new(params(32, 14, &[41, 41], &[47]), &set, 1);
    let rotated = block.rotate_rows(1, &foreign.keys);
    assert!(matches!(rotated, Err(Error::ParamsMismatch { .. })));
    let public = PublicKey::generate(&round.key, &mut generator(4));
    let plaintext = foreign.encoder.encode(&[0; 32]).unwrap();
    let refused = public.encrypt(&[plaintext], &mut generator(4));
    assert!(matches!(refused, Err(Error::ParamsMismatch { .. })));
    // Without special moduli there are no evaluation keys.
    let plain = toy(32, 12_289, &[41, 41]);
    let key = SecretKey::generate(&plain, &mut generator(1));
    let refused = EvaluationKeys::generate(&key, &set, &mut generator(1));
    assert!(matches!(refused, Err(Error::Form { .. })));
    assert!(matches!(EvaluationKeys::from_bytes(&plain, 9, &[]), Err(Error::Form { .. })));
}

/// Keys from a hostile sender: every cut, every kind of wrong number.
#[test]
fn damaged_keys_are_refused() {
    let set = KeySet::new().with_relinearization().with_rotation(1).with_row_swap();
    let round = Round::new(params(32, 13, &[41, 30], &[47]), &set, 1);
    let good = round.keys.to_bytes();
    let read = |bytes: &[u8]| EvaluationKeys::from_bytes(&round.params, 3, bytes);
    assert!(read(&good).is_ok());
    let too_many = EvaluationKeys::from_bytes(&round.params, 2, &good);
    assert!(matches!(too_many, Err(Error::MalformedKey { expected: 2, actual: 3, .. })));
    for len in (0..60).chain(good.len() - 3..good.len()) {
        let error = read(&good[..len]).unwrap_err();
        assert!(matches!(error, Error::MalformedKey { .. }), "{len}: {error}");
    }
    let longer = [&good[..], &[0]].concat();
    assert!(matches!(read(&longer), Err(Error::MalformedKey { .. })));
    let altered = |at: usize, with: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        read(&bytes).unwrap_err()
    };
    assert!(matches!(
        altered(0, &[2]),
        Error::MalformedKey { what: "version of the key format", .. }
    ));
    assert!(matches!(altered(1, &[1]), Error::MalformedKey { what: "kind of key", .. }));
    assert!(matches!(altered(2, &[!good[2]]), Error::ParamsMismatch { .. }));
    assert!(matches!(altered(34, &[2]), Error::MalformedKey { what: "relinearisation flag", .. }));
    // No count makes the reader allocate: it compares with the limit, then with the length.
    assert!(matches!(altered(35, &[0xFF; 4]), Error::MalformedKey { .. }));
    for exponent in [0_u32, 1, 2, 64, u32::MAX] {
        let error = altered(39, &exponent.to_le_bytes());
        assert!(matches!(error, Error::MalformedKey { .. }), "{exponent}: {error}");
    }
    assert!(matches!(altered(43, &3_u32.to_le_bytes()), Error::MalformedKey { .. }));
    let residues = altered(47 + 32, &[0xFF; 32 * 41 / 8]);
    assert!(matches!(residues, Error::KeyResidue { .. }), "{residues}");

    let public = PublicKey::generate(&round.key, &mut generator(4)).to_bytes();
    assert_eq!(public.len(), PublicKey::byte_len(&round.params));
    let read = |bytes: &[u8]| PublicKey::from_bytes(&round.params, bytes);
    for len in (0..70).chain([public.len() - 1]) {
        assert!(matches!(read(&public[..len]), Err(Error::MalformedKey { .. })), "{len}");
    }
    assert!(matches!(read(&good), Err(Error::MalformedKey { what: "kind of key", .. })));
    let mut bytes = public;
    let end = bytes.len();
    bytes[end - 32 * 47 / 8..].fill(0xFF);
    assert!(matches!(read(&bytes), Err(Error::KeyResidue { .. })));
}

/// `Debug` names parameters and counts, never a word of a key.
#[test]
fn keys_are_not_printed() {
    let set = KeySet::new().with_relinearization().with_rotation(1);
    let round = Round::new(params(32, 13, &[41, 41], &[47]), &set, 1);
    let text = format!("{:?} {:?}", round.key, round.keys);
    assert!(text.contains("SecretKey") && text.contains("EvaluationKeys"));
    assert!(text.len() < 800, "{text}");
    let public = PublicKey::generate(&round.key, &mut generator(4));
    assert!(format!("{public:?}").len() < 800);
}

/// Format v1 of keys, and the expansion of their seeds.
#[test]
fn keys_from_a_fixed_generator_have_fixed_bytes() {
    let set = KeySet::new().with_relinearization().with_rotation(1);
    let round = Round::new(params(32, 13, &[41, 30], &[47]), &set, 1);
    let public = PublicKey::generate(&round.key, &mut generator(4)).to_bytes();
    let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex().as_str()[..16].to_owned();
    assert_eq!((public.len(), round.keys.to_bytes().len()), (538, 1995));
    assert_eq!(
        [hash(&public), hash(&round.keys.to_bytes())],
        ["c906f971514c0b8b", "0ab728b016521b20"]
    );
}
