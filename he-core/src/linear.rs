//! Integer linear maps applied to whole blocks: dense layers, convolutions, sums.

mod compiled;
mod pooled;
mod unit;
mod work;

use core::ops::{ControlFlow, Range};

use zeroize::Zeroizing;

use crate::{
    CiphertextBlock, Error, Plaintext, Result,
    correction::divide_centred,
    ring::Ring,
    simd::{self, Packed, SlabRows},
};

use compiled::CompiledGroup;
pub use pooled::PooledQuadratic;
pub(crate) use unit::Unit;
use work::Work;

/// Input index that stands for a ciphertext of zero (zero padding): never stored or sent.
pub const PADDING: u32 = u32::MAX;

/// Asked between two parts of a computation whether the rest is wanted. `Break`: stop.
pub type Wanted<'a> = dyn FnMut() -> ControlFlow<()> + 'a;

/// Largest weight magnitude: a weight is one signed 16-bit factor of the kernels.
const MAX_WEIGHT: i64 = 32_767;

/// One weight matrix and the places it is applied to.
///
/// A dense layer is one group with one placement; a convolution is one group with a placement per
/// output position; a depthwise convolution or sum pool has a group per channel or of ones.
#[derive(Clone, PartialEq, Eq)]
pub struct Group {
    /// Weights, row-major: `n_rows × n_taps`, each of magnitude at most 32767.
    pub weights: Vec<i32>,
    /// Rows of the matrix: outputs per placement.
    pub n_rows: usize,
    /// Columns of the matrix: inputs per placement.
    pub n_taps: usize,
    /// Where the matrix is applied.
    pub placements: Vec<Placement>,
}

impl core::fmt::Debug for Group {
    /// Shape only: weights are the model owner's.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Group")
            .field("n_rows", &self.n_rows)
            .field("n_taps", &self.n_taps)
            .field("n_placements", &self.placements.len())
            .finish_non_exhaustive()
    }
}

/// One application of a [`Group`]'s matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Input ciphertext of each tap, or [`PADDING`].
    pub inputs: Vec<u32>,
    /// Output ciphertext of the first row.
    pub first_output: u32,
    /// Distance between the outputs of consecutive rows (1 when they are adjacent).
    pub output_stride: u32,
}

/// A checked integer linear map `y = W·x + b` on ciphertexts, ready for the kernels.
///
/// `W` acts on every word of a block modulo each `q_i`. The bias, one integer per output ciphertext,
/// multiplies the plaintext that stands for 1 and is added to `c_0`: the constant polynomial 1 for
/// slots, [`crate::CoefficientEncoder::ones`] for coefficients (see [`LinearMap::with_unit`]).
#[derive(Debug, Clone)]
pub struct LinearMap {
    n_inputs: usize,
    n_outputs: usize,
    groups: Vec<CompiledGroup>,
    bias: Vec<i64>,
    unit: Unit,
    max_l1: u64,
    max_l2: f64,
}

impl LinearMap {
    /// A dense map: `weights` is row-major `n_outputs × n_inputs`, `bias` has one value per output.
    ///
    /// # Errors
    /// As [`LinearMap::new`].
    pub fn dense(n_outputs: usize, n_inputs: usize, weights: &[i32], bias: &[i64]) -> Result<Self> {
        let inputs = (0..n_inputs).map(index).collect::<Result<Vec<_>>>()?;
        let group = Group {
            weights: weights.to_vec(),
            n_rows: n_outputs,
            n_taps: n_inputs,
            placements: vec![Placement { inputs, first_output: 0, output_stride: 1 }],
        };
        Self::new(n_inputs, n_outputs, vec![group], bias.to_vec())
    }

    /// A map that sums groups of inputs: output `i` is `Σ inputs[members[i]]`.
    ///
    /// All groups must have the same, non-zero size.
    ///
    /// # Errors
    /// As [`LinearMap::new`].
    pub fn sums(n_inputs: usize, members: &[Vec<u32>]) -> Result<Self> {
        let n_taps = members.first().map_or(0, Vec::len);
        let placements = members
            .iter()
            .enumerate()
            .map(|(output, inputs)| {
                let first_output = index(output)?;
                Ok(Placement { inputs: inputs.clone(), first_output, output_stride: 1 })
            })
            .collect::<Result<Vec<_>>>()?;
        let group = Group { weights: vec![1; n_taps], n_rows: 1, n_taps, placements };
        Self::new(n_inputs, members.len(), vec![group], vec![0; members.len()])
    }

