//! Networks from a description in TOML and arrays in a safetensors or NPZ file beside it.
//!
//! ```toml
//! weights = "digits.safetensors"   # or .npz; in the folder of this file
//! input = [28, 28, 1]              # height, width, channels; or [n]
//! order = "channels-first"         # how the arrays are stored; see below
//!
//! [[layers]]
//! kind = "conv2d"
//! weights = "conv.weight"
//! bias = "conv.bias"               # may be left out
//! stride = [2, 2]                  # default [1, 1]
//! padding = [1, 0, 1, 0]           # top, bottom, left, right; default none
//! groups = 1                       # default 1
//!
//! [[layers]]
//! kind = "batch_norm"
//! gamma = "bn.weight"
//! beta = "bn.bias"
//! mean = "bn.running_mean"
//! variance = "bn.running_var"
//! epsilon = 1e-5                   # default 1e-5
//!
//! [[layers]]
//! kind = "relu"                    # also: square, flatten, sigmoid, tanh, softplus, gelu, gelu_tanh,
//!                                  # silu, abs; clamp with limit, leaky_relu with slope
//!
//! [[layers]]
//! kind = "average_pool"            # also: max_pool, which takes padding; stride defaults to the window
//! window = [2, 2]
//!
//! [[layers]]
//! kind = "flatten"
//!
//! [[layers]]
//! kind = "dense"
//! weights = "fc.weight"
//! bias = "fc.bias"
//! ```
//!
//! With `channels-first` (PyTorch) kernels are `(out, in/groups, height, width)`, matrices `(out, in)`, and
//! flattened images channel by channel. With `channels-last` (Keras) kernels are `(height, width,
//! in/groups, out)`, matrices `(in, out)`, and flattened images pixel by pixel.

use std::path::Path;

use ndarray::{Array1, Array2, ArrayD, Ix2, Ix4};
use serde::Deserialize;

use super::ImportError;
use super::assemble::{Affine, Budget, Order, Step, assemble, mirrored};
use super::fault::NodeSite;
use super::trained::{ImportedNetwork, ImportedNode, InputAffine, Treatment};
use super::weights::WeightFile;
use crate::approximate::Function;
use crate::artifact;
use crate::error::{Error, Result};
use crate::layer::{Activation, Clamp, Conv2d, Dense, Layer, Padding, Pool2d, PoolKind};
use crate::network::Network;
use crate::tensor::Shape;

/// Largest description.
const MAX_DESCRIPTION_BYTES: usize = 1 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    weights: String,
    input: Vec<usize>,
    #[serde(default)]
    order: Storage,
    layers: Vec<LayerSpec>,
}

/// How arrays are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Storage {
    #[default]
    ChannelsFirst,
    ChannelsLast,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum LayerSpec {
    Dense {
        weights: String,
        bias: Option<String>,
    },
    Conv2d {
        weights: String,
        bias: Option<String>,
        stride: Option<(usize, usize)>,
        padding: Option<(usize, usize, usize, usize)>,
        groups: Option<usize>,
    },
    BatchNorm {
        gamma: Option<String>,
        beta: Option<String>,
        mean: String,
        variance: String,
        epsilon: Option<f64>,
    },
    Relu {},
    Square {},
    Sigmoid {},
    Tanh {},
    Softplus {},
    Gelu {},
    GeluTanh {},
    Silu {},
    Abs {},
    LeakyRelu {
        slope: f64,
    },
    Clamp {
        limit: f32,
    },
    AveragePool {
        window: (usize, usize),
        stride: Option<(usize, usize)>,
    },
    MaxPool {
        padding: Option<(usize, usize, usize, usize)>,
        window: (usize, usize),
        stride: Option<(usize, usize)>,
    },
    Flatten {},
}

