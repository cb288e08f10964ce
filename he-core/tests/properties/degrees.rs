//! Ciphertexts of growing degree: products without evaluation keys, in every operation of a segment.

use crate::{
    cases, generator,
    reference::{block_of, random_words},
    ring_degrees, toy,
};
use he_core::{
    BlockEncryptor, CiphertextBlock, Decryptor, Error, LinearMap, Params, ParamsSpec, Quadratic,
    SecretKey, SlotEncoder,
};
use proptest::prelude::*;
use rand::{Rng, RngCore};

fn random_block(params: &Params, count: usize, degree: usize, seed: u64) -> CiphertextBlock {
    block_of(params, degree, &random_words(params, count, degree, &mut generator(seed)))
}

/// Polynomial `k` of ciphertext `index` in one limb.
fn polynomial(block: &CiphertextBlock, limb: usize, index: usize, k: usize) -> &[u64] {
    let (n, len) = (block.params().ring_degree(), block.row_len());
    &block.limb(limb)[index * len + k * n..index * len + (k + 1) * n]
}

/// `Σ_{i+j=k} a_i·b_j`, word by word, in exact integers.
fn convolution(a: &CiphertextBlock, b: &CiphertextBlock, limb: usize, index: usize) -> Vec<u64> {
    let (n, q) = (a.params().ring_degree(), u128::from(a.params().moduli()[limb]));
    let mut out = vec![0_u128; (a.degree() + b.degree() + 1) * n];
    for i in 0..=a.degree() {
        for j in 0..=b.degree() {
            let (x, y) = (polynomial(a, limb, index, i), polynomial(b, limb, index, j));
            for (word, (&x, &y)) in out[(i + j) * n..].iter_mut().zip(x.iter().zip(y)) {
                *word = (*word + u128::from(x) * u128::from(y)) % q;
            }
        }
    }
    out.into_iter().map(|x| x as u64).collect()
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn products_are_exact_word_by_word(
        bits in prop::sample::select(vec![vec![14], vec![30, 31], vec![47, 46, 47]]),
        n in ring_degrees(),
        d in 1_usize..=8,
        e in 1_usize..=7,
        seed: u64,
    ) {
        let params = toy(n, 65_537, &bits);
        let (a, b) = (random_block(&params, 2, d, seed), random_block(&params, 2, e, !seed));
        let product = a.multiply(&b).unwrap();
        prop_assert_eq!(product.degree(), d + e);
        prop_assert_eq!(&product, &b.multiply(&a).unwrap());
        let square = b.square().unwrap();
        prop_assert_eq!(&square, &b.multiply(&b).unwrap());
        for limb in 0..bits.len() {
            for index in 0..2 {
                let expected = convolution(&a, &b, limb, index);
                let len = product.row_len();
                prop_assert_eq!(&product.limb(limb)[index * len..(index + 1) * len], &expected[..]);
            }
        }
    }

    /// Bias reaches `c_0` only, whatever the degree.
    #[test]
    fn linear_maps_act_on_every_degree(n in ring_degrees(), degree in 1_usize..=6, bias: i64, seed: u64) {
        let params = toy(n, 65_537, &[30, 47]);
        let block = random_block(&params, 3, degree, seed);
        let map = LinearMap::dense(2, 3, &[3, -32_767, 0, 1, 2, 32_767], &[bias, 0]).unwrap();
        let out = map.apply(&block).unwrap();
        prop_assert_eq!(out.degree(), degree);
        for (limb, &q) in params.moduli().iter().enumerate() {
            for (output, weights) in [[3, -32_767, 0], [1, 2, 32_767]].iter().enumerate() {
                for k in 0..=degree {
                    let constant = if k == 0 && output == 0 { i128::from(bias) } else { 0 };
                    for i in 0..n {
                        let sum = (0..3).fold(constant, |sum, input| {
                            let word = polynomial(&block, limb, input, k)[i];
                            sum + i128::from(weights[input]) * i128::from(word)
                        });
                        let expected = sum.rem_euclid(q.into()) as u64;
                        prop_assert_eq!(polynomial(&out, limb, output, k)[i], expected);
                    }
                }
            }
        }
    }

    #[test]
    fn differences_and_multiples_are_exact_word_by_word(n in ring_degrees(), factor: i64, seed: u64) {
        let params = toy(n, 65_537, &[13, 47]);
        let (a, b) = (random_block(&params, 2, 2, seed), random_block(&params, 2, 2, !seed));
        let mut difference = a.clone();
        difference.subtract_assign(&b).unwrap();
        let (mut negated, mut scaled) = (a.clone(), a.clone());
        negated.negate();
        scaled.scale(factor);
        let wide = a.with_degree(4).unwrap();
        for (limb, &q) in params.moduli().iter().enumerate() {
            let q = i128::from(q);
            for (i, (&x, &y)) in a.limb(limb).iter().zip(b.limb(limb)).enumerate() {
                let (x, y) = (i128::from(x), i128::from(y));
                prop_assert_eq!(i128::from(difference.limb(limb)[i]), (x - y).rem_euclid(q));
                prop_assert_eq!(i128::from(negated.limb(limb)[i]), (-x).rem_euclid(q));
                prop_assert_eq!(i128::from(scaled.limb(limb)[i]), (x * i128::from(factor)).rem_euclid(q));
            }
            for index in 0..2 {
                for k in 0..=4 {
                    let expected = if k <= 2 { polynomial(&a, limb, index, k).to_vec() } else { vec![0; n] };
                    prop_assert_eq!(polynomial(&wide, limb, index, k), &expected[..]);
                }
            }
        }
    }
}

