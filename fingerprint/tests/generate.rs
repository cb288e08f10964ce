//! What every generated bag promises, on small trained networks.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "tests"
)]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use fingerprint::{
    Constraint, Error, GenerateProgress, GenerateSpec, GeneratorKind, InputGrid, NoProgress,
    OptimizerKind, SampleBag, SelectionFeatures, SelectionRule, generate, generate_for_integer,
    resume, select,
};
use ndarray::{Array2, Axis};
use nn_poly::import::synthetic_digits::synthetic_digits;
use nn_poly::layer::{Activation, Dense, Layer, Quantize};
use nn_poly::network::predictions;
use nn_poly::{Network, Shape};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const N_CLASSES: usize = 10;

/// Digits and a two-layer network that classifies them by random features and their class means: no
/// training loop, but scores with boundaries between real classes.
struct Subject {
    network: Network<f32>,
    starts: Array2<f32>,
}

fn subject(activation: Activation<f32>) -> Subject {
    let (digits, labels) = synthetic_digits(300, 5);
    let n_features = digits.ncols();
    let rng = &mut ChaCha8Rng::seed_from_u64(17);
    let hidden = 64;
    let mut centers = Array2::<f32>::zeros((N_CLASSES, n_features));
    let mut counts = [0.0_f32; N_CLASSES];
    for (row, &label) in digits.rows().into_iter().zip(&labels) {
        centers.row_mut(label as usize).scaled_add(1.0, &row);
        counts[label as usize] += 1.0;
    }
    for (mut center, count) in centers.rows_mut().into_iter().zip(counts) {
        center /= count.max(1.0);
    }
    let scale = (n_features as f32).sqrt();
    let first = Array2::from_shape_simple_fn((hidden, n_features), || {
        rng.random_range(-2.0..2.0_f32) / scale
    });
    let layer = Dense::new(first, ndarray::Array1::from_elem(hidden, 0.1));
    let features = Network::new(
        Shape::vector(n_features).unwrap(),
        vec![Layer::Dense(layer.clone()), Layer::Activation(activation.clone())],
    )
    .unwrap();
    // Scores by distance to the class means of the features: 2⟨h, m⟩ − ‖m‖².
    let means = features.outputs(&centers).unwrap();
    let bias = means.rows().into_iter().map(|m| -m.dot(&m)).collect();
    let last = Dense::new(&means * 2.0, bias);
    let layers = vec![Layer::Dense(layer), Layer::Activation(activation), Layer::Dense(last)];
    let network = Network::new(Shape::vector(n_features).unwrap(), layers).unwrap();
    Subject { network, starts: digits }
}

fn relu() -> &'static Subject {
    static SUBJECT: OnceLock<Subject> = OnceLock::new();
    SUBJECT.get_or_init(|| subject(Activation::Relu))
}

fn square() -> &'static Subject {
    static SUBJECT: OnceLock<Subject> = OnceLock::new();
    SUBJECT.get_or_init(|| subject(Activation::Square))
}

fn spec(kind: GeneratorKind, count: usize) -> GenerateSpec {
    GenerateSpec::new(kind, count, 3, InputGrid::bytes())
}

