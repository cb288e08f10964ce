//! Polynomials as people write them.

pub(crate) mod plot;

use nn_poly::approximate::{Approximation, Interval};

/// `0.1172 x² + 0.5 x + 0.375`, in four significant digits.
pub(crate) fn formula(monomials: &[f64]) -> String {
    let mut text = String::new();
    for (power, &coefficient) in monomials.iter().enumerate().rev() {
        if coefficient == 0.0 {
            continue;
        }
        let sign = match (text.is_empty(), coefficient < 0.0) {
            (true, false) => "",
            (true, true) => "−",
            (false, false) => " + ",
            (false, true) => " − ",
        };
        let variable = match power {
            0 => String::new(),
            1 => " x".to_owned(),
            _ => format!(" x{}", superscript(power)),
        };
        text.push_str(sign);
        text.push_str(&number(coefficient.abs()));
        text.push_str(&variable);
    }
    if text.is_empty() { "0".to_owned() } else { text }
}

fn superscript(power: usize) -> char {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    DIGITS.get(power).copied().unwrap_or('ⁿ')
}

/// Four significant digits: `0.1172`, `12.5`, `1.151e-3`.
pub(crate) fn number(value: f64) -> String {
    let rounded: f64 = format!("{value:.3e}").parse().unwrap_or(value);
    if rounded == 0.0 || (1e-2..1e6).contains(&rounded.abs()) {
        format!("{rounded}")
    } else {
        format!("{rounded:e}")
    }
}

/// The cells of a table that tell of a fit: polynomial, largest, mean and weighted error, error at
/// 1.5 and 2 times the interval.
pub(crate) fn cells(fit: &Approximation) -> [String; 6] {
    let quality = &fit.quality;
    let outside =
        |factor| quality.worst_outside(factor).map_or_else(String::new, |p| number(p.error));
    [
        formula(&noiseless(&fit.polynomial.monomials(), fit.polynomial.interval())),
        number(quality.max_error),
        number(quality.rms_error),
        quality.weighted_rms_error.map_or_else(String::new, number),
        outside(1.5),
        outside(2.0),
    ]
}

/// Without terms that nowhere in the interval matter beside the others.
fn noiseless(monomials: &[f64], interval: Interval) -> Vec<f64> {
    let reach = interval.low().abs().max(interval.high().abs());
    let mut scale = 1.0;
    let mut sizes = Vec::with_capacity(monomials.len());
    for coefficient in monomials {
        sizes.push(coefficient.abs() * scale);
        scale *= reach;
    }
    let largest = sizes.iter().copied().fold(0.0, f64::max);
    let is_noise = |size: f64| size < 1e-12 * largest;
    monomials.iter().zip(sizes).map(|(&c, size)| if is_noise(size) { 0.0 } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_read_like_formulas() {
        for (monomials, expected) in [
            (&[0.375, 0.5, 0.1171875] as &[f64], "0.1172 x² + 0.5 x + 0.375"),
            (&[0.0, -1.0, 0.0, 2.5e-4], "2.5e-4 x³ − 1 x"),
            (&[-3.0], "−3"),
            (&[0.0, 0.0], "0"),
        ] {
            assert_eq!(formula(monomials), expected);
        }
        let interval = Interval::symmetric(10.0).unwrap();
        assert_eq!(noiseless(&[1.0, 1e-16, 1.0], interval), [1.0, 0.0, 1.0]);
    }
}
