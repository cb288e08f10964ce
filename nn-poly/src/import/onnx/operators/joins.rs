//! Where branches of a graph meet: sums and joined channels.
//!
//! Branches are settled (their polynomials become steps of their own) and must be seen alike: a join
//! of values in different orders would be another one in this crate's layout.

use std::rc::Rc;

use super::super::importer::{Importer, Read, USE_POLYNOMIAL};
use super::super::node::Node;
use super::super::value::{Flow, Order, Polynomial, Value, View};
use crate::error::Result;
use crate::import::Treatment;
use crate::layer::Layer;

impl<'a> Importer<'a> {
    /// `Add` or `Sub` of flows from different steps: a residual connection. `Mul` and `Div` of such
    /// flows are no polynomials of one of them.
    pub(in super::super) fn join_arithmetic(
        &mut self,
        node: Node<'a>,
        left: &Flow,
        right: &Flow,
    ) -> Read {
        let is_difference = match node.operator().as_str() {
            "Add" => false,
            "Sub" => true,
            _ => {
                let reason = "it multiplies two branches";
                return Err(node.unsupported(reason, USE_POLYNOMIAL).into());
            }
        };
        if left.dims() != right.dims() || left.view != right.view {
            let reason = "it joins two branches of different shapes or orders";
            let advice = "add branches of one shape; flatten both, or after the addition";
            return Err(node.unsupported(reason, advice).into());
        }
        let mut right = right.clone();
        if is_difference {
            let minus = Polynomial::affine(vec![0.0], vec![-1.0]);
            let negative = right.polynomial.product(&minus);
            let negative =
                negative.ok_or_else(|| node.unsupported("it is of degree 3", USE_POLYNOMIAL))?;
            self.budget.take(|| node.site().to_string(), negative.len())?;
            right.polynomial = Rc::new(negative);
        }
        let flow = self.join(node, &[left.clone(), right], Layer::Add)?;
        Ok((Value::Flow(flow), Treatment::Layer("add")))
    }

    /// `Concat` of flows: their channels one after the other.
    pub(in super::super) fn join_channels(&mut self, node: Node<'a>) -> Read {
        const ADVICE: &str = "join the channels of images (before flattening), or vectors";
        let n = node.proto.input.len();
        let (_, most) = Layer::<f32>::Concat.n_sources();
        if n > most {
            let reason = "it joins more than 256 branches";
            return Err(node.unsupported(reason, "join fewer branches").into());
        }
        let flows = (0..n).map(|index| self.flow(node, index)).collect::<Result<Vec<_>>>()?;
        let Some((first, rest)) = flows.split_first() else {
            return Err(node.bad_input(0, "present (it is missing)").into());
        };
        if rest.iter().any(|flow| flow.view != first.view) {
            let reason = "it joins branches of different layouts";
            return Err(node.unsupported(reason, ADVICE).into());
        }
        let (rank, channel_axis) = match first.view {
            View::ChannelsFirst => (4, 1),
            View::ChannelsLast => (4, 3),
            View::Features(Order::Same) => (2, 1),
            View::Plane | View::Features(Order::ChannelsFirst { .. }) => {
                let reason = "it joins images of one channel without a channel axis, or flattened \
                              images";
                return Err(node.unsupported(reason, ADVICE).into());
            }
        };
        let axis = node.int("axis", i64::MIN);
        if axis != channel_axis && axis != channel_axis - rank {
            return Err(node.bad_attribute("axis", "that of the channels").into());
        }
        if rest.is_empty() {
            return Ok((Value::Flow(first.clone()), Treatment::Dropped));
        }
        let flow = self.join(node, &flows, Layer::Concat)?;
        Ok((Value::Flow(flow), Treatment::Layer("concat")))
    }
}