fn make(subject: &Subject, spec: GenerateSpec) -> SampleBag {
    generate(&subject.network, &subject.starts, &spec.check().unwrap(), &NoProgress).unwrap()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn margins(bag: &SampleBag) -> f64 {
    median(bag.samples.iter().map(|sample| sample.margin).collect())
}

/// The description of every sample is what the network says of the row, and the row is on the grid.
fn check(subject: &Subject, spec: &GenerateSpec, bag: &SampleBag) {
    assert_eq!(bag.len(), spec.count);
    let grid = &spec.grid;
    assert_eq!(grid.values(grid.levels(bag.inputs.view()).view()), bag.inputs);
    let network = subject.network.cast::<f64>().unwrap();
    let scores = network.outputs(&bag.inputs.mapv(f64::from)).unwrap();
    let labels = predictions(&scores);
    for ((sample, scores), label) in bag.samples.iter().zip(scores.rows()).zip(labels) {
        let mut sorted = scores.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let largest = scores.iter().fold(0.0_f64, |largest, z| z.abs().max(largest));
        assert_eq!(sample.label as usize, label);
        assert!((sample.margin - (sorted[0] - sorted[1])).abs() <= 1e-12 * largest);
        assert!(sample.margin >= spec.min_relative_margin * largest);
        assert_eq!(sample.tied[0], sample.label);
        assert!((2..=N_CLASSES).contains(&sample.tied.len()));
        assert!(sample.log_sensitivity.is_finite());
        assert_eq!(sample.source.is_none(), spec.kind == GeneratorKind::Random);
    }
}

#[test]
fn every_generator_keeps_its_promises() {
    for subject in [relu(), square()] {
        for kind in GeneratorKind::ALL {
            let spec = GenerateSpec { iterations: Some(40), ..spec(kind, 6) };
            check(subject, &spec, &make(subject, spec.clone()));
        }
    }
}

#[test]
fn searches_bring_scores_together() {
    for subject in [relu(), square()] {
        let natural = margins(&make(subject, spec(GeneratorKind::NonSensitive, 12)));
        let ssf = margins(&make(subject, spec(GeneratorKind::Ssf, 12)));
        let entropy = margins(&make(subject, spec(GeneratorKind::BoundaryEntropy, 12)));
        let tie = make(subject, spec(GeneratorKind::Tie, 12));
        let rounded = GenerateSpec { polish: false, ..spec(GeneratorKind::Tie, 12) };
        let rounded = margins(&make(subject, rounded));
        assert!(ssf < natural / 10.0, "{ssf} versus {natural}");
        assert!(entropy < natural / 10.0, "{entropy} versus {natural}");
        assert!(rounded < natural / 10.0, "{rounded} versus {natural}");
        assert!(margins(&tie) < rounded / 2.0, "{} versus {rounded}", margins(&tie));
        // Most ties are between many classes.
        assert!(median(tie.samples.iter().map(|s| s.tied.len() as f64).collect()) >= 5.0);
    }
}

#[test]
fn searches_raise_the_sensitivity() {
    let subject = square();
    let sensitivity = |bag: &SampleBag| -> f64 {
        median(bag.samples.iter().map(|sample| sample.log_sensitivity).collect())
    };
    let natural = sensitivity(&make(subject, spec(GeneratorKind::NonSensitive, 8)));
    for optimizer in OptimizerKind::ALL {
        for kind in [GeneratorKind::Ssf, GeneratorKind::SecureDl] {
            let spec = GenerateSpec { optimizer, ..spec(kind, 8) };
            let found = sensitivity(&make(subject, spec));
            assert!(found > natural + 1.0, "{kind} {optimizer}: {found} versus {natural}");
        }
    }
}

#[test]
fn a_ball_keeps_samples_near_their_starts() {
    let subject = relu();
    let rms = 12.0;
    for (kind, polish) in
        [(GeneratorKind::Ssf, false), (GeneratorKind::Tie, true), (GeneratorKind::SecureDl, true)]
    {
        let constraint = Constraint::Ball { rms };
        let bag = make(subject, GenerateSpec { constraint, polish, ..spec(kind, 6) });
        for (sample, row) in bag.samples.iter().zip(bag.inputs.rows()) {
            let start = subject.starts.row(sample.source.unwrap() as usize);
            let squares: f32 = row.iter().zip(start).map(|(a, b)| (a - b) * (a - b)).sum();
            let distance = 255.0 * (f64::from(squares) / row.len() as f64).sqrt();
            assert!(distance <= rms + 0.51, "{kind}: {distance}");
        }
    }
}

#[test]
fn bags_depend_on_the_seed_alone_and_not_on_threads() {
    let subject = relu();
    for kind in GeneratorKind::ALL {
        let spec = GenerateSpec { iterations: Some(10), ..spec(kind, 5) };
        let run = |n_threads: usize, spec: &GenerateSpec| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            pool.install(|| make(subject, spec.clone()))
        };
        let bag = run(1, &spec);
        assert_eq!(bag, run(3, &spec), "{kind}");
        let other = GenerateSpec { seed: 4, ..spec.clone() };
        assert_ne!(bag.inputs, run(2, &other).inputs, "{kind}");
    }
}

/// Stops after the first block.
struct StopEarly(AtomicUsize);

