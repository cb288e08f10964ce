//! ONNX graphs as networks.
//!
//! ```text
//!  bytes ─ scan ─► proto ─ graph ─► nodes in order ─ importer ─► steps ─ assemble ─► Network
//!          (limits)        (names, cycles)   operators/*, value        (affine maps folded)
//! ```
//!
//! | operators | become |
//! |---|---|
//! | `Conv` (strides, groups, dilations, asymmetric padding, `auto_pad`) | convolution; zeros fill what a full kernel has more |
//! | `Gemm`, `MatMul`, `ai.onnx.ml.LinearClassifier` | dense layer, its columns in the order of this crate; `MatMul` of channel-last images a 1×1 convolution |
//! | `BatchNormalization`, `ai.onnx.ml.Scaler`, `Add`, `Sub`, `Mul`, `Div`, `Neg` with constants | scale and offset per channel, folded |
//! | `Mul`, `Add`, `Sub`, `Pow` of the same values | polynomial of degree 2 per channel; a square where it is one |
//! | `Relu`, `Clip(0, limit)` | ReLU, clamp |
//! | `Tanh`, `Gelu` (exact or by tanh), `LeakyRelu`, `PRelu` with one slope, `Softplus`, `Abs`; `Sigmoid` before other operators, and times its input (SiLU) | activation, for the client |
//! | `AveragePool`, `GlobalAveragePool`, `ReduceMean`, `MaxPool`, `GlobalMaxPool` | pool (a convolution where padding counts) |
//! | `Pad` with zeros | padding of the next convolution |
//! | `Erf` in `x · (1 + erf(x / √2)) / 2` | GELU, for the client |
//! | `Flatten`, `Reshape`, `Squeeze`, `Unsqueeze`, `Transpose` | how the graph sees the values |
//! | `Identity`, `Dropout`, `Cast` | nothing |
//! | `Softmax`, `LogSoftmax`, `Sigmoid`, `ai.onnx.ml.ZipMap` at the end | nothing: the largest score stays the largest |
//! | `Constant`, `ConstantOfShape`, `Shape`, `Gather`, and `Slice`, `Concat`, `Reshape`, `Transpose` of shapes and paddings | constants |
//!
//! **Layout.** Graphs have images as channels × height × width, or begin as those of channel-last
//! frameworks do; here channels come last. Each value carries
//! how the graph sees it, kernels are transposed once, and the columns of the first dense layer after a
//! flattening are permuted; no layer moves values.
//!
//! **Hostile files.** Structure is counted before it is decoded, arrays are compared with the bytes that
//! are there before they are copied, and everything derived from them is charged to one budget that the
//! size of the file determines. Recursion depth is fixed. External data stay below the file's folder.

mod graph;
mod importer;
mod input;
mod node;
mod operators;
mod proto;
mod scan;
mod tensor;
mod value;

use std::path::{Path, PathBuf};

use prost::Message;
use prost::bytes::Bytes;

use super::assemble::{Budget, assemble_graph, mirrored};
use super::trained::{ImportedNetwork, InputAffine, ReadOptions};
use super::{ImportError, excerpt};
use crate::artifact;
use crate::error::Result;
use graph::Graph;
use importer::Importer;
use proto::ModelProto;
use tensor::Store;

/// Largest ONNX file: 256 MiB.
pub const MAX_ONNX_BYTES: usize = 1 << 28;

/// Read a network from an ONNX file.
///
/// Memory: at most a fixed 128 MiB plus some ten times the size of the file and its external data.
///
/// # Errors
/// - [`crate::Error::Io`] or [`crate::Error::TooLarge`] if the file cannot be read.
/// - [`crate::Error::InFile`] around whatever is wrong inside: an [`ImportError`], or the checks of
///   [`crate::Network::new`].
pub fn read_onnx(path: &Path, options: &ReadOptions) -> Result<ImportedNetwork> {
    let bytes = artifact::read_file(path, MAX_ONNX_BYTES)?;
    let folder = path.parent().map(|folder| {
        if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() }
    });
    parse(bytes.into(), folder, options).map_err(|error| error.in_file(path))
}

/// Read a network from the bytes of an ONNX file that refers to no other file; `output` names the scores
/// if the graph has several outputs.
///
/// # Errors
/// - [`crate::Error::Import`] for everything that is wrong with the graph.
/// - Those of [`crate::Network::new`].
pub fn parse_onnx(bytes: &[u8], output: Option<&str>) -> Result<ImportedNetwork> {
    let options = ReadOptions { output: output.map(str::to_owned), ..ReadOptions::default() };
    parse(Bytes::copy_from_slice(bytes), None, &options)
}

fn parse(bytes: Bytes, folder: Option<PathBuf>, options: &ReadOptions) -> Result<ImportedNetwork> {
    scan::check(&bytes)?;
    let mut budget = Budget::for_files_of(bytes.len());
    let model = ModelProto::decode(bytes)
        .map_err(|cause| ImportError::NotOnnx { cause: Box::new(cause) })?;
    let graph = Graph::new(&model)?;
    let output = graph.output(options.output.as_deref())?;
    let choice = (output, options.input_shape.as_ref());
    let finished = Importer::run(&graph, choice, Store::new(folder), &mut budget)?;
    let assembled = assemble_graph(&finished.input_shape, finished.links, &mut budget)?;
    let network = assembled.network;
    let network = if finished.is_binary { mirrored(&network)? } else { network };
    let producer = [model.producer_name.as_str(), model.producer_version.as_str()].map(excerpt);
    Ok(ImportedNetwork {
        network,
        input: InputAffine::of(&assembled.input),
        ending: finished.ending,
        is_binary: finished.is_binary,
        n_unused_nodes: graph.n_nodes().saturating_sub(finished.nodes.len()),
        nodes: finished.nodes,
        producer: producer.join(" ").trim().to_owned(),
        opset: Some(graph.opset()),
    })
}

#[cfg(test)]
mod tests;
