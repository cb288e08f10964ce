//! `securedl inspect`: what a file holds.

use anyhow::Result;
use nn_poly::import::Preprocessing;
use nn_poly::model::{Model, TrainingRecord};
use nn_poly::network::NetworkKind;
use nn_poly::plan::{Forecast, Plan, PublicPlan, forecast};
use serde::Serialize;

use super::compile::{forecast_size, print_plan};
use crate::args::InspectArguments;
use crate::failure::{Hint, Outcome};
use crate::kind::FileKind;
use crate::output::Destination;
use crate::pipeline::planning;
use crate::report::planning::{PlanningReport, print_time};
use crate::report::run::SegmentReport;
use crate::report::terminal::Screen;
use crate::report::{Console, layers, units};

/// Class names shown at most.
const SHOWN_CLASSES: usize = 12;

/// Recognize the file and show it.
pub(crate) fn run(arguments: &InspectArguments) -> Result<Outcome> {
    let Console { screen, .. } = Console::new(None);
    let destination = arguments.json.as_ref().map(Destination::check).transpose()?;
    let path = &arguments.file;
    let kind = FileKind::of(path)?;
    let json = match (kind, &destination) {
        (FileKind::Model, None) => {
            let model = Model::load(path)?;
            return show(&screen, || print_model(&screen, &model));
        }
        (FileKind::Plan, None) => {
            let plan = Plan::load(path)?;
            return show(&screen, || print_whole_plan(&screen, &plan));
        }
        (FileKind::Model, Some(_)) => {
            serde_json::to_string_pretty(&ModelReport::new(&Model::load(path)?))?
        }
        (FileKind::Plan, Some(_)) => {
            serde_json::to_string_pretty(&PlanReport::new(&Plan::load(path)?)?)?
        }
        (
            FileKind::PublicPlan
            | FileKind::Checkpoint
            | FileKind::Fingerprint
            | FileKind::UnfinishedBag
            | FileKind::Pack
            | FileKind::Unknown,
            _,
        ) => {
            let error = anyhow::anyhow!("{} is {kind}, neither a model nor a plan", path.display());
            return Err(error).hint(|| {
                if kind == FileKind::Fingerprint {
                    "look at it with `securedl fingerprint show FP`"
                } else {
                    kind.origin()
                }
            });
        }
    };
    if let Some(destination) = destination {
        destination.write(&(json + "\n"))?;
    }
    Ok(Outcome::Success)
}

fn show(screen: &Screen, print: impl FnOnce() -> Result<()>) -> Result<Outcome> {
    print()?;
    screen.finish()?;
    Ok(Outcome::Success)
}

fn print_model(screen: &Screen, model: &Model) -> Result<()> {
    let spec = model.spec();
    let training = &spec.training;
    screen.fact("Model", &spec.name);
    screen.fact("Network", format!("{}, {} activation", spec.kind, spec.activation));
    screen.fact(
        "Bits",
        spec.bits.map_or_else(
            || "not fine-tuned".to_owned(),
            |bits| format!("{bits} (inputs/weights/activations)"),
        ),
    );
    screen.fact(
        "Inputs",
        format!("{}, {}", spec.network.input_shape(), preprocessing(&spec.preprocessing)),
    );
    screen.fact("Classes", classes(&spec.class_names));
    screen.fact("Parameters", units::count(spec.network.n_parameters()));
    let trained = if spec.kind == NetworkKind::Imported {
        format!("elsewhere: {}", spec.data_source)
    } else {
        format!(
            "on {} of {}, {} + {} of fine-tuning, seed {}",
            units::counted(training.n_training_samples, "sample"),
            spec.data_source,
            units::counted(training.epochs, "epoch"),
            training.fine_tune_epochs,
            training.seed,
        )
    };
    screen.fact("Trained", trained);
    let percent = |share: Option<f64>| share.map_or_else(|| "unknown".to_owned(), units::percent);
    screen.fact(
        "Accuracy",
        format!(
            "{} as stored, {} in floating point",
            percent(training.accuracy),
            percent(training.float_accuracy)
        ),
    );
    screen.gap();
    layers::print(screen, &spec.network);
    Ok(())
}