impl GenerateProgress for StopEarly {
    fn advanced(&self, done: usize, _total: usize) {
        self.0.fetch_max(done, Ordering::Relaxed);
    }

    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

#[test]
fn a_stopped_generation_is_resumed() {
    let subject = relu();
    let Subject { network, starts } = subject;
    let spec = GenerateSpec { iterations: Some(5), ..spec(GeneratorKind::Tie, 70) };
    let config = spec.clone().check().unwrap();
    let whole = make(subject, spec.clone());
    let part = generate(network, starts, &config, &StopEarly(AtomicUsize::new(0))).unwrap();
    assert!((1..70).contains(&part.len()));
    let resumed = resume(part.clone(), network, starts, &config, &NoProgress).unwrap();
    assert_eq!(resumed, whole);
    let other = GenerateSpec { seed: 9, ..spec.clone() }.check().unwrap();
    let refused = resume(part.clone(), network, starts, &other, &NoProgress);
    assert!(matches!(refused, Err(Error::InvalidSetting { setting: "seed", .. })));
    let fewer = GenerateSpec { count: 2, ..spec }.check().unwrap();
    assert!(resume(part.clone(), network, starts, &fewer, &NoProgress).is_err());
    // What no generation begins is not gone on with, whoever wrote the file.
    type Alter = fn(&mut SampleBag);
    let cases: [Alter; 4] = [
        |bag| bag.samples[0].label = 1000,
        |bag| bag.samples[0].tied.push(1000),
        |bag| bag.inputs[[0, 0]] += 1e-3,
        |bag| bag.inputs[[0, 0]] = f32::NAN,
    ];
    for alter in cases {
        let mut altered = part.clone();
        alter(&mut altered);
        let refused = resume(altered, network, starts, &config, &NoProgress);
        assert!(matches!(refused, Err(Error::MalformedBag { .. })));
    }
}

/// Networks that round between layers are searched without rounding and scored with it.
#[test]
fn rounding_networks_are_scored_as_they_are() {
    let plain = square();
    let mut layers = plain.network.layers().to_vec();
    let steps = ndarray::array![0.05_f32];
    layers.insert(2, Layer::Quantize(Quantize { steps, min: 0, max: 255 }));
    let network = Network::new(plain.network.input_shape().clone(), layers).unwrap();
    let subject = Subject { network, starts: plain.starts.clone() };
    let spec = spec(GeneratorKind::Tie, 8);
    let bag = make(&subject, spec.clone());
    check(&subject, &spec, &bag);
    let natural =
        margins(&make(&subject, GenerateSpec { kind: GeneratorKind::NonSensitive, ..spec }));
    assert!(margins(&bag) < natural / 10.0);
}

/// A network that rounds bytes to 4 bits is searched on its 16 levels, and asked with bytes.
#[test]
fn networks_with_coarse_inputs_are_searched_on_their_own_grid() {
    let plain = relu();
    let mut layers = plain.network.layers().to_vec();
    let steps = ndarray::array![1.0_f32 / 15.0];
    layers.insert(0, Layer::Quantize(Quantize { steps, min: 0, max: 15 }));
    let network = Network::new(plain.network.input_shape().clone(), layers).unwrap();
    let subject = Subject { network, starts: plain.starts.clone() };
    let spec = spec(GeneratorKind::Tie, 8);
    let bag = make(&subject, spec.clone());
    check(&subject, &spec, &bag);
    for x in &bag.inputs {
        let distance = (x * 15.0 - (x * 15.0).round()).abs();
        assert!(distance <= 15.0 * 0.5 / 255.0 + 1e-5, "{x} is near the edge of a rounding");
    }
    let natural = GenerateSpec { kind: GeneratorKind::NonSensitive, ..spec.clone() };
    assert!(margins(&bag) < margins(&make(&subject, natural)) / 30.0, "{}", margins(&bag));
    // Natural samples, and those that promise to stay near them, keep to the endpoint's own grid.
    let ball = GenerateSpec { constraint: Constraint::Ball { rms: 25.0 }, ..spec };
    let near = make(&subject, ball);
    assert!(near.inputs.iter().any(|x| (x * 15.0 - (x * 15.0).round()).abs() > 0.1));
}

#[test]
fn settings_that_do_not_fit_are_refused() {
    let Subject { network, starts } = relu();
    let run = |spec: GenerateSpec, starts: &Array2<f32>| {
        generate(network, starts, &spec.check()?, &NoProgress).map(|_| ())
    };
    let none = starts.slice_axis(Axis(0), (..0).into()).to_owned();
    let narrow = starts.slice_axis(Axis(1), (..5).into()).to_owned();
    let natural = GeneratorKind::NonSensitive;
    let tie = || spec(GeneratorKind::Tie, 1);
    assert!(matches!(run(tie(), &none), Err(Error::TooFewCandidates { wanted: 1, available: 0 })));
    assert!(matches!(run(spec(natural, 301), starts), Err(Error::TooFewCandidates { .. })));
    assert!(matches!(run(tie(), &narrow), Err(Error::LengthMismatch { .. })));
    assert!(run(spec(GeneratorKind::Random, 2), &none).is_ok());
    let mut unknown = starts.clone();
    unknown[[7, 3]] = f32::NAN;
    assert!(matches!(run(tie(), &unknown), Err(Error::Network(_))));
    let lopsided = InputGrid::per_feature(vec![0.0; 3], vec![1.0; 3], 255).unwrap();
    assert!(run(GenerateSpec { grid: lopsided, ..tie() }, starts).is_err());
    for impossible in [
        GenerateSpec { count: 0, ..tie() },
        GenerateSpec { count: GenerateSpec::MAX_COUNT + 1, ..tie() },
        GenerateSpec { n_tied: Some(1), ..tie() },
        GenerateSpec { iterations: Some(0), ..tie() },
        GenerateSpec { learning_rate: Some(0.0), ..tie() },
        GenerateSpec { learning_rate: Some(f64::NAN), ..tie() },
        GenerateSpec { min_relative_margin: -1.0, ..tie() },
        GenerateSpec { min_relative_margin: f64::NAN, ..tie() },
        GenerateSpec { constraint: Constraint::Ball { rms: 0.0 }, ..tie() },
        GenerateSpec {
            constraint: Constraint::Ball { rms: 9.0 },
            optimizer: OptimizerKind::Lbfgs,
            ..tie()
        },
    ] {
        assert!(impossible.clone().check().is_err(), "{impossible:?}");
    }
    let identity = vec![Layer::Activation(Activation::Relu)];
    let identity = Network::<f32>::new(Shape::vector(4).unwrap(), identity).unwrap();
    let config = spec(GeneratorKind::Random, 1).check().unwrap();
    let refused = generate(&identity, &Array2::zeros((0, 4)), &config, &NoProgress);
    assert!(matches!(refused, Err(Error::UnsuitableNetwork { .. })));
    // A margin that constant scores cannot have.
    let constant = Dense::new(Array2::zeros((2, 4)), ndarray::array![1.0_f32, 1.0]);
    let constant =
        Network::<f32>::new(Shape::vector(4).unwrap(), vec![Layer::Dense(constant)]).unwrap();
    let refused = generate(&constant, &Array2::zeros((0, 4)), &config, &NoProgress);
    assert!(matches!(refused, Err(Error::MarginNotReached { sample: 0, .. })));
}

#[test]
fn names_are_read_back() {
    for kind in GeneratorKind::ALL {
        assert_eq!(kind.to_string().parse::<GeneratorKind>().unwrap(), kind);
    }
    for rule in SelectionRule::ALL {
        assert_eq!(rule.to_string().parse::<SelectionRule>().unwrap(), rule);
    }
    for optimizer in OptimizerKind::ALL {
        assert_eq!(optimizer.to_string().parse::<OptimizerKind>().unwrap(), optimizer);
    }
    let error = "sff".parse::<GeneratorKind>().unwrap_err().to_string();
    assert!(error.starts_with("unknown generator `sff`: expected ssf, "), "{error}");
    assert!("MANC".parse::<SelectionRule>().is_err());
}

#[test]
fn every_rule_chooses_distinct_samples_of_the_pool() {
    let subject = relu();
    let bag = make(subject, spec(GeneratorKind::Tie, 20));
    let features = SelectionFeatures::new(&subject.network, &bag).unwrap();
    assert_eq!(features.len(), 20);
    let pool = [3, 17, 5, 5, 8, 99, 11, 0];
    for rule in SelectionRule::ALL {
        for count in [0, 1, 4, 50] {
            let run = |seed: u64, pool: Option<&[usize]>| {
                select(rule, &features, count, pool, &mut ChaCha8Rng::seed_from_u64(seed))
            };
            let picked = run(1, Some(&pool));
            assert_eq!(picked, run(1, Some(&pool)), "{rule}: not reproducible");
            assert_eq!(picked.len(), count.min(6), "{rule}");
            let mut sorted = picked.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), picked.len(), "{rule}: repeated");
            assert!(picked.iter().all(|p| pool.contains(p) && *p < 20), "{rule}");
            assert_eq!(run(2, None).len(), count.min(20), "{rule}");
        }
    }
    let greedy =
        select(SelectionRule::Greedy, &features, 20, None, &mut ChaCha8Rng::seed_from_u64(0));
    let sensitivities: Vec<f64> = greedy.iter().map(|&i| bag.samples[i].log_sensitivity).collect();
    assert!(sensitivities.windows(2).all(|pair| pair[0] >= pair[1]));
    // Class cover: the first five samples of ten two-class sets rarely repeat a class.
    let covered =
        select(SelectionRule::ClassCover, &features, 3, None, &mut ChaCha8Rng::seed_from_u64(0));
    let mut classes: Vec<u32> =
        covered.iter().flat_map(|&i| bag.samples[i].tied.iter().take(2)).copied().collect();
    classes.sort_unstable();
    classes.dedup();
    assert!(classes.len() >= 5, "{classes:?}");
}

