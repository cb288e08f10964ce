//! `securedl compile`: from a model to a plan.

mod masked;

use anyhow::{Result, bail};
use fingerprint::LayoutOptions;
use nn_poly::compiler::{Compiled, Joining};
use nn_poly::import::{Dataset, Split};
use nn_poly::integer::IntegerMatrix;
use nn_poly::model::Model;
use nn_poly::plan::planner::PlanGoal;
use nn_poly::plan::{Plan, RunSize, Segment, Trust, forecast};
use nn_poly::quantize::CALIBRATION_SAMPLES;

use crate::args::CompileArguments;
use crate::failure::Outcome;
use crate::kind::FileKind;
use crate::options::BitsChoice;
use crate::output::{Destination, OutputFile};
use crate::pipeline::assessing::{self, BitSearch};
use crate::pipeline::compiling;
use crate::pipeline::inference;
use crate::pipeline::planning;
use crate::pipeline::source::DataSource;
use crate::report::accuracy::{self, CompilationReport};
use crate::report::bit_search;
use crate::report::planning as planning_table;
use crate::report::progress::Progress;
use crate::report::terminal::{Ink, Screen};
use crate::report::{Console, segments, units};

/// Share of equal answers below which joined layers are worth a word.
const NOTABLE_DISAGREEMENT: f64 = 0.95;

/// Share of clamped values that is worth a word: grids are fitted to clamp far less.
const NOTABLE_CLAMPS: f64 = 0.01;

