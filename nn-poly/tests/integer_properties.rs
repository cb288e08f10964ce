//! Laws of the integer network: the fast path, the streaming refresher, the modular path and the
//! proven ranges all agree with the definition, and the definition with a naive one.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    missing_docs,
    reason = "tests"
)]

#[path = "generators/random_network.rs"]
mod random_network;

use ndarray::Array2;
use nn_poly::Error;
use nn_poly::integer::{
    ActivationKind, Arrivals, ConvGeometry, Grouping, InputGrid, IntegerNetwork, Interval,
    LinearGeometry, Quadratic, ReferenceStage, Refresh, Refresher, StageOutput, StageStructure,
    StageWeights, SumGeometry, SumTerm, ValueRef, Volume,
};
use nn_poly::layer::Padding;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use random_network::{Choices, random_network};

fn references(network: &IntegerNetwork, inputs: &Array2<i32>) -> Vec<Vec<ReferenceStage>> {
    (0..inputs.ncols())
        .map(|sample| network.reference(&inputs.column(sample).to_vec(), &[]).unwrap())
        .collect()
}

fn check_fast_path(network: &IntegerNetwork, inputs: &Array2<i32>) {
    let fast = network.trace(inputs).unwrap();
    let slow = references(network, inputs);
    let n_stages = network.structure().len();
    for (sample, stages) in slow.iter().enumerate() {
        assert_eq!(fast.scores.column(sample).to_vec(), stages[n_stages - 1].pooled);
        for (refreshed, stage) in fast.refreshed.iter().zip(stages) {
            assert_eq!(refreshed.column(sample).to_vec(), stage.refreshed);
        }
    }
    for stage in 0..n_stages {
        let gathered = network.gather_inputs(stage, inputs, &fast.refreshed).unwrap();
        for output in [StageOutput::Linear, StageOutput::Pooled] {
            let values = network.evaluate_stage(stage, &gathered, output).unwrap();
            let ranges = network.stage_ranges(stage).unwrap();
            for (sample, stages) in slow.iter().enumerate() {
                let (expected, intervals) = match output {
                    StageOutput::Linear => (&stages[stage].linear, &ranges.linear),
                    StageOutput::Pooled => (&stages[stage].pooled, &ranges.pooled),
                };
                assert_eq!(&values.column(sample).to_vec(), expected);
                for (v, interval) in expected.iter().zip(intervals) {
                    assert!(interval.contains(*v), "proven range");
                }
            }
            let seen = fast.observed[stage].at(output);
            assert_eq!(Some(&seen.low), values.iter().min());
            assert_eq!(Some(&seen.high), values.iter().max());
        }
    }
}

/// Feed the outputs of every stage to a refresher in random order.
fn check_refresher(network: &IntegerNetwork, inputs: &Array2<i32>, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let fast = network.trace(inputs).unwrap();
    let n_stages = network.structure().len();
    for stage in 0..n_stages {
        let gathered = network.gather_inputs(stage, inputs, &fast.refreshed).unwrap();
        for takes in [StageOutput::Linear, StageOutput::Pooled] {
            let values = network.evaluate_stage(stage, &gathered, takes).unwrap();
            let mut refresher = network.refresher(stage, takes, inputs.ncols()).unwrap();
            let mut order = (0..values.nrows()).collect::<Vec<_>>();
            order.shuffle(&mut rng);
            for &output in &order {
                refresher.absorb(output, &values.row(output).to_vec()).unwrap();
            }
            let again = refresher.absorb(order[0], &values.row(order[0]).to_vec());
            assert!(matches!(again, Err(Error::RepeatedOutput { .. })));
            let batches = absorb_batches(network, stage, takes, &values, &mut rng);
            if stage + 1 == n_stages {
                let finished = refresher.finish_scores().unwrap();
                assert_eq!(finished.scores, fast.scores);
                assert_eq!(batches.finish_scores().unwrap(), finished);
                assert!(finished.out_of_range.iter().all(|flag| !flag));
            } else {
                let finished = refresher.finish().unwrap();
                assert_eq!(finished.values, fast.refreshed[stage]);
                assert_eq!(finished.n_clamped, fast.counts[stage].n_clamped);
                assert_eq!(batches.finish().unwrap(), finished);
                assert!(finished.out_of_range.iter().all(|flag| !flag));
            }
        }
    }
}

