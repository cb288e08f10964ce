//! Linear maps on chosen words: every kernel gives what exact integers give.

use crate::{
    cases, generator,
    reference::{block_of, linear, random_words},
    toy,
};
use he_core::{
    Backend, CiphertextBlock, Error, Group, LinearMap, MAX_MODULUS, PADDING, Params, ParamsSpec,
    Placement,
};
use proptest::prelude::*;
use rand::{Rng, RngCore};

/// A weight that is often saturated.
fn weight(rng: &mut impl RngCore) -> i32 {
    match rng.random_range(0..6) {
        0 | 1 => 32_767,
        2 | 3 => -32_767,
        4 => 0,
        _ => rng.random_range(-32_767..=32_767),
    }
}

/// One group whose outputs start at `base`: placements side by side or interleaved.
fn group(n_inputs: usize, base: usize, rng: &mut impl RngCore) -> (Group, usize) {
    let n_rows = rng.random_range(1..=12);
    let n_taps = rng.random_range(1..=9);
    let n_placements = rng.random_range(1..=4);
    let interleaved = rng.random::<bool>();
    let weights = (0..n_rows * n_taps).map(|_| weight(rng)).collect();
    let placements = (0..n_placements)
        .map(|p| Placement {
            inputs: (0..n_taps)
                .map(|_| match rng.random_range(0..8) {
                    0 => PADDING,
                    _ => rng.random_range(0..n_inputs as u32),
                })
                .collect(),
            first_output: (base + if interleaved { p } else { p * n_rows }) as u32,
            output_stride: if interleaved { n_placements as u32 } else { 1 },
        })
        .collect();
    (Group { weights, n_rows, n_taps, placements }, base + n_rows * n_placements)
}

pub(crate) struct Case {
    pub(crate) groups: Vec<Group>,
    pub(crate) bias: Vec<i64>,
    pub(crate) n_inputs: usize,
}

pub(crate) fn case(rng: &mut impl RngCore) -> Case {
    let n_inputs = rng.random_range(1..=12);
    let (mut groups, mut n_outputs) = (Vec::new(), 0);
    for _ in 0..rng.random_range(1..=3) {
        let (group, end) = group(n_inputs, n_outputs, rng);
        groups.push(group);
        n_outputs = end;
    }
    let bias = (0..n_outputs)
        .map(|i| [0, 1, -1, i64::MAX, i64::MIN, rng.next_u64().cast_signed()][i % 6])
        .collect();
    Case { groups, bias, n_inputs }
}

impl Case {
    fn map(&self) -> LinearMap {
        let n_outputs = self.bias.len();
        LinearMap::new(self.n_inputs, n_outputs, self.groups.clone(), self.bias.clone()).unwrap()
    }
}

