//! What moves or renames axes.

use std::rc::Rc;

use ndarray::{ArrayD, IxDyn};

use super::super::importer::{Importer, Read, layout, refuse_gate};
use super::super::node::Node;
use super::super::proto::element;
use super::super::value::{Flow, Order, Scores, VIEWED_INPUT, Value, View};
use super::spatial::total;
use crate::error::Result;
use crate::import::Treatment;
use crate::tensor::Shape;

pub(super) const FIXED_SHAPES: &str = "export with fixed shapes (only the batch may vary)";

impl<'a> Importer<'a> {
    /// `Flatten` along axis 1.
    pub(in super::super) fn flatten_operator(&mut self, node: Node<'a>) -> Read {
        if node.int("axis", 1) != 1 {
            return Err(node.bad_attribute("axis", "1: the batch stays as it is").into());
        }
        if let Value::Scores(mut scores) = self.value(node, 0)? {
            scores.flow = self.flatten(node, &scores.flow)?;
            return Ok((Value::Scores(scores), Treatment::Layout));
        }
        let flow = self.flow(node, 0)?;
        Ok(layout(self.flatten(node, &flow)?))
    }

    /// `Reshape`, `Squeeze` and `Unsqueeze`, of constants, shapes and values alike.
    pub(in super::super) fn reshape(&mut self, node: Node<'a>) -> Read {
        match self.value(node, 0)? {
            Value::Flow(flow) => {
                let dims = self.target(node, &flow)?;
                Ok(layout(self.view_as(node, &flow, &dims)?))
            }
            Value::Scores(scores) if scores.is_pair => {
                let advice = "choose the output of the operation before: --output NAME";
                Err(node.unsupported("it moves pairs of probabilities", advice).into())
            }
            Value::Scores(mut scores) => {
                let dims = self.target(node, &scores.flow)?;
                scores.flow = self.view_as(node, &scores.flow, &dims)?;
                Ok((Value::Scores(scores), Treatment::Layout))
            }
            Value::Gate(gate) => Err(refuse_gate(&gate).into()),
            Value::Integers(integers) => self.integers_in_rows(node, integers),
            Value::Matrix(matrix) => self.rows_as_list(node, &matrix),
            Value::Array(array) => {
                let dims = self.constant_target(node, &array)?;
                self.budget.take(|| node.site().to_string(), array.len())?;
                let refuse = || node.bad_axes("constant", array.shape(), &dims);
                if total(&dims) != array.len() {
                    return Err(refuse().into());
                }
                let values = array.iter().copied().collect();
                let array = ArrayD::from_shape_vec(IxDyn(&dims), values).map_err(|_| refuse())?;
                Ok((Value::Array(Rc::new(array)), Treatment::Constant))
            }
        }
    }

    /// The axes after the batch axis that `node` gives to `flow`.
    fn target(&mut self, node: Node<'a>, flow: &Flow) -> Result<Vec<usize>> {
        let dims = flow.dims();
        let n: usize = total(&dims);
        let refuse = || node.unsupported("it changes the batch axis", FIXED_SHAPES);
        if node.operator() != "Reshape" {
            let mut all = dims.clone();
            all.insert(0, usize::MAX);
            let all = self.with_axes(node, all)?;
            return match all.split_first() {
                Some((&usize::MAX, rest)) => Ok(rest.to_vec()),
                _ => Err(refuse().into()),
            };
        }
        let Value::Integers(shape) = self.value(node, 1)? else {
            return Err(node.bad_input(1, "constant whole numbers").into());
        };
        let keeps_zero = node.int("allowzero", 0) == 0;
        let (first, rest) = shape.split_first().ok_or_else(refuse)?;
        let mut target = Vec::with_capacity(rest.len());
        let mut inferred = None;
        for (position, length) in rest.iter().enumerate() {
            target.push(match length {
                Some(0) if keeps_zero => dims.get(position).copied().ok_or_else(refuse)?,
                Some(-1) if inferred.is_none() => {
                    inferred = Some(position);
                    1
                }
                Some(length) => usize::try_from(*length).map_err(|_| refuse())?,
                None => return Err(refuse().into()),
            });
        }
        let known = total(&target).max(1);
        if let Some(slot) = inferred.and_then(|position| target.get_mut(position)) {
            *slot = n / known;
        }
        let keeps_batch = match *first {
            None | Some(-1) => true,
            Some(0) => keeps_zero,
            Some(length) => self.batch == Some(length),
        };
        if !keeps_batch || (*first == Some(-1) && inferred.is_some()) || total(&target) != n {
            return Err(refuse().into());
        }
        Ok(target)
    }

