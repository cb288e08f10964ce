//! Whole blocks: squares word by word, rearrangement, modulus switching.

use crate::{
    cases, generator,
    reference::{block_of, random_words},
    ring_degrees, toy,
};
use he_core::{
    BlockEncryptor, CiphertextBlock, CoefficientEncoder, Decryptor, Error, Params, Quadratic,
    SecretKey, SlotEncoder,
};
use proptest::prelude::*;
use rand::RngCore;

fn random_block(params: &Params, count: usize, degree: usize, seed: u64) -> CiphertextBlock {
    block_of(params, degree, &random_words(params, count, degree, &mut generator(seed)))
}

fn row(block: &CiphertextBlock, limb: usize, index: usize) -> &[u64] {
    let len = block.row_len();
    &block.limb(limb)[index * len..(index + 1) * len]
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn quadratics_are_exact_word_by_word(
        bits in prop::sample::select(vec![vec![14], vec![30, 31], vec![47, 46]]),
        n in ring_degrees(),
        coefficients in prop::collection::vec(any::<(i64, i64, i64)>(), 2),
        plain: bool,
        seed: u64,
    ) {
        let params = toy(n, 65_537, &bits);
        let block = random_block(&params, 2, 1, seed);
        let (block, coefficients) = if plain {
            (block.square().map(|square| (block, square)), vec![Quadratic::SQUARE; 2])
        } else {
            let c: Vec<_> = coefficients.iter().map(|&(a, b, c)| Quadratic { a, b, c }).collect();
            (block.quadratic(&c).map(|reply| (block, reply)), c)
        };
        let (block, reply) = block.unwrap();
        for (limb, &q) in params.moduli().iter().enumerate() {
            let reduced = |x: i128| x.rem_euclid(q.into());
            for (index, &Quadratic { a, b, c }) in coefficients.iter().enumerate() {
                let (x, y) = (row(&block, limb, index), row(&reply, limb, index));
                for i in 0..n {
                    let (c0, c1) = (i128::from(x[i]), i128::from(x[n + i]));
                    let (a, b, c) = (i128::from(a), i128::from(b), i128::from(c));
                    let scaled = |x: i128| reduced(a) * reduced(x);
                    let d0 = reduced(scaled(c0 * c0) + reduced(b) * c0 + c);
                    let d1 = reduced(scaled(2 * c0 * c1) + reduced(b) * c1);
                    let expected = [d0, d1, reduced(scaled(c1 * c1))].map(|x| x as u64);
                    prop_assert_eq!([y[i], y[n + i], y[2 * n + i]], expected);
                }
            }
        }
    }

    #[test]
    fn sums_and_constants_are_exact_word_by_word(n in ring_degrees(), constant: i64, seed: u64) {
        let params = toy(n, 65_537, &[13, 47]);
        let (a, b) = (random_block(&params, 2, 2, seed), random_block(&params, 2, 2, !seed));
        let mut sum = a.clone();
        sum.add_assign(&b).unwrap();
        sum.add_constants(&[0, constant]).unwrap();
        for (limb, &q) in params.moduli().iter().enumerate() {
            for index in 0..2 {
                for (i, &actual) in row(&sum, limb, index).iter().enumerate() {
                    let constant = if index == 1 && i < n { i128::from(constant) } else { 0 };
                    let [x, y] = [&a, &b].map(|block| i128::from(row(block, limb, index)[i]));
                    prop_assert_eq!(i128::from(actual), (x + y + constant).rem_euclid(q.into()));
                }
            }
        }
    }

    #[test]
    fn sums_of_squares_are_squares_summed(
        members in prop::collection::vec(prop::collection::vec(0_usize..4, 0..5), 0..4),
        seed: u64,
    ) {
        let params = toy(64, 65_537, &[14, 47]);
        let block = random_block(&params, 4, 1, seed);
        let expected = block.square().unwrap().sums(&members).unwrap();
        prop_assert_eq!(block.sums_of_squares(&members).unwrap(), expected);
    }

    #[test]
    fn selection_and_concatenation_move_whole_ciphertexts(
        indices in prop::collection::vec(0_usize..4, 0..6),
        degree in 1_usize..=3,
        seed: u64,
    ) {
        let params = toy(32, 65_537, &[30, 47]);
        let block = random_block(&params, 4, degree, seed);
        let selected = block.select(&indices).unwrap();
        prop_assert_eq!(selected.count(), indices.len());
        for limb in 0..2 {
            for (place, &index) in indices.iter().enumerate() {
                prop_assert_eq!(row(&selected, limb, place), row(&block, limb, index));
            }
        }
        let parts = [block.select(&[0]).unwrap(), block.select(&[1, 2, 3]).unwrap()];
        prop_assert_eq!(CiphertextBlock::concatenate(&parts).unwrap(), block);
    }

    /// Every number of moduli, every degree a segment reaches, decrypted after every switch.
    #[test]
    fn switching_preserves_the_plaintext(
        n_moduli in 1_usize..=4,
        square: bool,
        slots: bool,
        seed: u64,
    ) {
        let bits = &[47, 46, 45, 47][..n_moduli];
        prop_assume!(n_moduli > 1 || !square);
        let t = if slots { 12_289 } else { 1 << 12 };
        let params = toy(64, t, bits);
        let mut rng = generator(seed);
        let key = SecretKey::generate(&params, &mut rng);
        let values: Vec<i64> = (0..64).map(|_| i64::from(rng.next_u32() % 4096)).collect();
        let encoder = SlotEncoder::new(&params);
        let coefficients = CoefficientEncoder::new(&params, 12, 1);
        let plaintext = match (&encoder, &coefficients) {
            (Ok(encoder), _) => encoder.encode(&values).unwrap(),
            (_, encoder) => encoder.as_ref().unwrap().encode(&values).unwrap(),
        };
        let mut block = BlockEncryptor::new(&key, &mut rng).encrypt_next(&[plaintext]).unwrap();
        if square {
            block = block.square().unwrap();
        }
        let expected: Vec<i64> = match (square, slots) {
            (false, _) => values,
            (true, true) => values.iter().map(|&x| x * x % 12_289).collect(),
            (true, false) => negacyclic_square(&values).iter().map(|x| x.rem_euclid(4096)).collect(),
        };
        let decryptor = Decryptor::new(&key);
        let mut correction = 1;
        for left in (1..=n_moduli).rev() {
            prop_assert_eq!((block.n_moduli(), block.level()), (left, left - 1));
            prop_assert_eq!(block.correction(), correction);
            let message = decryptor.decrypt(&block, 0).unwrap();
            let decoded = match (&encoder, &coefficients) {
                (Ok(encoder), _) => encoder.decode_from(&message, 0).unwrap(),
                (_, encoder) => encoder.as_ref().unwrap().decode_from(&message, 0).unwrap(),
            };
            prop_assert_eq!(decoded.to_vec(), expected.clone(), "{} moduli left", left);
            if left > 1 {
                block = block.mod_switch_down().unwrap();
                correction = correction * u128::from(params.moduli()[left - 1]) % t;
            }
        }
        prop_assert!(block.mod_switch_down().is_err());
        prop_assert_eq!(
            CiphertextBlock::zeros(&params, 1, 1, 1).unwrap().correction(),
            block.correction()
        );
    }
}