impl LayerSpec {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Dense { .. } => "dense",
            Self::Conv2d { .. } => "conv2d",
            Self::BatchNorm { .. } => "batch_norm",
            Self::Relu {} => "relu",
            Self::Square {} => "square",
            Self::Sigmoid {} => "sigmoid",
            Self::Tanh {} => "tanh",
            Self::Softplus {} => "softplus",
            Self::Gelu {} => "gelu",
            Self::GeluTanh {} => "gelu_tanh",
            Self::Silu {} => "silu",
            Self::Abs {} => "abs",
            Self::LeakyRelu { .. } => "leaky_relu",
            Self::Clamp { .. } => "clamp",
            Self::AveragePool { .. } => "average_pool",
            Self::MaxPool { .. } => "max_pool",
            Self::Flatten {} => "flatten",
        }
    }

    const fn treatment(&self) -> Treatment {
        match self {
            Self::BatchNorm { .. } => Treatment::Folded,
            Self::Flatten {} => Treatment::Layout,
            Self::Relu {}
            | Self::Square {}
            | Self::Sigmoid {}
            | Self::Tanh {}
            | Self::Softplus {}
            | Self::Gelu {}
            | Self::GeluTanh {}
            | Self::Silu {}
            | Self::Abs {}
            | Self::LeakyRelu { .. }
            | Self::Clamp { .. } => Treatment::Activation(self.kind()),
            Self::Dense { .. }
            | Self::Conv2d { .. }
            | Self::AveragePool { .. }
            | Self::MaxPool { .. } => Treatment::Layer(self.kind()),
        }
    }
}

/// Read a network from a description; its weight file must be in the same folder or below.
///
/// # Errors
/// - [`Error::Io`] or [`Error::TooLarge`] if a file cannot be read.
/// - [`Error::InFile`] around whatever is wrong inside: an [`ImportError`], or the checks of
///   [`Network::new`].
pub fn read_description(path: &Path) -> Result<ImportedNetwork> {
    let bytes = artifact::read_file(path, MAX_DESCRIPTION_BYTES)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    read(&bytes, folder.unwrap_or(Path::new("."))).map_err(|error| {
        // The weight file has its own name.
        let is_named = matches!(error, Error::InFile { .. } | Error::Io { .. });
        if is_named { error } else { error.in_file(path) }
    })
}

fn read(bytes: &[u8], folder: &Path) -> Result<ImportedNetwork> {
    let refuse = |cause| ImportError::Description { cause };
    let text = std::str::from_utf8(bytes).map_err(|cause| refuse(Box::new(cause)))?;
    let description: Description = toml::from_str(text).map_err(|cause| refuse(Box::new(cause)))?;
    if description.layers.len() > Network::<f32>::MAX_LAYERS {
        let (actual, limit) = (description.layers.len() as u64, Network::<f32>::MAX_LAYERS as u64);
        return Err(Error::TooLarge { what: "number of layers", actual, limit });
    }
    let mut weights = WeightFile::open(folder, &description.weights)?;
    let mut budget = Budget::for_files_of(weights.n_bytes());
    let input_shape = Shape::new(description.input.clone())?;
    let mut reader = Reader {
        storage: description.order,
        weights: &mut weights,
        budget: &mut budget,
        shape: input_shape.clone(),
        order: Order::Same,
        layer_idx: 0,
    };
    let mut steps = Vec::new();
    let mut nodes = Vec::new();
    for (layer_idx, layer) in description.layers.iter().enumerate() {
        reader.layer_idx = layer_idx;
        steps.push(reader.step(layer)?);
        let site =
            NodeSite { operator: layer.kind().into(), node: layer_idx.to_string(), opset: 1 };
        nodes.push(ImportedNode { site, treatment: layer.treatment() });
    }
    let is_binary = reader.shape.len() == 1;
    if reader.shape.as_image().is_some() || reader.order != Order::Same {
        let reason = "the network must end in a vector of scores: end with a dense layer";
        return Err(ImportError::Layer { layer: reader.layer_idx, reason }.into());
    }
    let assembled = assemble(&input_shape, steps, &mut budget)?;
    let network = assembled.network;
    let network = if is_binary { mirrored(&network)? } else { network };
    Ok(ImportedNetwork {
        network,
        input: InputAffine::of(&assembled.input),
        ending: None,
        is_binary,
        nodes,
        n_unused_nodes: 0,
        producer: String::new(),
        opset: None,
    })
}

