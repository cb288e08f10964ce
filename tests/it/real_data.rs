//! The real data sets: what the readers find in them, and one encrypted batch of digits.
//!
//! Data lie in `$SECUREDL_DATA`, by default in `../shared/data` beside the repository. Without them
//! every test here says loudly that it was skipped.

use std::io::Write;
use std::path::PathBuf;

use nn_poly::import::{Dataset, PreprocessingKind, Split, SplitSpec};
use nn_poly::model::Bits;
use nn_poly::network::{ActivationChoice, Architecture, NetworkKind};
use nn_poly::plan::{ActivationSide, ModelFacts, PlanOptions, compile};
use nn_poly::quantize::{calibrate, prepare_qat, quantize};
use nn_poly::train::{self, TrainSpec, Trainer};
use protocol::session::ClientPlan;
use securedl_tests::batch::{Outcome, run_batch};
use securedl_tests::loopback::shelf;
use securedl_tests::models::session_options;

/// One published data set.
struct Published {
    name: &'static str,
    file: &'static str,
    dims: &'static [usize],
    /// Training and test samples, or all samples and none for tables.
    n_samples: (usize, usize),
    n_classes: usize,
    /// Class counts of the test part (all of it for tables), where they are published.
    counts: Option<&'static [usize]>,
}

const DATA: [Published; 10] = [
    Published {
        name: "mnist",
        file: "mnist",
        dims: &[28, 28, 1],
        n_samples: (60_000, 10_000),
        n_classes: 10,
        counts: Some(&[980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]),
    },
    Published {
        name: "fashion_mnist",
        file: "fashion_mnist",
        dims: &[28, 28, 1],
        n_samples: (60_000, 10_000),
        n_classes: 10,
        counts: Some(&[1000; 10]),
    },
    Published {
        name: "cifar10",
        file: "cifar10",
        dims: &[32, 32, 3],
        n_samples: (20_000, 4_000),
        n_classes: 10,
        counts: Some(&[400; 10]),
    },
    Published {
        name: "gtsrb",
        file: "gtsrb",
        dims: &[32, 32, 3],
        n_samples: (10_000, 3_000),
        n_classes: 43,
        counts: Some(&[
            14, 171, 178, 107, 157, 150, 36, 107, 107, 114, 157, 100, 164, 171, 64, 50, 36, 86, 93,
            14, 21, 21, 29, 36, 21, 114, 43, 14, 36, 21, 36, 64, 14, 50, 28, 93, 28, 14, 164, 21,
            21, 14, 21,
        ]),
    },
    table("breast_tissue", 106, &[9], 6, &[21, 15, 18, 16, 14, 22]),
    table("crabs", 200, &[6], 2, &[100, 100]),
    table("ovarian", 216, &[100], 2, &[95, 121]),
    table("wine", 178, &[13], 3, &[59, 71, 48]),
    table("climate", 540, &[18], 2, &[46, 494]),
    table("fertility", 100, &[9], 2, &[88, 12]),
];

const fn table(
    name: &'static str,
    n_samples: usize,
    dims: &'static [usize],
    n_classes: usize,
    counts: &'static [usize],
) -> Published {
    Published {
        name,
        file: "tabular",
        dims,
        n_samples: (n_samples, 0),
        n_classes,
        counts: Some(counts),
    }
}

/// Where a data set lies; says aloud when it is absent.
fn find(name: &str, file: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("SECUREDL_DATA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
        PathBuf::from,
    );
    let path = match file {
        "tabular" => folder.join("tabular").join(format!("{name}.csv")),
        _ => folder.join(file),
    };
    if path.exists() {
        return Some(path);
    }
    // Past the capture of the test harness.
    let line = format!(
        "SKIPPED: no data set {name} at {}: set SECUREDL_DATA to the folder of data sets\n",
        path.display()
    );
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    None
}

fn class_counts(data: &Dataset) -> Vec<usize> {
    let mut counts = vec![0; data.n_classes()];
    data.labels().unwrap().iter().for_each(|&label| counts[label as usize] += 1);
    counts
}

