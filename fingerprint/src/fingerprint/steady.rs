//! Which samples an honest service answers like the reference, however it computes.

use ndarray::{Array2, ArrayView1};
use nn_poly::integer::IntegerNetwork;
use nn_poly::{Network, Predictor};

use crate::endpoint::{Answers, Endpoint as _, IntegerEndpoint, ScoreKind};
use crate::error::{Error, Result};
use crate::experiment::float_variants;
use crate::rule::MIN_FLOAT_TOLERANCE;
use crate::sample::{InputGrid, SampleBag};

/// Margins are computed from stored scores: a share that allows for the rounding of that.
const MARGIN_ERROR: f64 = 1e-9;

/// A bag without the samples that no fingerprint may hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Sifted {
    /// The samples that are left.
    pub bag: SampleBag,
    /// Samples left out because the reference gives them another label, or a smaller margin.
    pub n_narrow: usize,
    /// Samples left out because another honest float stack labels them otherwise, or moves a score by
    /// more than `1e-5` of the largest: rounding between layers that falls the other way does that.
    pub n_unsteady: usize,
}

impl Sifted {
    /// Samples left out.
    #[must_use]
    pub fn n_dropped(&self) -> usize {
        self.n_narrow + self.n_unsteady
    }

    /// The same, if at least `wanted` samples are left.
    ///
    /// # Errors
    /// - [`Error::TooFewSteady`].
    pub fn at_least(self, wanted: usize) -> Result<Self> {
        let left = self.bag.len();
        if left >= wanted {
            return Ok(self);
        }
        let generated = left + self.n_dropped();
        let Self { n_narrow, n_unsteady, .. } = self;
        Err(Error::TooFewSteady { left, generated, wanted, n_narrow, n_unsteady })
    }
}

/// Leave out the samples of a float network that honest services could answer differently.
///
/// Each sample is evaluated in double precision (the reference), in single precision, and by all
/// [`float_variants`]. Networks that round between layers lose most. Cost: eight evaluations.
///
/// # Errors
/// - [`Error::InvalidSetting`] unless the margin is at least 0 and below 0.1.
/// - [`Error::Network`] if the samples do not fit the network.
pub fn sift_for_model(
    network: &Network<f32>,
    bag: &SampleBag,
    grid: &InputGrid,
    margin: f64,
) -> Result<Sifted> {
    check_margin(margin)?;
    let inputs = grid.values(grid.levels(bag.inputs.view()).view());
    let logits = |values| Answers::Scores { values, kind: ScoreKind::Logits };
    let truth = network.cast::<f64>()?.outputs(&inputs.mapv(f64::from))?;
    let mut stacks = vec![logits(network.scores(&inputs)?)];
    stacks.extend(float_variants(network, &inputs)?.into_iter().map(|(_, answers)| answers));
    let labels: Vec<Vec<u32>> = stacks.iter().map(Answers::labels).collect();
    let is_steady = |sample: usize, label: u32| {
        labels.iter().all(|labels| labels.get(sample) == Some(&label))
            && stacks.iter().all(|answers| is_near(&truth, answers, sample))
    };
    sift(bag, &logits(truth.clone()), margin, is_steady)
}

/// Leave out the samples of an exact network whose labels or margins are not the reference's.
///
/// # Errors
/// - [`Error::InvalidSetting`] unless the margin is at least 0 and below 0.1.
/// - [`Error::UnsuitableNetwork`] if the samples do not fit the network.
pub fn sift_for_integer(network: &IntegerNetwork, bag: &SampleBag, margin: f64) -> Result<Sifted> {
    check_margin(margin)?;
    let unfit = |_| Error::UnsuitableNetwork { reason: "it does not take samples of this bag" };
    let reference = IntegerEndpoint::new(network)?.query(&bag.inputs).map_err(unfit)?;
    sift(bag, &reference, margin, |_, _| true)
}

