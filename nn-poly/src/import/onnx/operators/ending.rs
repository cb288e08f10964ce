//! Functions that turn scores into probabilities: left out, because they keep the order of the scores.

use super::super::importer::{Importer, Read, USE_POLYNOMIAL, refuse_gate};
use super::super::node::{Node, Outcome};
use super::super::value::{Scores, Value, View};
use crate::import::{Ending, Treatment};

impl<'a> Importer<'a> {
    /// `Softmax`, `LogSoftmax`, `Sigmoid`, and after them `Normalizer` and `ZipMap`, at the end.
    pub(in super::super) fn ending(&mut self, node: Node<'a>) -> Read {
        let flow = match self.value(node, 0)? {
            Value::Flow(flow) => flow,
            // A list of maps from class to probability says the same.
            Value::Scores(scores) if node.operator() == "ai.onnx.ml.ZipMap" => {
                return Ok((Value::Scores(scores), Treatment::Dropped));
            }
            Value::Scores(scores) if node.operator() == "ai.onnx.ml.Normalizer" => {
                check_order_kept(node, &scores)?;
                return Ok((Value::Scores(scores), Treatment::Dropped));
            }
            Value::Scores(scores) => self.unfinished(node, &scores)?,
            Value::Gate(gate) => return Err(refuse_gate(&gate).into()),
            Value::Array(_) | Value::Integers(_) | Value::Matrix(_) => {
                return Err(node.bad_input(0, "computed from the network's input").into());
            }
        };
        let ending = match node.operator().as_str() {
            "Softmax" => Ending::Softmax,
            "LogSoftmax" => Ending::LogSoftmax,
            "Sigmoid" => Ending::Sigmoid,
            "ai.onnx.ml.ZipMap" => return Ok((Value::Flow(flow), Treatment::Dropped)),
            _ => {
                let advice = "leave it out: it keeps no order of scores of either sign";
                return Err(node.unsupported("it divides by computed values", advice).into());
            }
        };
        if ending != Ending::Sigmoid {
            // The default was axis 1 until operator set 12, and is the last since.
            let axis = node.int("axis", if node.opset < 13 { 1 } else { -1 });
            let is_along_scores = match (flow.view, flow.shape.as_image()) {
                (View::Features(_), _) => matches!(axis, 1 | -1),
                // A single pixel: its channels are the scores.
                (View::ChannelsFirst, Some((1, 1, _))) => matches!(axis, 1 | -3),
                (View::ChannelsLast, Some((1, 1, _))) => matches!(axis, 3 | -1),
                _ => false,
            };
            if !is_along_scores {
                let reason = "it does not normalize vectors of scores";
                return Err(node.unsupported(reason, USE_POLYNOMIAL).into());
            }
        }
        let (site, is_complement, is_pair) = (node.site(), false, false);
        let scores = Scores { flow, ending, site, is_complement, is_pair };
        Ok((Value::Scores(scores), Treatment::Dropped))
    }
}

/// Refuse a `Normalizer` that changes which of the `scores` is the largest.
///
/// Sums of magnitudes and of squares are positive. The largest value is so only among probabilities, not
/// among their logarithms. A single value becomes the same for every sample.
fn check_order_kept(node: Node<'_>, scores: &Scores) -> Outcome<()> {
    let is_positive = match node.word("norm", "MAX") {
        "L1" | "L2" => true,
        "MAX" => scores.ending != Ending::LogSoftmax,
        _ => return Err(node.bad_attribute("norm", "L1, L2 or MAX")),
    };
    if !is_positive || (scores.flow.shape.len() == 1 && !scores.is_pair) {
        let reason = "it does not keep the order of the scores";
        return Err(node.unsupported(reason, "leave it out"));
    }
    Ok(())
}
