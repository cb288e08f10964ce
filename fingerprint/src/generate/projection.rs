//! The set of permitted samples, in coordinates where every feature runs from 0 to 1.

use serde::{Deserialize, Serialize};

/// The unit box, or its intersection with a ball around a point of the box.
///
/// Invariant: the center lies in the box, so the set is not empty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Feasible {
    ball: Option<Ball>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Ball {
    center: Vec<f64>,
    radius: f64,
}

/// Halvings of the multiplier's interval: down to the last bit of a double.
const BISECTIONS: usize = 60;

impl Feasible {
    /// The box `0 ≤ u ≤ 1`.
    #[must_use]
    pub fn unit_box() -> Self {
        Self { ball: None }
    }

    /// The part of the box within `radius` (Euclidean) of `center`; the center is moved into the box.
    #[must_use]
    pub fn ball(mut center: Vec<f64>, radius: f64) -> Self {
        clamp(&mut center);
        Self { ball: Some(Ball { center, radius: radius.max(0.0) }) }
    }

    /// Replace `u` by the nearest permitted point.
    ///
    /// In the box alone this clamps. With a ball, the nearest point is `clamp(c + t (u − c))` for the
    /// largest `t ≤ 1` that stays in the ball (the optimality conditions with multiplier `1/t − 1`);
    /// its distance from `c` grows with `t`, so `t` is found by bisection.
    pub fn project(&self, u: &mut [f64]) {
        match &self.ball {
            Some(ball) if ball.distance_of(u, 1.0) > ball.radius => {
                let (mut inside, mut outside) = (0.0, 1.0);
                for _ in 0..BISECTIONS {
                    let middle = 0.5 * (inside + outside);
                    if ball.distance_of(u, middle) <= ball.radius {
                        inside = middle;
                    } else {
                        outside = middle;
                    }
                }
                for (u, &c) in u.iter_mut().zip(&ball.center) {
                    *u = (c + inside * (*u - c)).clamp(0.0, 1.0);
                }
            }
            Some(_) | None => clamp(u),
        }
    }

    /// Whether `u` is in the box and at most `slack` outside the ball.
    #[must_use]
    pub fn contains(&self, u: &[f64], slack: f64) -> bool {
        let in_box = u.iter().all(|u| (0.0..=1.0).contains(u));
        let in_ball = |ball: &Ball| ball.distance_of(u, 1.0) <= ball.radius + slack;
        in_box && self.ball.as_ref().is_none_or(in_ball)
    }
}

impl Ball {
    /// Distance from the center to `clamp(c + t (u − c))`.
    fn distance_of(&self, u: &[f64], t: f64) -> f64 {
        let square = |(u, c): (&f64, &f64)| {
            let moved = (c + t * (u - c)).clamp(0.0, 1.0) - c;
            moved * moved
        };
        u.iter().zip(&self.center).map(square).sum::<f64>().sqrt()
    }
}

fn clamp(u: &mut [f64]) {
    for u in u {
        *u = u.clamp(0.0, 1.0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    fn points(n: usize) -> impl Strategy<Value = (Vec<f64>, Vec<f64>, Vec<f64>, f64)> {
        let vector = |range: std::ops::Range<f64>| proptest::collection::vec(range, n);
        (vector(0.0..1.0), vector(-2.0..3.0), vector(0.0..1.0), 0.0_f64..1.5)
    }

    proptest! {
        /// The nearest point `y` of a convex set is the only one with `⟨u − y, v − y⟩ ≤ 0` for all `v`.
        #[test]
        fn the_projection_is_the_nearest_point((center, u, v, radius) in points(6)) {
            for set in [Feasible::unit_box(), Feasible::ball(center.clone(), radius)] {
                let (mut y, mut v) = (u.clone(), v.clone());
                set.project(&mut y);
                set.project(&mut v);
                prop_assert!(set.contains(&y, 1e-12) && set.contains(&v, 1e-12));
                let angle: f64 =
                    u.iter().zip(&y).zip(&v).map(|((u, y), v)| (u - y) * (v - y)).sum();
                prop_assert!(angle <= 1e-9, "{angle}");
                let mut again = y.clone();
                set.project(&mut again);
                let moved = y.iter().zip(&again).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                prop_assert!(moved < 1e-12);
            }
        }
    }

    #[test]
    fn a_ball_of_radius_zero_is_its_center() {
        let set = Feasible::ball(vec![0.25, 2.0], 0.0);
        let mut u = [0.9, -4.0];
        set.project(&mut u);
        assert_eq!(u, [0.25, 1.0]);
        assert!(set.contains(&[0.25, 1.0], 0.0) && !set.contains(&[0.25, 0.9], 0.05));
    }
}