    /// Checks and compiles a map from groups.
    ///
    /// # Errors
    /// - [`Error::Length`] when weights, inputs or bias have the wrong number of values, or an
    ///   output is produced by no placement or by two.
    /// - [`Error::Index`] when an input does not exist.
    /// - [`Error::Value`] when a weight's magnitude exceeds 32767.
    pub fn new(
        n_inputs: usize,
        n_outputs: usize,
        groups: Vec<Group>,
        bias: Vec<i64>,
    ) -> Result<Self> {
        check_length("bias values", n_outputs, bias.len())?;
        let mut produced = vec![0_usize; n_outputs];
        for group in &groups {
            check_group(group, n_inputs, &mut produced)?;
        }
        if let Some(output) = produced.iter().position(|&n| n != 1) {
            let actual = produced.get(output).copied().unwrap_or_default();
            return Err(Error::Length { what: "placements per output", expected: 1, actual });
        }
        let (mut max_l1, mut max_l2) = (0, 0.0_f64);
        for group in &groups {
            let (l1, l2) = norms(group);
            max_l1 = max_l1.max(l1);
            max_l2 = max_l2.max(l2);
        }
        let groups = groups.into_iter().map(|group| CompiledGroup::new(group, n_inputs)).collect();
        Ok(Self { n_inputs, n_outputs, groups, bias, unit: Unit::One, max_l1, max_l2 })
    }

