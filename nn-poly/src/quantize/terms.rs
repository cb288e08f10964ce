//! The parts of a block as integer convolutions, one per value they read.

use super::blocks::{Block, Opening, Part, Ready};
use super::refuse;
use super::weight_scales::divisor;
use crate::error::Result;
use crate::integer::{ConvGeometry, Grouping, Volume};
use crate::layer::{Conv2d, Dense, Padding, WeightQuantizer};
use crate::tensor::Shape;

/// A convolution of one ready value, in integers.
pub(super) struct Term {
    pub(super) ready: Ready,
    pub(super) conv: ConvGeometry,
    /// Whether it is a full matrix on a vector.
    pub(super) is_dense: bool,
    /// The weights of every output channel.
    pub(super) rows: Vec<Vec<i16>>,
    /// What one unit stands for: per output channel, or one for all.
    units: Vec<f64>,
}

impl Term {
    /// What one unit of its output stands for in a channel.
    pub(super) fn unit(&self, channel: usize) -> f64 {
        self.units.get(channel).or_else(|| self.units.first()).copied().unwrap_or(1.0)
    }
}

/// All terms of a block, and the sum of their biases per output channel.
///
/// # Errors
/// - [`crate::Error::CannotQuantize`] if weights have no quantizer, or joined channels are not those
///   the layer reads.
pub(super) fn terms(
    block: &Block<'_>,
    step_of: &dyn Fn(Ready) -> f64,
) -> Result<(Vec<Term>, Vec<f64>)> {
    let n_channels = block.linear.channels();
    let mut biases = vec![0.0; n_channels];
    let mut all = Vec::new();
    for part in &block.parts {
        let matrix = Matrix::of(part)?;
        for (sum, bias) in biases.iter_mut().zip(&matrix.biases) {
            *sum += bias;
        }
        let mut first = 0;
        for read in &part.reads {
            let channels = first..first + read.n_channels;
            first = channels.end;
            let rows = matrix.select(channels.clone());
            let step = step_of(read.ready);
            let units = matrix.scales.iter().map(|scale| step * scale).collect();
            let conv = matrix.geometry(read.n_channels);
            all.push(Term { ready: read.ready, conv, is_dense: matrix.is_dense, rows, units });
        }
        if first != part.input.channels() {
            const MISFIT: &str = "the channels it reads are not those that are joined before it";
            return Err(refuse(part.layer_idx, "network", MISFIT));
        }
    }
    Ok((all, biases))
}

/// A part as a convolution of all channels it reads.
struct Matrix {
    conv: ConvGeometry,
    is_dense: bool,
    /// Per output channel: kernel row by kernel row, channels fastest.
    rows: Vec<Vec<i16>>,
    /// What one unit of the weights stands for: per output channel, or one for all.
    scales: Vec<f64>,
    biases: Vec<f64>,
}

impl Matrix {
    fn of(part: &Part<'_>) -> Result<Self> {
        match part.opening {
            Opening::Dense(dense) => Self::of_dense(part, dense),
            Opening::Conv2d(conv) => Self::of_conv(part, conv),
            Opening::Pool2d(pool) => Ok(Self::depthwise(part, pool.window, pool.stride)),
            Opening::Identity if part.reads.len() == 1 => Ok(Self::depthwise(part, (1, 1), (1, 1))),
            Opening::Identity => Ok(Self::selection(part)),
        }
    }

    fn of_dense(part: &Part<'_>, dense: &Dense<f32>) -> Result<Self> {
        let (n_out, n_in) = dense.weights.dim();
        let quantizer = quantizer(part, dense.weight_quantizer.as_ref())?;
        let rounded: Vec<f32> = quantizer.quantize(&dense.weights).into_iter().collect();
        Ok(Self {
            conv: on_plane(Volume::vector(n_in), n_out, Grouping::Full),
            is_dense: part.reads.len() == 1,
            rows: integers(&rounded, quantizer, n_out),
            scales: scales(quantizer, n_out),
            biases: dense.bias.iter().map(|&b| f64::from(b)).collect(),
        })
    }

