//! Predictions as they are shown: the first ones with bars, all of them counted.

use nn_poly::plan::PublicPlan;

use crate::report::distribution::{Distribution, Shown};
use crate::report::drawing::Drawing;
use crate::report::units;

/// What came out.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PredictionsView {
    pub(crate) classes: Vec<String>,
    /// Samples by predicted class.
    pub(crate) predicted: Vec<u64>,
    /// Samples by label, then by predicted class; empty without labels.
    pub(crate) confusion: Vec<Vec<u64>>,
    /// `61 of 64 right (95.31 %)`.
    pub(crate) right: Option<String>,
    /// Samples with a value out of the range the plan was calibrated for.
    pub(crate) n_out_of_calibration: usize,
    /// The first samples.
    pub(crate) shown: Vec<SampleView>,
}

/// One sample.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SampleView {
    pub(crate) picture: Option<Drawing>,
    pub(crate) label: String,
    /// `97.3 %`, rounded towards 0.
    pub(crate) confidence: String,
    /// What it is, where that is known, and whether that was predicted.
    pub(crate) truth: Option<String>,
    pub(crate) is_right: Option<bool>,
    /// One per class, in their order; of many classes the best ones only.
    pub(crate) bars: Vec<BarView>,
}

/// One class of a sample.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BarView {
    pub(crate) class: String,
    pub(crate) score: i64,
    /// Softmax, in thousandths.
    pub(crate) permille: u32,
    pub(crate) is_best: bool,
}

/// Classes of one sample that are shown, at most.
const MAX_BARS: usize = 12;

/// What predictions are shown with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sheet<'a> {
    pub(crate) plan: &'a PublicPlan,
    /// Raw features of the first samples; fewer than samples or none.
    pub(crate) features: &'a [Vec<f32>],
    pub(crate) n_out_of_calibration: usize,
}

impl PredictionsView {
    /// Put predictions into words.
    ///
    /// # Errors
    /// Only broken invariants.
    pub(crate) fn new(distribution: &Distribution, sheet: Sheet<'_>) -> anyhow::Result<Self> {
        let Sheet { plan, features, n_out_of_calibration } = sheet;
        let classes: Vec<String> =
            (0..distribution.predicted.len()).map(|class| name(plan, class)).collect();
        let shown = distribution
            .first
            .iter()
            .enumerate()
            .map(|(i, shown)| sample(plan, shown, features.get(i).map(Vec::as_slice)))
            .collect::<anyhow::Result<_>>()?;
        let (right, labeled) = (distribution.n_right, distribution.n_labeled);
        Ok(Self {
            classes,
            predicted: distribution.predicted.clone(),
            confusion: distribution.confusion.clone(),
            right: (labeled > 0).then(|| right_in_words(right, labeled)),
            n_out_of_calibration,
            shown,
        })
    }
}

fn right_in_words(n_right: usize, n_labeled: usize) -> String {
    let (right, of) = (units::count(n_right), units::count(n_labeled));
    format!("{right} of {of} right ({})", units::percent(units::share(n_right, n_labeled)))
}

fn name(plan: &PublicPlan, class: usize) -> String {
    plan.class_names.get(class).cloned().unwrap_or_else(|| class.to_string())
}

fn sample(
    plan: &PublicPlan,
    shown: &Shown,
    features: Option<&[f32]>,
) -> anyhow::Result<SampleView> {
    let label = name(plan, shown.class);
    let permille = permille(&shown.scores, f64::from(plan.score_step));
    let picture = features.map(|features| {
        let description = format!("A sample, predicted as {label}");
        Drawing::of_sample(plan.input_shape.dims(), features, &description)
    });
    let truth = shown.label.map(|label| name(plan, label as usize));
    let mut order: Vec<usize> = (0..shown.scores.len()).collect();
    if order.len() > MAX_BARS {
        order.sort_by_key(|&class| std::cmp::Reverse(shown.scores.get(class).copied()));
        order.truncate(MAX_BARS);
    }
    let bar = |class: usize| BarView {
        class: name(plan, class),
        score: shown.scores.get(class).copied().unwrap_or_default(),
        permille: permille.get(class).copied().unwrap_or_default(),
        is_best: class == shown.class,
    };
    let best = permille.get(shown.class).copied().unwrap_or_default();
    Ok(SampleView {
        picture: picture.transpose()?.flatten(),
        confidence: format!("{}.{} %", best / 10, best % 10),
        is_right: shown.label.map(|label| label as usize == shown.class),
        truth,
        label,
        bars: order.into_iter().map(bar).collect(),
    })
}

/// The softmax of scores, rounded towards 0: nothing is quite certain.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people, between 0 and 1000"
)]
fn permille(scores: &[i64], score_step: f64) -> Vec<u32> {
    let best = scores.iter().copied().max().unwrap_or(0);
    let odds: Vec<f64> = scores
        .iter()
        .map(|&score| (score.saturating_sub(best) as f64 * score_step).exp())
        .collect();
    let sum = odds.iter().sum::<f64>().max(1.0);
    odds.iter().map(|odds| (1000.0 * odds / sum).floor().clamp(0.0, 1000.0) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_down_and_need_no_finite_unit() {
        assert_eq!(permille(&[0, 0, 0], 1.0), [333, 333, 333]);
        assert_eq!(permille(&[i64::MAX, i64::MIN], 1.0), [1000, 0]);
        assert_eq!(permille(&[], 1.0), [0_u32; 0]);
        assert_eq!(right_in_words(61, 64), "61 of 64 right (95.31 %)");
    }
}