mod integer {
    use nn_poly::integer::{
        ActivationKind, InputGrid as IntegerGrid, IntegerNetwork, LinearGeometry, Quadratic,
        Refresh, StageStructure, StageWeights, ValueRef,
    };

    use super::*;

    /// The float subject with rounded numbers: weights to 1/64, inputs to 8 bits, hidden values to 12.
    fn integer_of(network: &Network<f32>) -> IntegerNetwork {
        let (Layer::Dense(first), Layer::Dense(last)) =
            (&network.layers()[0], &network.layers()[2])
        else {
            panic!("two dense layers around an activation")
        };
        let round = |value: f32, unit: f64| (f64::from(value) * unit).round() as i64;
        let weights = |dense: &Dense<f32>, unit: f64| -> Vec<i16> {
            dense.weights.iter().map(|&w| i16::try_from(round(w, unit)).unwrap()).collect()
        };
        let dense = |source, dense: &Dense<f32>, activation, refresh| StageStructure {
            sources: vec![source],
            linear: LinearGeometry::Dense { n_in: dense.n_inputs(), n_out: dense.n_outputs() },
            activation,
            pool: None,
            refresh,
            chain: None,
        };
        // Hidden sums are in units of 1/(64·255), their squares of 1/(64·255)²; the refresh divides by
        // 2^20, so hidden values are in units of 2^20/(64·255)².
        let refresh = Refresh { multipliers: vec![1], shift: 20, min: 0, max: 4095 };
        let hidden_unit = f64::from(64 * 255).powi(2) / f64::from(1 << 20);
        let structure = vec![
            dense(ValueRef::Input, first, ActivationKind::Quadratic, Some(refresh)),
            dense(ValueRef::Stage(0), last, ActivationKind::Identity, None),
        ];
        let numbers = vec![
            StageWeights {
                weights: weights(first, 64.0),
                bias: first.bias.iter().map(|&b| round(b, 64.0 * 255.0)).collect(),
                quadratic: Some(Quadratic::square()),
                chain: Vec::new(),
            },
            StageWeights {
                weights: weights(last, 64.0),
                bias: last.bias.iter().map(|&b| round(b, 64.0 * hidden_unit)).collect(),
                quadratic: None,
                chain: Vec::new(),
            },
        ];
        let grid = IntegerGrid { bits: 8, signed: false, step: 1.0 / 255.0 };
        IntegerNetwork::new(grid, first.n_inputs(), structure, numbers).unwrap()
    }

