//! `securedl compile`: from a model to a plan.

use anyhow::{Result, bail};
use nn_poly::import::{Dataset, Split};
use nn_poly::model::Model;
use nn_poly::plan::{Plan, PlanOptions, RunSize, forecast};
use nn_poly::quantize::{SearchOutcome, Trial};

use crate::args::CompileArguments;
use crate::failure::Outcome;
use crate::kind::FileKind;
use crate::options::BitsChoice;
use crate::output::{Destination, OutputFile};
use crate::pipeline::assessing;
use crate::pipeline::compiling::{self, Compiled};
use crate::pipeline::planning;
use crate::pipeline::source::DataSource;
use crate::report::accuracy::{self, CompilationReport};
use crate::report::planning as planning_table;
use crate::report::progress::Progress;
use crate::report::terminal::{Ink, Screen};
use crate::report::{Console, segments, units};

/// Slots a block spends on checks with the default settings of `infer`.
const DEFAULT_CHECKED_SLOTS: u64 = 18;

/// Compile and write the plan.
pub(crate) fn run(arguments: &CompileArguments) -> Result<Outcome> {
    let Console { screen, progress } = Console::new(arguments.json.as_ref());
    let out = OutputFile::check(&arguments.out)?;
    let json = arguments.json.as_ref().map(Destination::check).transpose()?;
    let side = arguments.activation.map(Into::into);
    let size = forecast_size(arguments.expected_samples);
    let goal = planning::goal(&arguments.planning, side, arguments.trust.into(), size)?;
    FileKind::Model.expect_of(&arguments.model)?;
    let model = Model::load(&arguments.model)?;
    let choice = BitsChoice::new(arguments.bits)?;
    let source = DataSource::new(&arguments.calibrate, &arguments.reading);
    let data = load_calibration(&model, &source)?;
    let wants_report = arguments.report || json.is_some() || arguments.reference.is_some();
    let reference = arguments.reference.as_deref();
    let reference = reference.map(|path| assessing::load_reference(path, &model)).transpose()?;
    let test = wants_report.then(|| assessing::load_test(&source, &data, &model)).transpose()?;
    let options = PlanOptions {
        activation_side: side.unwrap_or_else(|| compiling::default_side(&model)),
        trust: goal.trust,
        expected_samples: arguments.expected_samples,
        ranges: goal.ranges,
    };
    let searched = match arguments.target_drop {
        None => None,
        Some(points) => {
            assessing::check_labeled(&source, &data, &model)?;
            Some((search(&model, &data, points, &options, &progress)?, points))
        }
    };
    let bits = match &searched {
        Some((found, _)) => found.bits,
        None => compiling::bits(&model, choice),
    };
    let bar = progress.spinner("calibrating");
    let prepared = compiling::prepare(&model, bits, data.features())?;
    drop(bar);
    let is_measured = !arguments.planning.no_self_test;
    let (compiled, planning) = planning::plan(prepared, goal, is_measured, &progress)?;
    let bytes = compiled.plan.to_bytes()?;
    out.write(&bytes)?;

    if let Some((found, points)) = &searched {
        accuracy::print_search(&screen, found, *points);
        screen.gap();
    }
    screen
        .fact("Model", format!("{}, {bits} bits (inputs/weights/activations)", model.spec().name));
    screen.fact(
        "Calibrated",
        format!("on {} of {}", units::counted(data.n_samples(), "training sample"), data.source()),
    );
    planning_table::print(&screen, &planning);
    screen.gap();
    print_plan(&screen, &compiled.plan)?;
    print_calibration(&screen, &compiled);
    if let Some(test) = &test {
        let bar = progress.spinner("evaluating on the test part");
        let assessment = assessing::assess(&model, bits, &compiled.plan, test, reference.as_ref())?;
        drop(bar);
        let activation = model.spec().activation.to_string();
        accuracy::print(&screen, compiled.plan.public(), &assessment, &activation);
        if let Some(json) = json {
            let searched = searched.as_ref().map(|(found, points)| (found, *points));
            let report = CompilationReport::new(&compiled.plan, &assessment, searched, &planning);
            json.write(&(serde_json::to_string_pretty(&report)? + "\n"))?;
        }
    }
    screen.gap();
    let size = units::bytes(bytes.len() as u64);
    let advice = "holds the weights: give it to the server, keep a copy";
    screen.fact("Plan", format!("{} ({size}); {advice}", arguments.out.display()));
    screen.fact("Digest", compiled.plan.digest());
    screen.finish()?;
    Ok(Outcome::Success)
}

/// Search bits, with a sign of life per trial.
fn search(
    model: &Model,
    data: &Dataset,
    points: f64,
    options: &PlanOptions,
    progress: &Progress,
) -> Result<SearchOutcome> {
    let bar = progress.spinner("searching the cheapest bits");
    let run = forecast_size(options.expected_samples);
    let mut told = |trial: &Trial| {
        bar.message(format!("{} tried, {} choices open", trial.bits, trial.n_open));
    };
    assessing::search(model, data, points, run, options, &mut told)
}

/// The run that a forecast is about, with the slots that `infer` checks by default.
pub(crate) fn forecast_size(n_samples: u64) -> RunSize {
    RunSize { n_samples, canaries_per_block: DEFAULT_CHECKED_SLOTS, replicas: 1 }
}

fn load_calibration(model: &Model, source: &DataSource<'_>) -> Result<Dataset> {
    let spec = model.spec();
    let (path, data) = source.load(Split::Train, &spec.split)?;
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
    let size = forecast_size(public.expected_samples);
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