/// Slots under one key, at every level of a segment of several stages.
struct Stages {
    params: Params,
    encoder: SlotEncoder,
    key: SecretKey,
    t: i128,
}

impl Stages {
    fn new(params: Params, seed: u64) -> Self {
        let encoder = SlotEncoder::new(&params).unwrap();
        let key = SecretKey::generate(&params, &mut generator(seed));
        let t = params.plaintext_modulus().cast_signed();
        Self { params, encoder, key, t }
    }

    fn encrypt(&self, planes: &[Vec<i64>], seed: u64) -> CiphertextBlock {
        let plaintexts: Vec<_> = planes.iter().map(|p| self.encoder.encode(p).unwrap()).collect();
        BlockEncryptor::new(&self.key, &mut generator(seed)).encrypt_next(&plaintexts).unwrap()
    }

    fn check(&self, block: &CiphertextBlock, expected: &[Vec<i128>]) {
        assert_eq!(block.count(), expected.len());
        for (index, expected) in expected.iter().enumerate() {
            let message = Decryptor::new(&self.key).decrypt(block, index).unwrap();
            let decoded = self.encoder.decode_from(&message, 0).unwrap();
            for (&actual, &expected) in decoded.iter().zip(expected) {
                assert_eq!(i128::from(actual), expected.rem_euclid(self.t));
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(12))]

    /// `(W·z² + b)² + …` with and without a modulus switch after each step, t of several sizes: every
    /// value equals plain arithmetic modulo t, whatever the correction.
    #[test]
    fn two_stages_without_a_refresh_equal_plain_arithmetic(
        log2_t in prop::sample::select(vec![13_u32, 16, 20, 26]),
        switches in prop::collection::vec(0_usize..=1, 3),
        a in -9_i64..=9,
        b: i64,
        c: i64,
        seed: u64,
    ) {
        let t = ParamsSpec::smallest_slot_modulus(64, 1 << log2_t).unwrap();
        let stages = Stages::new(toy(64, t.into(), &[47, 46, 47, 45, 47, 47, 46]), seed);
        let mut rng = generator(!seed);
        let planes: Vec<Vec<i64>> =
            (0..3).map(|_| (0..64).map(|_| rng.next_u64().cast_signed()).collect()).collect();
        let mut plain: Vec<Vec<i128>> =
            planes.iter().map(|p| p.iter().map(|&x| i128::from(x)).collect()).collect();
        let mut block = stages.encrypt(&planes, seed);
        let reduce = |x: i128| x.rem_euclid(stages.t);
        for (stage, &drop) in switches.iter().enumerate() {
            let weights: Vec<i32> = (0..9).map(|_| rng.random_range(-100..=100)).collect();
            let map = LinearMap::dense(3, 3, &weights, &[b, 0, -1]).unwrap();
            block = map.apply(&block).unwrap();
            plain = weights.chunks(3).zip([b, 0, -1]).map(|(row, bias)| {
                (0..64).map(|i| {
                    let sum = row.iter().zip(&plain).map(|(&w, p)| i128::from(w) * reduce(p[i]));
                    reduce(sum.sum::<i128>() + i128::from(bias))
                }).collect()
            }).collect();
            stages.check(&block, &plain);
            if stage < 2 {
                block = block.quadratic(&[Quadratic { a, b, c }; 3]).unwrap();
                for x in plain.iter_mut().flatten() {
                    *x = reduce(reduce(i128::from(a) * *x) * *x) + reduce(reduce(b.into()) * *x) + reduce(c.into());
                }
                stages.check(&block, &plain);
                block.add_constants(&[c, b, 1]).unwrap();
                for (p, constant) in plain.iter_mut().zip([c, b, 1]) {
                    p.iter_mut().for_each(|x| *x += i128::from(constant));
                }
            }
            block = block.mod_switch_to(block.n_moduli() - drop).unwrap();
            stages.check(&block, &plain);
        }
        prop_assert_eq!(block.degree(), 4);
        prop_assert_eq!(block.n_moduli(), 7 - switches.iter().sum::<usize>());
    }

    /// Blocks of different degree and correction meet in a sum.
    #[test]
    fn aligned_blocks_add_and_subtract(log2_t in prop::sample::select(vec![13_u32, 20, 33]), seed: u64) {
        let t = ParamsSpec::smallest_slot_modulus(32, 1 << log2_t).unwrap();
        let stages = Stages::new(toy(32, t.into(), &[47, 47, 46, 47]), seed);
        let mut rng = generator(!seed);
        let planes: Vec<Vec<i64>> =
            (0..2).map(|_| (0..32).map(|_| rng.next_u64().cast_signed() >> 8).collect()).collect();
        let x = stages.encrypt(&planes, seed).mod_switch_down().unwrap();
        let square = x.square().unwrap();
        prop_assert!(square.correction() != x.correction());
        let (mut a, b) = square.aligned(&x).unwrap();
        prop_assert_eq!((a.degree(), a.correction()), (b.degree(), b.correction()));
        let mut sum = a.clone();
        sum.add_assign(&b).unwrap();
        a.subtract_assign(&b).unwrap();
        let plain = |sign: i128| -> Vec<Vec<i128>> {
            planes.iter().map(|p| p.iter().map(|&x| {
                let x = i128::from(x).rem_euclid(stages.t);
                x * x + sign * x
            }).collect()).collect()
        };
        stages.check(&sum, &plain(1));
        stages.check(&a, &plain(-1));
        let (same, other) = x.aligned(&x).unwrap();
        prop_assert_eq!((&same, &other), (&x, &x));
    }
}

/// Products up to the largest degree, on a ring whose noise allows it.
#[test]
fn the_largest_degree_decrypts() {
    let stages = Stages::new(toy(32, 12_289, &[47; 12]), 5);
    let values: Vec<i64> = (0..32).collect();
    let x = stages.encrypt(std::slice::from_ref(&values), 6);
    let mut power = x.clone();
    for degree in 2..=15_u32 {
        power = power.multiply(&x).unwrap();
        assert_eq!(power.degree(), degree as usize);
        let plain = |x: &i64| (0..degree).fold(1, |p, _| p * i128::from(*x) % 12_289);
        stages.check(&power, &[values.iter().map(plain).collect()]);
    }
    assert!(matches!(power.multiply(&x), Err(Error::Form { degree: 15, .. })));
}

#[test]
fn misfits_are_errors() {
    let stages = Stages::new(toy(32, 12_289, &[47, 46]), 1);
    let x = stages.encrypt(&[vec![1; 32], vec![2; 32]], 2);
    let switched = x.mod_switch_down().unwrap();
    assert!(matches!(x.multiply(&switched), Err(Error::Form { n_moduli: 1, .. })));
    assert!(matches!(x.aligned(&switched), Err(Error::Form { n_moduli: 1, .. })));
    let one = x.select(&[0]).unwrap();
    assert!(matches!(x.multiply(&one), Err(Error::Length { expected: 2, actual: 1, .. })));
    let foreign = random_block(&toy(32, 12_289, &[46, 47]), 2, 1, 1);
    assert!(matches!(x.multiply(&foreign), Err(Error::ParamsMismatch { .. })));
    assert!(matches!(x.clone().subtract_assign(&foreign), Err(Error::ParamsMismatch { .. })));
    assert!(matches!(x.clone().subtract_assign(&one), Err(Error::Length { .. })));
    assert!(matches!(x.clone().subtract_assign(&switched), Err(Error::Form { .. })));
    let square = random_block(&stages.params, 1, 8, 1);
    assert!(matches!(square.square(), Err(Error::Form { degree: 8, .. })));
    assert!(matches!(square.quadratic(&[Quadratic::SQUARE]), Err(Error::Form { degree: 8, .. })));
    assert!(matches!(square.with_degree(7), Err(Error::Form { degree: 8, .. })));
    assert!(matches!(square.with_degree(16), Err(Error::Form { degree: 8, .. })));
    assert!(matches!(CiphertextBlock::zeros(&stages.params, 1, 16, 1), Err(Error::Form { .. })));
}
