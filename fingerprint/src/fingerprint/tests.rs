#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use ndarray::array;
use nn_poly::Network;
use nn_poly::import::SplitSpec;
use nn_poly::layer::{Activation, Dense, Layer};
use nn_poly::model::{ModelSpec, TrainingRecord};
use nn_poly::network::{ActivationChoice, NetworkKind};
use proptest::prelude::*;

use super::content::Reference;
use super::*;
use crate::endpoint::ScoreKind;
use crate::error::NetworkError;
use crate::sample::SampleBag;

/// Three features, two classes, weights that floats hold exactly.
pub(crate) fn model(weight: f32) -> Model {
    let shape = Shape::vector(3).unwrap();
    let layers = vec![
        Layer::Dense(Dense::new(array![[1.0, -0.5, 0.25], [0.5, 0.5, weight]], array![0.0, 1.0])),
        Layer::Activation(Activation::Square),
        Layer::Dense(Dense::new(array![[1.0, 0.0], [-1.0, 2.0]], array![0.0, 0.5])),
    ];
    Model::new(ModelSpec {
        name: "three".into(),
        kind: NetworkKind::Mlp,
        activation: ActivationChoice::Square,
        network: Network::new(shape, layers).unwrap(),
        preprocessing: Preprocessing::UnitRange,
        split: SplitSpec::default(),
        class_names: vec!["no".into(), "yes".into()],
        bits: None,
        training: TrainingRecord::default(),
        data_source: "none".into(),
    })
    .unwrap()
}

fn bag() -> SampleBag {
    let info = |source, label| SampleInfo {
        source,
        label,
        margin: 0.25,
        log_sensitivity: -1.5,
        tied: vec![label, 1 - label],
    };
    SampleBag {
        inputs: array![[0.0, 0.5, 1.0], [0.25, 0.75, 0.5]],
        generator: GeneratorKind::Tie,
        seed: 42,
        samples: vec![info(Some(7), 1), info(None, 1)],
    }
}

pub(crate) fn grid() -> InputGrid {
    InputGrid::new(0.0, 1.0, 4).unwrap()
}

/// Not what anybody asks for: the natural samples are others than the samples.
fn originals() -> Array2<f32> {
    array![[0.0, 0.8, 1.0], [0.5, 0.7, 0.5]]
}

fn parts<'a>(
    bag: &'a SampleBag,
    grid: &'a InputGrid,
    originals: Option<&'a Array2<f32>>,
) -> FingerprintParts<'a> {
    FingerprintParts {
        bag,
        grid,
        originals,
        selection: SelectionRule::ClassCover,
        rule: ComparisonRule::Top1,
        margin: 1e-5,
    }
}

pub(crate) fn fingerprint() -> Fingerprint {
    let originals = originals();
    Fingerprint::of_model(&model(2.0), &parts(&bag(), &grid(), Some(&originals))).unwrap()
}

pub(crate) fn fingerprint_without_originals() -> Fingerprint {
    Fingerprint::of_model(&model(2.0), &parts(&bag(), &grid(), None)).unwrap()
}

#[test]
fn a_file_gives_back_what_went_in() {
    let mut fingerprint = fingerprint();
    fingerprint.record_use();
    let read = Fingerprint::from_bytes(&fingerprint.to_bytes().unwrap()).unwrap();
    assert_eq!(read, fingerprint);
    assert_eq!(read.uses(), 1);
    assert_eq!(read.levels(), array![[0, 2, 4], [1, 3, 2]]);
    assert_eq!(read.original_levels().unwrap(), array![[0, 3, 4], [2, 3, 2]]);
    assert_eq!((read.original_labels().unwrap(), read.margin()), (&[1, 1][..], 1e-5));
    assert_eq!(read.inputs(), bag().inputs);
    let network = model(2.0).spec().network.cast::<f64>().unwrap();
    let expected = network.outputs(&bag().inputs.mapv(f64::from)).unwrap();
    assert_eq!(read.reference(), Answers::Scores { values: expected, kind: ScoreKind::Logits });
}

