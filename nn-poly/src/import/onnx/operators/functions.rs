//! Activations that are no polynomials.

use std::rc::Rc;

use super::super::importer::{Importer, Read, refuse_gate, refuse_scores};
use super::super::node::Node;
use super::super::value::{Flow, Gate, Polynomial, Scores, Value};
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
                "tanh" => Function::GeluTanh,
                _ => return Err(node.bad_attribute("approximate", "none or tanh").into()),
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
        let is_same = scores.flow.is_same(flow);
        if node.operator() != "Mul" || !is_logistic(scores) || !is_same {
            return Ok(None);
        }
        self.mark(scores, Function::Silu.kind());
        self.activate(node, flow, Function::Silu).map(Some)
    }

    /// `Erf`, which the arithmetic behind it makes a GELU.
    pub(in super::super) fn error_function(&mut self, node: Node<'a>) -> Read {
        let flow = self.flow(node, 0)?;
        let gate = Gate { flow, scale: 1.0, offset: 0.0, site: node.site() };
        Ok((Value::Gate(gate), Treatment::Activation(Function::Gelu.kind())))
    }

    /// Arithmetic of an error function with one constant, or its product with the values it gates.
    pub(super) fn gate_arithmetic(
        &mut self,
        node: Node<'a>,
        gate: &Gate,
        other: &Value,
        is_first: bool,
    ) -> Read {
        let refuse = || refuse_gate(gate);
        if let (Value::Flow(flow), "Mul") = (other, node.operator().as_str()) {
            return self.gelu(node, flow, gate);
        }
        let Value::Array(array) = other else { return Err(refuse().into()) };
        let constant = array.first().copied().filter(|_| array.len() == 1).map(f64::from);
        let constant = constant.ok_or_else(refuse)?;
        let (scale, offset) = match (node.operator().as_str(), is_first) {
            ("Add", _) => (gate.scale, gate.offset + constant),
            ("Sub", true) => (gate.scale, gate.offset - constant),
            ("Sub", false) => (-gate.scale, constant - gate.offset),
            ("Mul", _) => (gate.scale * constant, gate.offset * constant),
            ("Div", true) if constant != 0.0 => (gate.scale / constant, gate.offset / constant),
            _ => return Err(refuse().into()),
        };
        let gate = Gate { scale, offset, ..gate.clone() };
        Ok((Value::Gate(gate), Treatment::Activation(Function::Gelu.kind())))
    }

    /// `x · s (1 + erf(z))`, where `x = k √2 z` for a constant `k`: `2 k s · gelu(x / k)`.
    fn gelu(&mut self, node: Node<'a>, flow: &Flow, gate: &Gate) -> Read {
        let refuse = || refuse_gate(gate);
        let is_gate = gate.scale == gate.offset && gate.scale != 0.0;
        let is_seen_alike = flow.base == gate.flow.base
            && flow.view == gate.flow.view
            && flow.shape == gate.flow.shape;
        if !is_gate || !is_seen_alike {
            return Err(refuse().into());
        }
        let scaled = |polynomial: &Polynomial, factor: f64| {
            polynomial.product(&Polynomial::affine(vec![0.0], vec![factor]))
        };
        let gated = scaled(&gate.flow.polynomial, std::f64::consts::SQRT_2).ok_or_else(refuse)?;
        let ratio = flow.polynomial.ratio_to(&gated).ok_or_else(refuse)?;
        let polynomial = scaled(&flow.polynomial, ratio.recip()).ok_or_else(refuse)?;
        self.budget.take(|| node.site().to_string(), 3 * polynomial.len())?;
        let read = Flow { polynomial: Rc::new(polynomial), ..flow.clone() };
        let (value, treatment) = self.activate(node, &read, Function::Gelu)?;
        let factor = 2.0 * ratio * gate.scale;
        let Value::Flow(flow) = value else { return Ok((value, treatment)) };
        let (value, _) = self.affine(node, flow, vec![factor], vec![0.0])?;
        Ok((value, treatment))
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
    scores.ending == Ending::Sigmoid
        && !scores.is_complement
        && !scores.is_pair
        && scores.site.operator == "Sigmoid"
}

fn leaky(slope: f32) -> Option<Function> {
    slope.is_finite().then_some(Function::LeakyRelu { slope: slope.into() })
}
