//! Activations that are no polynomials.

use super::super::importer::{Importer, Read, refuse_scores};
use super::super::node::Node;
use super::super::value::{Flow, Scores, Value};
use crate::approximate::Function;
use crate::error::Result;
use crate::import::{Ending, Treatment};
use crate::layer::{Activation, Layer};

impl<'a> Importer<'a> {
    /// `Tanh`, `Gelu`, `LeakyRelu`, `PRelu` with one slope, `Softplus`, `Abs`.
    pub(in super::super) fn function(&mut self, node: Node<'a>) -> Read {
        let function = match node.operator().as_str() {
            "Tanh" => Function::Tanh,
            "Softplus" => Function::Softplus,
            "Abs" => Function::Abs,
            "LeakyRelu" => leaky(node.float("alpha", 0.01))
                .ok_or_else(|| node.bad_attribute("alpha", "a finite number"))?,
            "PRelu" => self.common_slope(node)?,
            _ => match node.word("approximate", "none") {
                "none" => Function::Gelu,
                _ => {
                    let requirement = "none: export GELU without an approximation by tanh";
                    return Err(node.bad_attribute("approximate", requirement).into());
                }
            },
        };
        let flow = self.flow(node, 0)?;
        self.activate(node, &flow, function)
    }

    /// `PRelu` whose slopes are all the same.
    fn common_slope(&mut self, node: Node<'a>) -> Result<Function> {
        let slopes = self.array(node, 1)?;
        let first = slopes.first().copied();
        let function = first.filter(|first| slopes.iter().all(|s| s == first)).and_then(leaky);
        function.ok_or_else(|| node.bad_input(1, "one slope for all channels").into())
    }

    fn activate(&mut self, node: Node<'a>, flow: &Flow, function: Function) -> Read {
        let kind = function.kind();
        let layer = Layer::Activation(Activation::Function(function));
        let flow = self.apply(node, flow, layer)?;
        Ok((Value::Flow(flow), Treatment::Activation(kind)))
    }

    /// `x · sigmoid(x)`, if the scores are those of `flow`.
    pub(in super::super) fn gated(
        &mut self,
        node: Node<'a>,
        flow: &Flow,
        scores: &Scores,
    ) -> Result<Option<(Value, Treatment)>> {
        let of = &scores.flow;
        let is_same = of.base == flow.base
            && of.view == flow.view
            && of.shape == flow.shape
            && of.polynomial == flow.polynomial;
        if node.operator() != "Mul" || !is_logistic(scores) || !is_same {
            return Ok(None);
        }
        self.mark(scores, Function::Silu.kind());
        self.activate(node, flow, Function::Silu).map(Some)
    }

    /// The values of a logistic function that is not at the end; anything else there is refused.
    pub(in super::super) fn unfinished(&mut self, node: Node<'a>, scores: &Scores) -> Result<Flow> {
        if !is_logistic(scores) {
            return Err(refuse_scores(scores).into());
        }
        let flow = self.settle(node, &scores.flow)?;
        if let Some(&base) = self.logistic.get(&flow.base) {
            return Ok(Flow { base, ..flow });
        }
        self.mark(scores, Function::Sigmoid.kind());
        let layer = Layer::Activation(Activation::Function(Function::Sigmoid));
        let activated = self.apply(node, &flow, layer)?;
        self.logistic.insert(flow.base, activated.base);
        Ok(activated)
    }

    /// What became of the node that computed `scores`.
    fn mark(&mut self, scores: &Scores, kind: &'static str) {
        let node = self.nodes.iter_mut().find(|node| node.site == scores.site);
        if let Some(node) = node {
            node.treatment = Treatment::Activation(kind);
        }
    }
}

/// Whether these are logistic functions of values, one by one.
fn is_logistic(scores: &Scores) -> bool {
    scores.ending == Ending::Sigmoid && !scores.is_complement && scores.site.operator == "Sigmoid"
}

fn leaky(slope: f32) -> Option<Function> {
    slope.is_finite().then_some(Function::LeakyRelu { slope: slope.into() })
}
