//! Linear maps of a stage: several terms in one unit, and what they read.

use super::{Grid, grid_of};
use crate::error::Result;
use crate::integer::{LinearGeometry, MAX_WEIGHT, SumGeometry, SumTerm, ValueRef};
use crate::quantize::blocks::{Block, Ready};
use crate::quantize::common_unit::common_unit;
use crate::quantize::refuse;
use crate::quantize::terms::Term;

/// One channel of a stage: all terms in one unit.
pub(super) struct AlignedRow {
    pub(super) weights: Vec<i16>,
    /// What one unit of the sum stands for.
    pub(super) unit: f64,
    /// By what the weights of each term were multiplied.
    pub(super) multiples: Vec<i32>,
}

/// Multiply the integers of every term by what its unit is of the common one, channel by channel.
pub(super) fn align(block: &Block<'_>, terms: &[Term]) -> Result<Vec<AlignedRow>> {
    const APART: &str =
        "the values that meet here have no common unit; calibrate and prepare the network again";
    const WIDE: &str = "the values that meet here differ too much in size for 16-bit multipliers";
    let refused = |reason| refuse(block.first_idx, "addition", reason);
    let n_channels = terms.first().map_or(0, |term| term.rows.len());
    (0..n_channels)
        .map(|channel| {
            let units: Vec<f64> = terms.iter().map(|term| term.unit(channel)).collect();
            let unit = match units.as_slice() {
                &[single] => single,
                several => common_unit(several).ok_or_else(|| refused(APART))?,
            };
            let mut row = AlignedRow { weights: Vec::new(), unit, multiples: Vec::new() };
            for (term, own) in terms.iter().zip(&units) {
                let multiple = (own / unit).round();
                if multiple > f64::from(MAX_WEIGHT) {
                    return Err(refused(WIDE));
                }
                #[expect(clippy::cast_possible_truncation, reason = "1 ..= 2^15")]
                let multiple = multiple as i32;
                for &w in term.rows.get(channel).map_or(&[][..], Vec::as_slice) {
                    let product = i32::from(w) * multiple;
                    let weight = i16::try_from(product).ok().filter(|w| *w != i16::MIN);
                    row.weights.push(weight.ok_or_else(|| refused(WIDE))?);
                }
                row.multiples.push(multiple);
            }
            Ok(row)
        })
        .collect()
}

/// What a stage of these terms reads, and its linear map.
pub(super) fn geometry(terms: &[Term], grids: &[Grid]) -> (Vec<ValueRef>, LinearGeometry) {
    let mut read: Vec<(Ready, usize)> = Vec::new();
    let mut n_in = 0;
    let mut placed = Vec::with_capacity(terms.len());
    for term in terms {
        let first_input = match read.iter().find(|(ready, _)| *ready == term.ready) {
            Some(&(_, first)) => first,
            None => {
                read.push((term.ready, n_in));
                n_in += term.conv.input.len();
                n_in - term.conv.input.len()
            }
        };
        placed.push(SumTerm { first_input, conv: term.conv });
    }
    let source = |&(ready, _): &(Ready, usize)| match ready {
        Ready::Input => ValueRef::Input,
        Ready::Block(_) => {
            ValueRef::Stage(u32::try_from(grid_of(grids, ready).stage).unwrap_or(u32::MAX))
        }
    };
    let linear = match placed.as_slice() {
        [SumTerm { conv, .. }] if terms.iter().any(|term| term.is_dense) => {
            LinearGeometry::Dense { n_in, n_out: conv.out_channels }
        }
        [SumTerm { conv, .. }] => LinearGeometry::Conv2d(*conv),
        _ => LinearGeometry::Sum(SumGeometry { n_in, terms: placed }),
    };
    (read.iter().map(source).collect(), linear)
}
