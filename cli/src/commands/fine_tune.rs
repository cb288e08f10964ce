//! `securedl fine-tune`: from a trained model to one in small integers.

use anyhow::{Result, bail};

use super::train::{Retraining, Rows, print_trained};
use crate::args::FineTuneArguments;
use crate::failure::Outcome;
use crate::options::BitsChoice;
use crate::pipeline::fine_tuning::{FineTuneSettings, FineTuned, fine_tune};
use crate::pipeline::training::TrainingRun;
use crate::report::terminal::{Ink, Screen};
use crate::report::{Console, units};

/// Fine-tune and write the model.
pub(crate) fn run(arguments: &FineTuneArguments) -> Result<Outcome> {
    let console = Console::new(None);
    let bits = BitsChoice::new(arguments.trained.bits)?;
    if bits == BitsChoice::None {
        bail!("fine-tuning rounds to bits: write --bits as input/weight/activation, such as 4/4/4");
    }
    let settings = FineTuneSettings {
        bits,
        distill: arguments.trained.distill,
        epochs: arguments.epochs,
        learning_rate: arguments.learning_rate,
        run: TrainingRun::new(&arguments.run)?.taught(&arguments.trained),
    };
    let retraining = Retraining::open(&arguments.trained, &arguments.run.out, &console)?;
    let Retraining { model, data, .. } = &retraining;
    let Console { screen, progress } = &console;
    let mut rows = Rows { screen };
    let tuned = fine_tune(model, data, &settings, &mut rows, progress)?;
    let n_bytes = retraining.write(&tuned.model)?;
    print_results(screen, &tuned);
    print_trained(screen, &tuned.model, &arguments.run.out, n_bytes);
    console.screen.finish()?;
    Ok(Outcome::Success)
}

fn print_results(screen: &Screen, tuned: &FineTuned) {
    let n_samples = units::counted(tuned.float.n_samples(), "test sample");
    let (quantized, integer) = &tuned.integer;
    screen.gap();
    screen.fact("Float", format!("{} of {n_samples}", units::percent(tuned.float.accuracy())));
    screen.fact("Rounded", format!("{} before training", units::percent(tuned.rounded.accuracy())));
    screen.fact(
        "Integer",
        format!(
            "{}, {} products per sample",
            screen.paint(Ink::Bold, units::percent(integer.accuracy())),
            units::count(quantized.network.n_products()),
        ),
    );
}