/// Feed the outputs in order, several at a time, each row followed by values that are no samples.
fn absorb_batches(
    network: &IntegerNetwork,
    stage: usize,
    takes: StageOutput,
    values: &Array2<i64>,
    rng: &mut StdRng,
) -> Refresher {
    let (n_outputs, n_samples) = values.dim();
    let mut refresher = network.refresher(stage, takes, n_samples).unwrap();
    let stride = n_samples + rng.random_range(0..3);
    let mut first = 0;
    while first < n_outputs {
        let count = rng.random_range(1..=n_outputs - first);
        let rows = values.rows().into_iter().skip(first).take(count);
        let padded = rows.flat_map(|row| {
            let mut row = row.to_vec();
            row.resize(stride, i64::MAX);
            row
        });
        refresher.absorb_rows(first, &padded.collect::<Vec<_>>(), stride).unwrap();
        first += count;
    }
    refresher
}

/// Modular evaluation equals the reference on small points, and a schoolbook loop on random ones.
fn check_modular(network: &IntegerNetwork, inputs: &Array2<i32>, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let t = match rng.random_range(0..4) {
        0 => 65_537,
        1 => (1 << 62) - 57,
        2 => rng.random_range(2..100),
        _ => rng.random_range(2..1 << 62),
    };
    let fast = network.trace(inputs).unwrap();
    for stage in 0..network.structure().len() {
        let (structure, weights) = network.stage(stage).unwrap();
        let gathered = network.gather_inputs(stage, inputs, &fast.refreshed).unwrap();
        let residue = |v: i128| v.rem_euclid(i128::from(t)) as u64;
        let mut points = gathered
            .columns()
            .into_iter()
            .map(|column| column.iter().map(|&x| residue(i128::from(x))).collect::<Vec<_>>())
            .collect::<Vec<_>>();
        let random = (0..structure.n_inputs()).map(|_| rng.random_range(0..t)).collect::<Vec<_>>();
        points.push(random.clone());
        for output in [StageOutput::Linear, StageOutput::Pooled] {
            let modular = network.evaluate_stage_modular(stage, &points, t, output);
            let is_polynomial = structure.non_polynomial().is_none();
            if !is_polynomial && output == StageOutput::Pooled {
                assert!(matches!(modular, Err(Error::NotPolynomial { .. })));
                continue;
            }
            let modular = modular.unwrap();
            let values = network.evaluate_stage(stage, &gathered, output).unwrap();
            for (sample, column) in values.columns().into_iter().enumerate() {
                let expected = column.iter().map(|&v| residue(i128::from(v))).collect::<Vec<_>>();
                assert_eq!(modular[sample], expected);
            }
            let expected = schoolbook(structure, weights, &random, t, output);
            assert_eq!(modular[points.len() - 1], expected);
        }
    }
}

/// One product at a time, reduced at once; convolutions on an explicitly padded plane.
fn schoolbook(
    structure: &StageStructure,
    weights: &StageWeights,
    point: &[u64],
    t: u64,
    output: StageOutput,
) -> Vec<u64> {
    let t = i128::from(t);
    let n_channels = structure.n_channels();
    let mut values = naive_linear(&structure.linear, weights, point, t);
    for (idx, v) in values.iter_mut().enumerate() {
        *v = (*v + i128::from(weights.bias_of(idx, n_channels))).rem_euclid(t);
    }
    if output == StageOutput::Pooled {
        for (idx, v) in values.iter_mut().enumerate() {
            if let Some(quadratic) = &weights.quadratic {
                let (a, b, c) = quadratic.coefficients(idx % n_channels);
                let square = (*v * *v).rem_euclid(t) * i128::from(a);
                *v = (square + i128::from(b) * *v + i128::from(c)).rem_euclid(t);
            }
        }
        if let Some(pool) = &structure.pool {
            let out = pool.output();
            let mut pooled = Vec::new();
            for (y, x) in (0..out.height).flat_map(|y| (0..out.width).map(move |x| (y, x))) {
                for channel in 0..n_channels {
                    let mut sum = 0;
                    for (dy, dx) in
                        (0..pool.window.0).flat_map(|y| (0..pool.window.1).map(move |x| (y, x)))
                    {
                        let row = y * pool.stride.0 + dy;
                        let column = x * pool.stride.1 + dx;
                        sum += values[(row * pool.input.width + column) * n_channels + channel];
                    }
                    pooled.push(sum.rem_euclid(t));
                }
            }
            values = pooled;
        }
    }
    values.into_iter().map(|v| v as u64).collect()
}

