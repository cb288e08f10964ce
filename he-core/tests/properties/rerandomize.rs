//! Rerandomized ciphertexts decrypt to the same values, are a function of their seeds, and keep no
//! polynomial of what they were.

use crate::{cases, generator, toy};
use he_core::{
    BlockEncryptor, CiphertextBlock, Decryptor, Error, LinearMap, Params, ParamsSpec, PublicKey,
    SecretKey, SlotEncoder,
};
use proptest::prelude::*;
use rand::{Rng, RngCore};

struct Round {
    params: Params,
    encoder: SlotEncoder,
    key: SecretKey,
    public: PublicKey,
}

impl Round {
    fn new(n: usize, bits: &[u32], seed: u64) -> Self {
        let t = ParamsSpec::smallest_slot_modulus(n, 1 << 16).unwrap();
        let params = toy(n, t.into(), bits);
        let key = SecretKey::generate(&params, &mut generator(seed));
        let public = PublicKey::generate(&key, &mut generator(!seed));
        Self { encoder: SlotEncoder::new(&params).unwrap(), params, key, public }
    }

    fn values(&self, count: usize, seed: u64) -> Vec<Vec<i64>> {
        let mut rng = generator(seed);
        let n = self.params.ring_degree();
        (0..count).map(|_| (0..n).map(|_| rng.random_range(-3..=3)).collect()).collect()
    }

    fn encrypt(&self, planes: &[Vec<i64>], seed: u64) -> CiphertextBlock {
        let plaintexts: Vec<_> = planes.iter().map(|p| self.encoder.encode(p).unwrap()).collect();
        BlockEncryptor::new(&self.key, &mut generator(seed)).encrypt_next(&plaintexts).unwrap()
    }

    fn decoded(&self, block: &CiphertextBlock) -> Vec<Vec<i64>> {
        (0..block.count())
            .map(|i| {
                let message = Decryptor::new(&self.key).decrypt(block, i).unwrap();
                self.encoder.decode(&message).unwrap().to_vec()
            })
            .collect()
    }
}

fn seeds(count: usize, seed: u64) -> Vec<[u8; 32]> {
    let mut rng = generator(seed);
    (0..count)
        .map(|_| {
            let mut seed = [0; 32];
            rng.fill_bytes(&mut seed);
            seed
        })
        .collect()
}

/// Blocks of degrees 1, 2 and 4, fresh and switched, with what they hold.
fn blocks(round: &Round, seed: u64) -> Vec<CiphertextBlock> {
    let fresh = round.encrypt(&round.values(3, seed), seed);
    let map = LinearMap::dense(2, 3, &[1, -2, 1, 0, 2, 1], &[3, -1]).unwrap();
    let linear = map.apply(&fresh).unwrap();
    let square = linear.square().unwrap();
    let switched = square.mod_switch_to(2).unwrap();
    let fourth = switched.square().unwrap();
    vec![fresh, linear.mod_switch_to(2).unwrap(), square, switched, fourth]
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn values_stay_and_words_go(log2_n in 5_u32..=8, seed in any::<u64>()) {
        let round = Round::new(1 << log2_n, &[47, 47, 47], seed);
        for block in blocks(&round, seed) {
            let expected = round.decoded(&block);
            let of = |seed: u64| {
                let mut fresh = block.clone();
                fresh.rerandomize(&round.public, 20, &seeds(block.count(), seed)).unwrap();
                fresh
            };
            let (first, again, other) = (of(seed), of(seed), of(!seed));
            prop_assert_eq!(&round.decoded(&first), &expected);
            prop_assert_eq!(&round.decoded(&other), &expected);
            prop_assert!(first == again, "the same seeds give the same words");
            prop_assert_eq!(first.correction(), block.correction());
            for limb in 0..block.n_moduli() {
                for (i, (x, y)) in block.limb(limb).iter().zip(first.limb(limb)).enumerate() {
                    prop_assert!(x != y || i % 7 != 0 || other.limb(limb)[i] != *x, "word {i} stayed");
                }
            }
        }
    }

    #[test]
    fn plaintexts_are_added_one_to_each(seed in any::<u64>()) {
        let round = Round::new(64, &[47, 47], seed);
        let square = round.encrypt(&round.values(4, seed), seed).square().unwrap();
        for block in [square.clone(), square.mod_switch_to(1).unwrap()] {
            let added = round.values(2, !seed);
            let plaintexts: Vec<_> = added.iter().map(|p| round.encoder.encode(p).unwrap()).collect();
            let mut sum = block.clone();
            sum.add_plaintexts(1, &plaintexts).unwrap();
            let (before, after) = (round.decoded(&block), round.decoded(&sum));
            for (i, (before, after)) in before.iter().zip(&after).enumerate() {
                let of_one = i.checked_sub(1).and_then(|i| added.get(i));
                for (slot, (x, y)) in before.iter().zip(after).enumerate() {
                    prop_assert_eq!(*y, x + of_one.map_or(0, |plane| plane[slot]));
                }
            }
            let refused = matches!(sum.add_plaintexts(3, &plaintexts), Err(Error::Index { .. }));
            prop_assert!(refused);
        }
    }
}

/// The polynomials that multiply powers of the key: what is added to them is uniform.
#[test]
fn what_is_added_is_spread_over_the_whole_modulus() {
    let round = Round::new(256, &[47, 47, 47], 5);
    let square = round.encrypt(&round.values(8, 5), 5).square().unwrap();
    let mut fresh = square.clone();
    fresh.rerandomize(&round.public, 30, &seeds(8, 6)).unwrap();
    for limb in 0..3 {
        let q = round.params.moduli()[limb];
        let mut cells = [[0_u32; 16]; 3];
        let words = square.limb(limb).iter().zip(fresh.limb(limb));
        for (i, (&x, &y)) in words.enumerate() {
            let difference = (y + q - x) % q;
            let cell = usize::try_from(u128::from(difference) * 16 / u128::from(q)).unwrap();
            cells[i / 256 % 3][cell] += 1;
        }
        for cells in cells {
            let expected = 8.0 * 256.0 / 16.0;
            let statistic: f64 =
                cells.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
            // Six deviations of a chi-square distribution with 15 degrees of freedom.
            assert!(statistic < 15.0 + 6.0 * 30.0_f64.sqrt(), "{statistic}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let round = Round::new(64, &[47, 47], 1);
    let other = Round::new(64, &[46, 47], 1);
    let block = round.encrypt(&round.values(2, 1), 1);
    let refused =
        |key: &PublicKey, bits, n| block.clone().rerandomize(key, bits, &seeds(n, 1)).err();
    assert!(matches!(refused(&other.public, 20, 2), Some(Error::ParamsMismatch { .. })));
    assert!(matches!(refused(&round.public, 20, 1), Some(Error::Length { .. })));
    assert!(matches!(refused(&round.public, 0, 2), Some(Error::Value { .. })));
    assert!(matches!(refused(&round.public, 62, 2), Some(Error::Value { .. })));
    let spec = ParamsSpec::with_bits(64, round.params.plaintext_modulus(), &[41]).unwrap();
    let special = spec.further_primes(&[47]).unwrap();
    let params = Params::insecure_with_special_moduli(spec, special).unwrap();
    let key = SecretKey::generate(&params, &mut generator(2));
    let public = PublicKey::generate(&key, &mut generator(3));
    let mut block = CiphertextBlock::zeros(&params, 1, 1, 1).unwrap();
    assert!(matches!(block.rerandomize(&public, 9, &seeds(1, 1)), Err(Error::Form { .. })));
}
