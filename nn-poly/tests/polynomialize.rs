//! From ReLU and the like to polynomials: what is replaced by what, that the start is the same function, that
//! training gets there, and what it leaves behind.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "tests"
)]

use std::ops::ControlFlow;

use ndarray::Array2;
use nn_poly::approximate::{FitProblem, Function, Measure, Method, observe};
use nn_poly::import::{Preprocessing, PreprocessingKind};
use nn_poly::layer::{Activation, Layer};
use nn_poly::model::Bits;
use nn_poly::network::{ActivationChoice, Architecture, NetworkKind};
use nn_poly::quantize::{calibrate, prepare_qat, quantize};
use nn_poly::train::{
    BatchReport, BlendSpec, FitChoice, LabeledSamples, Limit, Outcome, Polynomialization,
    TrainSpec, Trainer, evaluate, finish_blending, polynomialize,
};
use nn_poly::{Error, Network, Shape};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Images of one bright bar: its orientation is the class.
fn bars(n_samples: usize, seed: u64) -> LabeledSamples {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut inputs = Array2::zeros((n_samples, 256));
    let mut labels = Vec::new();
    for mut row in inputs.rows_mut() {
        let label = rng.random_range(0_u32..2);
        let place = rng.random_range(0_usize..16);
        for i in 0..16 {
            row[if label == 0 { place * 16 + i } else { i * 16 + place }] = 1.0;
        }
        row.mapv_inplace(|v: f32| (v + rng.random_range(-0.3..0.3_f32)).clamp(0.0, 1.0));
        labels.push(label);
    }
    LabeledSamples::new(Shape::image(16, 16, 1).unwrap(), inputs, labels, 2).unwrap()
}

fn relu_network(kind: NetworkKind, samples: &LabeledSamples) -> Network<f32> {
    let architecture = Architecture::new(kind, ActivationChoice::Relu);
    let network = architecture.build(samples.shape(), 2, 3).unwrap();
    let spec = TrainSpec { epochs: 6, batch_size: 25, ..TrainSpec::default() };
    let mut trainer = Trainer::new(network, spec.check().unwrap()).unwrap();
    assert_eq!(trainer.run(samples, &mut ()).unwrap(), Outcome::Finished);
    trainer.into_network()
}

fn outputs(network: &Network<f32>, samples: &LabeledSamples) -> Array2<f32> {
    network.outputs(samples.inputs()).unwrap()
}

fn distance(a: &Array2<f32>, b: &Array2<f32>) -> f32 {
    a.iter().zip(b).fold(0.0, |d, (a, b)| d.max((a - b).abs()))
}

fn names(network: &Network<f32>) -> Vec<&'static str> {
    network.layers().iter().map(Layer::name).collect()
}

/// The share of pre-activations outside the intervals of a network's blends.
fn share_outside(network: &Network<f32>, samples: &LabeledSamples) -> f64 {
    let observed = observe(network, samples.inputs()).unwrap();
    let (mut outside, mut all) = (0, 0);
    for layer in &observed {
        let Layer::Activation(Activation::Blend(blend)) = &network.layers()[layer.layer_idx()]
        else {
            continue;
        };
        let is_outside = |v: &&f32| **v < blend.low || **v > blend.high;
        outside += layer.values().iter().filter(is_outside).count();
        all += layer.values().len();
    }
    outside as f64 / all as f64
}

#[test]
fn the_start_is_the_relu_network() {
    let samples = bars(120, 1);
    for kind in [NetworkKind::Cryptonets, NetworkKind::Securedl] {
        let network = relu_network(kind, &samples);
        // With batch normalization, folded, and with quantizers: nothing of them changes the function.
        let folded = network.fold_batch_norm().unwrap();
        let preprocessing = PreprocessingKind::UnitRange.fit(samples.inputs()).unwrap();
        let bits = Bits::new(8, 12, 12).unwrap();
        let grids = calibrate(&network, &preprocessing, samples.inputs(), bits).unwrap();
        let quantized = prepare_qat(&network, &grids).unwrap();
        let expected = outputs(&network, &samples);
        for (source, tolerance) in [(&network, 0.0), (&folded, 1e-4), (&quantized, 1e-4)] {
            let choice = Polynomialization { coverage: 1.0, ..Polynomialization::default() };
            let made = polynomialize(source, samples.inputs(), &choice).unwrap();
            let found = outputs(&made.network, &samples);
            assert!(
                distance(&found, &expected) <= tolerance,
                "{kind}: {}",
                distance(&found, &expected)
            );
            let names = names(&made.network);
            assert_eq!(names.iter().filter(|&&name| name == "blend").count(), made.layers.len());
            assert!(!names.contains(&"relu") && !names.contains(&"quantize"));
            for layer in &made.layers {
                // Training can normalize what reaches every blend, and the refresh what leaves it.
                assert_eq!(names[layer.layer_idx - 1], "batch_norm");
                let after = &names[layer.layer_idx + 1..];
                assert!(
                    after[0] == "clamp" || after[..2] == ["average_pool", "clamp"],
                    "{after:?}"
                );
            }
        }
    }
}