fn naive_linear(
    linear: &LinearGeometry,
    weights: &StageWeights,
    point: &[u64],
    t: i128,
) -> Vec<i128> {
    let w = |idx: usize| i128::from(weights.weights[idx]);
    let conv = match linear {
        LinearGeometry::Dense { n_in, n_out } => {
            let product = |row: usize, i: usize| w(row * n_in + i) * i128::from(point[i]) % t;
            let dot = |row| (0..*n_in).map(|i| product(row, i)).sum::<i128>().rem_euclid(t);
            return (0..*n_out).map(dot).collect();
        }
        LinearGeometry::Conv2d(conv) => conv,
        LinearGeometry::Sum(sum) => {
            let mut total = vec![0_i128; linear.n_outputs()];
            let mut first = 0;
            for SumTerm { first_input, conv } in &sum.terms {
                let taps = first..first + conv.taps();
                first = taps.end;
                let rows = weights.weights.chunks(linear.taps());
                let own = StageWeights {
                    weights: rows.flat_map(|row| row[taps.clone()].to_vec()).collect(),
                    ..weights.clone()
                };
                let read = &point[*first_input..first_input + conv.input.len()];
                let part = naive_linear(&LinearGeometry::Conv2d(*conv), &own, read, t);
                total.iter_mut().zip(part).for_each(|(sum, v)| *sum = (*sum + v).rem_euclid(t));
            }
            return total;
        }
    };
    let (pad, c) = (conv.padding, conv.input.channels);
    let height = conv.input.height + pad.top + pad.bottom;
    let width = conv.input.width + pad.left + pad.right;
    let mut padded = vec![0_i128; height * width * c];
    for y in 0..conv.input.height {
        for x in 0..conv.input.width {
            for channel in 0..c {
                padded[((y + pad.top) * width + x + pad.left) * c + channel] =
                    i128::from(point[conv.input.index(y, x, channel)]);
            }
        }
    }
    let mut out = Vec::new();
    for y in (0..=height - conv.kernel.0).step_by(conv.stride.0) {
        for x in (0..=width - conv.kernel.1).step_by(conv.stride.1) {
            for o in 0..conv.out_channels {
                let mut sum = 0;
                for (ky, kx) in
                    (0..conv.kernel.0).flat_map(|y| (0..conv.kernel.1).map(move |x| (y, x)))
                {
                    let at = ((y + ky) * width + x + kx) * c;
                    sum += match conv.grouping {
                        Grouping::Full => (0..c)
                            .map(|i| {
                                let tap = ((o * conv.kernel.0 + ky) * conv.kernel.1 + kx) * c + i;
                                w(tap) * padded[at + i] % t
                            })
                            .sum::<i128>(),
                        Grouping::Depthwise => {
                            let tap = (o * conv.kernel.0 + ky) * conv.kernel.1 + kx;
                            w(tap) * padded[at + o] % t
                        }
                        Grouping::Groups(n) => {
                            let (per_in, per_out) = (c / n, conv.out_channels / n);
                            let first = ((o * conv.kernel.0 + ky) * conv.kernel.1 + kx) * per_in;
                            let base = at + o / per_out * per_in;
                            (0..per_in).map(|i| w(first + i) * padded[base + i] % t).sum::<i128>()
                        }
                    };
                }
                out.push(sum.rem_euclid(t));
            }
        }
    }
    out
}

