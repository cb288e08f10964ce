//! Integer coefficients of `a u² + b u + c`, channel by channel.

/// A quadratic in integers, and the unit of its value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct IntegerQuadratic {
    /// To add to the integer bias before the quadratic.
    pub(super) offset: f64,
    /// `a`, −1, 0 or 1.
    pub(super) a: i32,
    /// `b`, a whole number.
    pub(super) b: f64,
    /// `c`, a whole number.
    pub(super) c: f64,
    /// What one unit of the result stands for; positive.
    pub(super) unit: f64,
}

/// Express `a u² + b u + c` for `u = unit · z`, `z` an integer with `|z| ≤ z_max`, up to an error
/// well below `resolution`.
///
/// - `a ≠ 0`: in units of `|a| unit²` the leading coefficient is ±1. The linear term is
///   `±2β z` with `β = b/(2 a unit)`; it goes into the bias (`±(z + β)²`, one squaring and nothing
///   else) while `|β| ≤ z_max`, and beyond that, where squaring `β` would widen the range, stays an
///   explicit coefficient.
/// - `a` so small that `a u²` stays below 1/32 of the resolution: in units of `|b| unit` the value is
///   `±z + c`, and if `b` vanishes too, the constant.
///
/// # Source
/// Own derivation (completing the square).
pub(super) fn integer_quadratic(
    (a, b, c): (f64, f64, f64),
    unit: f64,
    z_max: f64,
    resolution: f64,
) -> IntegerQuadratic {
    let reach = unit * z_max;
    if a.abs() * reach * reach * 32.0 >= resolution && a != 0.0 {
        let value_unit = a.abs() * unit * unit;
        let sign = if a < 0.0 { -1 } else { 1 };
        let beta = b / (2.0 * a * unit);
        if beta.abs() <= z_max {
            let rest = c - b * b / (4.0 * a);
            let c = (rest / value_unit).round();
            return IntegerQuadratic { offset: beta, a: sign, b: 0.0, c, unit: value_unit };
        }
        let b = (b * unit / value_unit).round();
        let c = (c / value_unit).round();
        return IntegerQuadratic { offset: 0.0, a: sign, b, c, unit: value_unit };
    }
    if b.abs() * reach * 32.0 >= resolution && b != 0.0 {
        let value_unit = b.abs() * unit;
        let c = (c / value_unit).round();
        return IntegerQuadratic { offset: 0.0, a: 0, b: b.signum(), c, unit: value_unit };
    }
    let value_unit = resolution / 32.0;
    IntegerQuadratic { offset: 0.0, a: 0, b: 0.0, c: (c / value_unit).round(), unit: value_unit }
}

/// Express `a u² + b u + c` for `u = unit · z` in units of `unit²`, for values that no refresh brings to
/// one unit later. `a` is a whole number, as leading coefficients of joined stages are.
///
/// The linear term goes into the bias or stays a coefficient as in [`integer_quadratic`].
pub(super) fn chained_quadratic(
    (a, b, c): (f64, f64, f64),
    unit: f64,
    z_max: f64,
) -> IntegerQuadratic {
    let value_unit = unit * unit;
    let beta = if a == 0.0 { f64::INFINITY } else { b / (2.0 * a * unit) };
    #[expect(clippy::cast_possible_truncation, reason = "a small whole number")]
    let leading = a.round() as i32;
    if beta.abs() <= z_max {
        let rest = c - b * b / (4.0 * a);
        let c = (rest / value_unit).round();
        return IntegerQuadratic { offset: beta, a: leading, b: 0.0, c, unit: value_unit };
    }
    let (b, c) = ((b / unit).round(), (c / value_unit).round());
    IntegerQuadratic { offset: 0.0, a: leading, b, c, unit: value_unit }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_integer_form_stays_close(
            a in -2.0..2.0_f64, scale in -6..1_i32, b in -2.0..2.0_f64, c in -2.0..2.0_f64,
            z in -200..=200_i32, bias in -20.0..20.0_f64,
        ) {
            let (unit, z_max, resolution) = (0.02, 220.0, 0.1);
            let a = a * 10_f64.powi(scale);
            let form = integer_quadratic((a, b, c), unit, z_max, resolution);
            prop_assert!(form.unit > 0.0 && form.a.abs() <= 1);
            // u = unit·(z + bias); the integer network sees z plus the rounded bias.
            let u = unit * (f64::from(z) + bias);
            let integer = f64::from(z) + (bias + form.offset).round();
            let value = (f64::from(form.a) * integer * integer + form.b * integer + form.c) * form.unit;
            let exact = a * u * u + b * u + c;
            // Half a unit of z, times the slope, plus the rounding of the coefficients.
            let slope = (2.0 * a * u + b).abs() + a.abs() * unit;
            let tolerance = 0.5 * unit * slope
                + form.unit * (0.5 * z_max.min(integer.abs()) + 0.5)
                + resolution / 16.0;
            prop_assert!((value - exact).abs() <= tolerance, "{value} {exact} {form:?}");
        }
    }

    #[test]
    fn a_square_is_a_square_and_extremes_have_a_form() {
        let square = integer_quadratic((1.0, 0.0, 0.0), 0.5, 100.0, 1.0);
        assert_eq!(square, IntegerQuadratic { offset: 0.0, a: 1, b: 0.0, c: 0.0, unit: 0.25 });
        let shifted = integer_quadratic((0.25, 0.5, 0.25), 0.5, 100.0, 1.0);
        assert_eq!(shifted, IntegerQuadratic { offset: 2.0, a: 1, b: 0.0, c: 0.0, unit: 0.0625 });
        let explicit = integer_quadratic((-0.01, 8.0, 0.0), 0.5, 100.0, 0.01);
        assert_eq!((explicit.a, explicit.offset, explicit.b), (-1, 0.0, 1600.0));
        let linear = integer_quadratic((0.0, -2.0, 3.0), 0.5, 100.0, 1.0);
        assert_eq!((linear.a, linear.b, linear.c, linear.unit), (0, -1.0, 3.0, 1.0));
        let constant = integer_quadratic((0.0, 0.0, 3.0), 0.5, 100.0, 1.0);
        assert_eq!((constant.a, constant.b, constant.c * constant.unit), (0, 0.0, 3.0));
    }
}