fn negacyclic_square(x: &[i64]) -> Vec<i64> {
    let n = x.len();
    let mut out = vec![0; n];
    for i in 0..n {
        for j in 0..n {
            let sign = if i + j < n { 1 } else { -1 };
            out[(i + j) % n] += sign * x[i] * x[j];
        }
    }
    out
}

#[test]
fn forms_are_not_mixed() {
    let params = toy(32, 65_537, &[30, 47]);
    let other = toy(32, 65_537, &[47, 30]);
    let block = random_block(&params, 2, 1, 1);
    let (square, switched) = (block.square().unwrap(), block.mod_switch_down().unwrap());
    let foreign = random_block(&other, 2, 1, 1);
    for wrong in [&square, &switched] {
        assert!(matches!(block.clone().add_assign(wrong), Err(Error::Form { .. })));
        let joined = CiphertextBlock::concatenate(&[block.clone(), wrong.clone()]);
        assert!(matches!(joined, Err(Error::Form { .. })));
        assert_ne!(&block, wrong);
    }
    assert!(matches!(block.clone().add_assign(&foreign), Err(Error::ParamsMismatch { .. })));
    let fewer = block.select(&[0]).unwrap();
    assert!(matches!(block.clone().add_assign(&fewer), Err(Error::Length { .. })));
    assert!(matches!(block.clone().add_constants(&[1]), Err(Error::Length { .. })));
    assert!(matches!(block.quadratic(&[Quadratic::SQUARE]), Err(Error::Length { .. })));
    assert!(matches!(block.select(&[2]), Err(Error::Index { .. })));
    assert!(matches!(block.sums_of_squares(&[vec![2]]), Err(Error::Index { .. })));
    for wrong in [&square, &switched] {
        assert!(matches!(wrong.sums_of_squares(&[vec![0]]), Err(Error::Form { .. })));
    }
    assert!(matches!(CiphertextBlock::concatenate(&[]), Err(Error::Length { .. })));
    assert!(block.mod_switch_to(0).is_err() && block.mod_switch_to(3).is_err());
    assert_eq!(block.mod_switch_to(2).unwrap(), block);
    for (limb, index, word) in [(2, 0, 0), (0, 2, 0), (0, 0, 64), (usize::MAX, 0, 0)] {
        assert!(matches!(block.clone().tamper_word(limb, index, word), Err(Error::Index { .. })));
    }
    assert!(block.limb(2).is_empty() && block.limb(usize::MAX).is_empty());
}
