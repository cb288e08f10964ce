//! `securedl compile`: from a model to a plan.

use anyhow::{Result, bail};
use nn_poly::import::{Dataset, Split, resolve_data_path};
use nn_poly::model::Model;
use nn_poly::plan::{Plan, PlanOptions, RangePolicy, RunSize, forecast};

use crate::args::CompileArguments;
use crate::failure::Outcome;
use crate::kind::FileKind;
use crate::options::BitsChoice;
use crate::output::OutputFile;
use crate::pipeline::compiling::{self, Compiled};
use crate::report::terminal::{Ink, Screen};
use crate::report::{Console, segments, units};

/// Slots a block spends on checks with the default settings of `infer`.
pub(crate) const DEFAULT_CHECKED_SLOTS: u64 = 18;

/// Compile and write the plan.
pub(crate) fn run(arguments: &CompileArguments) -> Result<Outcome> {
    let Console { screen, progress } = Console::new(None);
    let out = OutputFile::check(&arguments.out)?;
    FileKind::Model.expect_of(&arguments.model)?;
    let model = Model::load(&arguments.model)?;
    let bits = compiling::bits(&model, BitsChoice::new(arguments.bits)?);
    let data = load_calibration(&model, &arguments.calibrate)?;
    let options = PlanOptions {
        activation_side: arguments
            .activation
            .map_or_else(|| compiling::default_side(&model), Into::into),
        trust: arguments.trust.into(),
        expected_samples: arguments.expected_samples,
        ranges: RangePolicy::PreferProven,
    };
    let bar = progress.spinner("calibrating and choosing parameters");
    let compiled = compiling::compile_model(&model, bits, data.features(), &options)?;
    let bytes = compiled.plan.to_bytes()?;
    drop(bar);
    out.write(&bytes)?;

    screen
        .fact("Model", format!("{}, {bits} bits (inputs/weights/activations)", model.spec().name));
    screen.fact(
        "Calibrated",
        format!("on {} of {}", units::counted(data.n_samples(), "training sample"), data.source()),
    );
    print_plan(&screen, &compiled.plan)?;
    print_calibration(&screen, &compiled);
    screen.gap();
    let size = units::bytes(bytes.len() as u64);
    let advice = "holds the weights: give it to the server, keep a copy";
    screen.fact("Plan", format!("{} ({size}); {advice}", arguments.out.display()));
    screen.fact("Digest", compiled.plan.digest());
    screen.finish()?;
    Ok(Outcome::Success)
}

fn load_calibration(model: &Model, argument: &str) -> Result<Dataset> {
    let path = resolve_data_path(argument)?;
    let spec = model.spec();
    let data = Dataset::load(&path, Split::Train, &spec.split)?;
    let expected = spec.network.input_shape();
    if data.shape() != expected {
        bail!(
            "samples in {} have shape {}, the model `{}` reads {expected}: calibrate with the data it was trained on",
            path.display(),
            data.shape(),
            spec.name,
        );
    }
    Ok(data)
}

/// Print settings and forecast of a plan.
pub(crate) fn print_plan(screen: &Screen, plan: &Plan) -> Result<()> {
    let public = plan.public();
    screen.fact(
        "Trust",
        format!("{} (the client owns the model and may see intermediate values)", public.trust),
    );
    screen.fact("Activation", format!("at the {}", public.activation_side));
    screen.fact("Security", format!("{} bits", public.security_bits));
    let has_slots = public.segments.iter().any(|segment| segment.evaluates_activation);
    let size = RunSize {
        n_samples: public.expected_samples,
        canaries_per_block: if has_slots { DEFAULT_CHECKED_SLOTS } else { 0 },
        replicas: 1,
    };
    let forecast = forecast(public, &size)?;
    screen.heading("Segments");
    segments::print_segments(screen, public);
    let (n_samples, n_rounds) = (size.n_samples, forecast.rounds);
    screen.heading(format_args!(
        "Forecast for {} in {}",
        units::counted(n_samples, "sample"),
        units::counted(n_rounds, "round")
    ));
    segments::print_forecast(screen, &forecast);
    Ok(())
}

/// Say what calibration saw, if it matters.
fn print_calibration(screen: &Screen, compiled: &Compiled) {
    let n_clamped: u64 = compiled.observed.counts.iter().map(|counts| counts.n_clamped).sum();
    if n_clamped > 0 {
        let public = compiled.plan.public();
        let n_samples = compiled.observed.out_of_range.len();
        let share = segments::clamped_share(public, n_samples, n_clamped);
        screen.gap();
        screen.fact("Clamped", format!("{} of the refreshed values", units::percent(share)));
    }
    let n_calibrated = compiled
        .plan
        .public()
        .segments
        .iter()
        .filter(|segment| segment.range.evidence == nn_poly::plan::Evidence::Calibrated)
        .count();
    if n_calibrated > 0 {
        let n_segments = units::counted(n_calibrated, "segment");
        let text = format!(
            "{n_segments} with a calibrated range: unusual inputs may leave it and are then marked \
             out_of_calibration"
        );
        screen.paragraph(2, screen.paint(Ink::Warn, text));
    }
}
