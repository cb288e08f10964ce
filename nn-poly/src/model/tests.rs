#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]
use proptest::prelude::*;

use super::*;
use crate::approximate::Function;
use crate::layer::Blend;
use crate::network::Architecture;
use crate::tensor::Shape;

fn spec() -> ModelSpec {
    let shape = Shape::vector(4).unwrap();
    let architecture = Architecture::new(NetworkKind::Mlp, ActivationChoice::Polynomial);
    ModelSpec {
        name: "tiny".into(),
        kind: NetworkKind::Mlp,
        activation: ActivationChoice::Polynomial,
        network: architecture.build(&shape, 3, 1).unwrap(),
        preprocessing: Preprocessing::Standardize {
            mean: vec![0.5; 4],
            deviation: vec![2.0; 4],
            clip: 3.0,
        },
        split: SplitSpec::default(),
        class_names: ["a", "b", "c"].map(str::to_owned).to_vec(),
        bits: Some(Bits { input: 6, weight: 6, activation: 6 }),
        training: TrainingRecord { accuracy: Some(0.9), ..TrainingRecord::default() },
        data_source: "made up".into(),
    }
}

#[test]
fn an_unfinished_blend_is_no_model() {
    let mut spec = spec();
    let layers = spec.network.layers().iter().cloned().map(|layer| match layer {
        Layer::Activation(Activation::Polynomial { a, b, c }) => {
            let blend =
                Blend { share: 0.5, low: -1.0, high: 1.0, a, b, c, function: Function::Relu };
            Layer::Activation(Activation::Blend(blend))
        }
        other => other,
    });
    spec.network = Network::new(Shape::vector(4).unwrap(), layers.collect()).unwrap();
    let error = Model::new(spec.clone()).unwrap_err();
    assert!(matches!(error, Error::InvalidSetting { value: 0.5, .. }), "{error}");
    // Nor does one come in through a file.
    let bytes = artifact::encode(Model::MAGIC, Model::FORMAT_VERSION, &spec).unwrap();
    assert!(matches!(Model::from_bytes(&bytes), Err(Error::Decode { .. })));
}

