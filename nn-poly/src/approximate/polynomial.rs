//! Polynomials in the Chebyshev basis of their interval.

use std::f64::consts::PI;

use serde::Serialize;

use super::Interval;

/// `Σ cₖ Tₖ(z)` with `z` the coordinate in which the interval is `[−1, 1]`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Polynomial {
    interval: Interval,
    /// Invariant: at least one.
    chebyshev: Vec<f64>,
}

impl Polynomial {
    /// The polynomial with these Chebyshev coefficients, lowest first; none means 0.
    #[must_use]
    pub fn from_chebyshev(interval: Interval, mut chebyshev: Vec<f64>) -> Self {
        if chebyshev.is_empty() {
            chebyshev.push(0.0);
        }
        Self { interval, chebyshev }
    }

    /// The polynomial of at most `degree` that agrees with `values` at the `degree + 1` Chebyshev points
    /// of the first kind. Reproduces any polynomial of that degree.
    ///
    /// # Source
    /// Trefethen, "Approximation Theory and Approximation Practice", chapter 3.
    pub(super) fn interpolating(
        interval: Interval,
        degree: usize,
        values: impl Fn(f64) -> f64,
    ) -> Self {
        let n = degree + 1;
        #[expect(clippy::cast_precision_loss, reason = "at most 9")]
        let angle = |k: usize| PI * (k as f64 + 0.5) / n as f64;
        let samples: Vec<(f64, f64)> =
            (0..n).map(|k| (angle(k), values(interval.from_unit(angle(k).cos())))).collect();
        #[expect(clippy::cast_precision_loss, reason = "at most 9")]
        let coefficient = |j: usize| {
            let sum: f64 =
                samples.iter().map(|&(angle, value)| value * (j as f64 * angle).cos()).sum();
            sum * if j == 0 { 1.0 } else { 2.0 } / n as f64
        };
        Self::from_chebyshev(interval, (0..n).map(coefficient).collect())
    }

    /// Coefficients below the rounding errors of the others become 0.
    pub(super) fn without_noise(mut self) -> Self {
        let largest = self.chebyshev.iter().fold(0.0_f64, |largest, c| largest.max(c.abs()));
        for c in &mut self.chebyshev {
            if c.abs() < 1e-13 * largest {
                *c = 0.0;
            }
        }
        self
    }

    /// Where it was fitted.
    #[must_use]
    pub fn interval(&self) -> Interval {
        self.interval
    }

    /// Chebyshev coefficients on the interval, lowest first.
    #[must_use]
    pub fn chebyshev(&self) -> &[f64] {
        &self.chebyshev
    }

    /// Highest degree with a coefficient that is not 0.
    #[must_use]
    pub fn degree(&self) -> usize {
        self.chebyshev.iter().rposition(|&c| c != 0.0).unwrap_or(0)
    }

    /// Its value at any `x`, by Clenshaw's recurrence.
    #[must_use]
    pub fn evaluate(&self, x: f64) -> f64 {
        let z = self.interval.to_unit(x);
        let (mut next, mut after) = (0.0, 0.0);
        for &c in self.chebyshev.iter().skip(1).rev() {
            (next, after) = (c + 2.0 * z * next - after, next);
        }
        self.chebyshev.first().copied().unwrap_or(0.0) + z * next - after
    }

    /// Coefficients of the powers of `x`, lowest first, one per Chebyshev coefficient.
    ///
    /// Well conditioned on intervals around 0. Far from 0 (center beyond some ten half widths) the
    /// powers of a high degree cancel each other; evaluate with [`Self::evaluate`] there.
    #[must_use]
    pub fn monomials(&self) -> Vec<f64> {
        // Clenshaw's recurrence with polynomials in x for numbers.
        let n = self.chebyshev.len();
        let scale = self.interval.half_width().recip();
        let shift = -self.interval.center() * scale;
        let times_z = |p: &[f64]| -> Vec<f64> {
            (0..n)
                .map(|k| {
                    let below = k.checked_sub(1).and_then(|k| p.get(k)).copied().unwrap_or(0.0);
                    shift * p.get(k).copied().unwrap_or(0.0) + scale * below
                })
                .collect()
        };
        let (mut next, mut after) = (vec![0.0; n], vec![0.0; n]);
        for &c in self.chebyshev.iter().skip(1).rev() {
            let mut current: Vec<f64> =
                times_z(&next).iter().zip(&after).map(|(p, q)| 2.0 * p - q).collect();
            add_constant(&mut current, c);
            (next, after) = (current, next);
        }
        let mut result: Vec<f64> = times_z(&next).iter().zip(&after).map(|(p, q)| p - q).collect();
        add_constant(&mut result, self.chebyshev.first().copied().unwrap_or(0.0));
        result
    }

    /// The antiderivative with value `value` at `anchor`.
    ///
    /// # Source
    /// `∫ Tₖ = T₍ₖ₊₁₎/(2(k+1)) − T₍ₖ₋₁₎/(2(k−1))`.
    #[must_use]
    pub fn integral(&self, anchor: f64, value: f64) -> Self {
        let at = |k: usize| self.chebyshev.get(k).copied().unwrap_or(0.0);
        let half = self.interval.half_width();
        let mut chebyshev = vec![0.0];
        #[expect(clippy::cast_precision_loss, reason = "a degree")]
        chebyshev.extend((1..=self.chebyshev.len()).map(|k| {
            let below = if k == 1 { 2.0 * at(0) } else { at(k - 1) };
            half * (below - at(k + 1)) / (2 * k) as f64
        }));
        let mut integral = Self::from_chebyshev(self.interval, chebyshev);
        let constant = value - integral.evaluate(anchor);
        add_constant(&mut integral.chebyshev, constant);
        integral
    }
}

fn add_constant(coefficients: &mut [f64], constant: f64) {
    if let Some(first) = coefficients.first_mut() {
        *first += constant;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn both_bases_are_the_same_function(
            coefficients in prop::collection::vec(-2.0..2.0_f64, 1..=9),
            low in -3.0..1.0_f64, length in 0.5..6.0_f64, share in -0.5..1.5_f64,
        ) {
            let interval = Interval::new(low, low + length).unwrap();
            let polynomial = Polynomial::from_chebyshev(interval, coefficients);
            let x = low + share * length;
            let powers = polynomial.monomials().iter().rev().fold(0.0, |y, c| y * x + c);
            let value = polynomial.evaluate(x);
            let size: f64 = polynomial.monomials().iter().rev().fold(0.0, |y, c| y * x.abs() + c.abs());
            prop_assert!((powers - value).abs() <= 1e-11 * (1.0 + size), "{powers} {value}");
            // Beyond the nodes T8 makes a rounding error in a coefficient thousands of times larger.
            let within = x.clamp(low, low + length);
            let again = Polynomial::interpolating(interval, 8, |x| polynomial.evaluate(x));
            let difference = again.evaluate(within) - polynomial.evaluate(within);
            prop_assert!(difference.abs() <= 1e-11 * (1.0 + size));
            // The slope of the integral is the polynomial.
            let integral = polynomial.integral(x, 3.0);
            prop_assert!((integral.evaluate(x) - 3.0).abs() < 1e-9 * (1.0 + size));
            let step = 1e-4;
            let slope = (integral.evaluate(x + step) - integral.evaluate(x - step)) / (2.0 * step);
            prop_assert!((slope - value).abs() <= 1e-3 * (1.0 + size), "{slope} {value}");
        }
    }
}