    /// Makes the bias multiply another plaintext than the constant 1.
    ///
    /// Coefficient packing needs [`crate::CoefficientEncoder::ones`]: a constant polynomial would
    /// reach the first coefficient only. The map then works for the plaintext's parameters alone.
    /// Cost: a forward transform per modulus.
    ///
    /// # Example
    ///
    /// ```
    /// use he_core::{CoefficientEncoder, LinearMap, Params, ParamsSpec};
    ///
    /// # fn main() -> Result<(), he_core::Error> {
    /// let params = Params::new(ParamsSpec::with_bits(2048, 1 << 32, &[47])?)?;
    /// let encoder = CoefficientEncoder::new(&params, 16, 2)?;
    /// let map = LinearMap::dense(1, 2, &[2, -5], &[7])?.with_unit(&encoder.ones());
    /// # assert_eq!(map.bias(), &[7]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_unit(mut self, unit: &Plaintext) -> Self {
        self.unit = Unit::new(unit);
        self
    }

    /// Number of input ciphertexts.
    #[must_use]
    pub fn n_inputs(&self) -> usize {
        self.n_inputs
    }

    /// Number of output ciphertexts.
    #[must_use]
    pub fn n_outputs(&self) -> usize {
        self.n_outputs
    }

    /// Bias of each output.
    #[must_use]
    pub fn bias(&self) -> &[i64] {
        &self.bias
    }

    /// Largest `Σ|w|` of a row.
    #[must_use]
    pub fn max_l1(&self) -> u64 {
        self.max_l1
    }

    /// Largest `sqrt(Σw²)` of a row; `Σ|w|` where a placement uses one input twice.
    #[must_use]
    pub fn max_l2(&self) -> f64 {
        self.max_l2
    }

    /// Applies the map to a block: `n_inputs` ciphertexts in, `n_outputs` out, same form.
    ///
    /// Ciphertexts may have any degree; the bias goes to `c_0`. After a modulus switch it is divided
    /// by [`CiphertextBlock::correction`] first and counts up to `t/2` in the noise bound.
    ///
    /// # Errors
    /// As [`LinearMap::apply_range`].
    pub fn apply(&self, input: &CiphertextBlock) -> Result<CiphertextBlock> {
        self.apply_range(input, 0..self.n_outputs)
    }

    /// Computes the outputs of one range only, so that a wide layer never exists as a whole.
    ///
    /// Parallel over moduli and columns. Cost: `taps · (degree + 1)·N` multiply-adds per output and
    /// modulus.
    ///
    /// # Errors
    /// - [`Error::Length`] when the block does not hold `n_inputs` ciphertexts.
    /// - [`Error::Index`] when the range ends beyond the outputs or cuts a placement in two.
    /// - [`Error::ParamsMismatch`] when [`LinearMap::with_unit`] was given other parameters.
    pub fn apply_range(
        &self,
        input: &CiphertextBlock,
        outputs: Range<usize>,
    ) -> Result<CiphertextBlock> {
        // Fresh zeroed memory, not zeros written over fresh memory; a misfit is refused below.
        let count = outputs.len().min(self.n_outputs);
        let mut out = input.like(count, input.degree(), input.correction());
        self.apply_range_into(input, outputs, &mut out)?;
        Ok(out)
    }

    /// As [`LinearMap::apply_range`], into a block whose allocation is reused: fresh memory costs
    /// more than the arithmetic of a narrow convolution.
    ///
    /// # Errors
    /// As [`LinearMap::apply_range`]; `out` then holds nothing of use.
    pub fn apply_range_into(
        &self,
        input: &CiphertextBlock,
        outputs: Range<usize>,
        out: &mut CiphertextBlock,
    ) -> Result<()> {
        // Nobody is asked, so nobody says `Break`.
        self.apply_asking(input, outputs, out, None).map(|_| ())
    }

    /// As [`LinearMap::apply_range_into`], and asks every fraction of a second or so whether the rest is
    /// wanted. After `Break`, `out` holds nothing of use.
    ///
    /// # Errors
    /// As [`LinearMap::apply_range`].
    pub fn apply_range_while(
        &self,
        input: &CiphertextBlock,
        outputs: Range<usize>,
        out: &mut CiphertextBlock,
        wanted: &mut Wanted<'_>,
    ) -> Result<ControlFlow<()>> {
        self.apply_asking(input, outputs, out, Some(wanted))
    }

    fn apply_asking(
        &self,
        input: &CiphertextBlock,
        outputs: Range<usize>,
        out: &mut CiphertextBlock,
        mut wanted: Option<&mut Wanted<'_>>,
    ) -> Result<ControlFlow<()>> {
        check_length("ciphertexts in the block", self.n_inputs, input.count())?;
        if outputs.start > outputs.end || outputs.end > self.n_outputs {
            return Err(Error::Index { what: "output", index: outputs.end, count: self.n_outputs });
        }
        self.unit.check_params(input.params())?;
        let (correction, t) = (input.correction(), input.params().plaintext_modulus());
        let bias = self.bias.get(outputs.clone()).unwrap_or_default().iter();
        let bias: Vec<i128> = bias.map(|&b| divide_centred(b, correction, t)).collect();
        let work = Work::for_backend(self, &outputs, input.params().backend())?;
        // Every output is produced by exactly one placement, so every word is overwritten.
        out.reshape(input, outputs.len(), input.degree());
        let (n, row_len) = (input.params().ring_degree(), input.row_len());
        let backend = input.params().backend();
        for (limb, ring) in input.rings().iter().enumerate() {
            let words = input.limb(limb);
            let width = work.slab_width(ring, n, row_len);
            let residues: Vec<u64> = bias.iter().map(|&b| ring.residue_vartime(b)).collect();
            let compute = |packed: &mut Packed, mut slab: SlabRows<'_>| {
                work.pack(packed, words, row_len, ring, &slab);
                for tile in &work.tiles {
                    simd::multiply(backend, tile, packed, ring.reducer(), &mut slab);
                }
                if slab.start() < n {
                    let start = slab.start();
                    for (row, &bias) in residues.iter().enumerate() {
                        self.unit.add(bias, limb, ring, start, slab.row_mut(row));
                    }
                }
            };
            let rows = out.limb_mut(limb);
            let flow = slabs(rows, row_len, width, Packed::default, compute, &mut wanted);
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Combines the rows with secret random factors modulo one prime: `(rᵀW, rᵀb)`.
    ///
    /// `factors` has one residue per output. No branch or address depends on them.
    pub(crate) fn combine_rows(&self, factors: &[u64], ring: &Ring) -> (Vec<u64>, u64) {
        let mut columns = vec![0; self.n_inputs];
        for compiled in &self.groups {
            for placement in &compiled.group.placements {
                combine_placement(&compiled.group, placement, factors, ring, &mut columns);
            }
        }
        let reducer = ring.reducer();
        let constant = self.bias.iter().zip(factors).fold(0, |sum, (&b, &r)| {
            let bias = reducer.factor(ring.residue_vartime(b.into()));
            reducer.add(sum, reducer.multiply(r.cast_signed(), bias))
        });
        (columns, constant)
    }

    /// The plaintext that the bias multiplies.
    pub(crate) fn unit(&self) -> &Unit {
        &self.unit
    }
}

/// Rows summed between reductions: `2^15·2^24·2^20` stays below 2^60.
const MAX_COMBINED_ROWS: usize = 1 << 20;

