//! Constants, and the arithmetic of shapes and paddings that exporters leave in a graph.

use std::rc::Rc;

use ndarray::{Array2, ArrayD, Axis, IxDyn};

use super::super::importer::{Importer, Read};
use super::super::node::Node;
use super::super::value::Value;
use super::shapes::FIXED_SHAPES;
use super::spatial::total;
use crate::error::Result;
use crate::import::Treatment;

/// Why a list or a matrix of whole numbers is refused.
const NO_SUCH_ROWS: &str = "one or two axes for whole numbers";

impl<'a> Importer<'a> {
    /// `Constant`.
    pub(in super::super) fn constant_operator(&mut self, node: Node<'a>) -> Read {
        let name = node.proto.output.first().map_or("", String::as_str);
        let array = |values: Vec<f32>, dims: &[usize]| {
            let array = ArrayD::from_shape_vec(IxDyn(dims), values);
            array.map(|array| Value::Array(Rc::new(array)))
        };
        let refuse = || node.bad_attribute("value", "a tensor, or numbers that are finite");
        let integers =
            |values: &[i64]| Value::Integers(Rc::new(values.iter().copied().map(Some).collect()));
        let value = if let Some(tensor) = node.tensor("value") {
            self.constant(name, tensor)?
        } else if node.has("value_float") {
            array(vec![node.float("value_float", 0.0)], &[]).map_err(|_| refuse())?
        } else if let Some(values) = node.floats("value_floats") {
            array(values.to_vec(), &[values.len()]).map_err(|_| refuse())?
        } else if node.has("value_int") {
            integers(&[node.int("value_int", 0)])
        } else if let Some(values) = node.ints("value_ints") {
            integers(values)
        } else {
            return Err(refuse().into());
        };
        if matches!(&value, Value::Array(array) if array.iter().any(|v| !v.is_finite())) {
            return Err(refuse().into());
        }
        Ok((value, Treatment::Constant))
    }

    /// `ConstantOfShape`: one value, as often as a constant shape says.
    pub(in super::super) fn constant_of_shape(&mut self, node: Node<'a>) -> Read {
        const ONE: &str = "a tensor of one value";
        let lengths = self.integers(node, 0)?;
        let lengths = lengths.iter().map(|&n| usize::try_from(n).ok()).collect::<Option<Vec<_>>>();
        let dims = lengths.filter(|dims| dims.len() <= 8);
        let dims = dims.ok_or_else(|| node.bad_input(0, "the axes of a constant"))?;
        let n = total(&dims);
        self.budget.take(|| node.site().to_string(), n.saturating_mul(4))?;
        let name = node.proto.output.first().map_or("", String::as_str);
        let value = match node.tensor("value") {
            Some(tensor) => self.constant(name, tensor)?,
            None => Value::Array(Rc::new(ArrayD::zeros(IxDyn(&[1])))),
        };
        let value = match (value, dims.as_slice()) {
            (Value::Integers(values), &[n]) if values.len() == 1 => {
                let value = values.first().copied().flatten();
                Value::Integers(Rc::new(vec![value; n]))
            }
            (Value::Array(values), dims) if values.len() == 1 => {
                let value = values.first().copied().unwrap_or(0.0);
                Value::Array(Rc::new(ArrayD::from_elem(IxDyn(dims), value)))
            }
            _ => return Err(node.bad_attribute("value", ONE).into()),
        };
        Ok((value, Treatment::Constant))
    }

    /// `Reshape` of a list of whole numbers; `Squeeze` and `Unsqueeze` make nothing of them but lists and
    /// single numbers, which are not told apart.
    pub(super) fn integers_in_rows(&mut self, node: Node<'a>, list: Rc<Vec<Option<i64>>>) -> Read {
        let dims = if node.operator() == "Reshape" { self.integers(node, 1)? } else { vec![-1] };
        let refuse = || node.bad_input(1, NO_SUCH_ROWS);
        let &[rows, columns] = dims.as_slice() else {
            let is_list = match dims.as_slice() {
                [] => list.len() == 1,
                &[n] => n == -1 || usize::try_from(n) == Ok(list.len()),
                _ => false,
            };
            return match is_list {
                true => Ok((Value::Integers(list), Treatment::Constant)),
                false => Err(refuse().into()),
            };
        };
        let extent = |wanted: i64, other: i64| match wanted {
            -1 => list.len().checked_div(usize::try_from(other).ok()?),
            wanted => usize::try_from(wanted).ok(),
        };
        let extents = extent(rows, columns).zip(extent(columns, rows));
        let values = list.iter().copied().collect::<Option<Vec<i64>>>();
        let matrix = extents.zip(values).and_then(|((rows, columns), values)| {
            // Without values, the axes could be of any length.
            (!values.is_empty()).then_some(())?;
            Array2::from_shape_vec((rows, columns), values).ok()
        });
        let matrix = matrix.ok_or_else(refuse)?;
        self.budget.take(|| node.site().to_string(), 2 * matrix.len())?;
        Ok((Value::Matrix(Rc::new(matrix)), Treatment::Constant))
    }