fn print_whole_plan(screen: &Screen, plan: &Plan) -> Result<()> {
    let public = plan.public();
    screen.fact("Plan", &public.name);
    screen.fact("Digest", plan.digest());
    screen.fact(
        "",
        format!(
            "public {}, private {}",
            plan.public_digest().short(),
            plan.private_digest().short()
        ),
    );
    let sign = if public.input.signed { "signed" } else { "unsigned" };
    screen.fact(
        "Inputs",
        format!(
            "{}, {}, {} {sign} bits",
            public.input_shape,
            preprocessing(&public.preprocessing),
            public.input.bits,
        ),
    );
    screen.fact("Classes", classes(&public.class_names));
    screen.fact("Products", format!("{} per sample", units::count(plan.network().n_products())));
    print_plan(screen, plan)?;
    let size = forecast_size(public.expected_samples);
    screen.gap();
    print_time(screen, &planning::assessed(plan, size)?);
    Ok(())
}

fn preprocessing(preprocessing: &Preprocessing) -> &'static str {
    match preprocessing {
        Preprocessing::UnitRange => "values in [0, 1]",
        Preprocessing::Standardize { .. } => "standardized and clipped",
    }
}

fn classes(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(SHOWN_CLASSES).map(String::as_str).collect();
    let more = if names.len() > SHOWN_CLASSES { ", …" } else { "" };
    format!("{} ({}{more})", names.len(), shown.join(", "))
}

#[derive(Serialize)]
struct ModelReport<'a> {
    kind: &'static str,
    format_version: u32,
    name: &'a str,
    network: String,
    activation: String,
    bits: Option<String>,
    input_shape: &'a [usize],
    classes: &'a [String],
    data_source: &'a str,
    parameters: usize,
    layers: Vec<LayerReport<'a>>,
    training: &'a TrainingRecord,
}

#[derive(Serialize)]
struct LayerReport<'a> {
    layer: &'static str,
    output_shape: &'a [usize],
    parameters: usize,
}

impl<'a> ModelReport<'a> {
    fn new(model: &'a Model) -> Self {
        let spec = model.spec();
        let network = &spec.network;
        let shapes = network.layer_shapes().iter().skip(1);
        Self {
            kind: "model",
            format_version: Model::FORMAT_VERSION,
            name: &spec.name,
            network: spec.kind.to_string(),
            activation: spec.activation.to_string(),
            bits: spec.bits.map(|bits| bits.to_string()),
            input_shape: network.input_shape().dims(),
            classes: &spec.class_names,
            data_source: &spec.data_source,
            parameters: network.n_parameters(),
            layers: network
                .layers()
                .iter()
                .zip(shapes)
                .map(|(layer, shape)| LayerReport {
                    layer: layer.name(),
                    output_shape: shape.dims(),
                    parameters: layer.parameters().iter().map(|p| p.values.len()).sum(),
                })
                .collect(),
            training: &spec.training,
        }
    }
}

#[derive(Serialize)]
struct PlanReport<'a> {
    kind: &'static str,
    format_version: u32,
    name: &'a str,
    digest: String,
    public_digest: String,
    private_digest: String,
    trust: String,
    activation: String,
    security_bits: u32,
    input_shape: &'a [usize],
    input_bits: u32,
    input_signed: bool,
    classes: &'a [String],
    products_per_sample: u64,
    segments: Vec<SegmentReport>,
    forecast: Forecast,
    planning: PlanningReport,
}

impl<'a> PlanReport<'a> {
    fn new(plan: &'a Plan) -> Result<Self> {
        let public: &PublicPlan = plan.public();
        let size = forecast_size(public.expected_samples);
        Ok(Self {
            kind: "plan",
            format_version: nn_poly::plan::PLAN_VERSION,
            name: &public.name,
            digest: plan.digest().to_string(),
            public_digest: plan.public_digest().to_string(),
            private_digest: plan.private_digest().to_string(),
            trust: public.trust.to_string(),
            activation: public.activation_side.to_string(),
            security_bits: public.security_bits,
            input_shape: public.input_shape.dims(),
            input_bits: public.input.bits,
            input_signed: public.input.signed,
            classes: &public.class_names,
            products_per_sample: plan.network().n_products(),
            segments: public.segments.iter().map(SegmentReport::new).collect(),
            forecast: forecast(public, &size)?,
            planning: PlanningReport::new(&planning::assessed(plan, size)?),
        })
    }
}
