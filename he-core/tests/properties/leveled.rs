//! Leveled circuits: ciphertexts equal plain arithmetic, forecasts equal what the evaluator tracks.

use crate::{cases, generator, toy};
use he_core::{
    BlockEncryptor, Error, EvaluationKeys, KeySet, Params, ParamsSpec, PublicKey, Result,
    RowEncoder, SecretKey,
    leveled::{Arithmetic, Ciphertext, CostModel, Demand, Evaluator, Forecast},
};
use proptest::prelude::*;
use rand::RngCore;

pub(crate) const N: usize = 32;

fn params(t: u64, bits: &[u32], special: &[u32]) -> Params {
    let spec = ParamsSpec::with_bits(N, t.into(), bits).unwrap();
    let special = spec.further_primes(special).unwrap();
    Params::insecure_with_special_moduli(spec, special).unwrap()
}

/// The same operations on slots.
pub(crate) struct Plain {
    pub(crate) t: i128,
}

impl Plain {
    pub(crate) fn map(&self, f: impl Fn(usize) -> i128) -> Vec<i128> {
        (0..N).map(|i| f(i).rem_euclid(self.t)).collect()
    }
}

/// One step of a random circuit: which operation, on which of the values so far.
pub(crate) type Step = (u8, usize, usize, i64);

/// Runs a step on any arithmetic.
pub(crate) fn apply<A: Arithmetic>(
    a: &A,
    values: &[A::Value],
    &(operation, i, j, c): &Step,
    plain: &he_core::Plaintext,
) -> Result<A::Value> {
    let (x, y) = (&values[i % values.len()], &values[j % values.len()]);
    match operation % 12 {
        0 => a.add(x, y),
        1 => a.subtract(x, y),
        2 => a.negate(x),
        3 => a.add_plain(x, plain),
        4 => a.multiply_plain(x, plain),
        5 => a.add_constant(x, c),
        6 => a.multiply_constant(x, c % 1000),
        7 => a.multiply(x, y),
        8 => a.inner_product(&[x.clone(), y.clone()], &[y.clone(), values[0].clone()]),
        9 => a.rotate_rows(x, c % 5),
        10 => a.swap_rows(x),
        _ => a.sum_slots(x),
    }
}

/// The same step on slots.
pub(crate) fn apply_plain(
    p: &Plain,
    values: &[Vec<i128>],
    &(operation, i, j, c): &Step,
    plain: &[i64],
) -> Vec<i128> {
    let (x, y) = (&values[i % values.len()], &values[j % values.len()]);
    let half = N / 2;
    let c = i128::from(c);
    let rotated = |s: usize, steps: i128| {
        s / half * half + (s as i128 % half as i128 + steps).rem_euclid(half as i128) as usize
    };
    match operation % 12 {
        0 => p.map(|s| x[s] + y[s]),
        1 => p.map(|s| x[s] - y[s]),
        2 => p.map(|s| -x[s]),
        3 => p.map(|s| x[s] + i128::from(plain[s])),
        4 => p.map(|s| x[s] * i128::from(plain[s])),
        5 => p.map(|s| x[s] + c),
        6 => p.map(|s| x[s] * (c % 1000)),
        7 => p.map(|s| x[s] * y[s]),
        8 => p.map(|s| x[s] * y[s] + y[s] * values[0][s]),
        9 => p.map(|s| x[rotated(s, c % 5)]),
        10 => p.map(|s| x[(s + half) % N]),
        _ => p.map(|_| x.iter().sum()),
    }
}

