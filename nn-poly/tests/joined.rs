//! Stages joined without a refresh: the integers compute what the float network does.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    missing_docs,
    reason = "tests"
)]

use ndarray::{Array1, Array2, Array4};
use nn_poly::approximate::Function;
use nn_poly::import::Preprocessing;
use nn_poly::integer::{IntegerNetwork, StageOutput};
use nn_poly::layer::{Activation, Clamp, Conv2d, Dense, Layer, Padding, Pool2d, PoolKind};
use nn_poly::model::Bits;
use nn_poly::network::NetworkBuilder;
use nn_poly::quantize::{joinable, quantize_joined};
use nn_poly::{Error, Network, Shape};
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

const ENDS: [StageOutput; 2] = [StageOutput::Linear, StageOutput::Pooled];

fn conv(rng: &mut StdRng, (n_in, n_out): (usize, usize), groups: usize) -> Layer<f32> {
    let mut conv = Conv2d::new(
        Array4::from_shape_simple_fn((n_out, 3, 3, n_in / groups), || rng.random_range(-0.4..0.4)),
        Array1::from_shape_simple_fn(n_out, || rng.random_range(-0.2..0.2)),
        (1, 1),
        Padding::NONE,
    );
    conv.groups = groups;
    Layer::Conv2d(conv)
}

fn dense(rng: &mut StdRng, (n_in, n_out): (usize, usize)) -> Layer<f32> {
    let reach = 1.5 / (n_in as f32).sqrt();
    Layer::Dense(Dense::new(
        Array2::from_shape_fn((n_out, n_in), |(row, _)| {
            // Channels of very different sizes.
            rng.random_range(-reach..reach) * [1.0, 0.2, 3.0][row % 3]
        }),
        Array1::from_shape_simple_fn(n_out, || rng.random_range(-0.3..0.3)),
    ))
}

fn activation(rng: &mut StdRng, n_channels: usize, plain: bool) -> Layer<f32> {
    if plain {
        return Layer::Activation(Activation::Square);
    }
    let mut draw = |low: f32, high: f32| {
        Array1::from_shape_simple_fn(n_channels, || rng.random_range(low..high))
    };
    let (mut a, b, c) = (draw(-0.6, 0.6), draw(-1.0, 1.0), draw(-0.2, 0.2));
    // One channel that is linear, and one that is almost.
    a[0] = 0.0;
    if n_channels > 1 {
        a[1] = 1e-9;
    }
    Layer::Activation(Activation::Polynomial { a, b, c })
}

/// Convolution, pool, two dense layers with quadratics, then a function or nothing, then scores.
fn network(seed: u64, plain: bool, groups: usize, function: bool) -> Network<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    let rng = &mut rng;
    let mut layers = vec![
        conv(rng, (2, 4), 1),
        activation(rng, 4, plain),
        Layer::Pool2d(Pool2d {
            kind: PoolKind::Average,
            window: (2, 2),
            stride: (2, 2),
            padding: Padding::NONE,
        }),
        conv(rng, (4, 4), groups),
        activation(rng, 4, plain),
        Layer::Clamp(Clamp { limit: 1e6 }),
        Layer::Flatten,
        dense(rng, (16, 5)),
    ];
    if function {
        layers.push(Layer::Activation(Activation::Function(Function::Sigmoid)));
    } else {
        layers.push(activation(rng, 5, plain));
    }
    layers.push(dense(rng, (5, 3)));
    Network::new(Shape::image(10, 10, 2).unwrap(), layers).unwrap()
}

fn inputs(network: &Network<f32>, n: usize, seed: u64) -> Array2<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    Array2::from_shape_simple_fn((n, network.input_shape().len()), || rng.random_range(0.0..=1.0))
}

