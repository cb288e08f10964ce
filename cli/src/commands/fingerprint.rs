//! `securedl fingerprint`: make fingerprints, and show what they hold.

use anyhow::{Result, bail};
use fingerprint::{Fingerprint, Made, Maker, MakerSettings, SampleInfo};
use nn_poly::model::Model;
use nn_poly::plan::Plan;
use protocol::signature::Subject as Owned;
use serde::Serialize;

use super::sign;
use crate::args::{GenerateArguments, ShowArguments};
use crate::failure::{Hint, Outcome};
use crate::kind::FileKind;
use crate::output::{Destination, OutputFile};
use crate::pipeline::fingerprinting::{self, BagFile, Originals, SampleBar};
use crate::pipeline::source::DataSource;
use crate::report::picture::{Exhibit, Picture, gallery};
use crate::report::sheet::{SheetFormat, contact_sheet};
use crate::report::table::{Grid, Lean};
use crate::report::terminal::{Ink, Screen};
use crate::report::{Console, units};

/// Samples shown in tables and on terminals.
const SHOWN: usize = 32;
/// Width of a picture in a terminal, in cells.
const PICTURE_WIDTH: usize = 24;

/// Make a fingerprint.
pub(crate) fn generate(arguments: &GenerateArguments) -> Result<Outcome> {
    let Console { screen, progress } = Console::new(arguments.json.as_ref());
    let out = OutputFile::check(&arguments.out)?;
    let report = arguments.json.as_ref().map(Destination::check).transpose()?;
    if let Some(checkpoint) = &arguments.checkpoint {
        OutputFile::check(checkpoint)?;
    }
    let originals = read(arguments)?;
    let subject = originals.subject();
    let settings = MakerSettings {
        generator: arguments.generator,
        optimizer: arguments.optimizer,
        count: arguments.count as usize,
        bag: arguments.bag.map(|bag| bag as usize),
        selection: arguments.select,
        rule: arguments.rule,
        input_bits: arguments.input_bits,
        ball: arguments.ball,
        margin: arguments.margin,
        seed: arguments.seed,
    };
    let maker = Maker::new(subject, settings)?;
    let checkpoint = match &arguments.checkpoint {
        Some(path) => Some(BagFile {
            path: path.clone(),
            subjects: subject.digests()?,
            resume: arguments.resume,
        }),
        None => None,
    };
    let spinner = progress.spinner("reading data");
    let source = DataSource::new(&arguments.data, &arguments.reading);
    let starts = fingerprinting::starts(&subject, &source, arguments.split.into())?;
    drop(spinner);
    let bag = maker.config().spec().count;
    let bar = format!("generating, {}", arguments.generator);
    let bar = SampleBar(progress.bar(bar, bag as u64));
    let made = fingerprinting::make(&maker, checkpoint.as_ref(), &starts, &bar)?;
    bar.0.finish(format!("generated {} by {}", units::counted(bag, "sample"), arguments.generator));
    let fingerprint = &made.fingerprint;
    let bytes = fingerprint.to_bytes()?;
    out.write(&bytes)?;
    if let Some(checkpoint) = &checkpoint {
        checkpoint.discard()?;
    }
    print(&screen, fingerprint)?;
    screen.fact("Left out", left_out(&made));
    if let Some(destination) = report {
        write_json(&destination, fingerprint, Some(&made))?;
    }
    screen.gap();
    let size = units::bytes(bytes.len() as u64);
    screen.fact("Fingerprint", format!("{} ({size}); keep it secret", arguments.out.display()));
    screen.finish()?;
    Ok(Outcome::Success)
}

/// How many samples no fingerprint may hold.
fn left_out(made: &Made) -> String {
    if made.n_narrow + made.n_unsteady == 0 {
        return format!("none of {}", units::counted(made.n_generated, "sample"));
    }
    format!(
        "{} of {}: {} with too small a margin, {} that other float stacks answer differently",
        units::count((made.n_narrow + made.n_unsteady) as u64),
        units::counted(made.n_generated, "sample"),
        units::count(made.n_narrow as u64),
        units::count(made.n_unsteady as u64),
    )
}