    /// The axes `node` gives to a constant.
    fn constant_target(&mut self, node: Node<'a>, array: &ArrayD<f32>) -> Result<Vec<usize>> {
        if node.operator() != "Reshape" {
            return self.with_axes(node, array.shape().to_vec());
        }
        let refuse = || node.bad_input(1, "the axes of the constant");
        let shape = self.integers(node, 1)?;
        let mut target = Vec::with_capacity(shape.len());
        let mut inferred = None;
        for (position, &length) in shape.iter().enumerate() {
            target.push(match length {
                0 => array.shape().get(position).copied().ok_or_else(refuse)?,
                -1 if inferred.is_none() => {
                    inferred = Some(position);
                    1
                }
                length => usize::try_from(length).map_err(|_| refuse())?,
            });
        }
        let known = total(&target).max(1);
        if let Some(slot) = inferred.and_then(|position| target.get_mut(position)) {
            *slot = array.len() / known;
        }
        Ok(target)
    }

    /// `dims` without or with the axes of length 1 that `Squeeze` or `Unsqueeze` names: an attribute
    /// until operator set 12, an input since.
    fn with_axes(&mut self, node: Node<'a>, mut dims: Vec<usize>) -> Result<Vec<usize>> {
        let refuse = || node.bad_attribute("axes", "axes of length 1, each once");
        let inserts = node.operator() == "Unsqueeze";
        let axes = match node.ints("axes") {
            Some(axes) => Some(axes.to_vec()),
            None if node.input(1).is_some() => Some(self.integers(node, 1)?),
            None => None,
        };
        let Some(axes) = axes else {
            if inserts {
                return Err(refuse().into());
            }
            dims.retain(|&dim| dim != 1);
            return Ok(dims);
        };
        let rank = dims.len() + if inserts { axes.len() } else { 0 };
        let mut axes = axes
            .into_iter()
            .map(|axis| {
                let axis =
                    if axis < 0 { axis.checked_add(i64::try_from(rank).ok()?)? } else { axis };
                usize::try_from(axis).ok().filter(|&axis| axis < rank && rank <= 8)
            })
            .collect::<Option<Vec<_>>>()
            .ok_or_else(refuse)?;
        axes.sort_unstable();
        axes.dedup();
        if inserts {
            for axis in axes {
                if axis > dims.len() {
                    return Err(refuse().into());
                }
                dims.insert(axis, 1);
            }
        } else {
            for axis in axes.into_iter().rev() {
                if dims.get(axis) != Some(&1) {
                    return Err(refuse().into());
                }
                dims.remove(axis);
            }
        }
        Ok(dims)
    }

    /// `flow` with other axes for the same values in the same order.
    fn view_as(&mut self, node: Node<'a>, flow: &Flow, dims: &[usize]) -> Result<Flow> {
        if flow.dims() == dims {
            return Ok(flow.clone());
        }
        if let [_] = dims {
            return self.flatten(node, flow);
        }
        let image = flow.shape.as_image();
        let with_view = |view| Ok(Flow { view, ..flow.clone() });
        match (dims, image) {
            // With one channel, its axis may stand anywhere.
            (&[first, second], Some((h, w, 1))) if (first, second) == (h, w) => {
                with_view(View::Plane)
            }
            (&[1, second, third], Some((h, w, 1))) if (second, third) == (h, w) => {
                with_view(View::ChannelsFirst)
            }
            (&[first, second, 1], Some((h, w, 1))) if (first, second) == (h, w) => {
                with_view(View::ChannelsLast)
            }
            // An input given as a vector that is an image of one channel.
            (&[1, height, width] | &[height, width, 1] | &[height, width], None)
                if flow.base == 0 && flow.polynomial.is_uniform() =>
            {
                let view = match dims {
                    [_, _] => View::Plane,
                    [1, _, _] => View::ChannelsFirst,
                    _ => View::ChannelsLast,
                };
                let shape = Shape::image(height, width, 1)?;
                if self.viewed.as_ref().is_some_and(|viewed| *viewed != shape) {
                    let reason = "another reshape makes an image of other axes of the same input";
                    let advice = "read the input as images of one shape";
                    return Err(node.unsupported(reason, advice).into());
                }
                self.viewed = Some(shape.clone());
                Ok(Flow { base: VIEWED_INPUT, shape, view, ..flow.clone() })
            }
            _ => {
                let reason = "it makes an image of other axes";
                let advice = "reshape images to vectors only";
                Err(node.unsupported(reason, advice).into())
            }
        }
    }

