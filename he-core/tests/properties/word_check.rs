//! The word check: honest replies pass, every single altered word fails, whatever else is right.

use crate::{
    cases, generator,
    reference::{block_of, random_words},
    toy,
};
use he_core::{
    BlockEncryptor, CiphertextBlock, CoefficientEncoder, Error, LinearMap, Params, SecretKey,
    WordCheck,
};
use proptest::prelude::*;
use rand::{Rng, RngCore};

const N_INPUTS: usize = 7;
const N_OUTPUTS: usize = 6;

struct Scene {
    map: LinearMap,
    input: CiphertextBlock,
    reply: CiphertextBlock,
    seed: u64,
}

impl Scene {
    fn new(params: &Params, seed: u64) -> Self {
        let mut rng = generator(seed);
        let map = random_map(&mut rng);
        let input = block_of(params, 1, &random_words(params, N_INPUTS, 1, &mut rng));
        let reply = map.apply(&input).unwrap();
        Self { map, input, reply, seed }
    }

    fn check(&self, reply: &CiphertextBlock) -> Result<(), Error> {
        let params = reply.params();
        let mut check = WordCheck::new(&self.map, params, 2, &mut generator(!self.seed)).unwrap();
        check.absorb_input(0, &self.input).unwrap();
        check.absorb_reply(0, reply).unwrap();
        check.finish()
    }

    fn rejects(&self, reply: &CiphertextBlock) -> usize {
        match self.check(reply) {
            Err(Error::WordCheckFailed { n_columns, .. }) => n_columns,
            other => panic!("not rejected: {other:?}"),
        }
    }
}

fn random_map(rng: &mut impl RngCore) -> LinearMap {
    let weights: Vec<i32> =
        (0..N_INPUTS * N_OUTPUTS).map(|_| rng.random_range(-32_767..=32_767)).collect();
    let bias: Vec<i64> = (0..N_OUTPUTS).map(|_| rng.next_u64().cast_signed()).collect();
    LinearMap::dense(N_OUTPUTS, N_INPUTS, &weights, &bias).unwrap()
}

/// Parameters whose moduli are large enough for two rows to err with probability below 2^-40.
fn params() -> impl Strategy<Value = Params> {
    prop::sample::select(vec![vec![21], vec![30], vec![31, 47], vec![47, 46, 25]])
        .prop_map(|bits| toy(64, 65_537, &bits))
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn honest_replies_pass_in_any_order_of_pieces(params in params(), seed: u64, cut in 0..=N_OUTPUTS) {
        let scene = Scene::new(&params, seed);
        let mut rng = generator(!seed);
        let mut check = WordCheck::new(&scene.map, &params, 2, &mut rng).unwrap();
        let part = |block: &CiphertextBlock, range: std::ops::Range<usize>| {
            block.select(&range.collect::<Vec<_>>()).unwrap()
        };
        check.absorb_reply(cut, &part(&scene.reply, cut..N_OUTPUTS)).unwrap();
        for index in (0..N_INPUTS).rev() {
            check.absorb_input(index, &part(&scene.input, index..index + 1)).unwrap();
        }
        check.absorb_reply(0, &part(&scene.reply, 0..cut)).unwrap();
        prop_assert_eq!(check.finish(), Ok(()));
    }

    #[test]
    fn any_single_altered_word_is_rejected(
        params in params(),
        seed: u64,
        place in any::<[prop::sample::Index; 3]>(),
    ) {
        let scene = Scene::new(&params, seed);
        let mut reply = scene.reply.clone();
        let limb = place[0].index(params.moduli().len());
        reply.tamper_word(limb, place[1].index(N_OUTPUTS), place[2].index(128)).unwrap();
        prop_assert_eq!(scene.rejects(&reply), 1, "one column of one limb");
    }

    #[test]
    fn another_map_is_rejected(params in params(), seed: u64, kind in 0..5) {
        let scene = Scene::new(&params, seed);
        let weights = |change: &dyn Fn(&mut [i32], &mut [i64])| {
            let mut rng = generator(seed);
            let mut weights: Vec<i32> =
                (0..N_INPUTS * N_OUTPUTS).map(|_| rng.random_range(-32_767..=32_767)).collect();
            let mut bias: Vec<i64> = (0..N_OUTPUTS).map(|_| rng.next_u64().cast_signed()).collect();
            change(&mut weights, &mut bias);
            let map = LinearMap::dense(N_OUTPUTS, N_INPUTS, &weights, &bias).unwrap();
            map.apply(&scene.input).unwrap()
        };
        prop_assert_eq!(scene.check(&weights(&|_, _| {})), Ok(()));
        let n_limbs = params.moduli().len();
        match kind {
            0 => {
                // One weight by one: only columns in which that input is zero can agree.
                let changed = weights(&|w, _| w[3] += if w[3] == 32_767 { -1 } else { 1 });
                prop_assert!(scene.rejects(&changed) > 64 * n_limbs);
            }
            1 => {
                // The bias by one: every column of c0, none of c1.
                let changed = weights(&|_, b| b[2] = b[2].wrapping_add(1));
                prop_assert_eq!(scene.rejects(&changed), 64 * n_limbs);
            }
            2 => {
                let permuted = scene.reply.select(&[1, 0, 2, 3, 4, 5]).unwrap();
                scene.rejects(&permuted);
            }
            3 => {
                // A dropped neuron.
                let zero = CiphertextBlock::zeros(&params, 1, 1, n_limbs).unwrap();
                let rest = scene.reply.select(&[0, 1, 2, 3, 4]).unwrap();
                scene.rejects(&CiphertextBlock::concatenate(&[rest, zero]).unwrap());
            }
            _ => {
                // A stale reply: right for another input.
                let stale = Scene::new(&params, seed.wrapping_add(1));
                scene.rejects(&scene.map.apply(&stale.input).unwrap());
            }
        }
    }

    /// Coefficient packing: the bias multiplies the encoding of 1, and the check knows.
    #[test]
    fn packed_biases_pass_and_are_checked(seed: u64) {
        let params = toy(64, 1 << 32, &[47, 46]);
        let encoder = CoefficientEncoder::new(&params, 16, 2).unwrap();
        let mut rng = generator(seed);
        let map = random_map(&mut rng).with_unit(&encoder.ones());
        let key = SecretKey::generate(&params, &mut rng);
        let plaintexts: Vec<_> =
            (0..N_INPUTS).map(|i| encoder.encode(&vec![i as i64; 128]).unwrap()).collect();
        let input = BlockEncryptor::new(&key, &mut rng).encrypt_next(&plaintexts).unwrap();
        let reply = map.apply(&input).unwrap();
        let scene = Scene { map, input, reply, seed };
        prop_assert_eq!(scene.check(&scene.reply), Ok(()));
        let constant = random_map(&mut generator(seed)).apply(&scene.input).unwrap();
        prop_assert!(scene.rejects(&constant) >= 64, "a constant polynomial is another bias");
    }
}