#[test]
fn uses_do_not_change_the_identity_and_samples_do() {
    let fresh = fingerprint();
    let mut used = fresh.clone();
    used.record_use();
    assert_eq!(fresh.identity().unwrap(), used.identity().unwrap());
    assert_ne!(fresh.to_bytes().unwrap(), used.to_bytes().unwrap());
    let mut other = bag();
    other.inputs[[0, 0]] = 0.25;
    let other = Fingerprint::of_model(&model(2.0), &parts(&other, &grid(), None)).unwrap();
    assert_ne!(fresh.identity().unwrap(), other.identity().unwrap());
}

#[test]
fn it_belongs_to_one_model_whatever_the_model_is_called() {
    let fingerprint = fingerprint();
    let mut renamed = model(2.0).spec().clone();
    renamed.name = "other".into();
    assert!(fingerprint.check_model(&Model::new(renamed).unwrap()).is_ok());
    let error = fingerprint.check_model(&model(2.000_000_2)).unwrap_err();
    assert!(matches!(error, Error::ForeignFingerprint { what: "model", .. }), "{error}");
}

/// Format version 2. A change of these bytes is a new format version.
#[test]
fn the_bytes_of_a_file_are_fixed() {
    let bytes = fingerprint().to_bytes().unwrap();
    assert_eq!(&bytes[..12], b"SDLFPRNT\x02\0\0\0");
    let digest = blake3::hash(&bytes).to_hex();
    assert_eq!((bytes.len(), &digest[..16]), (448, "4e66f26049c66b28"));
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let (model, grid) = (model(2.0), grid());
    let originals = array![[0.0_f32, 0.5]];
    let refused = |bag: &SampleBag, originals: Option<&Array2<f32>>, grid: &InputGrid| {
        Fingerprint::of_model(&model, &parts(bag, grid, originals)).unwrap_err()
    };
    let good = bag();
    let mut off_grid = bag();
    off_grid.inputs[[1, 2]] = 0.6;
    assert_eq!(refused(&off_grid, None, &grid), Error::OffGrid { sample: 1 });
    let mut missing = bag();
    missing.samples.pop();
    assert!(matches!(refused(&missing, None, &grid), Error::LengthMismatch { .. }));
    let error = refused(&bag(), Some(&originals), &grid);
    assert!(matches!(error, Error::LengthMismatch { what: "the original samples", .. }));
    let wide = InputGrid::per_feature(vec![0.0; 4], vec![1.0; 4], 4).unwrap();
    assert!(matches!(refused(&bag(), None, &wide), Error::LengthMismatch { .. }));
    let mut label = bag();
    label.samples[0].label = 2;
    assert!(matches!(refused(&label, None, &grid), Error::MalformedFingerprint { .. }));
    label.samples[0].label = 0;
    let wrong = Error::WrongLabel { sample: 0, label: 0, expected: 1 };
    assert_eq!(refused(&label, None, &grid), wrong);
    for (rule, margin) in [("exact", 0.0), ("decimals-5", 0.0), ("top-1", 0.1), ("top-1", -1.0)] {
        let rule = rule.parse().unwrap();
        let finer = FingerprintParts { rule, margin, ..parts(&good, &grid, None) };
        assert!(Fingerprint::of_model(&model, &finer).is_err(), "{rule} {margin}");
    }
    let empty = bag().select(&[]).unwrap();
    assert!(matches!(refused(&empty, None, &grid), Error::CountOutOfRange { .. }));
}