    /// `Transpose` between channel-first and channel-last images, or of constants.
    pub(in super::super) fn transpose(&mut self, node: Node<'a>) -> Read {
        let permutation = node.ints("perm");
        let mut value = self.value(node, 0)?;
        if let Value::Scores(scores) = &value {
            value = Value::Flow(self.unfinished(node, scores)?);
        }
        match value {
            Value::Array(array) => {
                let rank = array.ndim();
                let axes = match permutation {
                    None => (0..rank).rev().collect::<Vec<_>>(),
                    Some(axes) => axes.iter().filter_map(|&a| usize::try_from(a).ok()).collect(),
                };
                let mut sorted = axes.clone();
                sorted.sort_unstable();
                if !sorted.iter().copied().eq(0..rank) {
                    return Err(node.bad_attribute("perm", "every axis once").into());
                }
                self.budget.take(|| node.site().to_string(), array.len())?;
                let array = array.view().permuted_axes(IxDyn(&axes));
                let array = array.as_standard_layout().into_owned();
                Ok((Value::Array(Rc::new(array)), Treatment::Constant))
            }
            Value::Flow(flow) => {
                let view = match (flow.view, permutation) {
                    (View::ChannelsFirst, Some(&[0, 2, 3, 1])) => View::ChannelsLast,
                    (View::ChannelsLast, Some(&[0, 3, 1, 2])) => View::ChannelsFirst,
                    (view, Some(axes))
                        if axes.iter().zip(0_i64..).all(|(&axis, idx)| axis == idx) =>
                    {
                        view
                    }
                    _ => {
                        let reason = "it does not exchange channel-first and channel-last images";
                        return Err(node.unsupported(reason, "keep images upright").into());
                    }
                };
                Ok(layout(Flow { view, ..flow }))
            }
            Value::Matrix(matrix) if matches!(permutation, None | Some([1, 0])) => {
                let matrix = matrix.t().as_standard_layout().into_owned();
                Ok((Value::Matrix(Rc::new(matrix)), Treatment::Constant))
            }
            Value::Gate(gate) => Err(refuse_gate(&gate).into()),
            Value::Integers(_) | Value::Matrix(_) | Value::Scores(_) => {
                Err(node.bad_input(0, "floating-point numbers").into())
            }
        }
    }

    /// `Identity`, `Dropout` outside training, and casts between floating-point types.
    pub(in super::super) fn pass(&mut self, node: Node<'a>) -> Read {
        let value = self.value(node, 0)?;
        if node.operator() == "Dropout"
            && node.input(2).is_some()
            && self.integers(node, 2)?.iter().any(|&is_training| is_training != 0)
        {
            return Err(node.bad_input(2, "false: export in evaluation mode").into());
        }
        if node.operator() == "CastLike" {
            let target = self.value(node, 1)?;
            let is_integer = |v: &Value| matches!(v, Value::Integers(_) | Value::Matrix(_));
            if is_integer(&value) != is_integer(&target) {
                return Err(node
                    .bad_input(1, "of a type that keeps the values as they are")
                    .into());
            }
        }
        if node.operator() == "Cast" {
            let target = i32::try_from(node.int("to", 0)).unwrap_or(0);
            let is_integer = matches!(target, element::INT32 | element::INT64);
            let is_float = matches!(target, element::FLOAT | element::DOUBLE);
            let fits = match &value {
                Value::Integers(_) | Value::Matrix(_) => is_integer,
                Value::Flow(_) | Value::Scores(_) | Value::Gate(_) | Value::Array(_) => is_float,
            };
            if !fits {
                let requirement = "a type that keeps the values as they are";
                return Err(node.bad_attribute("to", requirement).into());
            }
        }
        Ok((value, Treatment::Dropped))
    }

    /// `Concat` of shapes, or of a probability with its complement.
    pub(in super::super) fn concat(&mut self, node: Node<'a>) -> Read {
        let values = (0..node.proto.input.len())
            .map(|index| self.value(node, index))
            .collect::<Result<Vec<_>>>()?;
        if let [Value::Scores(first), Value::Scores(second)] = values.as_slice() {
            let is_pair = first.is_complement
                && !second.is_complement
                && first.ending == second.ending
                && first.flow.is_same(&second.flow)
                && second.flow.shape.len() == 1
                && second.flow.view == View::Features(Order::Same)
                && matches!(node.int("axis", i64::MIN), 1 | -1);
            if !is_pair {
                let reason = "its columns are not one minus a probability and that probability";
                let advice = "choose the output that holds the scores: --output NAME";
                return Err(node.unsupported(reason, advice).into());
            }
            return Ok((Value::Scores(Scores { is_pair, ..second.clone() }), Treatment::Dropped));
        }
        let mut shape = Vec::new();
        for value in values {
            let Value::Integers(integers) = value else {
                return self.join_channels(node);
            };
            self.budget.take(|| node.site().to_string(), 4 * integers.len())?;
            shape.extend_from_slice(&integers);
        }
        Ok((Value::Integers(Rc::new(shape)), Treatment::Constant))
    }
}
