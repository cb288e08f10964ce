//! Slots: what is encoded, encrypted, added, scaled and squared comes back slot by slot, modulo t.

use crate::{cases, generator, ring_degrees, toy};
use he_core::{
    BlockEncryptor, CiphertextBlock, Decryptor, Error, LinearMap, Params, ParamsSpec, Quadratic,
    SecretKey, SlotEncoder,
};
use proptest::prelude::*;
use rand::RngCore;

/// Parameters with a slot modulus of at least `2^log2_t` and two large primes.
fn params(ring_degree: usize, log2_t: u32) -> Params {
    let t = ParamsSpec::smallest_slot_modulus(ring_degree, 1 << log2_t).unwrap();
    toy(ring_degree, t.into(), &[47, 46])
}

/// Any integers, with the extremes among them.
fn any_slots(count: usize, seed: u64) -> Vec<i64> {
    let mut rng = generator(seed);
    (0..count)
        .map(|i| match i % 8 {
            0 => [i64::MIN, i64::MAX, 0, -1, 1][i / 8 % 5],
            1 => rng.next_u64().cast_signed(),
            _ => rng.next_u64().cast_signed() >> 40,
        })
        .collect()
}

struct Round {
    encoder: SlotEncoder,
    key: SecretKey,
    t: i128,
}

impl Round {
    fn new(params: &Params, seed: u64) -> Self {
        Self {
            encoder: SlotEncoder::new(params).unwrap(),
            key: SecretKey::generate(params, &mut generator(seed)),
            t: params.plaintext_modulus().cast_signed(),
        }
    }

    fn encrypt(&self, planes: &[Vec<i64>], seed: u64) -> CiphertextBlock {
        let plaintexts: Vec<_> = planes.iter().map(|p| self.encoder.encode(p).unwrap()).collect();
        BlockEncryptor::new(&self.key, &mut generator(seed)).encrypt_next(&plaintexts).unwrap()
    }

    fn decrypt(&self, block: &CiphertextBlock, index: usize) -> Vec<i64> {
        let message = Decryptor::new(&self.key).decrypt(block, index).unwrap();
        self.encoder.decode(&message).unwrap().to_vec()
    }

    fn check(&self, actual: &[i64], expected: impl Iterator<Item = i128>) {
        for (slot, (&actual, expected)) in actual.iter().zip(expected).enumerate() {
            assert_eq!(i128::from(actual), centred(expected, self.t), "slot {slot}");
        }
    }
}

fn centred(x: i128, t: i128) -> i128 {
    let x = x.rem_euclid(t);
    if x > t / 2 { x - t } else { x }
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn encryption_returns_every_slot(n in ring_degrees(), log2_t in 13_u32..40, seed: u64) {
        let round = Round::new(&params(n, log2_t), seed);
        let values = any_slots(n, seed);
        let block = round.encrypt(std::slice::from_ref(&values), seed);
        round.check(&round.decrypt(&block, 0), values.iter().map(|&v| v.into()));
    }

    #[test]
    fn any_window_of_one_modulus_is_decoded(n in ring_degrees(), seed: u64, fraction in -1.0..=1.0_f64) {
        let round = Round::new(&params(n, 20), seed);
        let low = (fraction * round.t as f64) as i64;
        let values = any_slots(n, seed);
        let block = round.encrypt(std::slice::from_ref(&values), seed);
        let message = Decryptor::new(&round.key).decrypt(&block, 0).unwrap();
        let decoded = round.encoder.decode_from(&message, low).unwrap();
        for (&actual, &value) in decoded.iter().zip(&values) {
            let expected = i128::from(low) + (i128::from(value) - i128::from(low)).rem_euclid(round.t);
            prop_assert_eq!(i128::from(actual), expected);
        }
    }

    #[test]
    fn linear_combinations_act_slot_by_slot(
        n in ring_degrees(),
        weights in prop::collection::vec(-1000_i32..=1000, 3),
        bias: i64,
        seed: u64,
    ) {
        let round = Round::new(&params(n, 30), seed);
        let planes: Vec<_> = (0..3).map(|i| any_slots(n, seed ^ i)).collect();
        let block = round.encrypt(&planes, seed);
        let reply = LinearMap::dense(1, 3, &weights, &[bias]).unwrap().apply(&block).unwrap();
        let expected = (0..n).map(|slot| {
            let sum = |sum: i128, (&w, p): (&i32, &Vec<i64>)| sum + i128::from(w) * i128::from(p[slot]);
            weights.iter().zip(&planes).fold(i128::from(bias), sum)
        });
        round.check(&round.decrypt(&reply, 0), expected);
    }

    #[test]
    fn sums_and_constants_act_slot_by_slot(n in ring_degrees(), constant: i64, seed: u64) {
        let round = Round::new(&params(n, 30), seed);
        let planes: Vec<_> = (0..2).map(|i| any_slots(n, seed ^ i)).collect();
        let mut a = round.encrypt(&planes[..1], seed);
        a.add_assign(&round.encrypt(&planes[1..], !seed)).unwrap();
        a.add_constants(&[constant]).unwrap();
        let expected = planes[0]
            .iter()
            .zip(&planes[1])
            .map(|(&x, &y)| i128::from(x) + i128::from(y) + i128::from(constant));
        round.check(&round.decrypt(&a, 0), expected);
    }

    #[test]
    fn quadratics_act_slot_by_slot(
        n in ring_degrees(),
        log2_t in 13_u32..32,
        a in -20_i64..=20,
        b in -1000_i64..=1000,
        c: i64,
        switch: bool,
        seed: u64,
    ) {
        let round = Round::new(&params(n, log2_t), seed);
        let values = any_slots(n, seed);
        let block = round.encrypt(std::slice::from_ref(&values), seed);
        let mut reply = block.quadratic(&[Quadratic { a, b, c }]).unwrap();
        if switch {
            reply = reply.mod_switch_down().unwrap();
        }
        let expected = values.iter().map(|&v| {
            let v = i128::from(v).rem_euclid(round.t);
            i128::from(a) * v * v + i128::from(b) * v + i128::from(c)
        });
        round.check(&round.decrypt(&reply, 0), expected);
    }
}

