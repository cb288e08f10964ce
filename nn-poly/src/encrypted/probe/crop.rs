//! Parts of stages that are quick to evaluate and cost what the whole does per output.

use crate::integer::{
    ActivationKind, ConvGeometry, Grouping, LinearGeometry, Pool, Quadratic, Reduction, Refresh,
    StageStructure, StageWeights, ValueRef, Volume,
};
use crate::layer::Padding;
use crate::plan::Segment;

/// Taps per output that are measured, at most, where the number can be chosen.
const MOST_TAPS: usize = 256;
/// Products of a weight and a residue that a crop may take, about.
const PRODUCTS: usize = 80_000_000;
/// Bytes of inputs that a crop may take, about.
const INPUT_BYTES: usize = 32 << 20;
/// Rows of one matrix that are evaluated together, see [`super::super::map`].
const DENSE_ROWS: usize = 160;
/// Groups of channels that are measured, at most.
const MOST_GROUPS: usize = 16;

/// A part of a stage.
#[derive(Debug)]
pub(super) struct Crop {
    pub(super) structure: StageStructure,
    /// Inputs that one output reads.
    pub(super) taps: f64,
    /// The same in the whole stage.
    pub(super) whole_taps: f64,
    /// Matrices applied: positions times groups of channels.
    pub(super) units: f64,
    /// The same in the whole stage.
    pub(super) whole_units: f64,
}

/// One or two parts of a stage as `segment` evaluates it: the second one with half the taps, if the
/// first has not all of them.
#[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
pub(super) fn crops(segment: &Segment, whole: &StageStructure) -> Vec<Crop> {
    let shape = Shape::of(whole);
    let most = (MOST_TAPS / shape.kernel_taps()).clamp(1, shape.channels_in);
    let mut sizes = vec![most];
    if most > 1 && most < shape.channels_in {
        sizes.push(most / 2);
    }
    let room = Room::of(segment);
    // Both parts differ in their taps only.
    let positions = shape.positions(whole, segment, most, &room);
    let groups = shape.groups(most, &room);
    let make = |channels_in: usize| {
        let structure = shape.part(whole, segment, channels_in, groups, positions);
        let out = structure.linear.output();
        Crop {
            taps: (shape.kernel_taps() * channels_in) as f64,
            whole_taps: (shape.kernel_taps() * shape.channels_in) as f64,
            units: (out.height * out.width * groups) as f64,
            whole_units: shape.whole_units,
            structure,
        }
    };
    sizes.into_iter().map(make).collect()
}

/// A dense stage, with the square at the server or a refresh only.
pub(super) fn dense(n_in: usize, n_out: usize, squares: bool) -> StageStructure {
    StageStructure {
        sources: vec![ValueRef::Input],
        linear: LinearGeometry::Dense { n_in, n_out },
        activation: if squares { ActivationKind::Quadratic } else { ActivationKind::Identity },
        pool: None,
        refresh: Some(Refresh { multipliers: vec![1], shift: 20, min: -7, max: 7 }),
        chain: None,
    }
}

/// Weights for a part, taken from those of the whole again and again; nothing depends on their values.
pub(super) fn weights_of(structure: &StageStructure, whole: &[i16]) -> StageWeights {
    let n = structure.linear.n_weights();
    let mut weights: Vec<i16> = whole.iter().copied().cycle().take(n).collect();
    weights.resize(n, 1);
    let quadratic = structure.activation == ActivationKind::Quadratic;
    let quadratic = quadratic.then(Quadratic::square);
    StageWeights {
        weights,
        bias: vec![0; structure.linear.n_channels()],
        quadratic,
        chain: Vec::new(),
    }
}

/// What a crop may cost.
struct Room {
    /// Residues of one ciphertext of two polynomials.
    words: usize,
}

impl Room {
    fn of(segment: &Segment) -> Self {
        Self { words: 2 * segment.ring.ring_degree as usize * segment.ring.moduli.len() }
    }

    fn products(&self) -> usize {
        PRODUCTS / self.words.max(1)
    }

    fn inputs(&self) -> usize {
        (INPUT_BYTES / (8 * self.words.max(1))).max(1)
    }
}

/// A linear map as matrices applied at positions.
struct Shape {
    kernel: (usize, usize),
    stride: (usize, usize),
    /// Channels one output reads, and outputs that read the same.
    channels_in: usize,
    rows: usize,
    n_groups: usize,
    /// Positions of the output plane.
    plane: (usize, usize),
    whole_units: f64,
}

