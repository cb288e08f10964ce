//! Functions that turn scores into probabilities: left out, because they keep the order of the scores.

use super::super::importer::{Importer, Read, USE_POLYNOMIAL};
use super::super::node::Node;
use super::super::value::{Scores, Value, View};
use crate::import::{Ending, Treatment};

impl<'a> Importer<'a> {
    /// `Softmax`, `LogSoftmax`, `Sigmoid`, and after them `Normalizer` and `ZipMap`, at the end.
    pub(in super::super) fn ending(&mut self, node: Node<'a>) -> Read {
        let flow = match self.value(node, 0)? {
            Value::Flow(flow) => flow,
            // A list of maps from class to probability says the same; so do positive numbers divided by
            // their sum.
            Value::Scores(scores)
                if matches!(
                    node.operator().as_str(),
                    "ai.onnx.ml.ZipMap" | "ai.onnx.ml.Normalizer"
                ) =>
            {
                return Ok((Value::Scores(scores), Treatment::Dropped));
            }
            Value::Scores(scores) => self.unfinished(node, &scores)?,
            Value::Array(_) | Value::Integers(_) => {
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
        let flattened = matches!(flow.view, View::Features(_));
        if ending != Ending::Sigmoid {
            // The default was axis 1 until operator set 12, and is the last since.
            let axis = node.int("axis", if node.opset < 13 { 1 } else { -1 });
            if !flattened || !matches!(axis, 1 | -1) {
                let reason = "it does not normalize vectors of scores";
                return Err(node.unsupported(reason, USE_POLYNOMIAL).into());
            }
        }
        let scores = Scores { flow, ending, site: node.site(), is_complement: false };
        Ok((Value::Scores(scores), Treatment::Dropped))
    }
}
