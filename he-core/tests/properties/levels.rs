//! Every leveled operation at the first level and at the last, and between the two.

use crate::generator;
use crate::leveled::{N, Plain, Step, apply, apply_plain};
use crate::switching::{Round, params};
use he_core::{
    EvaluationKeys, KeySet, RowEncoder, SecretKey,
    leveled::{Arithmetic, Ciphertext, CostModel, Evaluator},
};
use rand::RngCore;

/// Operations of [`apply`].
const N_OPERATIONS: u8 = 12;
const COLUMNS: i64 = N as i64 / 2;

fn all_keys() -> KeySet {
    let set = KeySet::new().with_relinearization().with_row_swap().with_slot_sum();
    (-COLUMNS..=COLUMNS).fold(set, KeySet::with_rotation)
}

/// Two values at each end of the levels: the operation's operands are of the first, of the last, or of
/// both. Results equal plain arithmetic, and the model says so beforehand.
#[test]
fn every_operation_is_exact_at_the_first_level_and_at_the_last() {
    for special in [&[47][..], &[47, 47]] {
        let params = params(N, 13, &[47, 47, 47], special);
        let mut rng = generator(5);
        let key = SecretKey::generate(&params, &mut rng);
        let keys = EvaluationKeys::generate(&key, &all_keys(), &mut rng).unwrap();
        let (evaluator, model) = (Evaluator::new(&keys).unwrap(), CostModel::new(&params).unwrap());
        let encoder = RowEncoder::new(&params).unwrap();
        let arithmetic = Plain { t: params.plaintext_modulus().cast_signed() };
        let t = arithmetic.t as i64;
        let mut plane = || -> Vec<i64> {
            let ends = [0, 1, -1, t / 2, -(t / 2)];
            (0..N).map(|i| ends.get(i).copied().unwrap_or(rng.next_u64() as i64 % t)).collect()
        };
        let (planes, plain_values) = ([plane(), plane()], plane());
        let plaintext = encoder.encode(&plain_values).unwrap();
        let expected: Vec<Vec<i128>> =
            planes.iter().map(|p| arithmetic.map(|s| p[s].into())).collect();
        let fresh = planes.map(|plane| {
            Ciphertext::encrypt(&encoder.encode(&plane).unwrap(), &key, &mut generator(6)).unwrap()
        });
        let last = fresh.each_ref().map(|value| evaluator.compress(value).unwrap());
        assert_eq!(fresh[0].n_moduli(), 3);
        assert_eq!(last[0].n_moduli(), 1);
        let [x, y] = &fresh;
        let [low_x, low_y] = &last;
        for (where_, operands) in [
            ("first", [x, y]),
            ("last", [low_x, low_y]),
            ("first and last", [x, low_y]),
            ("last and first", [low_x, y]),
        ] {
            let operands = operands.map(Clone::clone);
            let forecasts = operands.each_ref().map(Ciphertext::forecast);
            let check = |step: Step| {
                let value = apply(&evaluator, &operands, &step, &plaintext).unwrap();
                let forecast = apply(&model, &forecasts, &step, &plaintext).unwrap();
                assert_eq!(value.forecast(), forecast, "{where_}: {step:?}");
                let plain = apply_plain(&arithmetic, &expected, &step, &plain_values);
                let slots = encoder.decode_from(&value.decrypt(&key).unwrap(), 0).unwrap();
                let slots: Vec<i128> = slots.iter().map(|&x| x.into()).collect();
                assert_eq!(slots, plain, "{where_}: {step:?}");
            };
            for operation in 0..N_OPERATIONS {
                check((operation, 0, 1, 999));
                check((operation, 1, 0, -999));
            }
        }
    }
}

/// Every rotation by an evaluator, forwards and back, at both ends of the levels.
#[test]
fn every_rotation_of_an_evaluator_moves_all_slots_at_both_ends() {
    let params = params(N, 13, &[47, 47], &[47]);
    let mut rng = generator(7);
    let key = SecretKey::generate(&params, &mut rng);
    let keys = EvaluationKeys::generate(&key, &all_keys(), &mut rng).unwrap();
    let evaluator = Evaluator::new(&keys).unwrap();
    let encoder = RowEncoder::new(&params).unwrap();
    let values: Vec<i64> = (0..N as i64).collect();
    let fresh = Ciphertext::encrypt(&encoder.encode(&values).unwrap(), &key, &mut rng).unwrap();
    for value in [evaluator.compress(&fresh).unwrap(), fresh] {
        for steps in -COLUMNS..=COLUMNS {
            let rotated = evaluator.rotate_rows(&value, steps).unwrap();
            let slots = encoder.decode_from(&rotated.decrypt(&key).unwrap(), 0).unwrap();
            for (slot, &found) in slots.iter().enumerate() {
                let (row, column) = (slot as i64 / COLUMNS, slot as i64 % COLUMNS);
                assert_eq!(found, row * COLUMNS + (column + steps).rem_euclid(COLUMNS), "{steps}");
            }
        }
    }
}

/// Products, sums over slots and swaps of whole blocks, down to a single modulus.
#[test]
fn keys_serve_blocks_at_every_level() {
    for special in [&[47][..], &[47, 46]] {
        let round = Round::new(params(N, 13, &[47, 47, 47], special), &all_keys(), 8);
        let planes = [round.values(1), round.values(2)];
        let mut a = round.encrypt(&planes[..1], 3);
        let mut b = round.encrypt(&planes[1..], 4);
        let total: i128 = planes[0].iter().map(|&x| round.residue(x)).sum();
        for n_moduli in (1..=3).rev() {
            assert_eq!(a.n_moduli(), n_moduli);
            let product = a.multiply_relinearized(&b, &round.keys).unwrap();
            assert_eq!(a.multiply(&b).unwrap().relinearize(&round.keys).unwrap(), product);
            round.check(&product, 0, |s| round.residue(planes[0][s]) * round.residue(planes[1][s]));
            round.check(&a.sum_slots(&round.keys).unwrap(), 0, |_| total);
            let swapped = a.swap_rows(&round.keys).unwrap();
            round.check(&swapped, 0, |s| round.residue(planes[0][round.source(s, 0, true)]));
            if n_moduli > 1 {
                (a, b) = (a.mod_switch_down().unwrap(), b.mod_switch_down().unwrap());
            }
        }
        assert!(a.mod_switch_down().is_err(), "that was the last level");
    }
}