/// Replacing the numbers of one stage gives what building everything anew gives, or the same refusal.
fn check_replacement(network: &IntegerNetwork, inputs: &Array2<i32>, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let stage = rng.random_range(0..network.structure().len());
    let mut weights = network.weights().to_vec();
    let place = rng.random_range(0..weights[stage].weights.len());
    weights[stage].weights[place] = rng.random_range(-i16::MAX..=i16::MAX);
    weights[stage].bias[0] = rng.random_range(-1 << 20..=1 << 20);
    let (grid, n) = (*network.input(), network.n_inputs());
    let replaced = network.with_stage_weights(stage, weights[stage].clone());
    let anew = IntegerNetwork::new(grid, n, network.structure().to_vec(), weights);
    let (Ok(replaced), Ok(anew)) = (&replaced, &anew) else {
        assert_eq!(replaced.unwrap_err().to_string(), anew.unwrap_err().to_string());
        return;
    };
    assert_eq!(replaced.weights(), anew.weights());
    for stage in 0..network.structure().len() {
        assert_eq!(replaced.stage_ranges(stage).unwrap(), anew.stage_ranges(stage).unwrap());
    }
    check_fast_path(replaced, inputs);
    assert_eq!(replaced.trace(inputs).unwrap().scores, anew.trace(inputs).unwrap().scores);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn replacing_one_stage_equals_building_anew(seed in any::<u64>()) {
        let (network, inputs) = random_network(seed, Choices::ALL);
        check_replacement(&network, &inputs, seed);
        let short = StageWeights { weights: vec![], ..network.weights()[0].clone() };
        let refused = network.with_stage_weights(0, short);
        prop_assert!(matches!(refused, Err(Error::OutOfRange { .. })), "too few weights");
        let nowhere = network.with_stage_weights(9, network.weights()[0].clone());
        prop_assert!(matches!(nowhere, Err(Error::OutOfRange { .. })), "no such stage");
    }

    #[test]
    fn the_fast_path_equals_the_definition(seed in any::<u64>()) {
        let (network, inputs) = random_network(seed, Choices::ALL);
        check_fast_path(&network, &inputs);
    }

    #[test]
    fn saturated_wide_weights_stay_exact(seed in any::<u64>()) {
        let choices = Choices { max_weight: i16::MAX, ..Choices::ALL };
        let (network, inputs) = random_network(seed, choices);
        check_fast_path(&network, &inputs);
        check_modular(&network, &inputs, seed);
    }

    #[test]
    fn the_refresher_is_indifferent_to_order(seed in any::<u64>()) {
        let (network, inputs) = random_network(seed, Choices::ALL);
        check_refresher(&network, &inputs, seed);
    }

    #[test]
    fn modular_evaluation_equals_schoolbook(seed in any::<u64>()) {
        let (network, inputs) = random_network(seed, Choices::ALL);
        check_modular(&network, &inputs, seed);
    }

    #[test]
    fn a_refresh_rounds_half_up_and_clamps(
        v in -1_i64 << 61..1 << 61, m in -1_i64 << 40..=1 << 40, shift in 0_u32..=62,
    ) {
        let refresh = Refresh { multipliers: vec![m], shift, min: -200, max: 300 };
        // floor((v m + 2^(s-1)) / 2^s) is the nearest whole number to v m / 2^s, halves upward.
        let (product, unit) = (i128::from(v) * i128::from(m), 1_i128 << shift);
        let mut nearest = product.div_euclid(unit);
        if 2 * product.rem_euclid(unit) >= unit && shift > 0 {
            nearest += 1;
        }
        prop_assert_eq!(i128::from(refresh.apply(0, v)), nearest.clamp(-200, 300));
    }
}

/// The single-output network `W·x + b` on `n_in` inputs.
fn single_stage(n_in: usize, weight: i16, bias: i64, bits: u32) -> Result<IntegerNetwork, Error> {
    let structure = StageStructure {
        sources: vec![ValueRef::Input],
        linear: LinearGeometry::Dense { n_in, n_out: 1 },
        activation: ActivationKind::Quadratic,
        pool: None,
        refresh: None,
        chain: None,
    };
    let weights = StageWeights {
        weights: vec![weight; n_in],
        bias: vec![bias],
        quadratic: Some(Quadratic::square()),
        chain: Vec::new(),
    };
    let input = InputGrid { bits, signed: false, step: 1.0 };
    IntegerNetwork::new(input, n_in, vec![structure], vec![weights])
}

#[test]
fn networks_that_could_overflow_are_refused() {
    // 65535 · 32767 per product: 0.99·2^31, so one product squared just fits below 2^62.
    let network = single_stage(1, i16::MAX, 0, 16).unwrap();
    let score = network.evaluate(&Array2::from_elem((1, 1), 65_535)).unwrap().scores[[0, 0]];
    assert_eq!(score, (65_535 * 32_767_i64).pow(2));
    for refused in [
        single_stage(2, i16::MAX, 0, 16),
        single_stage(1, i16::MAX, 1 << 40, 16),
        single_stage(1, i16::MIN, 0, 16),
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::Accumulator { .. } | Error::OutOfRange { .. }), "{error}");
    }
}

