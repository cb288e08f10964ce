#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use super::*;

#[test]
fn digits_recombine_to_the_residue_up_to_the_largest() {
    for (modulus, digits) in [(0x7FFF_7FFF_u64, 2), (crate::MAX_MODULUS, 3)] {
        assert_eq!(Packed::digits_of(modulus), digits);
        let mut packed = Packed::default();
        packed.reset(modulus, 1, 16);
        let a: Vec<u64> = (0..16).map(|i| modulus - 1 - i * (modulus / 17)).collect();
        let mut b = a.clone();
        b.reverse();
        packed.pack(0, Some(&a), Some(&b));
        for c in 0..16 {
            let (mut x, mut y) = (0_i64, 0_i64);
            for d in 0..digits {
                let lane = packed.lanes[d * GROUP + c].cast_signed();
                x += i64::from((lane << 16) >> 16) << (16 * d);
                y += i64::from(lane >> 16) << (16 * d);
            }
            assert_eq!((x.cast_unsigned(), y.cast_unsigned()), (a[c], b[c]));
        }
    }
}