#[test]
fn polynomials_are_the_fits_to_what_was_observed() {
    let samples = bars(120, 1);
    let network = relu_network(NetworkKind::Cryptonets, &samples);
    let observed = observe(&network, samples.inputs()).unwrap();
    for (fit, degree) in [
        (FitChoice::Observed, 2),
        (FitChoice::Method(Method::Minimax), 2),
        (FitChoice::Method(Method::Derivative(Measure::CryptoDl)), 2),
        (FitChoice::Observed, 1),
    ] {
        let choice =
            Polynomialization { degree, coverage: 0.99, fit, limit: Limit::None, function: None };
        let made = polynomialize(&network, samples.inputs(), &choice).unwrap();
        assert!(!names(&made.network).contains(&"clamp"));
        let finished = finish_blending(&made.network).unwrap();
        for (layer, observed) in made.layers.iter().zip(&observed) {
            let l = layer.interval.high();
            let inside = observed.values().iter().filter(|v| f64::from(v.abs()) <= l).count();
            let share = inside as f64 / observed.values().len() as f64;
            assert!((0.99..0.992).contains(&share), "{share}");
            let problem = FitProblem::new(Function::Relu, layer.interval, degree).unwrap();
            let expected = match fit {
                FitChoice::Observed => problem.solve_observed(observed.values()).unwrap(),
                FitChoice::Method(method) => problem.solve(method).unwrap(),
            };
            assert_eq!(layer.fit, expected);
            let powers = expected.polynomial.monomials();
            let Layer::Activation(Activation::Polynomial { a, b, c }) =
                &finished.layers()[layer.layer_idx]
            else {
                panic!("a finished blend is a polynomial");
            };
            let second = powers.get(2).copied().unwrap_or(0.0);
            for (values, expected) in [(a, second), (b, powers[1]), (c, powers[0])] {
                assert!(values.iter().all(|&v| (f64::from(v) - expected).abs() < 1e-6));
            }
        }
    }
}

#[test]
fn intervals_do_not_depend_on_the_order_of_the_samples() {
    let samples = bars(120, 1);
    let network = relu_network(NetworkKind::Cryptonets, &samples);
    // Four thousand copies, dimmed; the brightest ones come last.
    let inputs = Array2::from_shape_fn((4000, 256), |(i, j)| {
        samples.inputs()[[i % 120, j]] * ((i / 1000 + 1) as f32 / 4.0)
    });
    let mut reversed = inputs.clone();
    reversed.invert_axis(ndarray::Axis(0));
    let of =
        |inputs| polynomialize(&network, inputs, &Polynomialization::default()).unwrap().layers;
    for (a, b) in of(&inputs).iter().zip(&of(&reversed)) {
        let ratio = a.interval.high() / b.interval.high();
        assert!((0.95..1.05).contains(&ratio), "{ratio}");
    }
}

/// A network with activations of several kinds, none of them ReLU.
fn network_of_functions(samples: &LabeledSamples) -> Network<f32> {
    let relu = relu_network(NetworkKind::Cryptonets, samples);
    let mut functions = Function::NAMED[1..].iter().cycle();
    let mut layers = Vec::new();
    for layer in relu.into_layers() {
        layers.push(if matches!(layer, Layer::Activation(_)) {
            let function = functions.next().unwrap().clone();
            Layer::Activation(Activation::Function(function))
        } else {
            layer
        });
    }
    Network::new(samples.shape().clone(), layers).unwrap()
}