/// Every word of the reply equals the sum over exact integers.
fn check_words(case: &Case, params: &Params, words: &[Vec<Vec<u64>>], reply: &CiphertextBlock) {
    let (n, row_len) = (params.ring_degree(), reply.row_len());
    for (limb, (&q, words)) in params.moduli().iter().zip(words).enumerate() {
        for column in 0..row_len {
            let bias_word = u64::from(column < n);
            let expected = linear(&case.groups, &case.bias, |i| words[i][column], bias_word, q);
            for (output, expected) in expected.into_iter().enumerate() {
                let actual = reply.limb(limb)[output * row_len + column];
                assert_eq!(actual, expected, "limb {limb} output {output} column {column}");
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn every_backend_equals_exact_integers(
        bits in prop::sample::select(vec![vec![11], vec![20, 30], vec![31, 32], vec![47, 46]]),
        log2_n in 5_u32..=6,
        degree in 1_usize..=3,
        seed: u64,
    ) {
        let mut rng = generator(seed);
        let params = toy(1 << log2_n, 65_537, &bits);
        let case = case(&mut rng);
        let words = random_words(&params, case.n_inputs, degree, &mut rng);
        let map = case.map();
        for backend in Backend::available() {
            let params = params.with_backend(backend).unwrap();
            let reply = map.apply(&block_of(&params, degree, &words)).unwrap();
            check_words(&case, &params, &words, &reply);
        }
    }

    #[test]
    fn a_range_is_a_slice_of_the_whole(seed: u64, start in 0_usize..4, len in 0_usize..4) {
        let mut rng = generator(seed);
        let params = toy(64, 65_537, &[47, 30]);
        let (n_rows, n_inputs) = (rng.random_range(1..=7), 6);
        let n_taps = rng.random_range(1..=5);
        let placements = (0..8).map(|p| Placement {
            inputs: (0..n_taps).map(|_| rng.random_range(0..n_inputs)).collect(),
            first_output: p * n_rows,
            output_stride: 1,
        });
        let placements = placements.collect();
        let weights = (0..n_rows as usize * n_taps).map(|_| weight(&mut rng)).collect();
        let group = Group { weights, n_rows: n_rows as usize, n_taps, placements };
        let bias = (0..8 * n_rows).map(|_| rng.next_u64().cast_signed()).collect();
        let map = LinearMap::new(6, 8 * n_rows as usize, vec![group], bias).unwrap();
        let block = block_of(&params, 1, &random_words(&params, 6, 1, &mut rng));
        let whole = map.apply(&block).unwrap();
        let range = start * n_rows as usize..(start + len) * n_rows as usize;
        let part = map.apply_range(&block, range.clone()).unwrap();
        let expected = whole.select(&range.clone().collect::<Vec<_>>()).unwrap();
        prop_assert_eq!(&part, &expected);
        // Into blocks of any former shape: nothing of what they held remains.
        for degree in 1..=2 {
            let words = random_words(&params, start + 1, degree, &mut rng);
            let mut out = block_of(&params, degree, &words);
            map.apply_range_into(&block, range.clone(), &mut out).unwrap();
            prop_assert_eq!(&out, &expected);
        }
    }
}

/// The largest prime of a ring up to a bound.
fn largest_modulus(ring_degree: usize, at_most: u64) -> u64 {
    let step = 2 * ring_degree as u64;
    let largest = at_most - (at_most - 1) % step;
    (0..)
        .map(|i| largest - i * step)
        .find(|&c| ParamsSpec::smallest_slot_modulus(ring_degree, c).is_ok_and(|prime| prime == c))
        .unwrap()
}

/// The largest primes of both digit classes, and the smallest of the larger class.
fn edge_params() -> Params {
    let (n, largest_of_two_digits) = (32, 0x7FFF_7FFF);
    let smallest = ParamsSpec::smallest_slot_modulus(n, largest_of_two_digits + 1).unwrap();
    let moduli =
        vec![largest_modulus(n, largest_of_two_digits), smallest, largest_modulus(n, MAX_MODULUS)];
    Params::insecure_new(ParamsSpec { ring_degree: n, plaintext_modulus: 65_537, moduli }).unwrap()
}

fn check_all_backends(case: &Case, params: &Params, words: &[Vec<Vec<u64>>]) {
    let map = case.map();
    for backend in Backend::available() {
        let params = params.with_backend(backend).unwrap();
        check_words(case, &params, words, &map.apply(&block_of(&params, 1, words)).unwrap());
    }
}

/// Rows, taps and weights around the sizes of row blocks, steps and chunks.
#[test]
fn every_shape_of_a_dense_map_equals_exact_integers() {
    let params = edge_params();
    let mut rng = generator(7);
    for (n_rows, n_taps, largest) in [
        (1, 1, 32_767),
        (2, 2, 32_767),
        (3, 7, 127),
        (4, 8, 32_767),
        (5, 9, 127),
        (6, 16, 32_767),
        (11, 33, 127),
        (16, 64, 127),
        (17, 65, 32_767),
        (21, 130, 127),
        (26, 19, 32_767),
    ] {
        let mut weight = || match rng.random_range(0..4) {
            0 | 1 => largest,
            2 => -largest,
            _ => rng.random_range(-largest..=largest),
        };
        let weights = (0..n_rows * n_taps).map(|_| weight()).collect();
        let placement =
            Placement { inputs: (0..n_taps as u32).collect(), first_output: 0, output_stride: 1 };
        let group = Group { weights, n_rows, n_taps, placements: vec![placement] };
        let case = Case { groups: vec![group], bias: vec![1; n_rows], n_inputs: n_taps };
        check_all_backends(&case, &params, &random_words(&params, n_taps, 1, &mut rng));
    }
}

/// A matrix of one row per channel, at interleaved outputs: depthwise convolutions and pools.
#[test]
fn depthwise_maps_equal_exact_integers() {
    let (params, mut rng) = (edge_params(), generator(8));
    let (channels, side) = (3_u32, 4_u32);
    let groups = (0..channels).map(|channel| {
        let placements = (0..9).map(|p| {
            let tap = |k: u32| channels * (side * (p / 3 + k / 2) + p % 3 + k % 2) + channel;
            let inputs = (0..4).map(tap).collect();
            Placement { inputs, first_output: channels * p + channel, output_stride: 1 }
        });
        let placements = placements.collect();
        Group {
            weights: (0..4).map(|_| weight(&mut rng)).collect(),
            n_rows: 1,
            n_taps: 4,
            placements,
        }
    });
    let groups = groups.collect();
    let n_inputs = (channels * side * side) as usize;
    let case = Case { groups, bias: vec![-1; 9 * channels as usize], n_inputs };
    check_all_backends(&case, &params, &random_words(&params, n_inputs, 1, &mut rng));
}

/// Kernel rows of odd length at stride two: their taps are paired run by run, each pair filled with
/// the input that follows the run, whatever it holds; after the last input nothing follows.
#[test]
fn convolutions_paired_by_runs_equal_exact_integers() {
    let (params, mut rng) = (edge_params(), generator(9));
    for (size, side, border) in [(5, 21, 0), (3, 15, 1)] {
        let (n_rows, out) = (4, (side + 2 * border - size) / 2 + 1);
        let input = |p: u32, k: u32| {
            let y = (2 * (p / out) + k / size).checked_sub(border).filter(|&y| y < side);
            let x = (2 * (p % out) + k % size).checked_sub(border).filter(|&x| x < side);
            y.zip(x).map_or(PADDING, |(y, x)| side * y + x)
        };
        let placements = (0..out * out).map(|p| Placement {
            inputs: (0..size * size).map(|k| input(p, k)).collect(),
            first_output: n_rows * p,
            output_stride: 1,
        });
        let group = Group {
            placements: placements.collect(),
            weights: (0..n_rows * size * size).map(|_| weight(&mut rng)).collect(),
            n_rows: n_rows as usize,
            n_taps: (size * size) as usize,
        };
        let n_inputs = (side * side) as usize;
        let bias = vec![-1; (n_rows * out * out) as usize];
        let case = Case { groups: vec![group], bias, n_inputs };
        // Largest residues: a filling that counted would show.
        let row = |q: u64| vec![vec![q - 1; 64]; n_inputs];
        let words: Vec<_> = params.moduli().iter().map(|&q| row(q)).collect();
        check_all_backends(&case, &params, &words);
        check_all_backends(&case, &params, &random_words(&params, n_inputs, 1, &mut rng));
    }
}

/// The longest sums: many saturated taps at the largest residues, over several drains.
#[test]
fn long_saturated_rows_do_not_overflow() {
    // Largest primes of both digit classes: the carry bound is tight there.
    let params = edge_params();
    assert!(MAX_MODULUS - params.moduli()[2] < 1 << 20);
    assert!(0x7FFF_7FFF - params.moduli()[0] < 1 << 20);
    for (n_taps, weights) in [
        (301, vec![32_767; 301]),
        (300, vec![-32_767; 300]),
        (513, vec![127; 513]),
        (1024, vec![-64; 1024]),
        (65, (0..65).map(|i| if i % 2 == 0 { 32_767 } else { -32_767 }).collect()),
    ] {
        let placement =
            Placement { inputs: (0..n_taps).collect(), first_output: 0, output_stride: 1 };
        let n_taps = n_taps as usize;
        let group = Group { weights, n_rows: 1, n_taps, placements: vec![placement] };
        let case = Case { groups: vec![group], bias: vec![-1], n_inputs: n_taps };
        let row = |q: u64| vec![vec![q - 1; 64]; n_taps];
        let words: Vec<_> = params.moduli().iter().map(|&q| row(q)).collect();
        check_all_backends(&case, &params, &words);
    }
}

#[test]
fn sums_and_norms_are_as_stated() {
    let members = vec![vec![0, 3], vec![1, 2], vec![2, 2]];
    let params = toy(32, 65_537, &[30]);
    let words = random_words(&params, 4, 1, &mut generator(1));
    let block = block_of(&params, 1, &words);
    let map = LinearMap::sums(4, &members).unwrap();
    let as_usize: Vec<Vec<usize>> =
        members.iter().map(|m| m.iter().map(|&i| i as usize).collect()).collect();
    assert_eq!(map.apply(&block).unwrap(), block.sums(&as_usize).unwrap());
    assert!(matches!(block.sums(&[vec![4]]), Err(Error::Index { index: 4, count: 4, .. })));
    // An input used twice adds coherently: the deviation may double.
    assert_eq!((map.max_l1(), map.max_l2().to_bits()), (2, 2.0_f64.to_bits()));
    let map = LinearMap::dense(2, 2, &[3, -4, 1, 1], &[0, 0]).unwrap();
    assert_eq!((map.max_l1(), map.max_l2().to_bits()), (7, 5.0_f64.to_bits()));
    assert_eq!((map.n_inputs(), map.n_outputs(), map.bias()), (2, 2, &[0, 0][..]));
}

/// One refusal per error, made by altering a valid map.
#[test]
fn invalid_maps_are_refused() {
    let placement =
        |inputs: Vec<u32>, first_output| Placement { inputs, first_output, output_stride: 1 };
    let good = Group {
        weights: vec![1, 2, 3, 4],
        n_rows: 2,
        n_taps: 2,
        placements: vec![placement(vec![0, PADDING], 0), placement(vec![1, 0], 2)],
    };
    let build =
        |group: Group, bias: usize| LinearMap::new(2, 4, vec![group], vec![0; bias]).map(drop);
    assert!(build(good.clone(), 4).is_ok());
    assert!(matches!(build(good.clone(), 3), Err(Error::Length { .. })));
    let altered = |alter: &dyn Fn(&mut Group)| {
        let mut group = good.clone();
        alter(&mut group);
        build(group, 4).unwrap_err()
    };
    assert!(matches!(altered(&|g| g.n_rows = 3), Error::Length { .. }));
    assert!(matches!(altered(&|g| g.n_rows = usize::MAX), Error::Length { .. }));
    assert!(matches!(altered(&|g| (g.n_taps, g.n_rows) = (0, 0)), Error::Length { .. }));
    assert!(matches!(altered(&|g| g.weights[0] = -32_768), Error::Value { value: -32_768, .. }));
    assert!(matches!(altered(&|g| g.placements[0].inputs[0] = 2), Error::Index { index: 2, .. }));
    assert!(matches!(altered(&|g| g.placements[0].inputs.truncate(1)), Error::Length { .. }));
    assert!(matches!(altered(&|g| g.placements[0].output_stride = 0), Error::Length { .. }));
    assert!(matches!(altered(&|g| g.placements[1].first_output = 1), Error::Length { .. }));
    assert!(matches!(altered(&|g| g.placements[1].first_output = 3), Error::Index { .. }));
    assert!(matches!(altered(&|g| g.placements[1].output_stride = u32::MAX), Error::Index { .. }));
    assert!(matches!(altered(&|g| g.placements.truncate(1)), Error::Length { .. }));
}

#[test]
fn invalid_applications_are_refused() {
    let params = toy(32, 65_537, &[30, 31]);
    let block = block_of(&params, 1, &random_words(&params, 2, 1, &mut generator(1)));
    let map = LinearMap::dense(4, 2, &[1; 8], &[1; 4]).unwrap();
    let wrong = LinearMap::dense(4, 3, &[1; 12], &[1; 4]).unwrap();
    assert!(matches!(wrong.apply(&block), Err(Error::Length { expected: 3, actual: 2, .. })));
    assert!(matches!(map.apply_range(&block, 0..5), Err(Error::Index { .. })));
    assert!(matches!(map.apply_range(&block, 0..2), Err(Error::Index { .. })));
    assert_eq!(map.apply_range(&block, 4..4).unwrap().count(), 0);
    let switched = block.mod_switch_down().unwrap();
    let unbiased = LinearMap::dense(4, 2, &[1; 8], &[0; 4]).unwrap();
    assert!(unbiased.apply(&switched).is_ok());
}
