//! `securedl fine-tune`: from a trained model to one in small integers.

use anyhow::{Result, bail};
use nn_poly::model::Model;

use super::train::{Rows, print_data, print_trained};
use crate::args::FineTuneArguments;
use crate::failure::Outcome;
use crate::kind::FileKind;
use crate::options::BitsChoice;
use crate::output::OutputFile;
use crate::pipeline::fine_tuning::{FineTuneSettings, FineTuned, fine_tune};
use crate::pipeline::source::DataSource;
use crate::pipeline::training::{self, TrainingRun};
use crate::report::terminal::{Ink, Screen};
use crate::report::{Console, units};

/// Fine-tune and write the model.
pub(crate) fn run(arguments: &FineTuneArguments) -> Result<Outcome> {
    let Console { screen, progress } = Console::new(None);
    let bits = BitsChoice::new(arguments.bits)?;
    if bits == BitsChoice::None {
        bail!("fine-tuning rounds to bits: write --bits as input/weight/activation, such as 4/4/4");
    }
    let settings = FineTuneSettings {
        bits,
        epochs: arguments.epochs,
        learning_rate: arguments.learning_rate,
        run: TrainingRun::new(&arguments.run, arguments.changes)?,
    };
    let out = OutputFile::check(&arguments.out)?;
    FileKind::Model.expect_of(&arguments.model)?;
    let model = Model::load(&arguments.model)?;
    let bar = progress.spinner("reading data");
    let source = DataSource::new(&arguments.data, &arguments.reading);
    let data = training::load_like(&source, model.spec())?;
    drop(bar);
    print_data(&screen, &data);
    let mut rows = Rows { screen: &screen };
    let tuned = fine_tune(&model, &data, &settings, &mut rows, &progress)?;
    let bytes = tuned.model.to_bytes()?;
    out.write(&bytes)?;
    print_results(&screen, &tuned);
    print_trained(&screen, &tuned.model, &arguments.out, bytes.len());
    screen.finish()?;
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