#[test]
fn any_function_is_replaced_by_the_fit_to_itself_or_to_another() {
    let samples = bars(120, 1);
    let network = network_of_functions(&samples);
    let function = |layer: &Layer<f32>| {
        let Layer::Activation(Activation::Function(function)) = layer else { return None };
        Some(function.clone())
    };
    let own: Vec<Function> = network.layers().iter().filter_map(function).collect();
    assert!(own.len() >= 2, "{own:?}");
    let observed = observe(&network, samples.inputs()).unwrap();
    let expected = outputs(&network, &samples);
    for function in [None, Some(Function::Gelu)] {
        let choice =
            Polynomialization { coverage: 1.0, function: function.clone(), ..Default::default() };
        let made = polynomialize(&network, samples.inputs(), &choice).unwrap();
        let d = distance(&outputs(&made.network, &samples), &expected);
        assert!(d <= 1e-4, "the start is the same network: {d}");
        assert_eq!(made.layers.len(), own.len());
        for ((layer, own), observed) in made.layers.iter().zip(&own).zip(&observed) {
            assert_eq!(layer.replaced, *own);
            let fitted = function.as_ref().unwrap_or(own).clone();
            let problem = FitProblem::new(fitted, layer.interval, 2).unwrap();
            let expected = problem.solve_observed(observed.values()).unwrap();
            let pairs = layer.fit.polynomial.monomials().into_iter();
            for (a, b) in pairs.zip(expected.polynomial.monomials()) {
                assert!((a - b).abs() < 1e-3, "{own}: {a} {b}");
            }
            let Layer::Activation(Activation::Blend(blend)) =
                &made.network.layers()[layer.layer_idx]
            else {
                panic!("a blend");
            };
            assert_eq!(blend.function, *own);
        }
        let finished = finish_blending(&made.network).unwrap();
        assert!(network.needs_client() && !finished.needs_client());
        // What is left is a network for a server.
        let preprocessing = PreprocessingKind::UnitRange.fit(samples.inputs()).unwrap();
        let bits = Bits::new(6, 8, 8).unwrap();
        let grids = calibrate(&finished, &preprocessing, samples.inputs(), bits).unwrap();
        let integer = quantize(&prepare_qat(&finished, &grids).unwrap()).unwrap().network;
        assert!(integer.structure().iter().all(|stage| stage.non_polynomial().is_none()));
    }
}

