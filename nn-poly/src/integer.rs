//! The exact integer network: the specification every encrypted run is compared with.
//!
//! ```text
//!  inputs (grid) ─► stage 0 ─► stage 1 ─► … ─► last stage ─► scores
//!                   │
//!                   └ W·x + b ─► activation ─► pool ─► refresh: clamp(⌊(v·m + 2^(s−1))/2^s⌋)
//! ```
//!
//! A stage reads the input and the outputs of any earlier refreshes ([`ValueRef`]), as one vector or
//! as terms of a sum ([`SumGeometry`]): residual connections and joined channels are linear maps.
//!
//! Everything is a whole number and every rule is exact, so two builds on two machines agree in
//! every bit. A network is checked when it is built: dimensions, coefficients, and by interval
//! arithmetic ([`StageRanges`]) that no accumulator can reach `±2^62`, whatever the input. After
//! that no evaluation can overflow.
//!
//! | module | what |
//! |---|---|
//! | `reference` | the definition: one sample, 128-bit, loops one can read |
//! | `evaluate` | the fast path for many samples; equal to the reference |
//! | `modular` | one segment over `Z_t` at arbitrary points, for random-point canaries |
//! | `table` | look-up tables of the key holder, for activations that are no polynomials |
//! | `refresher` | the key holder's tail of a stage, neuron by neuron |
//! | `ranges` | proofs of ranges, row norms |
//! | `geometry` | dense maps, convolutions in groups, sums of convolutions |
//! | [`chain`] | polynomial steps without a refresh in between, in 128 bits |
//! | `crt` | values of chains and masked values, put together from their residues |
//! | `masked` | refreshes by a key holder that must not learn the values |
//!
//! Values are neuron-major: row = neuron in `(row, column, channel)` order, column = sample.
//! Structure ([`StageStructure`]) is public; numbers ([`StageWeights`]) are private.
//!
//! ```
//! use ndarray::array;
//! use nn_poly::integer::{
//!     ActivationKind, InputGrid, IntegerNetwork, LinearGeometry, Quadratic, StageStructure,
//!     StageWeights, ValueRef,
//! };
//!
//! # fn main() -> nn_poly::Result<()> {
//! // One stage: (3 x₀ − 2 x₁ + 1)² on inputs of 4 bits.
//! let structure = StageStructure {
//!     sources: vec![ValueRef::Input],
//!     linear: LinearGeometry::Dense { n_in: 2, n_out: 1 },
//!     activation: ActivationKind::Quadratic,
//!     pool: None,
//!     refresh: None,
//!     chain: None,
//! };
//! let weights = StageWeights {
//!     weights: vec![3, -2],
//!     bias: vec![1],
//!     quadratic: Some(Quadratic::square()),
//!     chain: Vec::new(),
//! };
//! let grid = InputGrid { bits: 4, signed: false, step: 1.0 / 15.0 };
//! let network = IntegerNetwork::new(grid, 2, vec![structure], vec![weights])?;
//! // Two samples, one per column.
//! assert_eq!(network.evaluate(&array![[1, 0], [15, 2]])?.scores, array![[676, 9]]);
//! # Ok(())
//! # }
//! ```

pub mod chain;
mod check;
mod crt;
mod evaluate;
mod geometry;
mod grid;
mod interval;
mod linear;
mod masked;
mod modular;
mod ranges;
mod reference;
mod refresh;
mod refresher;
mod structure;
mod table;
mod tail;
mod weights;
mod window;

pub(crate) use check::require;
pub use crt::{CrtWindow, MAX_CRT_MODULI, Reduction128};
pub use evaluate::{Evaluation, StageCounts, StageObservation};
pub(crate) use evaluate::{Keep, StageRule};
pub use geometry::{ConvGeometry, Grouping, LinearGeometry, SumGeometry, SumTerm, Volume};
pub use grid::InputGrid;
pub use interval::{Interval, WideInterval};
pub use masked::{
    MASK_MARGIN_BITS, MASK_MODULUS_BITS, MAX_MASKED_INPUT, MaskSource, MaskedEvaluation,
    MaskedScores, MaskedStage, NoMasks, TOLERANCE_BITS,
};
pub(crate) use masked::{check_maskable, range_bits};
pub(crate) use ranges::max_l1;
pub use ranges::{RowNorms, StageRanges};
pub use reference::ReferenceStage;
pub use refresh::{MAX_MULTIPLIER, MAX_REFRESHED, MAX_SHIFT, Refresh};
pub use refresher::{Arrivals, Refreshed, RefreshedScores, Refresher};
pub use structure::{
    ActivationKind, MAX_NETWORK_PRODUCTS, MAX_NETWORK_VALUES, MAX_STAGE_GATHERS, MAX_STAGE_VALUES,
    MAX_STAGE_WEIGHTS, MAX_STAGES, NonPolynomial, Pool, Reduction, StageStructure, ValueRef,
};
pub use table::{
    LookupTable, MAX_NETWORK_TABLE_RUNS, MAX_TABLE_RUNS, MAX_TABLE_VALUE, StepFunction,
};
pub use weights::{MAX_BIAS, MAX_LEADING, MAX_WEIGHT, Quadratic, StageWeights};
pub use window::Window;

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use linear::PreparedWeights;

