//! `securedl polynomialize`: from a model with ReLU and the like to one that a server can evaluate.

use anyhow::{Result, bail};
use nn_poly::train::{BlendSpec, Evaluation, FitChoice, Limit, Polynomialization, ReplacedLayer};

use super::train::{Retraining, Rows, print_trained};
use crate::args::{MethodArgument, PolynomializeArguments};
use crate::failure::Outcome;
use crate::options::BitsChoice;
use crate::pipeline::polynomializing::{PolynomialModel, PolynomializeSettings, make_polynomial};
use crate::pipeline::training::TrainingRun;
use crate::report::table::{Grid, Lean};
use crate::report::terminal::{Ink, Screen};
use crate::report::{Console, polynomials, units};

/// Train and write the model.
pub(crate) fn run(arguments: &PolynomializeArguments) -> Result<Outcome> {
    let console = Console::new(None);
    let settings = settings(arguments)?;
    let retraining = Retraining::open(&arguments.trained, &arguments.run.out, &console)?;
    let Retraining { model, data, .. } = &retraining;
    let Console { screen, progress } = &console;
    let mut told = |layers: &[ReplacedLayer]| print_fits(screen, layers);
    let mut rows = Rows { screen };
    let made = make_polynomial(model, data, &settings, &mut told, &mut rows, progress)?;
    let n_bytes = retraining.write(&made.model)?;
    print_results(screen, &made);
    print_trained(screen, &made.model, &arguments.run.out, n_bytes);
    console.screen.finish()?;
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
            function: arguments.function.clone(),
        },
        blend: BlendSpec { ramp: arguments.ramp, range_weight: arguments.range_weight },
        distill: arguments.trained.distill,
        epochs: arguments.epochs,
        learning_rate: arguments.learning_rate,
        bits: BitsChoice::new(arguments.trained.bits)?,
        run: TrainingRun::new(&arguments.run)?.taught(&arguments.trained),
        fine_tune_epochs: arguments.fine_tune_epochs,
    })
}

fn print_fits(screen: &Screen, layers: &[ReplacedLayer]) {
    screen.heading("Polynomials to start from");
    let columns = [
        ("layer", Lean::Right),
        ("replaces", Lean::Left),
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
            layer.replaced.to_string(),
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
    let n_samples = units::counted(made.original.n_samples(), "test sample");
    let told = |evaluation: &Evaluation| units::percent(evaluation.accuracy());
    screen.gap();
    screen.fact("Original", format!("{} of {n_samples}", told(&made.original)));
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
    if made.model.network().needs_client() {
        screen.fact(
            "Client",
            "the maximum pools stay with it; train with average pools to avoid that",
        );
    }
}
