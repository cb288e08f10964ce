//! Floating-point numbers as files store them.

/// Little-endian numbers of `N` bytes each; a rest is ignored.
pub(super) fn raw_values<const N: usize, T>(raw: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
    raw.as_chunks::<N>().0.iter().map(|&bytes| convert(bytes)).collect()
}

/// The value of a bfloat16 number; exact.
pub(super) fn brain_half(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The value of an IEEE binary16 number; exact.
pub(super) fn half(bits: u16) -> f32 {
    let sign = u32::from(bits >> 15) << 31;
    let exponent = u32::from((bits >> 10) & 0x1f);
    let fraction = u32::from(bits & 0x3ff);
    match exponent {
        // Subnormal: fraction · 2^−24.
        0 => {
            let magnitude = f32::from(bits & 0x3ff) * 2.0_f32.powi(-24);
            if sign == 0 { magnitude } else { -magnitude }
        }
        31 => f32::from_bits(sign | 0x7f80_0000 | (fraction << 13)),
        _ => f32::from_bits(sign | ((exponent + 127 - 15) << 23) | (fraction << 13)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnormal_halves_are_exact() {
        assert_eq!(half(0x0001), 2.0_f32.powi(-24));
        assert_eq!(half(0x83ff), -1023.0 * 2.0_f32.powi(-24));
        assert_eq!(half(0x0400), 2.0_f32.powi(-14));
        assert_eq!(half(0x7bff), 65504.0);
        assert!(half(0x7c00).is_infinite() && half(0x7e00).is_nan());
    }
}