/// Compile and write the plan.
pub(crate) fn run(arguments: &CompileArguments) -> Result<Outcome> {
    let Console { screen, progress } = Console::new(arguments.json.as_ref());
    let out = OutputFile::check(&arguments.out)?;
    let trust = Trust::from(arguments.trust);
    if trust == Trust::Masked {
        masked::check(arguments)?;
    } else if arguments.pack_canaries.is_some() {
        bail!("--pack-canaries goes with --trust masked: other plans have no pack");
    }
    let json = arguments.json.as_ref().map(Destination::check).transpose()?;
    let side = arguments.activation.map(Into::into);
    let size = forecast_size(arguments.expected_samples);
    let mut goal = planning::goal(&arguments.planning, side, trust, size)?;
    FileKind::Model.expect_of(&arguments.model)?;
    let model = Model::load(&arguments.model)?;
    let source = DataSource::new(&arguments.calibrate, &arguments.reading);
    let (_, data) = source.load_for(Split::Train, model.spec())?;
    let wants_report = arguments.report || json.is_some() || arguments.reference.is_some();
    let reference = arguments.reference.as_deref();
    let reference = reference.map(|path| assessing::load_reference(path, &model)).transpose()?;
    let test = wants_report.then(|| assessing::load_test(&source, &data, &model)).transpose()?;
    let searched = match arguments.target_drop {
        None => None,
        Some(points) => {
            assessing::check_labeled(&source, &data, &model)?;
            // With a refresh after every stage; joining comes after.
            let unlimited = PlanGoal { max_rounds: None, ..goal };
            let found = search(&model, &data, points, &unlimited, &progress)?;
            // The bits were chosen for a plan of this side.
            goal.activation_side = Some(found.uniform.activation_side);
            Some(found)
        }
    };
    let bits = match (&searched, &arguments.bits) {
        (Some(found), _) => found.layers.bits.clone(),
        (None, Some(bits)) => bits.clone(),
        (None, None) => compiling::bits(&model, BitsChoice::Default).into(),
    };
    let bar = progress.spinner("calibrating");
    let prepared = compiling::prepare(&model, &bits, data.features())?;
    drop(bar);
    if trust == Trust::Masked {
        let on_grid = |data: &Dataset| -> Result<IntegerMatrix> {
            let features = model.spec().preprocessing.apply(data.features())?;
            Ok(prepared.network.input().quantize(features.view())?)
        };
        // Evenly: the data may be in the order of their classes.
        let compared = on_grid(&data.thinned(masked::COMPARED_SAMPLES)?)?;
        let inputs = on_grid(&data)?;
        return masked::run(&screen, arguments, prepared, &inputs, &compared);
    }
    let is_measured = !arguments.planning.no_self_test;
    let joining = Joining::new(&model, &bits, data.features(), goal.activation_side)?;
    let (compiled, planning) = planning::plan(prepared, &joining, goal, is_measured, &progress)?;
    let bytes = compiled.plan.to_bytes()?;
    out.write(&bytes)?;

    if let Some(found) = &searched {
        bit_search::print(&screen, found);
        screen.gap();
    }
    screen
        .fact("Model", format!("{}, {bits} bits (inputs/weights/activations)", model.spec().name));
    screen.fact("Calibrated", format!("on {} of {}", calibration_samples(&data), data.source()));
    planning_table::print(&screen, &planning);
    screen.gap();
    print_plan(&screen, &compiled.plan)?;
    print_calibration(&screen, &compiled);
    if let Some(test) = &test {
        let bar = progress.spinner("evaluating on the test part");
        let assessment =
            assessing::assess(&model, &bits, &compiled.plan, test, reference.as_ref())?;
        drop(bar);
        let activation = model.spec().activation.to_string();
        accuracy::print(&screen, compiled.plan.public(), &assessment, &activation);
        if let Some(json) = json {
            let searched = searched.as_ref();
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
    goal: &PlanGoal,
    progress: &Progress,
) -> Result<BitSearch> {
    let bar = progress.spinner("searching the cheapest bits");
    assessing::search(model, data, points, goal, &mut |told| bar.message(told))
}

/// The run that a forecast is about, with the slots that `infer` checks by default.
pub(crate) fn forecast_size(n_samples: u64) -> RunSize {
    inference::run_size(n_samples, &LayoutOptions::default())
}

/// Print settings and forecast of a plan.
pub(crate) fn print_plan(screen: &Screen, plan: &Plan) -> Result<()> {
    let public = plan.public();
    screen.fact("Trust", format!("{} ({})", public.trust, trust_in_words(public.trust)));
    screen.fact("Activation", format!("at the {}", public.activation_side));
    let has_key = public.segments.iter().any(Segment::relinearizes);
    let assumed = if has_key {
        "; with a relinearization key at the server (circular security; --relinearize never does without)"
    } else {
        ""
    };
    screen.fact("Security", format!("{} bits{assumed}", public.security_bits));
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

/// What a trust setting means.
pub(crate) fn trust_in_words(trust: Trust) -> &'static str {
    match trust {
        Trust::Owner => "the client owns the model and may see intermediate values",
        Trust::Masked => "the client owns the data: no weights, masked intermediate values",
        _ => "of another version",
    }
}

/// How many samples the grids were fitted to.
fn calibration_samples(data: &Dataset) -> String {
    let all = units::counted(data.n_samples(), "training sample");
    if data.n_samples() <= CALIBRATION_SAMPLES {
        return all;
    }
    format!("{} of {all}", units::count(CALIBRATION_SAMPLES as u64))
}

/// Say what calibration saw, if it matters.
fn print_calibration(screen: &Screen, compiled: &Compiled) {
    if let Some(agreement) = compiled.agreement {
        screen.gap();
        let n_samples =
            units::counted(compiled.observed.out_of_range.len() as u64, "training sample");
        let share = units::percent(agreement);
        let told = format!("answers as the network before rounding on {share} of {n_samples}");
        screen.fact("Joined", told);
        if agreement < NOTABLE_DISAGREEMENT {
            let text = "joined layers round no values in between, so weights need more bits (--bits, such as \
                        4/8/4); or allow more rounds, and look at --report";
            screen.paragraph(2, screen.paint(Ink::Warn, text));
        }
    }
    let n_clamped: u64 = compiled.observed.counts.iter().map(|counts| counts.n_clamped).sum();
    if n_clamped > 0 {
        let public = compiled.plan.public();
        let n_samples = compiled.observed.out_of_range.len();
        let share = segments::clamped_share(public, n_samples, n_clamped);
        screen.gap();
        screen.fact("Clamped", format!("{} of the refreshed values", units::percent(share)));
        if share > NOTABLE_CLAMPS {
            let text = "many values lie beyond the grids, which costs accuracy: see --report, and \
                        calibrate with data like those to be classified";
            screen.paragraph(2, screen.paint(Ink::Warn, text));
        }
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
