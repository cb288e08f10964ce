//! Layers to measure kernels on, whole or in part.

use anyhow::Result;
use he_core::{CiphertextBlock, Group, LinearMap, PADDING, Params, Placement, PublicSeed, bytes};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Weights are drawn from `[-MAX_WEIGHT, MAX_WEIGHT]`: 4 bits.
const MAX_WEIGHT: u32 = 7;
/// Rows of a dense layer come in multiples of this: what the kernels take at a time.
const DENSE_STEP: usize = 20;

/// One linear layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layer {
    /// Name in the tables.
    pub(super) name: &'static str,
    shape: Shape,
}

#[derive(Debug, Clone, Copy)]
enum Shape {
    Dense { n_out: usize, n_in: usize },
    Convolution(Convolution),
}

/// A convolution with 5×5 kernels over square planes.
#[derive(Debug, Clone, Copy)]
struct Convolution {
    side: usize,
    channels: usize,
    stride: usize,
    /// Zeros above and to the left.
    padding: usize,
    side_out: usize,
    maps: usize,
}

const KERNEL: usize = 5;

const fn dense(name: &'static str, n_in: usize, n_out: usize) -> Layer {
    Layer { name, shape: Shape::Dense { n_out, n_in } }
}

const fn convolution(name: &'static str, convolution: Convolution) -> Layer {
    Layer { name, shape: Shape::Convolution(convolution) }
}

/// The layers of the networks `securedl` and `cryptonets`, wide ones first.
pub(super) const LAYERS: [Layer; 6] = [
    convolution(
        "conv1 20×25, 576 places",
        Convolution { side: 28, channels: 1, stride: 1, padding: 0, side_out: 24, maps: 20 },
    ),
    convolution(
        "conv2 50×500, 64 places",
        Convolution { side: 12, channels: 20, stride: 1, padding: 0, side_out: 8, maps: 50 },
    ),
    dense("dense 800 → 256", 800, 256),
    dense("dense 845 → 100", 845, 100),
    dense("dense 100 → 10", 100, 10),
    convolution(
        "conv 5×25, 169 places",
        Convolution { side: 28, channels: 1, stride: 2, padding: 1, side_out: 13, maps: 5 },
    ),
];

/// A part of a layer, ready to be applied.
#[derive(Debug)]
pub(super) struct Part {
    /// The map.
    pub(super) map: LinearMap,
    /// Multiply-accumulates per word: taps without those on padding, over all outputs.
    pub(super) products: u64,
}

impl Layer {
    /// Outputs of the whole layer.
    pub(super) const fn n_outputs(&self) -> usize {
        match self.shape {
            Shape::Dense { n_out, .. } => n_out,
            Shape::Convolution(c) => c.side_out * c.side_out * c.maps,
        }
    }

    /// The part with about `n_outputs` outputs, at least the smallest there is, in the proportions of
    /// the whole: some rows of a matrix, or some places of a convolution over as much of its input as
    /// they touch.
    pub(super) fn part(&self, n_outputs: usize) -> Result<Part> {
        match self.shape {
            Shape::Dense { n_out, n_in } => {
                let n_out = (n_outputs / DENSE_STEP * DENSE_STEP).max(DENSE_STEP).min(n_out);
                let map = LinearMap::dense(n_out, n_in, &weights(n_out * n_in), &vec![1; n_out])?;
                Ok(Part { map, products: (n_out * n_in) as u64 })
            }
            Shape::Convolution(c) => {
                let places = (n_outputs / c.maps).clamp(1, c.side_out * c.side_out);
                let rows = (places / c.side_out).max(1);
                c.part(rows, places.min(c.side_out))
            }
        }
    }
}

impl Convolution {
    /// The first `rows` rows and `columns` columns of places.
    fn part(&self, rows: usize, columns: usize) -> Result<Part> {
        let Self { channels, stride, padding, maps, .. } = *self;
        let touched = |n: usize| ((n - 1) * stride + KERNEL - padding).min(self.side);
        let (height, width) = (touched(rows), touched(columns));
        let n_taps = KERNEL * KERNEL * channels;
        let mut products = 0;
        let mut placements = Vec::with_capacity(rows * columns);
        for place in 0..rows * columns {
            let (row, column) = (place / columns, place % columns);
            let mut inputs = Vec::with_capacity(n_taps);
            for tap in 0..n_taps {
                let (kernel, channel) = (tap / channels, tap % channels);
                let y = (row * stride + kernel / KERNEL).checked_sub(padding);
                let x = (column * stride + kernel % KERNEL).checked_sub(padding);
                let inside = y.zip(x).filter(|&(y, x)| y < height && x < width);
                let input = inside.map(|(y, x)| ((y * width) + x) * channels + channel);
                products += u64::from(input.is_some());
                inputs.push(input.map_or(Ok(PADDING), u32::try_from)?);
            }
            let first_output = u32::try_from(place * maps)?;
            placements.push(Placement { inputs, first_output, output_stride: 1 });
        }
        let group = Group { weights: weights(maps * n_taps), n_rows: maps, n_taps, placements };
        let n_outputs = rows * columns * maps;
        let (n_inputs, bias) = (height * width * channels, vec![1; n_outputs]);
        let map = LinearMap::new(n_inputs, n_outputs, vec![group], bias)?;
        Ok(Part { map, products: products * maps as u64 })
    }
}

/// Small weights from a fixed seed: speed does not depend on them.
pub(super) fn weights(count: usize) -> Vec<i32> {
    let mut rng = ChaCha20Rng::seed_from_u64(4);
    let mut draw = || (rng.next_u32() % (2 * MAX_WEIGHT + 1)).cast_signed();
    (0..count).map(|_| draw() - MAX_WEIGHT.cast_signed()).collect()
}

/// A block of pseudo-random residues, of the form of fresh ciphertexts: a seed's expansion, which
/// costs no encryption.
pub(super) fn block(params: &Params, count: usize) -> Result<CiphertextBlock> {
    let mut block = CiphertextBlock::zeros(params, count, 1, params.moduli().len())?;
    let zeros = vec![0; bytes::request_bytes(params)];
    for index in 0..count {
        bytes::read_request_into(&mut block, index, PublicSeed([1; 32]), &zeros)?;
    }
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_layers_have_the_products_of_their_names() {
        // The strided convolution loses the taps on one row and one column of zeros.
        let on_padding = 5 * (2 * 13 * 5 - 1);
        let products =
            [20 * 25 * 576, 50 * 500 * 64, 800 * 256, 84_500, 1000, 5 * 25 * 169 - on_padding];
        for (layer, products) in LAYERS.iter().zip(products) {
            let part = layer.part(usize::MAX).unwrap();
            assert_eq!(part.map.n_outputs(), layer.n_outputs(), "{}", layer.name);
            assert_eq!(part.products, products, "{}", layer.name);
        }
    }

    #[test]
    fn parts_are_no_larger_than_asked_for_unless_nothing_smaller_exists() {
        for layer in LAYERS {
            let smallest = layer.part(0).unwrap();
            for n in [1, 19, 100, 777] {
                let part = layer.part(n).unwrap();
                let n_outputs = part.map.n_outputs();
                assert!(n_outputs <= n.max(smallest.map.n_outputs()), "{}", layer.name);
                assert!(part.products >= smallest.products);
            }
        }
    }
}