fn check(published: &Published) {
    let Published { name, file, dims, n_samples, n_classes, counts } = published;
    let Some(path) = find(name, file) else { return };
    let split = SplitSpec::default();
    let is_table = n_samples.1 == 0;
    let parts: Vec<(Dataset, usize)> = if is_table {
        vec![(Dataset::load(&path, Split::All, &split).unwrap(), n_samples.0)]
    } else {
        [(Split::Train, n_samples.0), (Split::Test, n_samples.1)]
            .map(|(part, n)| (Dataset::load(&path, part, &split).unwrap(), n))
            .into()
    };
    for (data, n) in &parts {
        assert_eq!(data.n_samples(), *n, "{name}");
        assert_eq!(data.shape().dims(), *dims, "{name}");
        assert_eq!(data.n_classes(), *n_classes, "{name}");
        assert_eq!(data.labels().unwrap().len(), *n, "{name}");
        assert!(data.features().iter().all(|x| x.is_finite()), "{name}");
        if !is_table {
            let (low, high) = data
                .features()
                .iter()
                .fold((f32::MAX, f32::MIN), |(low, high), &x| (low.min(x), high.max(x)));
            assert!(low == 0.0 && high == 1.0, "{name}: {low} to {high}");
        }
        assert!(class_counts(data).iter().all(|&count| count > 0), "{name}");
    }
    let (last, _) = parts.last().unwrap();
    if let Some(counts) = counts {
        assert_eq!(class_counts(last), *counts, "{name}");
    }
    if is_table {
        let train = Dataset::load(&path, Split::Train, &split).unwrap();
        let test = Dataset::load(&path, Split::Test, &split).unwrap();
        assert_eq!(train.n_samples() + test.n_samples(), n_samples.0, "{name}");
        let share = test.n_samples() as f64 / n_samples.0 as f64;
        assert!((share - 0.2).abs() < 0.03, "{name}: {share}");
    }
}

#[test]
fn every_data_set_has_its_published_shape_and_classes() {
    DATA.iter().for_each(check);
}

/// A dense network of two squares, trained for a second, quantized to 4 bits.
#[test]
fn an_encrypted_batch_of_real_digits_equals_the_simulation() {
    let Some(path) = find("mnist", "mnist") else { return };
    let split = SplitSpec::default();
    let part = |part, n| Dataset::load(&path, part, &split).unwrap().take(n).unwrap();
    let (learning, judging) = (part(Split::Train, 2000), part(Split::Test, 200));
    let preprocessing = PreprocessingKind::UnitRange.fit(learning.features()).unwrap();
    let samples = learning.labeled(&preprocessing).unwrap();

    let architecture = Architecture::new(NetworkKind::Mlp, ActivationChoice::Square);
    let network = architecture.build::<f32>(learning.shape(), 10, 7).unwrap();
    let spec = TrainSpec { epochs: 8, batch_size: 50, ..TrainSpec::default() };
    let mut trainer = Trainer::new(network, spec.with_seed(7).check().unwrap()).unwrap();
    assert_eq!(trainer.run(&samples, &mut ()).unwrap(), train::Outcome::Finished);
    let bits = Bits::new(4, 4, 4).unwrap();
    let grids = calibrate(trainer.network(), &preprocessing, samples.inputs(), bits).unwrap();
    let quantized = quantize(&prepare_qat(trainer.network(), &grids).unwrap()).unwrap();
    let observed = quantized
        .network
        .evaluate(&quantized.network.input().quantize(samples.inputs().view()).unwrap())
        .unwrap();

    for activation_side in [ActivationSide::Server, ActivationSide::Client] {
        let facts = ModelFacts {
            name: "digits".into(),
            input_shape: learning.shape().clone(),
            preprocessing: preprocessing.clone(),
            split,
            class_names: (0..10).map(|digit| digit.to_string()).collect(),
            score_step: quantized.score_step,
        };
        let options =
            PlanOptions { activation_side, expected_samples: 200, ..PlanOptions::default() };
        let plan = compile(&quantized.network, &observed.observed, facts, &options).unwrap();
        let inputs = plan.public().quantize(judging.features()).unwrap();
        let canaries = plan.public().quantize(learning.take(4).unwrap().features()).unwrap();
        let owner = ClientPlan::new(plan.clone(), session_options(4, 1), &canaries).unwrap();
        let Outcome::Verified(result) = run_batch(&owner, &inputs, shelf(&plan), 1).unwrap() else {
            panic!("an honest run");
        };
        let simulated = plan.simulate(&inputs).unwrap();
        assert_eq!(result.scores, simulated.scores);
        assert_eq!(result.out_of_calibration, simulated.out_of_range);
        let labels = judging.labels().unwrap();
        let predictions = simulated.predictions();
        let right = predictions.iter().zip(labels).filter(|(p, l)| **p == **l as usize);
        let accuracy = right.count() as f64 / labels.len() as f64;
        println!("activation at the {activation_side}: {:.1} % of 200 digits", 100.0 * accuracy);
        assert!(accuracy > 0.8, "{accuracy}");
    }
}