/// Small integers, one row per neuron (channel fastest), one column per sample.
pub type IntegerMatrix = Array2<i32>;

/// Raw outputs and scores, one row per neuron, one column per sample.
pub type ScoreMatrix = Array2<i64>;

/// Every accumulator stays strictly inside `±2^62`.
///
/// So the sum of two of them, and the difference of one and a window bound, stay inside `i64`.
pub const MAX_MAGNITUDE: i64 = 1 << 62;

/// The two places of a stage where a segment may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StageOutput {
    /// After the linear map; activation and pool follow at the key holder.
    Linear,
    /// After activation and pool.
    Pooled,
}

/// A checked network of integer stages.
///
/// Immutable. Memory: the weights twice, once as given and once in the number type the fast path
/// multiplies with, plus one interval per value.
#[derive(Clone)]
pub struct IntegerNetwork {
    input: InputGrid,
    n_inputs: usize,
    structure: Vec<StageStructure>,
    weights: Vec<StageWeights>,
    /// Proven by the constructor; every unchecked sum in the fast path relies on it.
    ranges: Vec<StageRanges>,
    prepared: Vec<PreparedWeights>,
}

impl IntegerNetwork {
    /// Check everything and prove that no accumulator can overflow.
    ///
    /// `n_inputs` is the number of inputs of one sample. Sources of a stage must be the input or
    /// earlier stages, and their lengths must add up to what its linear map reads. Every stage but
    /// the last has a refresh, and the last has none.
    ///
    /// Cost: one pass over all products of one sample.
    ///
    /// # Errors
    /// - [`crate::Error::OutOfRange`] naming stage, field and limits.
    /// - [`crate::Error::InvalidSetting`] for a bad step of the input grid.
    /// - [`crate::Error::Accumulator`] if a value could reach `±2^62`.
    pub fn new(
        input: InputGrid,
        n_inputs: usize,
        structure: Vec<StageStructure>,
        weights: Vec<StageWeights>,
    ) -> Result<Self> {
        check_structure(&input, n_inputs, &structure)?;
        let n_stages = structure.len();
        require("network", 0, "number of weighted stages", weights.len(), n_stages, n_stages)?;
        let mut ranges = Vec::with_capacity(n_stages);
        let mut prepared = Vec::with_capacity(n_stages);
        for (stage, (shape, numbers)) in structure.iter().zip(&weights).enumerate() {
            let inputs = source_intervals(&input, n_inputs, &structure, shape);
            let (proven, prepared_weights) = prepare_stage(stage, shape, numbers, &inputs)?;
            prepared.push(prepared_weights);
            ranges.push(proven);
        }
        Ok(Self { input, n_inputs, structure, weights, ranges, prepared })
    }

    /// The same network with other numbers in stage `stage_idx`, checked as [`Self::new`] checks.
    ///
    /// What a stage reads is bounded by refreshes, not by the weights before it, so the proofs of the
    /// other stages stay valid. Cost: one pass over the products of that stage, and a copy of the
    /// weights of the others.
    ///
    /// # Errors
    /// - [`crate::Error::OutOfRange`] if there is no such stage, or naming the field and its limits.
    /// - [`crate::Error::Accumulator`] if a value could reach `±2^62`.
    pub fn with_stage_weights(&self, stage_idx: usize, weights: StageWeights) -> Result<Self> {
        let (shape, _) = self.stage(stage_idx)?;
        let inputs = self.input_intervals(stage_idx)?;
        let (proven, prepared) = prepare_stage(stage_idx, shape, &weights, &inputs)?;
        let mut network = self.clone();
        #[expect(clippy::indexing_slicing, reason = "the stage exists")]
        {
            network.weights[stage_idx] = weights;
            network.ranges[stage_idx] = proven;
            network.prepared[stage_idx] = prepared;
        }
        Ok(network)
    }

    /// The input grid.
    #[must_use]
    pub const fn input(&self) -> &InputGrid {
        &self.input
    }

    /// Inputs of one sample.
    #[must_use]
    pub const fn n_inputs(&self) -> usize {
        self.n_inputs
    }

    /// Scores of one sample.
    #[must_use]
    pub fn n_scores(&self) -> usize {
        self.structure.last().map_or(0, StageStructure::n_outputs)
    }

    /// The public part of every stage.
    #[must_use]
    pub fn structure(&self) -> &[StageStructure] {
        &self.structure
    }

    /// The private part of every stage.
    #[must_use]
    pub fn weights(&self) -> &[StageWeights] {
        &self.weights
    }

    /// Multiplications of one sample.
    #[must_use]
    pub fn n_products(&self) -> u64 {
        self.structure.iter().map(|stage| stage.n_products() as u64).sum()
    }