/// `(W·x + b)²` on a ring of real size, then a switch.
#[test]
fn real_parameters_square_a_linear_segment() {
    let t = ParamsSpec::smallest_slot_modulus(4096, 1 << 25).unwrap();
    let params = Params::new(ParamsSpec::with_bits(4096, t.into(), &[46, 47]).unwrap()).unwrap();
    let round = Round::new(&params, 1);
    let planes: Vec<_> = (0..25).map(|i| any_slots(4096, i)).collect();
    let weights: Vec<i32> = (0..25).map(|i| i * 7 % 31 - 15).collect();
    let map = LinearMap::dense(1, 25, &weights, &[-12_345]).unwrap();
    let reply = map.apply(&round.encrypt(&planes, 2)).unwrap().square().unwrap();
    let expected: Vec<i128> = (0..4096)
        .map(|slot| {
            let sum = planes
                .iter()
                .zip(&weights)
                .fold(-12_345, |sum, (p, &w)| sum + i128::from(w) * i128::from(p[slot]));
            sum.rem_euclid(round.t).pow(2)
        })
        .collect();
    round.check(&round.decrypt(&reply, 0), expected.iter().copied());
    let switched = reply.mod_switch_to(1).unwrap();
    round.check(&round.decrypt(&switched, 0), expected.into_iter());
}

#[test]
fn misfits_are_errors() {
    let params = params(64, 20);
    let round = Round::new(&params, 1);
    let other = toy(128, params.plaintext_modulus(), &[47, 46]);
    let other = SlotEncoder::new(&other);
    assert!(matches!(round.encoder.encode(&[1; 63]), Err(Error::Length { expected: 64, .. })));
    let block = round.encrypt(&[vec![0; 64]], 1);
    let message = Decryptor::new(&round.key).decrypt(&block, 0).unwrap();
    let t = i64::try_from(round.t).unwrap();
    assert!(round.encoder.decode_from(&message, t).is_ok());
    assert!(matches!(round.encoder.decode_from(&message, t + 1), Err(Error::Value { .. })));
    // The same t in a larger ring: caught by the number of coefficients.
    if let Ok(other) = other {
        assert!(matches!(other.decode(&message), Err(Error::Length { expected: 128, .. })));
    }
    // A modulus of the right form but too small, and one that is not prime.
    for t in [7681, 8193] {
        let refused = SlotEncoder::new(&toy(256, t, &[47]));
        assert!(matches!(refused, Err(Error::PlaintextModulus { .. })), "{t}");
    }
}