proptest! {
    #![proptest_config(cases(40))]

    /// Whatever the circuit: every value decrypts to plain arithmetic modulo t until the bound says
    /// no, for evaluator and model at the same step.
    #[test]
    fn circuits_equal_plain_arithmetic_and_their_forecast(
        log2_t in prop::sample::select(vec![13_u32, 16, 20, 27]),
        shape in prop::sample::select(vec![
            (vec![40, 41, 41, 41, 41, 41], vec![47]),
            (vec![47, 47, 47, 47, 47, 47, 47], vec![47, 47]),
        ]),
        steps in prop::collection::vec(any::<(u8, usize, usize, i64)>(), 1..12),
        public: bool,
        seed: u64,
    ) {
        let t = ParamsSpec::smallest_slot_modulus(N, 1 << log2_t).unwrap();
        let params = params(t, &shape.0, &shape.1);
        let mut rng = generator(seed);
        let key = SecretKey::generate(&params, &mut rng);
        let set = (-4..=4).fold(KeySet::new(), KeySet::with_rotation)
            .with_relinearization().with_row_swap().with_slot_sum();
        let keys = EvaluationKeys::generate(&key, &set, &mut rng).unwrap();
        let encoder = RowEncoder::new(&params).unwrap();
        let planes: Vec<Vec<i64>> =
            (0..2).map(|_| (0..N).map(|_| rng.next_u64().cast_signed() >> 20).collect()).collect();
        let plain_values: Vec<i64> = (0..N).map(|_| rng.next_u64().cast_signed()).collect();
        let plaintext = encoder.encode(&plain_values).unwrap();

        let (evaluator, model) = (Evaluator::new(&keys).unwrap(), CostModel::new(&params).unwrap());
        let mut forecasts = vec![if public { model.encrypt_public() } else { model.encrypt() }; 2];
        let mut values: Vec<Ciphertext> = planes.iter().map(|plane| {
            let plaintext = encoder.encode(plane).unwrap();
            if public {
                let public = PublicKey::generate(&key, &mut rng);
                Ciphertext::encrypt_public(&plaintext, &public, &mut rng).unwrap()
            } else {
                Ciphertext::encrypt(&plaintext, &key, &mut rng).unwrap()
            }
        }).collect();
        let arithmetic = Plain { t: t.into() };
        let mut expected: Vec<Vec<i128>> =
            planes.iter().map(|p| arithmetic.map(|s| p[s].into())).collect();
        for step in &steps {
            let forecast = apply(&model, &forecasts, step, &plaintext);
            let value = apply(&evaluator, &values, step, &plaintext);
            let (forecast, value) = match (forecast, value) {
                (Ok(forecast), Ok(value)) => (forecast, value),
                (Err(a), Err(b)) => {
                    prop_assert_eq!(&a, &b);
                    prop_assert!(matches!(a, Error::NoiseBudget { .. }), "{}", a);
                    break;
                }
                (a, b) => panic!("{a:?} and {b:?}"),
            };
            prop_assert_eq!(value.forecast(), forecast);
            prop_assert!(value.margin() >= 0.0);
            let plain = apply_plain(&arithmetic, &expected, step, &plain_values);
            let compressed = evaluator.compress(&value).unwrap();
            prop_assert_eq!(compressed.forecast(), model.compress(&forecast).unwrap());
            for value in [&value, &compressed] {
                let slots = encoder.decode_from(&value.decrypt(&key).unwrap(), 0).unwrap();
                let slots: Vec<i128> = slots.iter().map(|&x| x.into()).collect();
                prop_assert_eq!(&slots, &plain, "{:?}", step);
            }
            (forecasts, values) = ([forecasts, vec![forecast]].concat(), [values, vec![value]].concat());
            expected.push(plain);
        }
        // The model asked for exactly the keys that were used.
        let needed = EvaluationKeys::generate(&key, &model.keys(), &mut generator(1)).unwrap();
        prop_assert_eq!(needed.to_bytes().len(), model.key_bytes());
        let evaluator = Evaluator::new(&needed).unwrap();
        let mut again: Vec<Ciphertext> = values[..2].to_vec();
        for step in &steps[..values.len() - 2] {
            again.push(apply(&evaluator, &again, step, &plaintext).unwrap());
        }
    }

    #[test]
    fn polynomials_equal_horners_rule(
        coefficients in prop::collection::vec(-50_i64..=50, 2..9),
        seed: u64,
    ) {
        let params = params(65_537, &[41; 8], &[47]);
        let mut rng = generator(seed);
        let key = SecretKey::generate(&params, &mut rng);
        let set = KeySet::new().with_relinearization();
        let keys = EvaluationKeys::generate(&key, &set, &mut rng).unwrap();
        let encoder = RowEncoder::new(&params).unwrap();
        let x: Vec<i64> = (0..N as i64).map(|i| i * 2048 - 32_768).collect();
        let fresh = Ciphertext::encrypt(&encoder.encode(&x).unwrap(), &key, &mut rng).unwrap();
        let value = Evaluator::new(&keys).unwrap().polynomial(&fresh, &coefficients).unwrap();
        let slots = encoder.decode_from(&value.decrypt(&key).unwrap(), 0).unwrap();
        for (&actual, &x) in slots.iter().zip(&x) {
            let expected = coefficients.iter().rev().fold(0, |y, &c| (y * x + c).rem_euclid(65_537));
            prop_assert_eq!(actual, expected);
        }
    }
}

