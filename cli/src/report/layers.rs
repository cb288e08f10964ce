//! Float networks in a line and as tables.

use nn_poly::layer::{Layer, PoolKind};
use nn_poly::network::{Network, Source};

use super::table::{Grid, Lean};
use super::terminal::Screen;
use super::units;

/// The layers that compute, in one line: `28×28×1 → conv 5×5/2 ×5 → square → dense 100 → …`.
pub(crate) fn summary(network: &Network<f32>) -> String {
    let mut parts = vec![network.input_shape().to_string()];
    parts.extend(network.layers().iter().filter_map(brief));
    parts.join(" → ")
}

/// A layer in a few characters; `None` for those that only help training.
#[expect(clippy::wildcard_enum_match_arm, reason = "the list of layers grows")]
fn brief(layer: &Layer<f32>) -> Option<String> {
    match layer {
        Layer::Dense(dense) => Some(format!("dense {}", dense.weights.nrows())),
        Layer::Conv2d(conv) => {
            let (maps, height, width, _) = conv.weights.dim();
            let stride =
                if conv.stride == (1, 1) { String::new() } else { format!("/{}", conv.stride.0) };
            Some(format!("conv {height}×{width}{stride} ({maps} maps)"))
        }
        Layer::Activation(activation) => Some(activation.name().to_owned()),
        Layer::Add | Layer::Concat => Some(layer.name().to_owned()),
        Layer::Pool2d(pool) => {
            let kind = match pool.kind {
                PoolKind::Average => "mean",
                PoolKind::Sum => "sum",
                PoolKind::Max => "max",
            };
            Some(format!("{kind} {}×{}", pool.window.0, pool.window.1))
        }
        _ => None,
    }
}

/// Which layers a layer reads, unless it is the one before and that one only.
fn reads(network: &Network<f32>, layer_idx: usize) -> String {
    let sources = network.sources(layer_idx);
    if sources == [Source::of_value(layer_idx)] {
        return String::new();
    }
    let name = |source: &Source| match *source {
        Source::Input => "input".to_owned(),
        Source::Layer(idx) => idx.to_string(),
    };
    sources.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// Print every layer with its shapes and number of parameters.
pub(crate) fn print(screen: &Screen, network: &Network<f32>) {
    let columns = [
        ("", Lean::Right),
        ("reads", Lean::Right),
        ("layer", Lean::Left),
        ("output", Lean::Left),
        ("values", Lean::Right),
        ("parameters", Lean::Right),
    ];
    let mut grid = Grid::new(screen, &columns);
    let shapes = network.layer_shapes().iter().skip(1);
    for (idx, (layer, shape)) in network.layers().iter().zip(shapes).enumerate() {
        let n_parameters: usize = layer.parameters().iter().map(|p| p.values.len()).sum();
        let parameters = if n_parameters == 0 { String::new() } else { units::count(n_parameters) };
        grid.row([
            idx.to_string(),
            reads(network, idx),
            brief(layer).unwrap_or_else(|| layer.name().replace('_', " ")),
            shape.to_string(),
            units::count(shape.len()),
            parameters,
        ]);
    }
    grid.print(screen);
}
