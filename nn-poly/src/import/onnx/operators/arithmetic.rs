//! Arithmetic value by value: polynomials per channel, ReLU and clamps.

use std::rc::Rc;

use ndarray::{ArrayD, IxDyn, Zip};

use super::super::importer::{Importer, Read, USE_POLYNOMIAL, refuse_gate};
use super::super::node::Node;
use super::super::value::{Flow, Polynomial, Value, View};
use super::spatial::total;
use crate::error::Result;
use crate::import::Treatment;
use crate::layer::{Activation, Clamp, Layer};

/// Numbers at least this large limit nothing: exporters write the largest float for "no limit".
const UNLIMITED: f32 = 1e30;

impl<'a> Importer<'a> {
    /// `Add`, `Sub`, `Mul`, `Div` of values that depend on the input, of constants, or of both.
    pub(in super::super) fn arithmetic(&mut self, node: Node<'a>) -> Read {
        let (left, right) = (self.value(node, 0)?, self.value(node, 1)?);
        if let (Value::Flow(flow), Value::Scores(scores))
        | (Value::Scores(scores), Value::Flow(flow)) = (&left, &right)
            && let Some(read) = self.gated(node, flow, scores)?
        {
            return Ok(read);
        }
        if let (Value::Gate(gate), other) | (other, Value::Gate(gate)) = (&left, &right) {
            let is_first = matches!(left, Value::Gate(_));
            return self.gate_arithmetic(node, gate, other, is_first);
        }
        self.combine(node, left, right)
    }

    fn combine(&mut self, node: Node<'a>, left: Value, right: Value) -> Read {
        match (left, right) {
            (Value::Array(left), Value::Array(right)) => self.constants(node, &left, &right),
            (Value::Flow(flow), Value::Array(array)) => {
                let values = coefficients(node, &flow, &array)?;
                let (scale, offset) = match node.operator().as_str() {
                    "Add" => (vec![1.0], values),
                    "Sub" => (vec![1.0], values.iter().map(|v| -v).collect()),
                    "Mul" => (values, vec![0.0]),
                    _ if values.contains(&0.0) => {
                        return Err(node.bad_input(1, "without zeros").into());
                    }
                    _ => (values.iter().map(|v| v.recip()).collect(), vec![0.0]),
                };
                self.affine(node, flow, scale, offset)
            }
            (Value::Array(array), Value::Flow(flow)) => {
                let values = coefficients(node, &flow, &array)?;
                match node.operator().as_str() {
                    "Add" => self.affine(node, flow, vec![1.0], values),
                    "Sub" => self.affine(node, flow, vec![-1.0], values),
                    "Mul" => self.affine(node, flow, values, vec![0.0]),
                    _ => Err(node
                        .unsupported("it divides by computed values", USE_POLYNOMIAL)
                        .into()),
                }
            }
            (Value::Flow(left), Value::Flow(right)) => self.both(node, left, &right),
            (Value::Array(array), Value::Scores(mut scores))
                if node.operator() == "Sub"
                    && array.len() == 1
                    && array.iter().all(|&v| v == 1.0)
                    && !scores.is_complement
                    && !scores.is_pair =>
            {
                scores.is_complement = true;
                Ok((Value::Scores(scores), Treatment::Dropped))
            }
            (left @ Value::Scores(_), right) | (left, right @ Value::Scores(_)) => {
                let finished = |importer: &mut Self, value| {
                    let Value::Scores(scores) = value else { return Ok(value) };
                    importer.unfinished(node, &scores).map(Value::Flow)
                };
                let (left, right) = (finished(self, left)?, finished(self, right)?);
                self.combine(node, left, right)
            }
            (Value::Gate(gate), _) | (_, Value::Gate(gate)) => Err(refuse_gate(&gate).into()),
            (Value::Integers(_) | Value::Matrix(_), _)
            | (_, Value::Integers(_) | Value::Matrix(_)) => {
                let advice = "export with fixed shapes (only the batch may vary)";
                Err(node.unsupported("it computes a shape", advice).into())
            }
        }
    }

    /// Two polynomials of the same values.
    fn both(&mut self, node: Node<'a>, left: Flow, right: &Flow) -> Read {
        let operator = node.operator();
        if left.base != right.base || left.view != right.view || left.shape != right.shape {
            return self.join_arithmetic(node, &left, right);
        }
        let minus = Polynomial::affine(vec![0.0], vec![-1.0]);
        let polynomial = match operator.as_str() {
            "Add" => Some(left.polynomial.sum(&right.polynomial)),
            "Sub" => right.polynomial.product(&minus).map(|p| left.polynomial.sum(&p)),
            "Mul" => left.polynomial.product(&right.polynomial),
            _ => None,
        };
        let refuse = || node.unsupported("it is no polynomial of degree 2 or less", USE_POLYNOMIAL);
        let polynomial = polynomial.ok_or_else(refuse)?;
        self.with_polynomial(node, left, polynomial, Treatment::Activation("polynomial"))
    }

