//! `securedl import`: from a network trained elsewhere to a model.

use std::path::Path;

use anyhow::{Context, Result};
use nn_poly::Shape;
use nn_poly::import::{
    Ending, ImportedNetwork, ModelOptions, Preprocessing, ReadOptions, read_labels, read_network,
};
use nn_poly::layer::Layer;
use nn_poly::model::Model;
use nn_poly::quantize::check_form;
use serde::Serialize;

use crate::args::{ImportArguments, OutputPath};
use crate::failure::{Hint, Outcome};
use crate::output::{Destination, OutputFile};
use crate::report::table::{Grid, Lean};
use crate::report::terminal::Screen;
use crate::report::{Console, layers, units};

/// Read the network, make a model of it, write it, and tell what became of every operation.
pub(crate) fn run(arguments: &ImportArguments) -> Result<Outcome> {
    let Console { screen, .. } = Console::new(arguments.json.as_ref());
    let out = OutputFile::check(&arguments.out)?;
    let destination = arguments.json.as_ref().map(Destination::check).transpose()?;
    let options = options(arguments)?;
    let reading =
        ReadOptions { output: arguments.output.clone(), input_shape: options.input_shape.clone() };
    let imported = read_network(&arguments.file, &reading).hint(
        || "securedl import --help tells what is read; python/export_examples shows how to export",
    )?;
    let model = imported
        .clone()
        .into_model(options)
        .hint(|| "see --input-scale, --input-shape and --labels in securedl import --help")?;
    if let Err(error) = check_form(model.network()) {
        let cause = operation(&error, &imported, &model)
            .map_or_else(String::new, |operation| format!(" because of {operation}"));
        return Err(error)
            .context(format!("the network was read, but cannot run encrypted{cause}"))
            .hint(
                || "change that layer or its place and train again: docs/import.md, What can run",
            );
    }
    let bytes = model.to_bytes()?;
    out.write(&bytes)?;
    if let Some(destination) = &destination {
        let report = ImportReport::new(&arguments.file, &imported, &model, &out);
        destination.write(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    }
    print(&screen, arguments, &imported, &model);
    let size = units::bytes(bytes.len() as u64);
    screen.gap();
    screen.fact("Model", format!("{} ({size})", arguments.out.display()));
    if arguments.json != Some(OutputPath::Stdout) {
        let command =
            format!("securedl compile {} --calibrate DATA --out PLAN", out.shown().display());
        screen.fact("Next", command);
    }
    screen.finish()?;
    Ok(Outcome::Success)
}

/// The operation of the file that became the layer without an integer form, where that is certain: where
/// as many operations as layers are of its kind.
fn operation(error: &nn_poly::Error, imported: &ImportedNetwork, model: &Model) -> Option<String> {
    let &nn_poly::Error::CannotQuantize { layer_idx, layer, .. } = error else { return None };
    let layers = model.network().layers();
    let alike = |layers: &[Layer<f32>]| layers.iter().filter(|l| l.name() == layer).count();
    let (before, all) = (alike(layers.get(..layer_idx)?), alike(layers));
    let mut nodes = imported.nodes.iter().filter(|node| node.treatment.to_string() == layer);
    let n_nodes = nodes.clone().count();
    nodes.nth(before).filter(|_| n_nodes == all).map(|node| node.site.to_string())
}

/// Check what the flags say before the file is read.
fn options(arguments: &ImportArguments) -> Result<ModelOptions> {
    let labels = arguments.labels.as_deref().map(read_labels).transpose();
    let input_scale = arguments.input_scale.as_deref().map(str::parse).transpose()?;
    let input_shape =
        arguments.input_shape.as_ref().map(|dims| Shape::new(dims.0.clone())).transpose()?;
    if !(arguments.input_clip.is_finite() && arguments.input_clip > 0.0) {
        anyhow::bail!("--input-clip is {}, it must be finite and positive", arguments.input_clip);
    }
    Ok(ModelOptions {
        name: arguments.name.clone().unwrap_or_else(|| stem(&arguments.file)),
        labels: labels.hint(|| "labels are lines `number name`, numbered from 0")?,
        input_scale,
        clip: arguments.input_clip,
        input_shape,
    })
}

/// The name of a file without its ending, short enough for a model.
fn stem(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    stem.chars().take(40).collect()
}

fn print(screen: &Screen, arguments: &ImportArguments, imported: &ImportedNetwork, model: &Model) {
    let version = imported.opset.map_or_else(String::new, |v| format!(", operator set {v}"));
    let producer = if imported.producer.is_empty() {
        String::new()
    } else {
        format!(", written by {}", imported.producer)
    };
    screen.fact("Imported", format!("{}{version}{producer}", arguments.file.display()));
    screen.fact("Inputs", inputs(model));
    screen.fact("Network", layers::summary(model.network()));
    screen.fact("Parameters", units::count(model.network().n_parameters()));
    if let Some(ending) = imported.ending {
        screen.fact("Left out", format!("{ending} at the end: predictions are the same without"));
    }
    if imported.is_binary {
        screen.fact("Scores", "the single score z of the file became (−z, z) for two classes");
    }
    screen.heading("Operations");
    let columns =
        [("", Lean::Right), ("operator", Lean::Left), ("name", Lean::Left), ("became", Lean::Left)];
    let mut grid = Grid::new(screen, &columns);
    for (idx, node) in imported.nodes.iter().enumerate() {
        let site = &node.site;
        grid.row([
            idx.to_string(),
            site.operator.clone(),
            site.node.clone(),
            node.treatment.to_string(),
        ]);
    }
    grid.print(screen);
    if imported.n_unused_nodes > 0 {
        let n_unused = units::counted(imported.n_unused_nodes, "operation");
        screen.paragraph(2, format!("{n_unused} on which the scores do not depend"));
    }
    screen.heading("Layers");
    layers::print(screen, model.network());
}

fn inputs(model: &Model) -> String {
    let preprocessing = match &model.spec().preprocessing {
        Preprocessing::UnitRange => "values in [0, 1]".to_owned(),
        Preprocessing::Standardize { clip, .. } => {
            format!("standardized, limited to ±{clip}")
        }
    };
    format!("{}, {preprocessing}", model.network().input_shape())
}

#[derive(Serialize)]
struct ImportReport<'a> {
    file: String,
    model: String,
    name: &'a str,
    producer: &'a str,
    opset: Option<i64>,
    input_shape: &'a [usize],
    signed_inputs: bool,
    classes: &'a [String],
    left_out_ending: Option<Ending>,
    binary_score: bool,
    parameters: usize,
    operations: Vec<OperationReport<'a>>,
    unused_operations: usize,
    layers: Vec<&'static str>,
}

#[derive(Serialize)]
struct OperationReport<'a> {
    operator: &'a str,
    name: &'a str,
    became: String,
}

impl<'a> ImportReport<'a> {
    fn new(file: &Path, imported: &'a ImportedNetwork, model: &'a Model, out: &OutputFile) -> Self {
        let spec = model.spec();
        Self {
            file: file.display().to_string(),
            model: out.shown().display().to_string(),
            name: &spec.name,
            producer: &imported.producer,
            opset: imported.opset,
            input_shape: spec.network.input_shape().dims(),
            signed_inputs: spec.preprocessing.is_signed(),
            classes: &spec.class_names,
            left_out_ending: imported.ending,
            binary_score: imported.is_binary,
            parameters: spec.network.n_parameters(),
            operations: imported
                .nodes
                .iter()
                .map(|node| OperationReport {
                    operator: &node.site.operator,
                    name: &node.site.node,
                    became: node.treatment.to_string(),
                })
                .collect(),
            unused_operations: imported.n_unused_nodes,
            layers: spec.network.layers().iter().map(Layer::name).collect(),
        }
    }
}