    /// Structure and numbers of stage `stage_idx`.
    ///
    /// # Errors
    /// - [`crate::Error::OutOfRange`] if there is no such stage.
    pub fn stage(&self, stage_idx: usize) -> Result<(&StageStructure, &StageWeights)> {
        require("network", 0, "stage index", stage_idx, 0, self.structure.len() - 1)?;
        #[expect(clippy::indexing_slicing, reason = "checked just above")]
        Ok((&self.structure[stage_idx], &self.weights[stage_idx]))
    }

    /// Interval of every input of stage `stage_idx`.
    pub(crate) fn input_intervals(&self, stage_idx: usize) -> Result<Vec<Interval>> {
        let (shape, _) = self.stage(stage_idx)?;
        Ok(source_intervals(&self.input, self.n_inputs, &self.structure, shape))
    }
}

impl std::fmt::Debug for IntegerNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IntegerNetwork")
            .field("input", &self.input)
            .field("n_inputs", &self.n_inputs)
            .field("structure", &self.structure)
            .finish_non_exhaustive()
    }
}

/// Check the numbers of a stage, prove its ranges, and bring its weights into the fast form.
fn prepare_stage(
    stage: usize,
    shape: &StageStructure,
    numbers: &StageWeights,
    inputs: &[Interval],
) -> Result<(StageRanges, PreparedWeights)> {
    numbers.check(stage, shape)?;
    let proven = ranges::prove_stage(stage, shape, numbers, inputs)?;
    let prepared = PreparedWeights::new(shape, numbers, &proven);
    Ok((proven, prepared))
}

/// Check the public part of a network: each stage, the sources, the refreshes.
///
/// # Errors
/// - [`crate::Error::OutOfRange`] naming stage, field and limits.
/// - [`crate::Error::InvalidSetting`] for a bad step of the input grid.
pub(crate) fn check_structure(
    input: &InputGrid,
    n_inputs: usize,
    structure: &[StageStructure],
) -> Result<()> {
    input.check()?;
    require("network", 0, "number of inputs", n_inputs, 1, MAX_STAGE_VALUES)?;
    require("network", 0, "number of stages", structure.len(), 1, MAX_STAGES)?;
    let (mut n_values, mut n_products, mut n_runs) = (0_usize, 0_usize, 0_usize);
    for (stage, shape) in structure.iter().enumerate() {
        shape.check(stage)?;
        let in_chain = shape.chain.as_ref().map_or(0, chain::Chain::n_values);
        let own = shape.linear.n_inputs() + shape.linear.n_outputs();
        n_values = n_values.saturating_add(own).saturating_add(in_chain);
        n_products = n_products.saturating_add(shape.n_products());
        n_runs += shape.table().map_or(0, LookupTable::n_runs);
        let mut n_source_values = 0_usize;
        for source in &shape.sources {
            if let ValueRef::Stage(source) = *source {
                let latest = i128::try_from(stage).unwrap_or(i128::MAX) - 1;
                require("stage", stage, "source stage", i128::from(source), 0, latest)?;
            }
            n_source_values += source_len(n_inputs, structure, *source);
        }
        let n = shape.n_inputs();
        require("stage", stage, "number of values in its sources", n_source_values, n, n)?;
        let is_last = stage + 1 == structure.len();
        let (has, wanted) = (usize::from(shape.refresh.is_some()), usize::from(!is_last));
        require("stage", stage, "number of refreshes", has, wanted, wanted)?;
    }
    require("network", 0, "number of values", n_values, 1, MAX_NETWORK_VALUES)?;
    require("network", 0, "number of runs of its tables", n_runs, 0, MAX_NETWORK_TABLE_RUNS)?;
    require("network", 0, "number of products", n_products, 1, MAX_NETWORK_PRODUCTS)
}

/// Values of one source; 0 for a stage that does not exist.
fn source_len(n_inputs: usize, structure: &[StageStructure], source: ValueRef) -> usize {
    match source {
        ValueRef::Input => n_inputs,
        ValueRef::Stage(stage) => usize::try_from(stage)
            .ok()
            .and_then(|stage| structure.get(stage))
            .map_or(0, StageStructure::n_outputs),
    }
}

/// The interval of every value a stage reads: the input grid or the clamp of a refresh.
fn source_intervals(
    input: &InputGrid,
    n_inputs: usize,
    structure: &[StageStructure],
    shape: &StageStructure,
) -> Vec<Interval> {
    let mut intervals = Vec::with_capacity(shape.n_inputs());
    for source in &shape.sources {
        let interval = match *source {
            ValueRef::Input => input.interval(),
            ValueRef::Stage(stage) => usize::try_from(stage)
                .ok()
                .and_then(|stage| structure.get(stage)?.refresh.as_ref())
                .map_or(Interval::point(0), Refresh::interval),
        };
        let n = source_len(n_inputs, structure, *source);
        intervals.extend(std::iter::repeat_n(interval, n));
    }
    intervals
}
