//! Where two branches of a graph meet.
//!
//! A [`crate::Network`] is a sequence of layers, so every join is refused here, and only here. With layers
//! that read several others, these functions are the place to write down such a step: both flows are
//! settled (their polynomials are steps of their own) and see their values in the same order once their
//! views agree.

use super::super::importer::{Importer, Read, USE_POLYNOMIAL};
use super::super::node::Node;
use super::super::value::Flow;

const ADVICE: &str = "networks are sequences of layers for now: export one without branches";

impl<'a> Importer<'a> {
    /// `Add` or `Sub` of flows from different steps: a residual connection. `Mul` and `Div` of such
    /// flows are no polynomials of one of them.
    pub(in super::super) fn join_arithmetic(
        &mut self,
        node: Node<'a>,
        _left: &Flow,
        _right: &Flow,
    ) -> Read {
        Err(match node.operator().as_str() {
            "Add" | "Sub" => {
                node.unsupported("it joins two branches (a residual connection)", ADVICE)
            }
            _ => node.unsupported("it multiplies two branches", USE_POLYNOMIAL),
        }
        .into())
    }

    /// `Concat` of flows: their channels one after the other.
    pub(in super::super) fn join_channels(&mut self, node: Node<'a>) -> Read {
        Err(node.unsupported("it joins two branches", ADVICE).into())
    }
}