#[test]
fn demands_get_the_smallest_secure_parameters() {
    let mut last = 0;
    for (depth, width, log2_plaintext) in
        [(0, 1, 13), (1, 1, 16), (2, 100, 17), (4, 8, 20), (8, 1, 16)]
    {
        let params = Demand { log2_plaintext, depth, width }.parameters().unwrap();
        assert_eq!(params.security_bits(), 128);
        assert!(params.ring_degree() >= last, "depth {depth}");
        last = params.ring_degree();
        let model = CostModel::new(&params).unwrap();
        let fresh = model.encrypt_public();
        let value = (0..depth).try_fold(fresh, |x: Forecast, _| {
            let x = vec![x; width as usize];
            model.inner_product(&x, &x)
        });
        assert!(value.unwrap().margin() >= 0.0, "depth {depth}");
        assert_eq!(model.counts().products, u64::from(depth * width));
        // Plaintexts are left alone by switches where such primes exist.
        if log2_plaintext <= 17 && params.moduli()[0] >> 40 != 0 {
            let t = params.plaintext_modulus();
            assert!(params.moduli().iter().all(|&q| u128::from(q) % t == 1), "{params:?}");
        }
    }
    let error = Demand { log2_plaintext: 40, depth: 30, width: 1 }.parameters().unwrap_err();
    assert!(error.to_string().contains("depth 30"), "{error}");
}

#[test]
fn misfits_are_errors() {
    let toy_params = toy(N, 12_289, &[41, 41]);
    assert!(matches!(CostModel::new(&toy_params), Err(Error::Form { .. })));
    let params = params(12_289, &[41, 41], &[47]);
    let spec = ParamsSpec::with_bits(N, 1 << 50, &[41, 41]).unwrap();
    let special = spec.further_primes(&[47]).unwrap();
    let wide = Params::insecure_with_special_moduli(spec, special).unwrap();
    assert!(matches!(CostModel::new(&wide), Err(Error::PlaintextModulus { .. })));
    let mut rng = generator(1);
    let key = SecretKey::generate(&params, &mut rng);
    let keys = EvaluationKeys::generate(&key, &KeySet::new(), &mut rng).unwrap();
    let evaluator = Evaluator::new(&keys).unwrap();
    let encoder = RowEncoder::new(&params).unwrap();
    assert!(encoder.encode(&[0; N + 1]).is_err() && encoder.encode_row(&[0; N]).is_err());
    let plaintext = encoder.encode_row(&[7; N / 2]).unwrap();
    let fresh = Ciphertext::encrypt(&plaintext, &key, &mut rng).unwrap();
    assert_eq!(evaluator.rotate_rows(&fresh, 16).unwrap().block(), fresh.block());
    let missing = evaluator.rotate_rows(&fresh, 2).unwrap_err();
    assert!(missing.to_string().contains("rotation of rows by 2"), "{missing}");
    assert!(matches!(evaluator.multiply(&fresh, &fresh), Err(Error::MissingKey { .. })));
    assert!(matches!(evaluator.inner_product(&[], &[]), Err(Error::Length { .. })));
    let unequal = evaluator.inner_product(std::slice::from_ref(&fresh), &[]);
    assert!(matches!(unequal, Err(Error::Length { expected: 1, actual: 0, .. })));
    assert!(matches!(evaluator.sum(&[]), Err(Error::Length { .. })));
    assert!(matches!(evaluator.polynomial(&fresh, &[1]), Err(Error::Length { .. })));
    // Only fresh ciphertexts have a known bound.
    let block = BlockEncryptor::new(&key, &mut rng).encrypt_next(&[plaintext]).unwrap();
    let taken = Ciphertext::from_fresh(&block, 0, false).unwrap();
    assert_eq!(taken.forecast(), fresh.forecast());
    assert!(matches!(Ciphertext::from_fresh(&block, 1, false), Err(Error::Index { .. })));
    let lower = block.mod_switch_down().unwrap();
    assert!(matches!(Ciphertext::from_fresh(&lower, 0, false), Err(Error::Form { .. })));
    let square = block.square().unwrap();
    assert!(matches!(Ciphertext::from_fresh(&square, 0, false), Err(Error::Form { .. })));
}
