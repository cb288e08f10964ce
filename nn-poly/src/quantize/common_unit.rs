//! Units that values which meet have in common.
//!
//! A sum of integers is exact only if all count the same unit. Steps that meet are therefore chosen
//! as whole multiples or whole fractions of each other ([`commensurable`]), and each integer is
//! multiplied by what its unit is of the common one ([`common_unit`]).

/// The common unit may be this many times finer than the finest.
const MAX_FRACTION: u32 = 256;
/// Relative difference from a whole number that the rounding of scales to `f32` explains.
const TOLERANCE: f64 = 1e-6;

/// The coarsest unit of which all `units` are whole multiples: the finest of them, or a small whole
/// fraction of it. `None` if there is none, or a unit is not positive.
pub(super) fn common_unit(units: &[f64]) -> Option<f64> {
    let finest = units.iter().copied().fold(f64::INFINITY, f64::min);
    if !(finest.is_finite() && finest > 0.0) {
        return None;
    }
    let is_whole = |ratio: f64| (ratio - ratio.round()).abs() <= TOLERANCE * ratio;
    (1..=MAX_FRACTION)
        .map(f64::from)
        .find(|fraction| units.iter().all(|unit| is_whole(unit / finest * fraction)))
        .map(|fraction| finest / fraction)
}

/// The whole multiple or whole fraction of `base` nearest to `step` in proportion.
pub(super) fn commensurable(step: f64, base: f64) -> f64 {
    let nearest = |ratio: f64| {
        let below = ratio.floor().max(1.0);
        // Halfway between neighbors in proportion is their geometric mean.
        if ratio * ratio > below * (below + 1.0) { below + 1.0 } else { below }
    };
    if step >= base { base * nearest(step / base) } else { base / nearest(base / step) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::float_cmp, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn multiples_and_fractions_of_a_base_have_a_common_unit(
            base in 1e-6_f64..1e6, k in 1_u32..15, n in 1_u32..15, m in 1_u32..15,
        ) {
            let (k, n, m) = (f64::from(k), f64::from(n), f64::from(m));
            let units = [base, base * k, base / n, base / m];
            let unit = common_unit(&units).unwrap();
            for value in units {
                let ratio = value / unit;
                prop_assert!((ratio - ratio.round()).abs() < 1e-9 * ratio);
            }
        }

        #[test]
        fn the_nearest_step_is_within_a_factor_of_the_root_of_two(
            base in 1e-6_f64..1e6, ratio in 1e-3_f64..1e3,
        ) {
            let step = commensurable(base * ratio, base);
            let off = (step / (base * ratio)).ln().abs();
            prop_assert!(off <= 2.0_f64.sqrt().ln() + 1e-12);
            prop_assert!(common_unit(&[step, base]).is_some() || ratio < 1.0 / 256.0);
        }
    }

    #[test]
    fn steps_without_a_common_unit_are_found_out() {
        assert_eq!(common_unit(&[1.0, std::f64::consts::SQRT_2]), None);
        assert_eq!(common_unit(&[1.0, 0.0]), None);
        assert_eq!(common_unit(&[0.75, 0.5]), Some(0.25));
    }
}
