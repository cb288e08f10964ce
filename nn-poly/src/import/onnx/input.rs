//! How a graph sees its input.

use super::super::ImportError;
use super::graph::{Graph, GraphInput};
use super::value::{Order, View};
use crate::error::Result;
use crate::tensor::Shape;

/// Operations looked at until the first one that tells the layout.
const LOOK_AHEAD: usize = 16;

/// How the graph sees its input: `wanted`, the shape of the samples, decides between channels first and
/// channels last where both are possible. Otherwise what the graph does first decides.
pub(super) fn input_view(
    graph: &Graph<'_>,
    input: &GraphInput<'_>,
    wanted: Option<&Shape>,
) -> Result<(Shape, View)> {
    Ok(match *input.dims {
        [n] => (Shape::vector(n)?, View::Features(Order::Same)),
        [height, width] => (Shape::image(height, width, 1)?, View::Plane),
        [first, second, third] => {
            let last = (Shape::image(first, second, third)?, View::ChannelsLast);
            let channels_first = (Shape::image(second, third, first)?, View::ChannelsFirst);
            let is_last = match wanted {
                Some(wanted)
                    if last.0 == channels_first.0
                        || (*wanted != last.0 && *wanted != channels_first.0) =>
                {
                    is_channels_last(graph, input)
                }
                Some(wanted) => *wanted == last.0,
                None => is_channels_last(graph, input),
            };
            if is_last { last } else { channels_first }
        }
        _ => {
            let mut dims = input.dims.clone();
            dims.insert(0, input.batch.and_then(|n| usize::try_from(n).ok()).unwrap_or(0));
            return Err(ImportError::InputRank { name: input.name.to_owned(), dims }.into());
        }
    })
}

/// Whether the first thing that moves the values of the input is a transposition to channels first, or
/// one that may take them in any order and the last axis is as short as channels of pictures are.
///
/// Exporters of channel-last frameworks write a reshape in place of the transposition if there is one
/// channel, and nothing at all before dense layers.
fn is_channels_last(graph: &Graph<'_>, input: &GraphInput<'_>) -> bool {
    let is_short = |axis: Option<&usize>| matches!(axis, Some(1 | 3));
    let looks_last = is_short(input.dims.last()) && !is_short(input.dims.first());
    let mut name = input.name;
    for _ in 0..LOOK_AHEAD {
        let Some(node) = graph.readers(name).next() else { return false };
        match node.operator().as_str() {
            "Transpose" => return node.ints("perm") == Some(&[0, 3, 1, 2]),
            "Reshape" | "Flatten" | "Squeeze" | "MatMul" => return looks_last,
            "Identity" | "Cast" | "Mul" | "Div" | "Add" | "Sub" => {}
            _ => return false,
        }
        let Some(next) = node.proto.output.first() else { return false };
        name = next;
    }
    false
}
