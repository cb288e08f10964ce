//! The error function, for GELU.

use std::f64::consts::PI;

/// `Φ(x)`, the distribution function of the standard normal law, with a relative error below 10⁻¹³
/// for `x ≥ −37`.
pub(super) fn normal_cdf(x: f64) -> f64 {
    let u = x.abs() / std::f64::consts::SQRT_2;
    let tail = if u < 2.0 { 1.0 - erf_series(u) } else { erfc_fraction(u) } / 2.0;
    if x < 0.0 { tail } else { 1.0 - tail }
}

/// Density of the standard normal law.
pub(super) fn normal_density(x: f64) -> f64 {
    (-x * x / 2.0).exp() / (2.0 * PI).sqrt()
}

/// `erf u = 2/√π · e^(−u²) · Σ 2ⁿ u^(2n+1)/(2n+1)!!`: all terms have one sign, so nothing cancels.
fn erf_series(u: f64) -> f64 {
    let mut term = u;
    let mut sum = u;
    let mut n = 1.0;
    while term > sum * f64::EPSILON / 4.0 {
        term *= 2.0 * u * u / (2.0 * n + 1.0);
        sum += term;
        n += 1.0;
    }
    2.0 / PI.sqrt() * (-u * u).exp() * sum
}

/// `erfc u = e^(−u²)/√π · 1/(u + (1/2)/(u + (2/2)/(u + (3/2)/(u + …))))`, evaluated from a depth at which
/// the rest no longer counts for `u ≥ 2`.
fn erfc_fraction(u: f64) -> f64 {
    const DEPTH: u32 = 120;
    let rest = (1..=DEPTH).rev().fold(u, |rest, k| u + f64::from(k) / 2.0 / rest);
    (-u * u).exp() / PI.sqrt() / rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of `erfc` from Abramowitz and Stegun, table 7.1, and its extension.
    #[test]
    fn known_values() {
        for (u, erfc) in [
            (0.0, 1.0),
            (0.5, 0.479_500_122_186_953_5),
            (1.0, 0.157_299_207_050_285_13),
            (1.99, 0.004_888_586_800_383_003),
            (2.0, 0.004_677_734_981_047_266),
            (3.0, 2.209_049_699_858_544e-5),
            (5.0, 1.537_459_794_428_035e-12),
        ] {
            let x = u * std::f64::consts::SQRT_2;
            let tail = 2.0 * normal_cdf(-x);
            assert!((tail - erfc).abs() <= 1e-12 * erfc, "{u}: {tail:e} {erfc:e}");
            assert!((2.0 - 2.0 * normal_cdf(x) - erfc).abs() < 1e-15);
        }
    }
}