    fn of_conv(part: &Part<'_>, conv: &Conv2d<f32>) -> Result<Self> {
        let quantizer = quantizer(part, conv.weight_quantizer.as_ref())?;
        let rounded: Vec<f32> = quantizer.quantize(&conv.weights).into_iter().collect();
        let (input, n_out) = (volume(&part.input), conv.out_channels());
        let grouping = match conv.groups {
            1 => Grouping::Full,
            n if n == input.channels && n == n_out => Grouping::Depthwise,
            n => Grouping::Groups(n),
        };
        let geometry = ConvGeometry {
            kernel: conv.kernel(),
            stride: conv.stride,
            padding: conv.padding,
            ..on_plane(input, n_out, grouping)
        };
        Ok(Self {
            conv: geometry,
            is_dense: false,
            rows: integers(&rounded, quantizer, n_out),
            scales: scales(quantizer, n_out),
            biases: conv.bias.iter().map(|&b| f64::from(b)).collect(),
        })
    }

    /// Sums over windows, channel by channel.
    fn depthwise(part: &Part<'_>, kernel: (usize, usize), stride: (usize, usize)) -> Self {
        let input = volume(&part.input);
        let conv = on_plane(input, input.channels, Grouping::Depthwise);
        Self {
            conv: ConvGeometry { kernel, stride, ..conv },
            is_dense: false,
            rows: vec![vec![1; kernel.0 * kernel.1]; input.channels],
            scales: vec![divisor(part).recip()],
            biases: vec![0.0; input.channels],
        }
    }

    /// The channels of several values, one after the other.
    fn selection(part: &Part<'_>) -> Self {
        let input = volume(&part.input);
        let n = input.channels;
        let one_hot = |channel| (0..n).map(|c| i16::from(c == channel)).collect();
        Self {
            conv: on_plane(input, n, Grouping::Full),
            is_dense: false,
            rows: (0..n).map(one_hot).collect(),
            scales: vec![1.0],
            biases: vec![0.0; n],
        }
    }

    /// The weights on a run of the channels; all of them, unless every output channel reads all.
    fn select(&self, channels: std::ops::Range<usize>) -> Vec<Vec<i16>> {
        let per_position = self.conv.channels_per_group();
        if channels.len() >= self.conv.input.channels {
            return self.rows.clone();
        }
        let at_position =
            |weights: &[i16]| weights.get(channels.clone()).map_or_else(Vec::new, <[i16]>::to_vec);
        self.rows
            .iter()
            .map(|row| row.chunks(per_position).flat_map(at_position).collect())
            .collect()
    }

    fn geometry(&self, n_channels: usize) -> ConvGeometry {
        let input = Volume { channels: n_channels, ..self.conv.input };
        ConvGeometry { input, ..self.conv }
    }
}

/// A convolution of single positions.
fn on_plane(input: Volume, out_channels: usize, grouping: Grouping) -> ConvGeometry {
    let padding = Padding::NONE;
    ConvGeometry { input, kernel: (1, 1), stride: (1, 1), padding, out_channels, grouping }
}

fn quantizer<'a>(
    part: &Part<'_>,
    quantizer: Option<&'a WeightQuantizer<f32>>,
) -> Result<&'a WeightQuantizer<f32>> {
    const MISSING: &str = "its weights have no quantizer; calibrate and prepare the network first";
    quantizer.ok_or_else(|| refuse(part.layer_idx, "network", MISSING))
}

/// Divide rounded weights by their scales again: the integers that training used.
fn integers(rounded: &[f32], quantizer: &WeightQuantizer<f32>, n_out: usize) -> Vec<Vec<i16>> {
    let taps = (rounded.len() / n_out.max(1)).max(1);
    let row = |(channel, row): (usize, &[f32])| {
        let scale = quantizer.scale(channel);
        #[expect(clippy::cast_possible_truncation, reason = "at most 15 bits")]
        let integer = |w: &f32| (w / scale).round() as i16;
        row.iter().map(integer).collect()
    };
    rounded.chunks(taps).enumerate().map(row).collect()
}

fn scales(quantizer: &WeightQuantizer<f32>, n_out: usize) -> Vec<f64> {
    (0..n_out).map(|channel| f64::from(quantizer.scale(channel))).collect()
}

fn volume(shape: &Shape) -> Volume {
    match *shape.dims() {
        [height, width, channels] => Volume { height, width, channels },
        _ => Volume::vector(shape.len()),
    }
}