/// The median difference of scores, as a share of the largest score: squares that give way to their mean
/// show where a single sample is far from it.
fn difference(
    network: &Network<f32>,
    bits: Bits,
    joins: &[bool],
    ends: StageOutput,
) -> (f64, IntegerNetwork) {
    let data = inputs(network, 150, 1);
    let found =
        quantize_joined(network, &Preprocessing::UnitRange, &data, bits, joins, ends).unwrap();
    let tested = inputs(network, 60, 2);
    let integers = found.network.input().quantize(tested.view()).unwrap();
    let scores = found.network.evaluate(&integers).unwrap().scores;
    // The inputs as the integers see them.
    let step = found.network.input().step;
    let seen = integers.t().mapv(|x| x as f32 * step);
    let expected = network.outputs(&seen.as_standard_layout().into_owned()).unwrap();
    let spread = expected.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    let mut off: Vec<f64> = scores
        .t()
        .iter()
        .zip(&expected)
        .map(|(&score, &v)| (score as f64 * f64::from(found.score_step) - f64::from(v)).abs())
        .collect();
    off.sort_by(f64::total_cmp);
    (off[off.len() / 2] / f64::from(spread), found.network)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn joined_stages_compute_what_the_network_does(
        seed: u64, plain: bool, grouped: bool, function: bool, ends in prop::sample::select(&ENDS[..]),
    ) {
        let network = network(seed, plain, if grouped { 2 } else { 1 }, function);
        // A function needs a refresh, before which only the client's side can end.
        let ends = if function { StageOutput::Linear } else { ends };
        let bits = Bits::new(4, 8, 8).unwrap();
        let (with_refreshes, _) = difference(&network, bits, &[false; 4], ends);
        for joins in [
            vec![true, false, false, false],
            vec![false, true, false, false],
            vec![true, ends == StageOutput::Linear, false, false],
        ] {
            let (off, integers) = difference(&network, bits, &joins, ends);
            prop_assert!(off < 3.0 * with_refreshes + 0.1, "{joins:?} {ends:?}: {off}");
            let n_joined = joins.iter().filter(|join| **join).count();
            prop_assert_eq!(integers.structure().len(), 4 - n_joined);
        }
    }
}

#[test]
fn all_in_one_go() {
    // Nothing follows the last linear map: both ends are the same place.
    for (plain, ends) in [true, false].into_iter().flat_map(|plain| ENDS.map(|ends| (plain, ends)))
    {
        let network = network(3, plain, 1, false);
        let bits = Bits::new(1, 3, 4).unwrap();
        let (off, integers) = difference(&network, bits, &[true, true, true, false], ends);
        // So few bits keep the order of magnitude.
        assert!(off < 3.0, "{off}");
        let chain = integers.structure()[0].chain.as_ref().unwrap();
        assert_eq!(integers.structure().len(), 1);
        assert_eq!(chain.steps.len(), 3);
        assert!(chain.descale > 0, "three squares outgrow 40 bits");
    }
}

#[test]
fn what_may_be_joined_is_told() {
    assert_eq!(joinable(&network(1, true, 1, false)).unwrap(), [true, true, true, false]);
    assert_eq!(joinable(&network(1, false, 2, true)).unwrap(), [true, true, false, false]);
    let mut rng = StdRng::seed_from_u64(5);
    // A value that is added later needs a refresh.
    let mut builder = NetworkBuilder::new(Shape::vector(4).unwrap());
    let first = builder.append(dense(&mut rng, (4, 4))).unwrap();
    let squared = builder.push(activation(&mut rng, 4, true), &[first]).unwrap();
    let second = builder.push(dense(&mut rng, (4, 4)), &[squared]).unwrap();
    let sum = builder.push(Layer::Add, &[second, squared]).unwrap();
    builder.push(dense(&mut rng, (4, 2)), &[sum]).unwrap();
    assert_eq!(joinable(&builder.finish().unwrap()).unwrap(), [false, false, false]);
}

#[test]
fn what_cannot_be_joined_is_refused() {
    let network = network(1, true, 1, true);
    let data = inputs(&network, 20, 1);
    let bits = Bits::new(4, 4, 4).unwrap();
    let refused = |joins: &[bool]| {
        quantize_joined(
            &network,
            &Preprocessing::UnitRange,
            &data,
            bits,
            joins,
            StageOutput::Linear,
        )
    };
    assert!(matches!(
        refused(&[false, false, true, false]),
        Err(Error::OutOfRange { index: 2, .. })
    ));
    assert!(matches!(
        refused(&[false, false, false, true]),
        Err(Error::OutOfRange { index: 3, .. })
    ));
    assert!(matches!(refused(&[true]), Err(Error::OutOfRange { .. })));
    assert!(refused(&[false; 4]).is_ok());
}