fn sift(
    bag: &SampleBag,
    reference: &Answers,
    margin: f64,
    is_steady: impl Fn(usize, u32) -> bool,
) -> Result<Sifted> {
    let (mut n_narrow, mut n_unsteady) = (0, 0);
    let mut kept = Vec::with_capacity(bag.len());
    for (sample, (info, standing)) in bag.samples.iter().zip(standings(reference)).enumerate() {
        if standing.check(sample, info.label, margin).is_err() {
            n_narrow += 1;
        } else if is_steady(sample, info.label) {
            kept.push(sample);
        } else {
            n_unsteady += 1;
        }
    }
    Ok(Sifted { bag: bag.select(&kept)?, n_narrow, n_unsteady })
}

/// Whether the scores of a sample are those of the reference, up to what floats do.
fn is_near(truth: &Array2<f64>, answers: &Answers, sample: usize) -> bool {
    let Answers::Scores { values, .. } = answers else { return false };
    let (truth, values) = (truth.row(sample), values.row(sample));
    let largest = truth.iter().fold(0.0_f64, |largest, z| largest.max(z.abs()));
    truth.iter().zip(values).all(|(a, b)| (a - b).abs() <= MIN_FLOAT_TOLERANCE * largest)
}

/// The best class of a sample, and how far it is ahead.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Standing {
    label: u32,
    /// `(z₁ − z₂)/max|z|`.
    relative_margin: f64,
}

impl Standing {
    /// Refuse another label, or a smaller margin.
    ///
    /// # Errors
    /// - [`Error::WrongLabel`], [`Error::MarginMissed`].
    pub(super) fn check(&self, sample: usize, label: u32, margin: f64) -> Result<()> {
        let Self { label: expected, relative_margin: actual } = *self;
        if label != expected {
            return Err(Error::WrongLabel { sample, label, expected });
        }
        if actual < margin * (1.0 - MARGIN_ERROR) {
            return Err(Error::MarginMissed { sample, actual, wanted: margin });
        }
        Ok(())
    }
}

/// The standing of every sample; none without scores.
pub(super) fn standings(reference: &Answers) -> Vec<Standing> {
    let margins: Vec<f64> = match reference {
        Answers::Labels(_) | Answers::Ranked(_) => Vec::new(),
        Answers::Scores { values, .. } => values.rows().into_iter().map(float_margin).collect(),
        Answers::Integers(values) => values.rows().into_iter().map(integer_margin).collect(),
    };
    let standing = |(label, relative_margin)| Standing { label, relative_margin };
    reference.labels().into_iter().zip(margins).map(standing).collect()
}

/// `(z₁ − z₂)/max|z|`; 0 if all scores are 0 or there is only one.
fn float_margin(row: ArrayView1<'_, f64>) -> f64 {
    let mut sorted = row.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    let largest = row.iter().fold(0.0_f64, |largest, z| largest.max(z.abs()));
    match *sorted.as_slice() {
        [first, second, ..] if largest > 0.0 => (first - second) / largest,
        _ => 0.0,
    }
}

/// The same of exact scores.
#[expect(clippy::cast_precision_loss, reason = "a ratio")]
fn integer_margin(row: ArrayView1<'_, i64>) -> f64 {
    let mut sorted = row.to_vec();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    let largest = row.iter().map(|z| z.unsigned_abs()).max().unwrap_or(0);
    match *sorted.as_slice() {
        [first, second, ..] if largest > 0 => first.abs_diff(second) as f64 / largest as f64,
        _ => 0.0,
    }
}

/// Refuse a margin out of range.
///
/// # Errors
/// - [`Error::InvalidSetting`].
pub(super) fn check_margin(margin: f64) -> Result<()> {
    if (0.0..0.1).contains(&margin) {
        return Ok(());
    }
    let requirement = "at least 0 and below 0.1";
    Err(Error::InvalidSetting { setting: "smallest relative margin", value: margin, requirement })
}

#[cfg(test)]
mod tests;