#[test]
fn a_model_survives_its_file() {
    let model = Model::new(spec()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.sdl");
    model.save(&path).unwrap();
    let loaded = Model::load(&path).unwrap();
    assert_eq!(loaded, model);
    let features = Array2::from_elem((2, 4), 0.25);
    assert_eq!(loaded.scores(&features).unwrap(), model.scores(&features).unwrap());
}

/// A change of this digest is a change of the file format: raise the format version.
#[test]
fn the_file_format_is_fixed() {
    let mut spec = spec();
    let layers = spec.network.clone().into_layers().into_iter().map(|layer| match layer {
        Layer::Dense(mut dense) => {
            dense.weights.fill(0.25);
            Layer::Dense(dense)
        }
        other => other,
    });
    spec.network = Network::new(Shape::vector(4).unwrap(), layers.collect()).unwrap();
    let bytes = Model::new(spec).unwrap().to_bytes().unwrap();
    let digest = blake3::hash(&bytes).to_hex();
    assert_eq!(&digest.as_str()[..16], GOLDEN);
}

/// First half of the digest, in hexadecimal.
const GOLDEN: &str = "e2238d2f8b8e00bf";

/// Written by the last build of version 1, with one layer of every kind it had.
#[test]
fn files_of_version_1_still_give_their_scores() {
    let bytes = include_bytes!("../../tests/fixtures/model_v1.sdl");
    assert_eq!(artifact::peek_version(bytes), Some(1));
    let model = Model::from_bytes(bytes).unwrap();
    assert_eq!(model.network().layers().len(), 9);
    let features = Array2::from_shape_fn((1, 16), |(_, i)| i as f32 * 10.0);
    let expected = ndarray::array![[-1.570_959_806_442_260_7, 0.246_653_854_846_954_35]];
    assert_eq!(model.scores(&features).unwrap(), expected);
    // Written again, it is a file of this version.
    let again = Model::from_bytes(&model.to_bytes().unwrap()).unwrap();
    assert_eq!(again, model);
}

#[test]
fn a_network_with_branches_survives_its_file() {
    use crate::layer::Dense;
    use crate::network::{NetworkBuilder, Source};
    let dense = |n_out: usize| {
        let weights = Array2::from_shape_fn((n_out, 4), |(i, j)| (i + 2 * j) as f32 - 3.0);
        Layer::Dense(Dense::new(weights, ndarray::Array1::zeros(n_out)))
    };
    let mut builder = NetworkBuilder::new(Shape::vector(4).unwrap());
    let first = builder.push(dense(4), &[Source::Input]).unwrap();
    let sum = builder.push(Layer::Add, &[first, Source::Input]).unwrap();
    let both = builder.push(dense(1), &[sum]).unwrap();
    let other = builder.push(dense(2), &[first]).unwrap();
    builder.push(Layer::Concat, &[both, other]).unwrap();
    let model = Model::new(ModelSpec { network: builder.finish().unwrap(), ..spec() }).unwrap();
    let bytes = model.to_bytes().unwrap();
    assert_eq!(Model::from_bytes(&bytes).unwrap(), model);
    let digest = blake3::hash(&bytes).to_hex();
    assert_eq!(&digest.as_str()[..16], GOLDEN_BRANCHES);
}

/// First half of the digest, in hexadecimal.
const GOLDEN_BRANCHES: &str = "7493b693083e5cac";

/// Every function, in the order that the file format numbers them.
#[test]
fn activations_that_are_no_polynomials_survive_their_file() {
    use crate::approximate::SampledFunction;
    let points = vec![(-1.5, 0.25), (0.0, -2.0), (3.0, 4.0)];
    let mut functions: Vec<Function> = Function::NAMED.to_vec();
    functions.retain(|function| !matches!(function, Function::Relu | Function::GeluTanh));
    functions.push(Function::Sampled(SampledFunction::new(points).unwrap()));
    // Functions that came later change no bytes of files without them.
    let short = |bytes: &[u8]| blake3::hash(bytes).to_hex()[..16].to_owned();
    assert_eq!(short(&bytes_with(&functions)), GOLDEN_FUNCTIONS);
    functions.push(Function::GeluTanh);
    let bytes = bytes_with(&functions);
    assert_eq!(short(&bytes), GOLDEN_ALL_FUNCTIONS);
    let model = Model::from_bytes(&bytes).unwrap();
    assert_eq!(model.to_bytes().unwrap(), bytes);
    let features = Array2::from_elem((1, 3), 0.5);
    assert!(model.scores(&features).unwrap().iter().all(|z| z.is_finite()));
    // Samples that do not ascend are refused in a file as elsewhere.
    let knots: Vec<u8> = [-1.5_f64, 0.25, 0.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let at = bytes.windows(knots.len()).position(|window| window == knots).unwrap();
    let mut altered = bytes.clone();
    altered[at + 16..at + 24].copy_from_slice(&(-9.0_f64).to_le_bytes());
    let end = altered.len() - blake3::OUT_LEN;
    let digest = blake3::hash(&altered[..end]);
    altered[end..].copy_from_slice(digest.as_bytes());
    let error = Model::from_bytes(&altered).unwrap_err();
    assert!(error.to_string().contains("x does not ascend"), "{error}");
}

/// A model file whose network applies these functions, one after the other.
fn bytes_with(functions: &[Function]) -> Vec<u8> {
    let layers = functions.iter().cloned().map(|f| Layer::Activation(Activation::Function(f)));
    let network = Network::new(Shape::vector(3).unwrap(), layers.collect()).unwrap();
    let preprocessing = Preprocessing::UnitRange;
    Model::new(ModelSpec { network, preprocessing, ..spec() }).unwrap().to_bytes().unwrap()
}

/// First halves of the digests, in hexadecimal.
const GOLDEN_FUNCTIONS: &str = "7f9703825857d218";
const GOLDEN_ALL_FUNCTIONS: &str = "b4650d8e4f542d68";

#[test]
fn parts_that_do_not_fit_are_refused() {
    type Change = fn(&mut ModelSpec);
    let cases: [(&str, Change); 7] = [
        ("class names has shape [2], expected [3]", |s| {
            s.class_names.pop();
        }),
        ("length of a name in bytes is too large: 201, limit 200", |s| s.name = "x".repeat(201)),
        ("feature means has shape [1], expected [4]", |s| {
            s.preprocessing =
                Preprocessing::Standardize { mean: vec![0.0], deviation: vec![1.0; 4], clip: 3.0 };
        }),
        ("feature deviation or clip is 0, it must be finite and positive", |s| {
            s.preprocessing = Preprocessing::Standardize {
                mean: vec![0.0; 4],
                deviation: vec![0.0; 4],
                clip: 3.0,
            };
        }),
        ("test fraction is 1, it must be above 0 and below 1", |s| s.split.test_fraction = 1.0),
        ("weight bits is 1, it must be 2 to 15", |s| s.bits.as_mut().unwrap().weight = 1),
        ("accuracy is 2, it must be between 0 and 1", |s| s.training.accuracy = Some(2.0)),
    ];
    for (expected, change) in cases {
        let mut changed = spec();
        change(&mut changed);
        assert_eq!(Model::new(changed).unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_file_with_a_nan_weight_or_another_version_is_refused() {
    let mut spec = spec();
    let mut layers = spec.network.clone().into_layers();
    if let Layer::Dense(dense) = &mut layers[0] {
        dense.weights[[1, 2]] = f32::NAN;
    }
    let error = Network::new(Shape::vector(4).unwrap(), layers).unwrap_err();
    let expected = "layer 0 (dense): weights[6] is NaN, it must be finite";
    assert_eq!(error.to_string(), expected);
    spec.name = "other".into();
    let bytes = artifact::encode(Model::MAGIC, Model::FORMAT_VERSION + 1, &spec).unwrap();
    assert!(matches!(Model::from_bytes(&bytes), Err(Error::UnsupportedVersion { .. })));
    // The checks also run on what a file with a valid digest holds.
    spec.class_names.pop();
    let bytes = artifact::encode(Model::MAGIC, Model::FORMAT_VERSION, &spec).unwrap();
    let error = Model::from_bytes(&bytes).unwrap_err();
    assert!(error.to_string().contains("class names has shape [2], expected [3]"), "{error}");
}

#[test]
fn bits_are_written_as_three_numbers() {
    assert_eq!("4/5/6".parse::<Bits>().unwrap(), Bits { input: 4, weight: 5, activation: 6 });
    assert_eq!(Bits { input: 4, weight: 5, activation: 6 }.to_string(), "4/5/6");
    for text in ["4/4", "4/4/4/4", "4/x/4", "4/4/x", "", "4/4/4/", "17/4/4", "4/1/4", "4/4/0"] {
        assert!(text.parse::<Bits>().is_err(), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn payloads_altered_under_a_valid_digest_never_panic(position in 0_usize..3000, value in any::<u8>()) {
        let mut bytes = Model::new(spec()).unwrap().to_bytes().unwrap();
        let end = bytes.len() - blake3::OUT_LEN;
        let position = 20 + position % (end - 20);
        bytes[position] = value;
        bytes.truncate(end);
        let digest = blake3::hash(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        if let Ok(model) = Model::from_bytes(&bytes) {
            // Whatever was accepted also works.
            let _ = model.scores(&Array2::zeros((1, model.input_shape().len())));
        }
    }
}
