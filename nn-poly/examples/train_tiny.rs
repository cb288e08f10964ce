//! Train one of the known networks on a data set and print its accuracy.
//!
//! ```text
//! cargo run --release -p securedl-nn-poly --example train_tiny                     # built-in toy data
//! cargo run --release -p securedl-nn-poly --example train_tiny -- mnist cryptonets square 8
//! cargo run --release -p securedl-nn-poly --example train_tiny -- wine mlp relu
//! ```
//!
//! Arguments: data (a path, or a name under `SECUREDL_DATA`), network, activation, epochs.

#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::ops::ControlFlow;
use std::time::Instant;

use ndarray::Array2;
use nn_poly::import::{Dataset, Split, SplitSpec, resolve_data_path};
use nn_poly::network::{ActivationChoice, NetworkKind};
use nn_poly::train::{BatchReport, EpochReport, Progress, TrainRecipe, Trainer, evaluate};
use nn_poly::{Result, Shape};

struct Printer(Instant);

impl Progress for Printer {
    fn batch(&mut self, _report: &BatchReport) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn epoch(&mut self, report: &EpochReport) {
        println!(
            "epoch {:3}/{}  mean loss {:.4}  {:6.1} s",
            report.epoch,
            report.n_epochs,
            report.mean_loss,
            self.0.elapsed().as_secs_f64()
        );
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (training, test, kind) = match arguments.next() {
        Some(data) => {
            let path = resolve_data_path(&data)?;
            let split = SplitSpec::default();
            let training = Dataset::load(&path, Split::Train, &split)?;
            let test = Dataset::load(&path, Split::Test, &split)?;
            let kind = arguments.next().map_or(Ok(NetworkKind::Mlp), |name| name.parse())?;
            (training, test, kind)
        }
        None => (spiral(600, 0.0)?, spiral(200, 0.37)?, NetworkKind::Mlp),
    };
    let activation = arguments.next().map_or(Ok(ActivationChoice::Square), |name| name.parse())?;
    let mut recipe = TrainRecipe::for_network(kind, activation, training.n_samples()).with_seed(1);
    if let Some(epochs) = arguments.next().and_then(|text| text.parse().ok()) {
        recipe.float.epochs = epochs;
    }

    let preprocessing = recipe.preprocessing.fit(training.features())?;
    let network = recipe.architecture.build(training.shape(), training.n_classes(), 1)?;
    println!(
        "{kind} with {activation}: {} parameters, {} training samples of {}",
        network.n_parameters(),
        training.n_samples(),
        training.shape()
    );
    let samples = training.labeled(&preprocessing)?;
    let start = Instant::now();
    let mut trainer = Trainer::new(network, recipe.float.check()?)?;
    let _ = trainer.run(&samples, &mut Printer(start))?;
    let seconds = start.elapsed().as_secs_f64();
    let evaluation = evaluate(trainer.network(), &test.labeled(&preprocessing)?)?;
    println!(
        "test accuracy {:.2} % ({} of {}), training took {seconds:.1} s",
        100.0 * evaluation.accuracy(),
        evaluation.n_correct(),
        evaluation.n_samples()
    );
    Ok(())
}

/// Three interleaved spiral arms in the plane.
fn spiral(n_samples: u16, offset: f32) -> Result<Dataset> {
    let mut values = Vec::new();
    let mut labels = Vec::new();
    for i in 0..n_samples {
        let arm = i % 3;
        let t = (f32::from(i) + offset) / f32::from(n_samples);
        let angle = 4.0 * t + f32::from(arm) * std::f32::consts::TAU / 3.0;
        let radius = 0.2 + t;
        values.extend([radius * angle.cos(), radius * angle.sin()]);
        labels.push(u32::from(arm));
    }
    let features = Array2::from_shape_vec((usize::from(n_samples), 2), values)
        .expect("invariant: two values per sample");
    Dataset::new(Shape::vector(2)?, features, Some(labels), Vec::new(), "spiral".into())
}
