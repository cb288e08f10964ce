//! Coefficient packing: several samples in one coefficient, every digit exact inside its window.

use crate::{cases, generator, toy};
use he_core::{
    BlockEncryptor, CiphertextBlock, CoefficientEncoder, Decryptor, Error, LinearMap, Params,
    ParamsSpec, SecretKey, SlotEncoder,
};
use proptest::prelude::*;
use rand::Rng;

/// Radix bits and samples per coefficient that leave room for fresh noise in two 47-bit primes.
fn packings() -> impl Strategy<Value = (u32, usize)> {
    (1_u32..=46).prop_flat_map(|radix| (Just(radix), 1..=(84 / radix as usize)))
}

struct Round {
    encoder: CoefficientEncoder,
    key: SecretKey,
}

impl Round {
    fn new(params: &Params, radix_bits: u32, k: usize, seed: u64) -> Self {
        Self {
            encoder: CoefficientEncoder::new(params, radix_bits, k).unwrap(),
            key: SecretKey::generate(params, &mut generator(seed)),
        }
    }

    fn toy(radix_bits: u32, k: usize, seed: u64) -> Self {
        Self::new(&toy(32, 1 << (radix_bits as usize * k), &[47, 47]), radix_bits, k, seed)
    }

    fn encrypt(&self, planes: &[Vec<i64>]) -> CiphertextBlock {
        let plaintexts: Vec<_> = planes.iter().map(|p| self.encoder.encode(p).unwrap()).collect();
        BlockEncryptor::new(&self.key, &mut generator(3)).encrypt_next(&plaintexts).unwrap()
    }

    fn decrypt(&self, block: &CiphertextBlock, low: i64) -> Vec<i64> {
        let message = Decryptor::new(&self.key).decrypt(block, 0).unwrap();
        self.encoder.decode_from(&message, low).unwrap().to_vec()
    }
}

/// Values in `[low, high]`, the ends frequent.
fn values(count: usize, low: i64, high: i64, seed: u64) -> Vec<i64> {
    let mut rng = generator(seed);
    (0..count)
        .map(|_| match rng.random_range(0..4) {
            0 => low,
            1 => high,
            _ => rng.random_range(low..=high),
        })
        .collect()
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn every_digit_of_its_window_comes_back((radix, k) in packings(), fraction in 0.0..1.0_f64, seed: u64) {
        let round = Round::toy(radix, k, seed);
        let radix = 1_i64 << radix;
        let low = -((fraction * (radix - 1) as f64) as i64);
        let plane = values(32 * k, low, low + radix - 1, seed);
        prop_assert_eq!(round.decrypt(&round.encrypt(std::slice::from_ref(&plane)), low), plane);
    }

    #[test]
    fn linear_maps_with_bias_act_on_every_digit(
        (radix, k) in (8_u32..=46).prop_flat_map(|r| (Just(r), 1..=(78 / r as usize))),
        weights in prop::collection::vec(-3_i32..=3, 4),
        bias in -8_i64..=8,
        seed: u64,
    ) {
        let round = Round::toy(radix, k, seed);
        let half = 1_i64 << (radix - 1);
        let l1: i64 = weights.iter().map(|w| i64::from(w.abs())).sum();
        let max = (half - 1 - bias.abs()) / l1.max(1);
        let planes: Vec<_> = (0..4).map(|i| values(32 * k, -max, max, seed ^ i)).collect();
        let map = LinearMap::dense(1, 4, &weights, &[bias]).unwrap().with_unit(&round.encoder.ones());
        let reply = map.apply(&round.encrypt(&planes)).unwrap();
        let expected: Vec<i64> = (0..32 * k)
            .map(|i| {
                planes.iter().zip(&weights).fold(bias, |sum, (p, &w)| sum + i64::from(w) * p[i])
            })
            .collect();
        prop_assert_eq!(round.decrypt(&reply, -half), expected);
    }

    /// One sample per coefficient: results wrap modulo the radix, whatever the window.
    #[test]
    fn a_single_digit_wraps(radix in 4_u32..=40, low_fraction in -1.0..=1.0_f64, weight: i16, seed: u64) {
        let round = Round::toy(radix, 1, seed);
        let modulus = 1_i64 << radix;
        let low = (low_fraction * modulus as f64) as i64;
        let plane = values(32, 1 - modulus, modulus - 1, seed);
        let weight = i32::from(weight.max(-32_767));
        let map = LinearMap::dense(1, 1, &[weight], &[0]).unwrap();
        let decoded = round.decrypt(&map.apply(&round.encrypt(std::slice::from_ref(&plane))).unwrap(), low);
        for (&actual, &x) in decoded.iter().zip(&plane) {
            let product = i128::from(x) * i128::from(weight);
            let expected = i128::from(low) + (product - i128::from(low)).rem_euclid(modulus.into());
            prop_assert_eq!(i128::from(actual), expected);
        }
    }

    #[test]
    fn digits_survive_a_modulus_switch((radix, k) in packings(), seed: u64) {
        // The switched message keeps `t·rounding` below half of one 47-bit prime.
        prop_assume!(radix as usize * k <= 38);
        let round = Round::toy(radix, k, seed);
        let radix = 1_i64 << radix;
        let plane = values(32 * k, -radix / 2, radix / 2 - 1, seed);
        let switched = round.encrypt(std::slice::from_ref(&plane)).mod_switch_down().unwrap();
        prop_assert_eq!(round.decrypt(&switched, -radix / 2), plane);
    }
}