    /// Arithmetic of constants, with broadcasting.
    fn constants(&mut self, node: Node<'a>, left: &ArrayD<f32>, right: &ArrayD<f32>) -> Read {
        let refuse = || node.bad_axes("second operand", left.shape(), right.shape());
        let rank = left.ndim().max(right.ndim());
        let axis = |array: &ArrayD<f32>, idx: usize| {
            (idx + array.ndim()).checked_sub(rank).and_then(|i| array.shape().get(i).copied())
        };
        let dims = (0..rank)
            .map(|idx| match (axis(left, idx).unwrap_or(1), axis(right, idx).unwrap_or(1)) {
                (a, b) if a == b || b == 1 => Some(a),
                (1, b) => Some(b),
                _ => None,
            })
            .collect::<Option<Vec<_>>>()
            .ok_or_else(refuse)?;
        self.budget.take(|| node.site().to_string(), total(&dims))?;
        let (left, right) =
            left.broadcast(IxDyn(&dims)).zip(right.broadcast(IxDyn(&dims))).ok_or_else(refuse)?;
        let operation: fn(f32, f32) -> f32 = match node.operator().as_str() {
            "Add" => |a, b| a + b,
            "Sub" => |a, b| a - b,
            "Mul" => |a, b| a * b,
            _ => |a, b| a / b,
        };
        let result = Zip::from(left).and(right).map_collect(|&a, &b| operation(a, b));
        if result.iter().any(|v| !v.is_finite()) {
            return Err(node.bad_input(1, "such that the result is finite").into());
        }
        Ok((Value::Array(Rc::new(result)), Treatment::Constant))
    }

    /// `Pow` with exponent 1 or 2.
    pub(in super::super) fn power(&mut self, node: Node<'a>) -> Read {
        let flow = self.flow(node, 0)?;
        let exponent = match self.value(node, 1)? {
            Value::Array(array) if array.len() == 1 => array.first().copied(),
            Value::Integers(integers) => match integers.as_slice() {
                [Some(1)] => Some(1.0),
                [Some(2)] => Some(2.0),
                _ => None,
            },
            Value::Array(_)
            | Value::Flow(_)
            | Value::Scores(_)
            | Value::Gate(_)
            | Value::Matrix(_) => None,
        };
        if exponent == Some(1.0) {
            return Ok((Value::Flow(flow), Treatment::Dropped));
        }
        let square = (exponent == Some(2.0)).then(|| flow.polynomial.product(&flow.polynomial));
        let refuse = || node.unsupported("only squares are computed", USE_POLYNOMIAL);
        let polynomial = square.flatten().ok_or_else(refuse)?;
        self.with_polynomial(node, flow, polynomial, Treatment::Activation("polynomial"))
    }

    /// `Neg`.
    pub(in super::super) fn negate(&mut self, node: Node<'a>) -> Read {
        let flow = self.flow(node, 0)?;
        self.affine(node, flow, vec![-1.0], vec![0.0])
    }

    /// `Relu`.
    pub(in super::super) fn relu(&mut self, node: Node<'a>) -> Read {
        let flow = self.flow(node, 0)?;
        let flow = self.apply(node, &flow, Layer::Activation(Activation::Relu))?;
        Ok((Value::Flow(flow), Treatment::Activation("relu")))
    }

    /// `Clip` from 0 (or nothing) to a limit (or nothing): ReLU, clamp, or both.
    pub(in super::super) fn clip(&mut self, node: Node<'a>) -> Read {
        let mut flow = self.flow(node, 0)?;
        let min = self.limit(node, 1)?.filter(|&v| v > -UNLIMITED);
        let max = self.limit(node, 2)?.filter(|&v| v < UNLIMITED);
        match min {
            Some(0.0) => {
                flow = self.apply(node, &flow, Layer::Activation(Activation::Relu))?;
            }
            None => {}
            Some(_) => {
                return Err(node.bad_input(1, "0 or absent: no layer has another limit").into());
            }
        }
        if let Some(limit) = max {
            flow = self.apply(node, &flow, Layer::Clamp(Clamp { limit }))?;
        }
        Ok((Value::Flow(flow), Treatment::Activation(if min.is_some() { "relu" } else { "clamp" })))
    }

    fn limit(&mut self, node: Node<'a>, index: usize) -> Result<Option<f32>> {
        if node.input(index).is_none() {
            return Ok(None);
        }
        let array = self.array(node, index)?;
        match (array.len(), array.first()) {
            (1, Some(&limit)) => Ok(Some(limit)),
            _ => Err(node.bad_input(index, "one number").into()),
        }
    }
}

/// Constants that meet a flow, as one per channel of this crate's layout or one for all.
fn coefficients(node: Node<'_>, flow: &Flow, array: &ArrayD<f32>) -> Result<Vec<f64>> {
    if let (1, Some(&value)) = (array.len(), array.first()) {
        return Ok(vec![f64::from(value)]);
    }
    // The axes of the flow, batch first; those of the constants are aligned at the end.
    let dims = flow.dims();
    let channel_axis = match flow.view {
        View::ChannelsFirst => 1,
        View::ChannelsLast => 3,
        View::Plane => usize::MAX,
        View::Features(_) => 1,
    };
    let rank = dims.len() + 1;
    let n = flow.shape.channels();
    let fits =
        array.ndim() <= rank
            && array.shape().iter().rev().enumerate().all(|(from_end, &dim)| {
                dim == if rank - 1 - from_end == channel_axis { n } else { 1 }
            });
    if !fits {
        let advice = "only one constant per channel (or one for all) can be folded into a layer";
        let reason = "its constants differ from position to position, or have other axes";
        return Err(node.unsupported(reason, advice).into());
    }
    let values = array.iter().copied().map(f64::from).collect::<Vec<_>>();
    let position = |idx| match flow.view {
        View::Features(order) => order.position(idx),
        View::ChannelsFirst | View::ChannelsLast | View::Plane => idx,
    };
    Ok((0..n).map(|idx| values.get(position(idx)).copied().unwrap_or(0.0)).collect())
}
