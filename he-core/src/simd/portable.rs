//! Linear kernel in plain Rust for vectorising compilers: what machines without another kernel run.

use super::{Packed, Reducer, SlabRows, Tile};

pub(super) fn multiply(tile: &Tile<'_>, packed: &Packed, reducer: Reducer, out: &mut SlabRows<'_>) {
    super::scalar::multiply(tile, packed, reducer, out);
}