    #[test]
    fn samples_of_integer_networks_are_labeled_exactly() {
        let subject = square();
        let network = integer_of(&subject.network);
        let config = GenerateSpec { min_relative_margin: 0.0, ..spec(GeneratorKind::Tie, 8) }
            .check()
            .unwrap();
        let bag =
            generate_for_integer(&network, &subject.network, &subject.starts, &config, &NoProgress)
                .unwrap();
        let inputs = network.input().quantize(bag.inputs.view()).unwrap();
        let evaluation = network.evaluate(&inputs).unwrap();
        for ((sample, label), scores) in
            bag.samples.iter().zip(evaluation.predictions()).zip(evaluation.scores.columns())
        {
            assert_eq!(sample.label as usize, label);
            let mut sorted = scores.to_vec();
            sorted.sort_unstable_by(|a, b| b.cmp(a));
            assert_eq!(sample.margin, (sorted[0] - sorted[1]) as f64);
        }
        let natural = GenerateSpec::new(GeneratorKind::NonSensitive, 8, 3, InputGrid::bytes());
        let natural = generate_for_integer(
            &network,
            &subject.network,
            &subject.starts,
            &natural.check().unwrap(),
            &NoProgress,
        )
        .unwrap();
        assert!(margins(&bag) < margins(&natural) / 20.0);
        let mut layers = subject.network.layers().to_vec();
        layers.pop();
        let headless = Network::new(subject.network.input_shape().clone(), layers).unwrap();
        let refused =
            generate_for_integer(&network, &headless, &subject.starts, &config, &NoProgress);
        assert!(matches!(refused, Err(Error::LengthMismatch { .. })));
    }
}