fn read(arguments: &GenerateArguments) -> Result<Originals> {
    let path = &arguments.file;
    let load_model = |path: &std::path::Path| -> Result<Model> {
        FileKind::Model.expect_of(path)?;
        Ok(Model::load(path)?)
    };
    match (FileKind::of(path)?, &arguments.model) {
        (FileKind::Model, None) => Ok(Originals { model: load_model(path)?, plan: None }),
        (FileKind::Model, Some(_)) => {
            bail!("--model goes with a plan: the file is a model already")
        }
        (FileKind::Plan, Some(model)) => {
            Ok(Originals { model: load_model(model)?, plan: Some(Plan::load(path)?) })
        }
        (FileKind::Plan, None) => {
            let error = anyhow::anyhow!("{} is a plan: it has no gradients", path.display());
            Err(error).hint(|| "name the model it was compiled from: --model MODEL")
        }
        (
            kind @ (FileKind::PublicPlan
            | FileKind::Checkpoint
            | FileKind::Fingerprint
            | FileKind::UnfinishedBag
            | FileKind::Pack
            | FileKind::Unknown),
            _,
        ) => {
            let error = anyhow::anyhow!("{} is {kind}, neither a model nor a plan", path.display());
            Err(error).hint(|| kind.origin())
        }
    }
}

/// Show a fingerprint.
pub(crate) fn show(arguments: &ShowArguments) -> Result<Outcome> {
    let Console { screen, .. } = Console::new(arguments.json.as_ref());
    let report = arguments.json.as_ref().map(Destination::check).transpose()?;
    let sheet = match &arguments.out {
        Some(path) => Some((SheetFormat::of(path)?, OutputFile::check(path)?)),
        None => None,
    };
    let fingerprint = fingerprinting::load(&arguments.file)?;
    let signed = Owned::of_fingerprint(&fingerprint)?;
    let signed = sign::check(&arguments.file, signed, &arguments.owners)?;
    print(&screen, &fingerprint)?;
    screen.fact("Signature", signed);
    match sheet {
        Some((format, file)) => {
            file.write(&contact_sheet(&fingerprint, format)?)?;
            screen.gap();
            screen.fact("Sheet", file.shown().display());
        }
        None if screen.is_terminal() => pictures(&screen, &fingerprint),
        None => {}
    }
    if let Some(destination) = report {
        write_json(&destination, &fingerprint, None)?;
    }
    screen.finish()?;
    Ok(Outcome::Success)
}

/// What a fingerprint holds, but for the samples and their answers.
#[derive(Serialize)]
struct JsonReport<'a> {
    model: &'a str,
    model_digest: Option<String>,
    plan_digest: Option<String>,
    identity: String,
    shape: &'a [usize],
    input_levels: u32,
    generator: String,
    selection: String,
    rule: String,
    seed: u64,
    segments: usize,
    uses_in_clear: u64,
    /// Smallest relative margin of the samples, as declared.
    margin: f64,
    /// Whether natural samples are stored, for the control of audits.
    has_control: bool,
    /// What generation left out; not known of a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<LeftOut>,
    samples: &'a [SampleInfo],
}

/// Samples generated that no fingerprint may hold.
#[derive(Serialize)]
struct LeftOut {
    generated: usize,
    margin: usize,
    float_stacks: usize,
}

fn write_json(
    destination: &Destination,
    fingerprint: &Fingerprint,
    made: Option<&Made>,
) -> Result<()> {
    let json = JsonReport {
        model: fingerprint.name(),
        model_digest: fingerprint.model().map(|digest| digest.to_string()),
        plan_digest: fingerprint.plan().map(|digest| digest.to_string()),
        identity: fingerprint.identity()?.to_string(),
        shape: fingerprint.shape().dims(),
        input_levels: fingerprint.grid().n_steps() + 1,
        generator: fingerprint.generator().to_string(),
        selection: fingerprint.selection().to_string(),
        rule: fingerprint.rule().to_string(),
        seed: fingerprint.seed(),
        segments: fingerprint.n_segments(),
        uses_in_clear: fingerprint.uses(),
        margin: fingerprint.margin(),
        has_control: fingerprint.original_labels().is_some(),
        left_out: made.map(|made| LeftOut {
            generated: made.n_generated,
            margin: made.n_narrow,
            float_stacks: made.n_unsteady,
        }),
        samples: fingerprint.samples(),
    };
    destination.write(&(serde_json::to_string_pretty(&json)? + "\n"))
}