/// Five 16-bit samples per coefficient, two 47-bit primes, 4-bit weights: the widest real packing.
#[test]
fn five_samples_per_coefficient_at_real_size() {
    let spec = ParamsSpec::with_bits(4096, 1 << 80, &[47, 47]).unwrap();
    let round = Round::new(&Params::new(spec).unwrap(), 16, 5, 4);
    assert_eq!(round.encoder.value_count(), 20_480);
    let planes: Vec<_> = (0..100).map(|i| values(20_480, 0, 15, i)).collect();
    let weights: Vec<i32> = (0..100).map(|i| i * 11 % 15 - 7).collect();
    let map = LinearMap::dense(1, 100, &weights, &[-321]).unwrap().with_unit(&round.encoder.ones());
    let actual = round.decrypt(&map.apply(&round.encrypt(&planes)).unwrap(), -32_768);
    for (i, &actual) in actual.iter().enumerate() {
        let sum = |sum, (p, &w): (&Vec<i64>, &i32)| sum + i64::from(w) * p[i];
        assert_eq!(actual, planes.iter().zip(&weights).fold(-321, sum), "value {i}");
    }
}

/// Why several samples per coefficient need proven ranges: a digit that leaves its window by one
/// changes its upper neighbour by one.
#[test]
fn an_overflow_touches_the_next_sample() {
    let round = Round::toy(8, 3, 1);
    let mut plane = vec![0; 96];
    plane[5] = 127;
    let map = LinearMap::dense(1, 1, &[1], &[1]).unwrap().with_unit(&round.encoder.ones());
    let mut expected = vec![1; 96];
    (expected[5], expected[32 + 5]) = (-128, 2);
    assert_eq!(round.decrypt(&map.apply(&round.encrypt(&[plane])).unwrap(), -128), expected);
}

#[test]
fn misfits_are_errors() {
    let round = Round::toy(8, 3, 1);
    let check = |plane: Vec<i64>| round.encoder.encode(&plane).map(drop);
    assert!(matches!(check(vec![0; 95]), Err(Error::Length { expected: 96, actual: 95, .. })));
    for value in [256, -256, i64::MAX, i64::MIN, i64::MAX - 254, i64::MIN + 255] {
        let mut plane = vec![255; 96];
        plane[7] = value;
        let refused = check(plane).unwrap_err();
        assert_eq!(
            refused,
            Error::PlaintextRange { what: "coefficient value", min: -255, max: 255 }
        );
        assert!(!refused.to_string().contains(&value.to_string()), "the value is secret");
    }
    assert!(check(vec![-255; 96]).is_ok());
    let block = round.encrypt(&[vec![0; 96]]);
    let message = Decryptor::new(&round.key).decrypt(&block, 0).unwrap();
    assert!(matches!(round.encoder.decode_from(&message, 257), Err(Error::Value { .. })));
    for (t, radix, k) in [(1 << 24, 8, 4), (1 << 24, 12, 3), (1 << 47, 47, 1), (1 << 24, 24, 0)] {
        let refused = CoefficientEncoder::new(&toy(32, t, &[47]), radix, k);
        assert!(matches!(refused, Err(Error::PlaintextModulus { .. })), "{t} {radix} {k}");
    }
    // A unit of other parameters, and a message of another plaintext modulus.
    let other = toy(32, 1 << 16, &[47, 47]);
    let unit = CoefficientEncoder::new(&other, 16, 1).unwrap().ones();
    let map = LinearMap::dense(1, 1, &[1], &[1]).unwrap().with_unit(&unit);
    assert!(matches!(map.apply(&block), Err(Error::ParamsMismatch { .. })));
    let slots = SlotEncoder::new(&toy(32, 12_289, &[47])).unwrap();
    assert!(matches!(slots.decode(&message), Err(Error::PlaintextModulus { .. })));
}