impl Shape {
    #[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
    fn of(whole: &StageStructure) -> Self {
        let out = whole.linear.output();
        let plane = (out.height, out.width);
        let taps = whole.linear.n_weights() / out.channels.max(1);
        let (kernel, stride, channels_in, n_groups) = match &whole.linear {
            LinearGeometry::Conv2d(conv) if plane != (1, 1) => {
                (conv.kernel, conv.stride, conv.channels_per_group(), conv.n_groups())
            }
            LinearGeometry::Conv2d(conv) => ((1, 1), (1, 1), taps, conv.n_groups()),
            LinearGeometry::Dense { .. } => ((1, 1), (1, 1), taps, 1),
            // Its terms' taps, as if they were channels at one place.
            LinearGeometry::Sum(sum) => ((1, 1), (1, 1), taps, sum.common_groups().unwrap_or(1)),
        };
        let whole_rows = (out.channels / n_groups).max(1);
        let rows = if plane == (1, 1) { whole_rows.min(DENSE_ROWS) } else { whole_rows };
        let whole_units = (plane.0 * plane.1 * n_groups) as f64 * whole_rows as f64 / rows as f64;
        Self { kernel, stride, channels_in: channels_in.max(1), rows, n_groups, plane, whole_units }
    }

    fn kernel_taps(&self) -> usize {
        (self.kernel.0 * self.kernel.1).max(1)
    }

    fn groups(&self, channels_in: usize, room: &Room) -> usize {
        let products = self.kernel_taps() * channels_in * self.rows;
        (room.products() / products.max(1)).clamp(1, self.n_groups.min(MOST_GROUPS))
    }

    /// Pooled positions of a part: one row of so many, the last of which is in the plane.
    fn positions(
        &self,
        whole: &StageStructure,
        segment: &Segment,
        channels_in: usize,
        room: &Room,
    ) -> usize {
        let (window, _) = pool_of(whole, segment);
        let widest = match whole.pool.filter(|_| segment.evaluates_activation) {
            Some(pool) => pool.output().width,
            None => self.plane.1,
        };
        let groups = self.groups(channels_in, room);
        let products = self.kernel_taps() * channels_in * self.rows * groups * window.0 * window.1;
        let by_products = (room.products() / products.max(1)).max(1);
        let most = by_products.clamp(1, widest.max(1));
        let fits = |n: &usize| {
            let input = self.part(whole, segment, channels_in, groups, *n).n_inputs();
            input <= room.inputs()
        };
        (1..=most).rev().find(fits).unwrap_or(1)
    }

    /// The part with `positions` results beside each other.
    fn part(
        &self,
        whole: &StageStructure,
        segment: &Segment,
        channels_in: usize,
        groups: usize,
        positions: usize,
    ) -> StageStructure {
        let (window, stride) = pool_of(whole, segment);
        let plane = (window.0, (positions - 1) * stride.1 + window.1);
        let extent = |n: usize, stride: usize, kernel: usize| (n - 1) * stride + kernel;
        let conv = ConvGeometry {
            input: Volume {
                height: extent(plane.0, self.stride.0, self.kernel.0),
                width: extent(plane.1, self.stride.1, self.kernel.1),
                channels: channels_in * groups,
            },
            kernel: self.kernel,
            stride: self.stride,
            padding: Padding::NONE,
            out_channels: self.rows * groups,
            grouping: if groups == 1 { Grouping::Full } else { Grouping::Groups(groups) },
        };
        let is_one = plane == (1, 1) && groups == 1;
        let n_out = conv.output().len();
        let linear = if is_one && self.kernel_taps() == 1 {
            LinearGeometry::Dense { n_in: channels_in, n_out }
        } else {
            LinearGeometry::Conv2d(conv)
        };
        let squares = segment.evaluates_activation;
        let pool = (squares && window != (1, 1)).then(|| Pool {
            reduction: Reduction::Sum,
            input: conv.output(),
            window,
            stride,
            padding: Padding::NONE,
        });
        StageStructure { linear, pool, ..dense(1, 1, squares) }
    }
}

/// Window and stride of the pool at the server.
fn pool_of(whole: &StageStructure, segment: &Segment) -> ((usize, usize), (usize, usize)) {
    match whole.pool.filter(|_| segment.evaluates_activation) {
        Some(pool) => (pool.window, pool.stride),
        None => ((1, 1), (1, 1)),
    }
}
