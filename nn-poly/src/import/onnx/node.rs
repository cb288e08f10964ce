//! One node with its operator set: typed access to names and attributes.

use super::super::{ImportError, NodeSite};
use super::proto::{AttributeProto, NodeProto, TensorProto};

pub(super) type Outcome<T> = Result<T, ImportError>;

/// A node of the graph.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    pub(super) proto: &'a NodeProto,
    /// Version of its operator set.
    pub(super) opset: i64,
}

impl<'a> Node<'a> {
    /// Operator in the form `Relu` or `ai.onnx.ml.Scaler`.
    pub(super) fn operator(&self) -> String {
        match self.proto.domain.as_str() {
            "" | "ai.onnx" => self.proto.op_type.clone(),
            domain => format!("{domain}.{}", self.proto.op_type),
        }
    }

    /// Where this is, for messages.
    pub(super) fn site(&self) -> NodeSite {
        let first_output = || self.proto.output.first().map_or("", String::as_str);
        let name = self.proto.name.as_str();
        let node = if name.is_empty() { first_output() } else { name };
        let short = |text: &str| text.chars().take(80).collect::<String>();
        NodeSite { operator: short(&self.operator()), node: short(node), opset: self.opset }
    }

    /// Refuse a form of this operator.
    pub(super) fn unsupported(&self, reason: &'static str, advice: &'static str) -> ImportError {
        ImportError::Unsupported { site: self.site(), reason, advice }
    }

    /// Refuse the value of an attribute.
    pub(super) fn bad_attribute(
        &self,
        attribute: &'static str,
        requirement: &'static str,
    ) -> ImportError {
        ImportError::Attribute { site: self.site(), attribute, requirement }
    }

    /// Refuse an input.
    pub(super) fn bad_input(&self, index: usize, requirement: &'static str) -> ImportError {
        ImportError::Input { site: self.site(), index, requirement }
    }

    /// Refuse the axes of an array.
    pub(super) fn bad_axes(
        &self,
        what: &'static str,
        expected: &[usize],
        actual: &[usize],
    ) -> ImportError {
        let (expected, actual) = (expected.to_vec(), actual.to_vec());
        ImportError::Axes { site: self.site(), what, expected, actual }
    }

    /// Name of input `index`, if it is there; optional inputs have an empty name.
    pub(super) fn input(&self, index: usize) -> Option<&'a str> {
        self.proto.input.get(index).map(String::as_str).filter(|name| !name.is_empty())
    }

    fn attribute(&self, name: &str) -> Option<&'a AttributeProto> {
        self.proto.attribute.iter().find(|attribute| attribute.name == name)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.attribute(name).is_some()
    }

    pub(super) fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |attribute| attribute.i)
    }

    pub(super) fn float(&self, name: &str, default: f32) -> f32 {
        self.attribute(name).map_or(default, |attribute| attribute.f)
    }

    pub(super) fn ints(&self, name: &str) -> Option<&'a [i64]> {
        self.attribute(name).map(|attribute| attribute.ints.as_slice())
    }

    pub(super) fn floats(&self, name: &str) -> Option<&'a [f32]> {
        self.attribute(name).map(|attribute| attribute.floats.as_slice())
    }

    pub(super) fn tensor(&self, name: &str) -> Option<&'a TensorProto> {
        self.attribute(name).and_then(|attribute| attribute.t.as_ref())
    }

    /// A word; other bytes than UTF-8 are no known word.
    pub(super) fn word(&self, name: &str, default: &'static str) -> &'a str {
        self.attribute(name)
            .map_or(default, |attribute| std::str::from_utf8(&attribute.s).unwrap_or("not a word"))
    }

    /// `n` whole numbers, each at least `min`; `default` if absent.
    pub(super) fn counts<const N: usize>(
        &self,
        name: &'static str,
        (default, min): (usize, usize),
        requirement: &'static str,
    ) -> Outcome<[usize; N]> {
        let Some(values) = self.ints(name) else { return Ok([default; N]) };
        let bad = || self.bad_attribute(name, requirement);
        let values = values
            .iter()
            .map(|&v| usize::try_from(v).ok().filter(|&v| v >= min && v <= MAX_EXTENT))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(bad)?;
        values.try_into().map_err(|_| bad())
    }
}

/// Largest kernel, stride, padding or the like: longer than any axis of a sample.
pub(super) const MAX_EXTENT: usize = crate::tensor::Shape::MAX_VALUES;