/// Real sizes span several chunks of columns, in c0 and in c1.
#[test]
fn real_replies_pass_and_every_region_counts() {
    for (bits, t) in [(&[30][..], 65_537), (&[47, 46], 65_537), (&[47], 1 << 32)] {
        let params = toy(2048, t, bits);
        let mut scene = Scene::new(&params, 7);
        if let Ok(encoder) = CoefficientEncoder::new(&params, 16, 2) {
            scene.map = scene.map.with_unit(&encoder.ones());
            scene.reply = scene.map.apply(&scene.input).unwrap();
        }
        assert_eq!(scene.check(&scene.reply), Ok(()));
        for word in [0, 511, 512, 2047, 2048, 2560, 4095] {
            let mut reply = scene.reply.clone();
            reply.tamper_word(bits.len() - 1, 3, word).unwrap();
            assert_eq!(scene.rejects(&reply), 1, "word {word}");
        }
    }
}

#[test]
fn every_word_of_a_small_reply_counts() {
    let params = toy(32, 65_537, &[30, 47]);
    let scene = Scene::new(&params, 5);
    for limb in 0..2 {
        for index in 0..N_OUTPUTS {
            for word in 0..64 {
                let mut reply = scene.reply.clone();
                reply.tamper_word(limb, index, word).unwrap();
                assert_eq!(scene.rejects(&reply), 1, "limb {limb} output {index} word {word}");
            }
        }
    }
}

#[test]
fn more_terms_than_one_lazy_sum_holds() {
    // 2^13 products are added before a reduction.
    let (n_inputs, params) = (8192 + 100, toy(32, 65_537, &[47]));
    let q = params.moduli()[0];
    let words = vec![vec![vec![q - 1; 64]; n_inputs]];
    let input = block_of(&params, 1, &words);
    let weights: Vec<i32> = (0..n_inputs).map(|i| if i % 3 == 0 { 32_767 } else { -5 }).collect();
    let map = LinearMap::dense(1, n_inputs, &weights, &[7]).unwrap();
    let reply = map.apply(&input).unwrap();
    let scene = Scene { map, input, reply, seed: 3 };
    assert_eq!(scene.check(&scene.reply), Ok(()));
}

#[test]
fn incomplete_or_foreign_replies_are_errors() {
    let params = toy(64, 65_537, &[30, 31]);
    let scene = Scene::new(&params, 1);
    let new = || WordCheck::new(&scene.map, &params, 1, &mut generator(1)).unwrap();
    assert!(WordCheck::new(&scene.map, &params, 0, &mut generator(1)).is_err());
    let some = scene.reply.select(&[0, 1]).unwrap();

    let mut check = new();
    check.absorb_input(0, &scene.input).unwrap();
    check.absorb_reply(0, &some).unwrap();
    assert!(matches!(check.absorb_reply(1, &some), Err(Error::Length { .. })), "absorbed twice");
    assert!(matches!(check.absorb_reply(5, &some), Err(Error::Index { .. })));
    assert!(matches!(check.absorb_reply(usize::MAX, &some), Err(Error::Index { .. })));
    let missing = check.finish();
    assert!(matches!(missing, Err(Error::Length { expected: N_OUTPUTS, actual: 2, .. })));

    let mut check = new();
    check.absorb_reply(0, &scene.reply).unwrap();
    assert!(matches!(check.finish(), Err(Error::Length { expected: N_INPUTS, actual: 0, .. })));

    let mut check = new();
    let wrong = [scene.reply.mod_switch_down().unwrap(), scene.reply.square().unwrap()];
    for wrong in &wrong {
        assert!(matches!(check.absorb_reply(0, wrong), Err(Error::Form { .. })));
    }
    let foreign = CoefficientEncoder::new(&toy(64, 1 << 32, &[47, 46]), 16, 2).unwrap().ones();
    let foreign = scene.map.clone().with_unit(&foreign);
    let refused = WordCheck::new(&foreign, &params, 1, &mut generator(1)).map(drop);
    assert!(matches!(refused, Err(Error::ParamsMismatch { .. })));
    let other = Scene::new(&toy(64, 65_537, &[31, 30]), 1);
    assert!(matches!(check.absorb_reply(0, &other.reply), Err(Error::ParamsMismatch { .. })));
    let bits = new().soundness_bits();
    assert!((29.0..30.0).contains(&bits), "one row, the smaller prime: {bits}");
    let two = WordCheck::new(&scene.map, &params, 2, &mut generator(1)).unwrap();
    assert!((two.soundness_bits() - 2.0 * bits).abs() < 1e-9);
}