    /// `Reshape` of rows of whole numbers back to a list.
    pub(super) fn rows_as_list(&mut self, node: Node<'a>, matrix: &Array2<i64>) -> Read {
        let list = Rc::new(matrix.iter().copied().map(Some).collect::<Vec<_>>());
        self.budget.take(|| node.site().to_string(), 4 * list.len())?;
        if node.operator() != "Reshape" {
            return Err(node.bad_input(0, "a list of whole numbers").into());
        }
        self.integers_in_rows(node, list)
    }

    /// `Shape` of values, and `Gather` and `Slice` of shapes and paddings.
    pub(in super::super) fn shape_arithmetic(&mut self, node: Node<'a>) -> Read {
        let refuse = || node.unsupported("it picks values apart", FIXED_SHAPES);
        let value = match (node.operator().as_str(), self.value(node, 0)?) {
            ("Shape", Value::Flow(flow)) if !node.has("start") && !node.has("end") => {
                let dims = flow.dims().into_iter().map(|dim| i64::try_from(dim).ok());
                Value::Integers(Rc::new(std::iter::once(None).chain(dims).collect()))
            }
            ("Gather", Value::Integers(shape)) => {
                let indices = self.integers(node, 1)?;
                self.budget.take(|| node.site().to_string(), 4 * indices.len())?;
                let pick = |&idx: &i64| shape.get(wrap(idx, shape.len())?).copied();
                let picked = indices.iter().map(pick).collect::<Option<Vec<_>>>();
                Value::Integers(Rc::new(picked.ok_or_else(refuse)?))
            }
            ("Slice", Value::Integers(list)) => {
                let (_, positions) = self.slice(node, |_| list.len())?;
                let pick = |idx: &usize| list.get(*idx).copied();
                Value::Integers(Rc::new(positions.iter().filter_map(pick).collect()))
            }
            ("Slice", Value::Matrix(matrix)) => {
                let (axis, positions) =
                    self.slice(node, |axis| matrix.len_of(Axis(axis.min(1))))?;
                self.budget.take(|| node.site().to_string(), 2 * matrix.len())?;
                let axis = Axis(usize::from(axis != 0));
                Value::Matrix(Rc::new(matrix.select(axis, &positions)))
            }
            _ => return Err(refuse().into()),
        };
        Ok((value, Treatment::Constant))
    }

    /// The axis that a `Slice` along one axis cuts, and the positions that are left; `len` is the length of
    /// an axis.
    fn slice(
        &mut self,
        node: Node<'a>,
        len: impl Fn(usize) -> usize,
    ) -> Result<(usize, Vec<usize>)> {
        let refuse = || node.unsupported("it picks values apart", FIXED_SHAPES);
        let [start, end] = [self.integers(node, 1)?, self.integers(node, 2)?];
        let mut number = |index: usize, default: i64| -> Result<i64> {
            if node.input(index).is_none() {
                return Ok(default);
            }
            match self.integers(node, index)?.as_slice() {
                &[number] => Ok(number),
                _ => Err(refuse().into()),
            }
        };
        let (axis, step) = (number(3, 0)?, number(4, 1)?);
        let (&[start], &[end]) = (start.as_slice(), end.as_slice()) else {
            return Err(refuse().into());
        };
        let axis = usize::try_from(axis).ok().filter(|&axis| axis < 2).ok_or_else(refuse)?;
        let n = len(axis);
        let positions = sliced(n, (start, end), step).ok_or_else(refuse)?;
        self.budget.take(|| node.site().to_string(), 4 * positions.len())?;
        Ok((axis, positions))
    }
}

/// The positions of `0..n` that a slice keeps: those from `start` on in steps of 1 or −1, before `end`.
fn sliced(n: usize, (start, end): (i64, i64), step: i64) -> Option<Vec<usize>> {
    let len = i64::try_from(n).ok()?;
    let from_start = |idx: i64| if idx < 0 { idx.saturating_add(len) } else { idx };
    let (start, end) = (from_start(start), from_start(end));
    let positions: Vec<i64> = match step {
        1 => (start.clamp(0, len)..end.clamp(0, len)).collect(),
        -1 => {
            let last = (len - 1).max(-1);
            (end.clamp(-1, last) + 1..=start.clamp(-1, last)).rev().collect()
        }
        _ => return None,
    };
    positions.into_iter().map(|position| usize::try_from(position).ok()).collect()
}

/// Index `idx` of a list of `n`, negative ones counted from the end.
fn wrap(idx: i64, n: usize) -> Option<usize> {
    let n = i64::try_from(n).ok()?;
    let idx = if idx < 0 { idx.checked_add(n)? } else { idx };
    usize::try_from(idx).ok().filter(|_| idx < n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_those_of_the_standard() {
        let all = |positions: &[usize]| Some(positions.to_vec());
        assert_eq!(sliced(4, (1, 3), 1), all(&[1, 2]));
        assert_eq!(sliced(4, (-2, i64::MAX), 1), all(&[2, 3]));
        assert_eq!(sliced(4, (-9, 2), 1), all(&[0, 1]));
        assert_eq!(sliced(4, (3, 1), 1), all(&[]));
        assert_eq!(sliced(4, (-1, i64::MIN), -1), all(&[3, 2, 1, 0]));
        assert_eq!(sliced(4, (9, 1), -1), all(&[3, 2]));
        assert_eq!(sliced(0, (-1, i64::MIN), -1), all(&[]));
        assert_eq!(sliced(4, (0, 4), 2), None);
    }
}