fn print(screen: &Screen, fingerprint: &Fingerprint) -> Result<()> {
    screen.fact("Model", fingerprint.name());
    let bound = match (fingerprint.plan(), fingerprint.model()) {
        (Some(plan), _) => format!("plan {}", plan.short()),
        (None, Some(model)) => format!("model {}", model.short()),
        (None, None) => "nothing".to_owned(),
    };
    screen.fact("Bound to", bound);
    screen.fact("Identity", fingerprint.identity()?);
    screen.fact(
        "Samples",
        format!(
            "{} of shape {}, {} input levels, by {} (seed {}), chosen by {}",
            fingerprint.n_samples(),
            fingerprint.shape(),
            units::count(u64::from(fingerprint.grid().n_steps()) + 1),
            fingerprint.generator(),
            fingerprint.seed(),
            fingerprint.selection(),
        ),
    );
    screen.fact("Rule", fingerprint.rule());
    let margin = match fingerprint.margin() {
        0.0 => "none promised: for endpoints that are exact".to_owned(),
        margin => format!("{margin:e} of the largest score, at least"),
    };
    screen.fact("Margin", margin);
    let control = match fingerprint.original_labels() {
        Some(_) => "the natural samples they started from",
        None => "none: they started from no natural samples",
    };
    screen.fact("Control", control);
    if fingerprint.n_segments() > 0 {
        let segments = units::counted(fingerprint.n_segments(), "segment");
        screen.fact("Integers", format!("expected at every refresh of {segments}"));
    }
    let uses = match fingerprint.uses() {
        0 => "none".to_owned(),
        n => screen
            .paint(Ink::Warn, format!("{}: endpoints may know the samples", units::count(n)))
            .to_string(),
    };
    screen.fact("Uses in clear", uses);
    screen.gap();
    table(screen, fingerprint);
    Ok(())
}

fn table(screen: &Screen, fingerprint: &Fingerprint) {
    let columns = [
        ("", Lean::Right),
        ("class", Lean::Left),
        ("margin", Lean::Right),
        ("log S", Lean::Right),
        ("tied", Lean::Right),
        ("from row", Lean::Right),
    ];
    let mut grid = Grid::new(screen, &columns);
    for (row, info) in fingerprint.samples().iter().take(SHOWN).enumerate() {
        let class = fingerprint.class_names().get(info.label as usize);
        grid.row([
            row.to_string(),
            class.cloned().unwrap_or_default(),
            format!("{:.2e}", info.margin),
            format!("{:.2}", info.log_sensitivity),
            info.tied.len().to_string(),
            info.source.map_or_else(String::new, units::count),
        ]);
    }
    grid.print(screen);
    if fingerprint.n_samples() > SHOWN {
        let more = fingerprint.n_samples() - SHOWN;
        screen.line(format_args!("  … and {}", units::counted(more, "further sample")));
    }
}

/// Samples on the terminal.
fn pictures(screen: &Screen, fingerprint: &Fingerprint) {
    let n_steps = f64::from(fingerprint.grid().n_steps());
    let exhibits: Vec<Exhibit> = fingerprint
        .levels()
        .rows()
        .into_iter()
        .zip(fingerprint.samples())
        .take(SHOWN)
        .filter_map(|(row, info)| {
            #[expect(clippy::cast_possible_truncation, reason = "a brightness from 0 to 1")]
            let features: Vec<f32> =
                row.iter().map(|&level| (f64::from(level) / n_steps) as f32).collect();
            let dims = fingerprint.shape().dims();
            let picture = Picture::of_sample(dims, &features, PICTURE_WIDTH)?;
            let class = fingerprint.class_names().get(info.label as usize);
            let captions = vec![(class.cloned().unwrap_or_default(), Ink::Dim)];
            Some(Exhibit { picture, captions })
        })
        .collect();
    if !exhibits.is_empty() {
        screen.gap();
        gallery(screen, &exhibits);
    }
}
