//! `securedl polynomialize`: from a ReLU model to one that a server can evaluate.

use anyhow::{Result, bail};
use nn_poly::model::Model;
use nn_poly::train::{BlendSpec, Evaluation, FitChoice, Limit, Polynomialization, ReplacedLayer};

use super::train::{Rows, print_data};
use crate::args::{MethodArgument, PolynomializeArguments};
use crate::failure::Outcome;
use crate::kind::FileKind;
use crate::options::BitsChoice;
use crate::output::OutputFile;
use crate::pipeline::polynomializing::{PolynomialModel, PolynomializeSettings, make_polynomial};
use crate::pipeline::source::DataSource;
use crate::pipeline::training;
use crate::report::table::{Grid, Lean};
use crate::report::terminal::{Ink, Screen};
use crate::report::{Console, polynomials, units};

/// Train and write the model.
pub(crate) fn run(arguments: &PolynomializeArguments) -> Result<Outcome> {
    let Console { screen, progress } = Console::new(None);
    let settings = settings(arguments)?;
    let out = OutputFile::check(&arguments.out)?;
    if let Some(checkpoint) = &arguments.checkpoint {
        OutputFile::check(checkpoint)?;
    }
    FileKind::Model.expect_of(&arguments.model)?;
    let model = Model::load(&arguments.model)?;
    let bar = progress.spinner("reading data");
    let source = DataSource::new(&arguments.data, &arguments.reading);
    let data = training::load_split(&source, model.spec().split)?;
    drop(bar);
    let expected = model.spec().network.input_shape();
    if data.train.shape() != expected || data.train.class_names() != model.spec().class_names {
        bail!(
            "the samples in {} are not like those that the model `{}` was trained on",
            arguments.data,
            model.spec().name
        );
    }
    print_data(&screen, &data);
    let mut told = |layers: &[ReplacedLayer]| print_fits(&screen, layers);
    let mut rows = Rows { screen: &screen };
    let made = make_polynomial(&model, &data, &settings, &mut told, &mut rows, &progress)?;
    let bytes = made.model.to_bytes()?;
    out.write(&bytes)?;
    print_results(&screen, &made);
    screen.fact(
        "Model",
        format!("{} ({})", arguments.out.display(), units::bytes(bytes.len() as u64)),
    );
    screen.finish()?;
    Ok(Outcome::Success)
}

fn settings(arguments: &PolynomializeArguments) -> Result<PolynomializeSettings> {
    let fit = match arguments.fit {
        MethodArgument::All => {
            bail!("--fit takes one method: a network has one polynomial per layer")
        }
        MethodArgument::Observed => FitChoice::Observed,
        MethodArgument::Of(method) => FitChoice::Method(method),
    };
    Ok(PolynomializeSettings {
        choice: Polynomialization {
            degree: usize::from(arguments.degree),
            coverage: arguments.coverage,
            fit,
            limit: if arguments.no_clamp { Limit::None } else { Limit::Interval },
        },
        blend: BlendSpec { ramp: arguments.ramp, range_weight: arguments.range_weight },
        epochs: arguments.epochs,
        learning_rate: arguments.learning_rate,
        bits: BitsChoice::new(arguments.bits)?,
        seed: arguments.seed,
        checkpoint: arguments.checkpoint.clone(),
        resume: arguments.resume,
    })
}

fn print_fits(screen: &Screen, layers: &[ReplacedLayer]) {
    screen.heading("Polynomials to start from");
    let columns = [
        ("layer", Lean::Right),
        ("observed", Lean::Right),
        ("interval", Lean::Right),
        ("polynomial", Lean::Left),
        ("max error", Lean::Right),
        ("RMS error", Lean::Right),
    ];
    let mut grid = Grid::new(screen, &columns);
    for layer in layers {
        let (min, max) = layer.observed.range();
        let [formula, max_error, rms_error, ..] = polynomials::cells(&layer.fit);
        grid.row([
            layer.layer_idx.to_string(),
            format!("{} … {}", polynomials::number(min), polynomials::number(max)),
            layer.interval.to_string(),
            formula,
            max_error,
            rms_error,
        ]);
    }
    grid.print(screen);
}

fn print_results(screen: &Screen, made: &PolynomialModel) {
    let n_samples = units::counted(made.relu.n_samples(), "test sample");
    let told = |evaluation: &Evaluation| units::percent(evaluation.accuracy());
    screen.gap();
    screen.fact("ReLU", format!("{} of {n_samples}", told(&made.relu)));
    screen.fact("Replaced", format!("{} before training", told(&made.replaced)));
    screen.fact("Polynomial", told(&made.polynomial));
    match &made.integer {
        Some((quantized, evaluation)) => screen.fact(
            "Integer",
            format!(
                "{}, {} products per sample",
                screen.paint(Ink::Bold, told(evaluation)),
                units::count(quantized.network.n_products()),
            ),
        ),
        None => screen.fact("Integer", "not fine-tuned (--bits none)"),
    }
    let seconds = made.model.spec().training.seconds.max(0.0);
    screen.fact("Time", units::duration(std::time::Duration::from_secs_f64(seconds)));
}