/// Turns the layers of a description into steps, in order.
struct Reader<'a> {
    storage: Storage,
    weights: &'a mut WeightFile,
    budget: &'a mut Budget,
    /// What leaves the layers so far.
    shape: Shape,
    /// Where the file has the features of a flattened image.
    order: Order,
    layer_idx: usize,
}

impl Reader<'_> {
    fn step(&mut self, spec: &LayerSpec) -> Result<Step> {
        let layer = match spec {
            LayerSpec::Dense { weights, bias } => self.dense(weights, bias.as_deref())?,
            LayerSpec::Conv2d { weights, bias, stride, padding, groups } => {
                let (top, bottom, left, right) = padding.unwrap_or_default();
                let padding = Padding { top, bottom, left, right };
                let stride = stride.unwrap_or((1, 1));
                self.convolution(weights, bias.as_deref(), groups.unwrap_or(1), (stride, padding))?
            }
            LayerSpec::BatchNorm { gamma, beta, mean, variance, epsilon } => {
                let gamma = self.per_channel(gamma.as_deref(), 1.0)?;
                let beta = self.per_channel(beta.as_deref(), 0.0)?;
                let mean = self.per_channel(Some(mean), 0.0)?;
                let variances = self.per_channel(Some(variance), 1.0)?;
                let epsilon = epsilon.unwrap_or(1e-5);
                let deviations = variances.iter().map(|v| (v + epsilon).sqrt());
                let scale = gamma.iter().zip(deviations).map(|(g, d)| g / d).collect::<Vec<_>>();
                if !scale.iter().all(|s| s.is_finite()) {
                    let reason = "variances must not be negative, epsilon must be positive";
                    return Err(self.refuse(reason));
                }
                let offset = beta.iter().zip(&mean).zip(&scale).map(|((b, m), s)| b - m * s);
                let offset = offset.collect();
                return Ok(Step::Affine(Affine { scale, offset }));
            }
            LayerSpec::Relu {} => Layer::Activation(Activation::Relu),
            LayerSpec::Square {} => Layer::Activation(Activation::Square),
            LayerSpec::Sigmoid {} => function(Function::Sigmoid),
            LayerSpec::Tanh {} => function(Function::Tanh),
            LayerSpec::Softplus {} => function(Function::Softplus),
            LayerSpec::Gelu {} => function(Function::Gelu),
            LayerSpec::GeluTanh {} => function(Function::GeluTanh),
            LayerSpec::Silu {} => function(Function::Silu),
            LayerSpec::Abs {} => function(Function::Abs),
            LayerSpec::LeakyRelu { slope } => function(Function::LeakyRelu { slope: *slope }),
            LayerSpec::Clamp { limit } => Layer::Clamp(Clamp { limit: *limit }),
            LayerSpec::AveragePool { window, stride } => {
                pool(PoolKind::Average, *window, *stride, None)
            }
            LayerSpec::MaxPool { window, stride, padding } => {
                pool(PoolKind::Max, *window, *stride, *padding)
            }
            LayerSpec::Flatten {} => {
                if let (Storage::ChannelsFirst, Some((height, width, channels))) =
                    (self.storage, self.shape.as_image())
                {
                    self.order = Order::of_flattened(channels, height * width);
                }
                Layer::Flatten
            }
        };
        self.shape = layer
            .output_shape(&[&self.shape])
            .map_err(|fault| fault.at(self.layer_idx, layer.name(), &[&self.shape]))?;
        Ok(Step::Layer(layer))
    }

    fn refuse(&self, reason: &'static str) -> Error {
        ImportError::Layer { layer: self.layer_idx, reason }.into()
    }

    fn array(&mut self, name: &str) -> Result<ArrayD<f32>> {
        self.weights.array(self.layer_idx, name, self.budget)
    }

    fn bad_shape(&self, name: &str, expected: &'static str, actual: &[usize]) -> Error {
        let (layer, name, actual) = (self.layer_idx, name.to_owned(), actual.to_vec());
        ImportError::ArrayShape { layer, name, expected, actual }.into()
    }

    fn bias(&mut self, name: Option<&str>, n: usize) -> Result<Array1<f32>> {
        let Some(name) = name else { return Ok(Array1::zeros(n)) };
        let array = self.array(name)?;
        if array.shape() != [n] {
            return Err(self.bad_shape(name, "one number per output", array.shape()));
        }
        Ok(array.into_iter().collect())
    }

    /// Numbers per channel in the order of this crate, or `default`.
    fn per_channel(&mut self, name: Option<&str>, default: f64) -> Result<Vec<f64>> {
        let Some(name) = name else { return Ok(vec![default]) };
        let array = self.array(name)?;
        let n = self.shape.channels();
        if array.shape() != [n] {
            return Err(self.bad_shape(name, "one number per channel", array.shape()));
        }
        let values = array.into_iter().map(f64::from).collect::<Vec<_>>();
        let at = |idx| values.get(self.order.position(idx)).copied().unwrap_or(default);
        Ok((0..n).map(at).collect())
    }

    fn dense(&mut self, name: &str, bias: Option<&str>) -> Result<Layer<f32>> {
        let array = self.array(name)?;
        let dims = array.shape().to_vec();
        let expected = match self.storage {
            Storage::ChannelsFirst => "(outputs, inputs)",
            Storage::ChannelsLast => "(inputs, outputs)",
        };
        let matrix = array
            .into_dimensionality::<Ix2>()
            .map_err(|_| self.bad_shape(name, expected, &dims))?;
        let matrix = match self.storage {
            Storage::ChannelsFirst => matrix,
            Storage::ChannelsLast => matrix.reversed_axes(),
        };
        let (n_out, n_in) = matrix.dim();
        if n_in != self.shape.len() || n_out == 0 {
            return Err(self.bad_shape(name, expected, &dims));
        }
        let order = std::mem::replace(&mut self.order, Order::Same);
        let weights = Array2::from_shape_fn((n_out, n_in), |(i, j)| {
            matrix.get((i, order.position(j))).copied().unwrap_or(0.0)
        });
        let bias = self.bias(bias, n_out)?;
        Ok(Layer::Dense(Dense::new(weights, bias)))
    }

    fn convolution(
        &mut self,
        name: &str,
        bias: Option<&str>,
        groups: usize,
        (stride, padding): ((usize, usize), Padding),
    ) -> Result<Layer<f32>> {
        let array = self.array(name)?;
        let dims = array.shape().to_vec();
        let expected = match self.storage {
            Storage::ChannelsFirst => "(outputs, inputs/groups, height, width)",
            Storage::ChannelsLast => "(height, width, inputs/groups, outputs)",
        };
        let kernels = array
            .into_dimensionality::<Ix4>()
            .map_err(|_| self.bad_shape(name, expected, &dims))?;
        // To (outputs, height, width, inputs/groups).
        let kernels = match self.storage {
            Storage::ChannelsFirst => kernels.permuted_axes([0, 2, 3, 1]),
            Storage::ChannelsLast => kernels.permuted_axes([3, 0, 1, 2]),
        };
        let (maps, _, _, per_group) = kernels.dim();
        let channels = self.shape.channels();
        let fits = groups > 0 && per_group.checked_mul(groups) == Some(channels);
        // Without values, the number of outputs could be anything.
        if !fits || maps % groups != 0 || kernels.is_empty() {
            return Err(self.bad_shape(name, expected, &dims));
        }
        self.budget.take(|| format!("`{name}`"), kernels.len())?;
        let weights = kernels.as_standard_layout().into_owned();
        let bias = self.bias(bias, maps)?;
        Ok(Layer::Conv2d(Conv2d::new(weights, bias, stride, padding).with_groups(groups)))
    }
}

fn function(function: Function) -> Layer<f32> {
    Layer::Activation(Activation::Function(function))
}

fn pool(
    kind: PoolKind,
    window: (usize, usize),
    stride: Option<(usize, usize)>,
    padding: Option<(usize, usize, usize, usize)>,
) -> Layer<f32> {
    let (top, bottom, left, right) = padding.unwrap_or_default();
    let padding = Padding { top, bottom, left, right };
    Layer::Pool2d(Pool2d { kind, window, stride: stride.unwrap_or(window), padding })
}

#[cfg(test)]
mod tests;