#[test]
fn training_arrives_at_an_accurate_integer_network() {
    let (training, test) = (bars(400, 1), bars(400, 2));
    let network = relu_network(NetworkKind::Cryptonets, &training);
    let relu = evaluate(&network, &test).unwrap().accuracy();
    let made = polynomialize(&network, training.inputs(), &Polynomialization::default()).unwrap();
    let spec = TrainSpec { epochs: 6, batch_size: 25, learning_rate: 1e-3, ..TrainSpec::default() };
    let mut shares = Vec::new();
    let mut trainer = Trainer::new(made.network, spec.check().unwrap()).unwrap();
    // One epoch at a time, to see the shares in between.
    for epoch in 1..=6 {
        let stop = |report: &BatchReport| match report.batch == report.n_batches {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let outcome = trainer.run(&training, &mut { stop }).unwrap();
        assert_eq!(outcome == Outcome::Finished, epoch == 6);
        for layer in trainer.network().layers() {
            if let Layer::Activation(Activation::Blend(blend)) = layer {
                shares.push(blend.share);
            }
        }
    }
    assert!(shares.is_sorted() && shares[0] > 0.2 && shares[0] < 0.4, "{shares:?}");
    assert!(shares[6..].iter().all(|&share| share == 1.0), "{shares:?}");
    let finished = finish_blending(trainer.network()).unwrap();
    assert_eq!(
        outputs(&finished, &test),
        outputs(trainer.network(), &test),
        "nothing left of ReLU"
    );

    let accuracy = evaluate(&finished, &test).unwrap().accuracy();
    assert!(accuracy >= relu - 0.02, "{accuracy} of polynomials, {relu} of ReLU");
    let preprocessing: Preprocessing = PreprocessingKind::UnitRange.fit(training.inputs()).unwrap();
    let bits = Bits::new(4, 6, 6).unwrap();
    let grids = calibrate(&finished, &preprocessing, training.inputs(), bits).unwrap();
    let integer = quantize(&prepare_qat(&finished, &grids).unwrap()).unwrap().network;
    let inputs = integer.input().quantize(test.inputs().view()).unwrap();
    let predicted = integer.evaluate(&inputs).unwrap().predictions();
    let integer = nn_poly::train::Evaluation::of(&predicted, test.labels(), 2).accuracy();
    assert!(integer >= accuracy - 0.03, "{integer} of integers, {accuracy} of polynomials");
}

#[test]
fn coefficients_are_learned_channel_by_channel() {
    let samples = bars(200, 1);
    let network = relu_network(NetworkKind::Cryptonets, &samples);
    let made = polynomialize(&network, samples.inputs(), &Polynomialization::default()).unwrap();
    let spec = TrainSpec { epochs: 3, batch_size: 25, ..TrainSpec::default() };
    let mut trainer = Trainer::new(made.network, spec.check().unwrap()).unwrap();
    assert_eq!(trainer.run(&samples, &mut ()).unwrap(), Outcome::Finished);
    let finished = finish_blending(trainer.network()).unwrap();
    let Some(Layer::Activation(Activation::Polynomial { a, .. })) = finished
        .layers()
        .iter()
        .find(|layer| matches!(layer, Layer::Activation(Activation::Polynomial { .. })))
    else {
        panic!("a polynomial");
    };
    assert!(a.iter().any(|&value| value != a[0]), "{a}");
}

/// The range loss does what it is for: with it fewer values leave the intervals than without.
#[test]
fn the_range_loss_keeps_values_inside() {
    let samples = bars(300, 1);
    let network = relu_network(NetworkKind::Cryptonets, &samples);
    let choice = Polynomialization { coverage: 0.9, ..Polynomialization::default() };
    let made = polynomialize(&network, samples.inputs(), &choice).unwrap();
    let outside = |range_weight: f64| {
        let blend = BlendSpec { range_weight, ..BlendSpec::default() };
        let learning_rate = 1e-2;
        let spec =
            TrainSpec { epochs: 10, batch_size: 25, learning_rate, blend, ..TrainSpec::default() };
        let mut trainer = Trainer::new(made.network.clone(), spec.check().unwrap()).unwrap();
        assert_eq!(trainer.run(&samples, &mut ()).unwrap(), Outcome::Finished);
        share_outside(trainer.network(), &samples)
    };
    let (without, with) = (outside(0.0), outside(1.0));
    assert!(with < 0.5 * without, "{with} outside with the loss, {without} without");
}

#[test]
fn what_cannot_be_made_polynomial_is_said() {
    let samples = bars(40, 1);
    let network = relu_network(NetworkKind::Cryptonets, &samples);
    let fail = |network: &Network<f32>, choice: Polynomialization| {
        polynomialize(network, samples.inputs(), &choice).unwrap_err()
    };
    let default = Polynomialization::default();
    for degree in [0, 3, 8] {
        let message = fail(&network, Polynomialization { degree, ..default.clone() }).to_string();
        assert!(message.contains("leave the activations to the client"), "{message}");
    }
    for coverage in [0.0, 1.1, f64::NAN] {
        let error = fail(&network, Polynomialization { coverage, ..default.clone() });
        assert!(matches!(error, Error::InvalidSetting { setting: "coverage", .. }), "{error}");
    }
    let taylor = FitChoice::Method(Method::Taylor);
    let error = fail(&network, Polynomialization { fit: taylor, ..default.clone() });
    assert!(matches!(error, Error::CannotApproximate { .. }), "{error}");
    let squares = Architecture::new(NetworkKind::Cryptonets, ActivationChoice::Square);
    let error = fail(&squares.build(samples.shape(), 2, 1).unwrap(), default.clone());
    assert!(matches!(error, Error::NoActivation { .. }), "{error}");
    let empty = Array2::zeros((0, 256));
    let error = polynomialize(&network, &empty, &default).unwrap_err();
    assert!(matches!(error, Error::NoSamples { .. }), "{error}");

    // A network that is still being blended has no integer form.
    let made = polynomialize(&network, samples.inputs(), &default).unwrap();
    let preprocessing = PreprocessingKind::UnitRange.fit(samples.inputs()).unwrap();
    let bits = Bits::new(4, 6, 6).unwrap();
    let grids = calibrate(&made.network, &preprocessing, samples.inputs(), bits).unwrap();
    let error = quantize(&prepare_qat(&made.network, &grids).unwrap()).unwrap_err().to_string();
    assert!(error.contains("finish the blending first"), "{error}");
}
