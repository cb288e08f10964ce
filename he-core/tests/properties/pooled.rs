//! Linear map, activation and pool in one pass: word for word what the three steps give.

use crate::{
    cases, generator,
    linear::{Case, case},
    reference::{block_of, random_words},
    toy,
};
use he_core::{
    Backend, CiphertextBlock, Error, LinearMap, Params, PooledQuadratic, Quadratic, bytes,
};
use proptest::prelude::*;
use rand::{Rng, RngCore};

fn quadratic(rng: &mut impl RngCore) -> Quadratic {
    let mut value = || match rng.random_range(0..4) {
        0 => 0,
        1 => 1,
        2 => i64::from(rng.random::<i32>()),
        _ => rng.random(),
    };
    Quadratic { a: value(), b: value(), c: value() }
}

/// Results over `outputs`, as a pool gives them or with members drawn at random.
fn results(n_outputs: usize, rng: &mut impl RngCore) -> Vec<PooledQuadratic> {
    let plain = rng.random::<bool>();
    (0..rng.random_range(0..=8))
        .map(|_| PooledQuadratic {
            members: (0..rng.random_range(1..=5))
                .map(|_| rng.random_range(0..n_outputs as u32))
                .collect(),
            quadratic: if plain { Quadratic::SQUARE } else { quadratic(rng) },
        })
        .collect()
}

/// The same in three steps.
fn in_steps(linear: &CiphertextBlock, results: &[PooledQuadratic]) -> Vec<CiphertextBlock> {
    let result = |result: &PooledQuadratic| {
        let members: Vec<usize> = result.members.iter().map(|&i| i as usize).collect();
        let values = linear.select(&members).unwrap();
        let values = values.quadratic(&vec![result.quadratic; members.len()]).unwrap();
        values.sums(&[(0..members.len()).collect()]).unwrap()
    };
    results.iter().map(result).collect()
}

fn map(seed: u64) -> LinearMap {
    let Case { groups, bias, n_inputs } = case(&mut generator(seed));
    LinearMap::new(n_inputs, bias.len(), groups, bias).unwrap()
}

fn input(map: &LinearMap, params: &Params, seed: u64) -> CiphertextBlock {
    block_of(params, 1, &random_words(params, map.n_inputs(), 1, &mut generator(seed)))
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn one_pass_gives_the_words_of_three(
        bits in prop::sample::select(vec![vec![14], vec![30, 31], vec![47, 46]]),
        n in prop::sample::select(vec![32_usize, 64, 256]),
        seed: u64,
    ) {
        let params = toy(n, 65_537, &bits);
        let map = map(seed);
        let results = results(map.n_outputs(), &mut generator(!seed));
        let linear = map.apply(&input(&map, &params, seed)).unwrap();
        let expected = in_steps(&linear, &results);
        for backend in Backend::available() {
            let params = params.with_backend(backend).unwrap();
            // Stale words of another shape must not show.
            let mut out = linear.square().unwrap();
            let block = input(&map, &params, seed);
            map.apply_pooled_into(&block, 0..map.n_outputs(), &results, &mut out).unwrap();
            let one_by_one: Vec<_> = (0..results.len()).map(|i| out.select(&[i]).unwrap()).collect();
            prop_assert_eq!(&one_by_one, &expected, "{:?}", backend);
        }
    }

    /// Straight to the wire: the bytes of a switched block.
    #[test]
    fn switching_while_writing_gives_the_bytes_of_a_switched_block(
        n_moduli in 1_usize..=4,
        degree in 1_usize..=3,
        seed: u64,
    ) {
        let params = toy(64, 65_537, &[47, 30, 45, 14][..n_moduli]);
        let block = block_of(&params, degree, &random_words(&params, 5, degree, &mut generator(seed)));
        for target in 1..=n_moduli {
            let switched = block.mod_switch_to(target).unwrap();
            let mut expected = vec![1, 2, 3];
            bytes::write_reply(&switched, &mut expected);
            let mut actual = vec![1, 2, 3];
            block.write_switched(0..2, target, &mut actual).unwrap();
            block.write_switched(2..5, target, &mut actual).unwrap();
            prop_assert_eq!(&actual, &expected);
        }
    }
}

/// More terms than the lazy sums take at once.
#[test]
fn long_sums_carry() {
    let params = toy(32, 65_537, &[47, 46]);
    let map = map(3);
    let linear = map.apply(&input(&map, &params, 3)).unwrap();
    let members = (0..5000).map(|i| i % map.n_outputs() as u32).collect();
    let results = [PooledQuadratic { members, quadratic: Quadratic { a: -3, b: 5, c: i64::MIN } }];
    let mut out = linear.clone();
    let block = input(&map, &params, 3);
    map.apply_pooled_into(&block, 0..map.n_outputs(), &results, &mut out).unwrap();
    assert_eq!([out], in_steps(&linear, &results)[..]);
}

#[test]
fn misfits_are_refused() {
    let params = toy(32, 65_537, &[30, 31]);
    let map = map(3);
    let block = input(&map, &params, 3);
    let n_outputs = map.n_outputs();
    let mut out = block.clone();
    let result = |members: Vec<u32>| [PooledQuadratic { members, quadratic: Quadratic::SQUARE }];
    let mut apply = |block: &CiphertextBlock, range, members| {
        map.apply_pooled_into(block, range, &result(members), &mut out)
    };
    assert!(apply(&block, 0..n_outputs, vec![0; 1 << 15]).is_ok());
    for members in [vec![], vec![0; (1 << 15) + 1]] {
        let refused = apply(&block, 0..n_outputs, members);
        assert!(matches!(refused, Err(Error::Length { .. })), "{refused:?}");
    }
    let beyond = apply(&block, 0..n_outputs, vec![n_outputs as u32]);
    assert!(matches!(beyond, Err(Error::Index { .. })), "{beyond:?}");
    let beyond = apply(&block, 0..n_outputs + 1, vec![0]);
    assert!(matches!(beyond, Err(Error::Index { .. })), "{beyond:?}");
    let squared = block.square().unwrap();
    let refused = apply(&squared, 0..n_outputs, vec![0]);
    assert!(matches!(refused, Err(Error::Form { .. })), "{refused:?}");
    let refused = apply(&block.mod_switch_down().unwrap(), 0..n_outputs, vec![0]);
    assert!(matches!(refused, Err(Error::Form { .. })), "{refused:?}");
    let none = block.select(&[]).unwrap();
    assert!(matches!(apply(&none, 0..n_outputs, vec![0]), Err(Error::Length { .. })));
    let mut written = Vec::new();
    assert!(matches!(block.write_switched(0..99, 1, &mut written), Err(Error::Index { .. })));
    assert!(matches!(block.write_switched(0..1, 3, &mut written), Err(Error::Form { .. })));
    assert!(matches!(block.write_switched(0..1, 0, &mut written), Err(Error::Form { .. })));
    assert!(written.is_empty());
}