#[test]
fn products_beyond_single_precision_stay_exact() {
    // Sums of products up to 2^38 are exact in double precision only.
    let network = |weights: Vec<i16>, bits| {
        let structure = StageStructure {
            sources: vec![ValueRef::Input],
            linear: LinearGeometry::Dense { n_in: weights.len(), n_out: 1 },
            activation: ActivationKind::Identity,
            pool: None,
            refresh: None,
            chain: None,
        };
        let input = InputGrid { bits, signed: false, step: 1.0 };
        let n_in = weights.len();
        let weights = StageWeights { weights, bias: vec![3], quadratic: None, chain: Vec::new() };
        IntegerNetwork::new(input, n_in, vec![structure], vec![weights]).unwrap()
    };
    // 256 products of 15 · 4369 = 65,535 stay just below 2^24, the limit of single precision; 257
    // do not.
    for (weights, bits) in [
        ((0..200).map(|i| 32_767 - i).collect::<Vec<i16>>(), 16),
        (vec![4369; 256], 4),
        (vec![4369; 257], 4),
        (vec![4369, -4369, 1], 16),
    ] {
        let network = network(weights.clone(), bits);
        let max = network.input().max();
        let inputs = Array2::from_shape_fn((weights.len(), 3), |(row, column)| match column {
            0 => max,
            1 => max - i32::try_from(row % 7).unwrap(),
            _ => i32::from(row % 2 == 0) * max,
        });
        let scores = network.evaluate(&inputs).unwrap().scores;
        for (column, &score) in inputs.columns().into_iter().zip(&scores) {
            let dot = |(&w, &x): (&i16, &i32)| i64::from(w) * i64::from(x);
            assert_eq!(score, weights.iter().zip(column).map(dot).sum::<i64>() + 3);
        }
    }
}

#[test]
fn inputs_outside_the_grid_are_refused() {
    let network = single_stage(3, 1, 0, 4).unwrap();
    for inputs in [Array2::from_elem((3, 2), 16), Array2::from_elem((3, 2), -1)] {
        assert!(matches!(network.evaluate(&inputs), Err(Error::OutOfRange { .. })));
    }
    let error = network.evaluate(&Array2::zeros((2, 2)));
    assert!(matches!(error, Err(Error::ShapeMismatch { .. })));
    assert_eq!(network.evaluate(&Array2::zeros((3, 0))).unwrap().scores.dim(), (1, 0));
}

type Alteration = fn(&mut StageStructure, &mut StageWeights);

#[test]
fn structures_that_do_not_fit_are_refused() {
    let good = single_stage(3, 1, 0, 4).unwrap();
    let (input, structure, weights) = (*good.input(), good.structure(), good.weights());
    let alterations: [(&str, Alteration); 10] = [
        ("sources", |s, _| s.sources.clear()),
        ("later source", |s, _| s.sources = vec![ValueRef::Stage(0)]),
        ("two sources", |s, _| s.sources.push(ValueRef::Input)),
        ("refresh on the last stage", |s, _| {
            s.refresh = Some(Refresh { multipliers: vec![1], shift: 0, min: 0, max: 1 });
        }),
        ("no outputs", |s, _| s.linear = LinearGeometry::Dense { n_in: 3, n_out: 0 }),
        ("huge", |s, _| s.linear = LinearGeometry::Dense { n_in: usize::MAX, n_out: usize::MAX }),
        ("missing weight", |_, w| w.weights.truncate(2)),
        ("missing bias", |_, w| w.bias.clear()),
        ("no quadratic", |_, w| w.quadratic = None),
        ("quadratic on identity", |s, _| s.activation = ActivationKind::Identity),
    ];
    for (what, alter) in alterations {
        let (mut structure, mut weights) = (structure.to_vec(), weights.to_vec());
        alter(&mut structure[0], &mut weights[0]);
        let refused = IntegerNetwork::new(input, 3, structure, weights);
        assert!(matches!(refused, Err(Error::OutOfRange { .. })), "{what}");
    }
}