/// Adds `Σ_row factor·weights[row]` of one placement to its inputs' columns.
///
/// Factors are split into 24-bit halves so that products of 32-bit numbers do the work.
/// All slabs at once, or in groups between which somebody is asked.
fn slabs<S: Send>(
    matrix: &mut [u64],
    row_len: usize,
    width: usize,
    scratch: impl Fn() -> S + Sync + Send,
    work: impl Fn(&mut S, SlabRows<'_>) + Sync + Send,
    wanted: &mut Option<&mut Wanted<'_>>,
) -> ControlFlow<()> {
    match wanted {
        Some(wanted) => simd::for_each_slab_while(matrix, row_len, width, scratch, work, wanted),
        None => {
            simd::for_each_slab(matrix, row_len, width, scratch, work);
            ControlFlow::Continue(())
        }
    }
}

fn combine_placement(
    group: &Group,
    placement: &Placement,
    factors: &[u64],
    ring: &Ring,
    columns: &mut [u64],
) {
    const HALF: u32 = 24;
    let reducer = ring.reducer();
    let shift = reducer.factor(ring.residue_vartime(1 << HALF));
    let mut outputs = (placement.first_output as usize..).step_by(placement.output_stride as usize);
    let mut sums = Zeroizing::new([vec![0_i64; group.n_taps], vec![0_i64; group.n_taps]]);
    for rows in group.weights.chunks(group.n_taps * MAX_COMBINED_ROWS) {
        let [low_sums, high_sums] = &mut *sums;
        low_sums.fill(0);
        high_sums.fill(0);
        for (weights, output) in rows.chunks_exact(group.n_taps).zip(&mut outputs) {
            let factor = factors.get(output).copied().unwrap_or_default();
            let (low, high) = (factor & ((1 << HALF) - 1), factor >> HALF);
            let (low, high) = (low.cast_signed(), high.cast_signed());
            simd::vectorize(
                #[inline(always)]
                || {
                    for ((l, h), &w) in low_sums.iter_mut().zip(high_sums.iter_mut()).zip(weights) {
                        *l += i64::from(w) * low;
                        *h += i64::from(w) * high;
                    }
                },
            );
        }
        for ((&input, &low), &high) in placement.inputs.iter().zip(&*low_sums).zip(&*high_sums) {
            if let Some(column) = columns.get_mut(input as usize) {
                let high = reducer.multiply(reducer.reduce(high).cast_signed(), shift);
                *column = reducer.add(*column, reducer.add(reducer.reduce(low), high));
            }
        }
    }
}

/// Largest `Σ|w|` of a group's rows, and the largest factor by which a row raises the deviation of
/// independent inputs.
fn norms(group: &Group) -> (u64, f64) {
    let repeats = group.placements.iter().any(|placement| {
        let mut inputs: Vec<u32> = placement.inputs.clone();
        inputs.retain(|&input| input != PADDING);
        inputs.sort_unstable();
        inputs.windows(2).any(|pair| matches!(pair, [a, b] if a == b))
    });
    let (mut max_l1, mut max_l2) = (0, 0.0_f64);
    for row in group.weights.chunks(group.n_taps.max(1)) {
        let l1: u64 = row.iter().map(|w| u64::from(w.unsigned_abs())).sum();
        #[expect(clippy::cast_precision_loss, reason = "a sum of 16-bit magnitudes")]
        let l2 = if repeats {
            l1 as f64
        } else {
            row.iter().map(|&w| f64::from(w) * f64::from(w)).sum::<f64>().sqrt()
        };
        max_l1 = max_l1.max(l1);
        max_l2 = max_l2.max(l2);
    }
    (max_l1, max_l2)
}

fn check_group(group: &Group, n_inputs: usize, produced: &mut [usize]) -> Result<()> {
    if group.n_rows == 0 || group.n_taps == 0 {
        return Err(Error::Length { what: "rows and taps of a group", expected: 1, actual: 0 });
    }
    let n_weights = group.n_rows.saturating_mul(group.n_taps);
    check_length("weights of a group", n_weights, group.weights.len())?;
    if let Some(&w) = group.weights.iter().find(|w| i64::from(**w).abs() > MAX_WEIGHT) {
        let (min, max) = (i128::from(-MAX_WEIGHT), i128::from(MAX_WEIGHT));
        return Err(Error::Value { what: "weight", value: w.into(), min, max });
    }
    for placement in &group.placements {
        check_length("inputs of a placement", group.n_taps, placement.inputs.len())?;
        if let Some(&input) =
            placement.inputs.iter().find(|&&i| i != PADDING && i as usize >= n_inputs)
        {
            return Err(Error::Index { what: "input", index: input as usize, count: n_inputs });
        }
        if placement.output_stride == 0 {
            return Err(Error::Length { what: "output stride", expected: 1, actual: 0 });
        }
        for row in 0..group.n_rows {
            let output = (placement.output_stride as usize)
                .saturating_mul(row)
                .saturating_add(placement.first_output as usize);
            let count = produced.len();
            *produced.get_mut(output).ok_or(Error::Index {
                what: "output",
                index: output,
                count,
            })? += 1;
        }
    }
    Ok(())
}

fn index(value: usize) -> Result<u32> {
    u32::try_from(value).ok().filter(|&v| v != PADDING).ok_or(Error::Index {
        what: "ciphertext",
        index: value,
        count: PADDING as usize,
    })
}

fn check_length(what: &'static str, expected: usize, actual: usize) -> Result<()> {
    if expected == actual { Ok(()) } else { Err(Error::Length { what, expected, actual }) }
}

#[cfg(test)]
mod tests;