/// A valid digest does not make inconsistent content acceptable.
#[test]
fn inconsistent_content_with_a_valid_digest_is_refused() {
    let good = fingerprint();
    type Alter = fn(&mut Content);
    let cases: [(&str, Alter); 17] = [
        ("no sample", |c| c.samples.clear()),
        ("label", |c| c.samples[0].label = 9),
        ("tied class", |c| c.samples[0].tied.push(9)),
        ("margin", |c| c.samples[1].margin = f64::NAN),
        ("levels", |c| c.levels = Packed::new(&array![[0, 0, 5], [0, 0, 0]]).unwrap()),
        ("dimensions", |c| c.levels = Packed::new(&array![[0, 0, 1]]).unwrap()),
        ("scores", |c| c.reference = Reference::Logits(array![[0.0, f64::INFINITY], [0.0, 0.0]])),
        ("binding", |c| (c.model, c.plan) = (None, c.model)),
        ("classes", |c| c.class_names.truncate(1)),
        ("label that is not the reference's", |c| c.samples[0].label = 0),
        ("reference of another label", |c| {
            c.reference = Reference::Logits(array![[1.0, 0.0], [0.0, 1.0]]);
        }),
        ("margin of the reference", |c| {
            c.reference = Reference::Logits(array![[0.0, 1.0], [0.999_995, 1.0]]);
        }),
        ("declared margin", |c| c.margin = f64::NAN),
        ("label of a natural sample", |c| c.originals.as_mut().unwrap().labels[1] = 2),
        ("labels of natural samples", |c| c.originals.as_mut().unwrap().labels.clear()),
        ("rule", |c| c.rule = ComparisonRule::Exact),
        ("grid beyond single precision", |c| c.grid = InputGrid::new(0.0, 1e300, 4).unwrap()),
    ];
    for (name, alter) in cases {
        let mut content = good.content.clone();
        alter(&mut content);
        let bytes = artifact::encode(FINGERPRINT_MAGIC, FINGERPRINT_VERSION, &(content, 0_u64));
        assert!(Fingerprint::from_bytes(&bytes.unwrap()).is_err(), "{name}");
    }
}

#[test]
fn other_versions_and_kinds_are_told_apart() {
    let good = fingerprint().to_bytes().unwrap();
    for other in [1, 3] {
        let mut version = good.clone();
        version[8] = other;
        let error = Fingerprint::from_bytes(&version).unwrap_err().to_string();
        assert!(error.contains(&format!("format version {other}")), "{error}");
        assert!(error.contains("version 2"), "{error}");
    }
    let model = model(1.0).to_bytes().unwrap();
    let error = Fingerprint::from_bytes(&model).unwrap_err();
    assert!(matches!(error, Error::Network(NetworkError { .. })), "{error}");
}

proptest! {
    #[test]
    fn a_changed_byte_never_passes(position in any::<prop::sample::Index>(), flip in 1_u8..) {
        let mut bytes = fingerprint().to_bytes().unwrap();
        let position = position.index(bytes.len());
        bytes[position] ^= flip;
        prop_assert!(Fingerprint::from_bytes(&bytes).is_err());
    }

    /// Whoever can write a file can also recompute its digest: such content must not panic, allocate
    /// without bound, or come back other than it is.
    #[test]
    fn changed_bytes_with_a_valid_digest_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = fingerprint().to_bytes().unwrap();
        let end = bytes.len() - 32;
        for (position, value) in changes {
            bytes[20 + position.index(end - 20)] = value;
        }
        let digest = blake3::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(digest.as_bytes());
        if let Ok(read) = Fingerprint::from_bytes(&bytes) {
            prop_assert_eq!(read.to_bytes().unwrap(), bytes);
            let n_classes = read.class_names().len();
            let is_class = |&label: &u32| (label as usize) < n_classes;
            prop_assert!(read.inputs().iter().all(|x| x.is_finite()));
            prop_assert!(read.levels().iter().all(|&level| level <= read.grid().n_steps()));
            prop_assert!(read.original_labels().unwrap_or_default().iter().all(is_class));
            prop_assert!(read.originals().is_none_or(|o| o.iter().all(|x| x.is_finite())));
            let labels: Vec<u32> = read.samples().iter().map(|info| info.label).collect();
            prop_assert_eq!(read.reference().labels(), labels);
        }
    }
}
