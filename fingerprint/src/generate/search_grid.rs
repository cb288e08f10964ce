//! The grid samples are searched on, where the network rounds its inputs itself.

use nn_poly::Network;
use nn_poly::layer::Layer;

use crate::sample::InputGrid;

/// Smallest ratio of the network's step to the endpoint's at which its own grid is used.
const MIN_COARSENING: f64 = 1.5;
/// Steps by which two limits may differ and still be the same.
const SLACK: f64 = 1e-3;

/// The grid single steps are taken on: the endpoint's, or the network's own if that is coarser.
///
/// A network trained for 4-bit inputs rounds the endpoint's 8-bit ones in its first layer. There most
/// single steps of the endpoint's grid change nothing, and the others change more than they should. On
/// the network's grid every step counts and its effect is known; each of its points is an endpoint's
/// point in the middle of the values that are rounded to it.
#[derive(Debug)]
pub(super) struct SearchGrid<'a> {
    endpoint: &'a InputGrid,
    own: Option<InputGrid>,
}

impl<'a> SearchGrid<'a> {
    /// The grid to search on for `network` behind an endpoint that takes points of `endpoint`.
    pub(super) fn new(network: &Network<f64>, endpoint: &'a InputGrid) -> Self {
        Self { endpoint, own: own_grid(network, endpoint) }
    }

    /// The endpoint's grid itself.
    pub(super) fn of_endpoint(endpoint: &'a InputGrid) -> Self {
        Self { endpoint, own: None }
    }

    pub(super) fn grid(&self) -> &InputGrid {
        self.own.as_ref().unwrap_or(self.endpoint)
    }

    /// The endpoint's levels nearest to a point of [`Self::grid`].
    pub(super) fn endpoint_levels(&self, levels: Vec<u32>) -> Vec<u32> {
        let Some(own) = &self.own else { return levels };
        let nearest = |(i, level)| self.endpoint.level(i, own.value(i, level));
        levels.into_iter().enumerate().map(nearest).collect()
    }
}

/// The points, inside the endpoint's range, that the first layer rounds inputs to; `None` unless they
/// are the same for all inputs and clearly further apart than the endpoint's.
fn own_grid(network: &Network<f64>, endpoint: &InputGrid) -> Option<InputGrid> {
    let Some(Layer::Quantize(quantize)) = network.layers().first() else { return None };
    let step = *quantize.steps.first()?;
    let n_features = network.input_shape().len();
    let (low, high) = (endpoint.low(0), endpoint.high(0));
    let is_uniform = quantize.steps.iter().all(|&other| other == step)
        && (0..n_features).all(|i| endpoint.low(i) == low && endpoint.high(i) == high);
    if !is_uniform || step < MIN_COARSENING * endpoint.step(0) {
        return None;
    }
    let first = f64::from(quantize.min).max((low / step - SLACK).ceil());
    let last = f64::from(quantize.max).min((high / step + SLACK).floor());
    let n_steps = (1..=InputGrid::MAX_STEPS).find(|&n| first + f64::from(n) > last - 0.5)?;
    InputGrid::new(first * step, last * step, n_steps).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::float_cmp, reason = "tests")]
    use ndarray::{Array1, array};
    use nn_poly::Shape;
    use nn_poly::layer::Quantize;

    use super::*;

    fn network(steps: Array1<f64>, min: i32, max: i32) -> Network<f64> {
        let layer = Layer::Quantize(Quantize { steps, min, max });
        Network::new(Shape::image(2, 2, 2).unwrap(), vec![layer]).unwrap()
    }

    #[test]
    fn every_point_is_an_endpoints_point_that_is_rounded_to_it() {
        let bytes = InputGrid::bytes();
        let signed = InputGrid::new(-2.5, 2.5, 255).unwrap();
        let cases =
            [(1.0 / 15.0, 0, 15, &bytes), (1.0 / 63.0, 0, 63, &bytes), (0.5, -7, 7, &signed)];
        for (step, min, max, endpoint) in cases {
            let search = SearchGrid::new(&network(array![step], min, max), endpoint);
            let grid = search.grid();
            assert_ne!(grid, endpoint);
            for level in 0..=grid.n_steps() {
                let integer = (grid.value(0, level) / step).round();
                assert!((grid.value(0, level) - integer * step).abs() < 1e-9 * step.abs());
                let reached = endpoint.value(0, search.endpoint_levels(vec![level])[0]);
                assert_eq!((reached / step + 0.5).floor(), integer, "{step}: level {level}");
            }
            let ends = [grid.low(0), grid.high(0)].map(|end| (end / step).round());
            let expected = if min == 0 { [0.0, f64::from(max)] } else { [-5.0, 5.0] };
            assert_eq!(ends, expected);
        }
    }

    #[test]
    fn other_networks_are_searched_on_the_endpoints_grid() {
        let bytes = InputGrid::bytes();
        let per_feature =
            InputGrid::per_feature(vec![0.0; 8], (1..=8).map(f64::from).collect(), 255);
        let step = 1.0 / 15.0;
        for (network, endpoint) in [
            (network(array![1.0 / 255.0], 0, 255), &bytes),
            (network(array![step, 2.0 * step], 0, 15), &bytes),
            (network(array![step], 20, 35), &bytes),
            (network(array![step], 0, 15), &per_feature.unwrap()),
        ] {
            let search = SearchGrid::new(&network, endpoint);
            assert_eq!(search.grid(), endpoint);
            assert_eq!(search.endpoint_levels(vec![3; 8]), [3; 8]);
        }
    }
}