#[test]
fn the_refresher_flags_and_refuses() {
    let structure = StageStructure {
        sources: vec![ValueRef::Input],
        linear: LinearGeometry::Dense { n_in: 1, n_out: 2 },
        activation: ActivationKind::Relu,
        pool: None,
        refresh: Some(Refresh { multipliers: vec![1], shift: 1, min: 0, max: 15 }),
        chain: None,
    };
    let arrivals = Arrivals {
        takes: StageOutput::Linear,
        domain: Interval { low: -50, high: 49 },
        expected: Interval { low: -20, high: 20 },
    };
    let mut refresher = Refresher::new(0, &structure, None, arrivals, 3).unwrap();
    refresher.absorb(1, &[-50, 49, 5]).unwrap();
    assert!(matches!(
        refresher.absorb(0, &[50, 0, 0]),
        Err(Error::OutsideDomain { output_idx: 0 })
    ));
    assert!(matches!(refresher.absorb(0, &[0, 0]), Err(Error::OutOfRange { .. })));
    assert!(matches!(refresher.absorb(2, &[0, 0, 0]), Err(Error::OutOfRange { .. })));
    let misfits: [(usize, &[i64], usize); 4] =
        [(0, &[0, 0, 0], 2), (0, &[0; 4], 3), (1, &[0; 6], 3), (3, &[0; 3], 3)];
    for (first, rows, stride) in misfits {
        let refused = refresher.absorb_rows(first, rows, stride);
        assert!(matches!(refused, Err(Error::OutOfRange { .. })), "{first} {stride}");
    }
    let refused = refresher.absorb_rows(0, &[0, 1, 2, 0, 50, 0], 3);
    assert!(matches!(refused, Err(Error::OutsideDomain { output_idx: 1 })));
    let refused = refresher.absorb_rows(0, &[0; 6], 3);
    assert!(matches!(refused, Err(Error::RepeatedOutput { output_idx: 1 })));
    for extreme in [i64::MIN, i64::MAX, -51] {
        let refused = refresher.absorb_rows(0, &[0, extreme, 0], 3);
        assert!(matches!(refused, Err(Error::OutsideDomain { output_idx: 0 })));
    }
    refresher.absorb_rows(0, &[0, 1, 3, 99], 4).unwrap();
    let refreshed = refresher.finish().unwrap();
    assert_eq!(refreshed.values, ndarray::array![[0, 1, 2], [0, 15, 3]]);
    assert_eq!(refreshed.out_of_range, [true, true, false]);
    assert_eq!(refreshed.n_clamped, 1);
    let unfinished = Refresher::new(0, &structure, None, arrivals, 3).unwrap();
    assert!(matches!(unfinished.finish(), Err(Error::MissingOutputs { n_missing: 2 })));
}

/// More samples than one task takes, and rows enough for several tasks.
#[test]
fn refreshers_work_on_many_samples_in_parallel() {
    let (network, inputs) = random_network(11, Choices::ALL);
    let many = Array2::from_shape_fn((inputs.nrows(), 2_100), |(row, column)| {
        inputs[[row, column % inputs.ncols()]]
    });
    check_refresher(&network, &many, 1);
}

#[test]
fn an_empty_chunk_boundary_is_not_visible() {
    // More samples than a chunk, and a last chunk of one.
    let (network, inputs) = random_network(7, Choices::ALL);
    let many = Array2::from_shape_fn((inputs.nrows(), 257), |(row, column)| {
        inputs[[row, column % inputs.ncols()]]
    });
    let (few, many) = (network.evaluate(&inputs).unwrap(), network.evaluate(&many).unwrap());
    for column in 0..257 {
        assert_eq!(many.scores.column(column), few.scores.column(column % inputs.ncols()));
    }
}

/// A sum whose terms do not fit each other or the inputs is refused before anything is evaluated.
#[test]
fn sums_that_do_not_fit_are_refused() {
    type Change = fn(&mut SumGeometry);
    let conv = ConvGeometry {
        input: Volume { height: 2, width: 2, channels: 2 },
        kernel: (1, 1),
        stride: (1, 1),
        padding: Padding::NONE,
        out_channels: 2,
        grouping: Grouping::Full,
    };
    let terms = vec![
        SumTerm { first_input: 0, conv },
        SumTerm { first_input: 8, conv: ConvGeometry { grouping: Grouping::Depthwise, ..conv } },
    ];
    let fitting = SumGeometry { n_in: 16, terms };
    LinearGeometry::Sum(fitting.clone()).check(0).unwrap();
    let cases: [(&str, Change); 7] = [
        ("number of terms is 0, it must be between 1 and 256", |s| s.terms.clear()),
        ("number of terms is 257, it must be between 1 and 256", |s| {
            s.terms = vec![s.terms[0]; 257];
        }),
        ("inputs before a term is 9, it must be between 0 and 8", |s| s.terms[1].first_input = 9),
        ("number of inputs of a term is 8, it must be between 1 and 7", |s| {
            s.n_in = 7;
            s.terms[1].first_input = 0;
        }),
        ("output height of a term is 1, it must be 2", |s| s.terms[1].conv.stride = (2, 1)),
        ("channels left over by the groups is 2, it must be 0", |s| {
            s.terms[0].conv.grouping = Grouping::Groups(3);
        }),
        ("number of groups is 0, it must be between 1 and 4194304", |s| {
            s.terms[0].conv.grouping = Grouping::Groups(0);
        }),
    ];
    for (expected, change) in cases {
        let mut sum = fitting.clone();
        change(&mut sum);
        let error = LinearGeometry::Sum(sum).check(0).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
