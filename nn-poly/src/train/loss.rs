//! The loss of classification.

use ndarray::{Array2, ArrayView2};

use crate::tensor::Scalar;

/// Mean softmax cross-entropy of a batch, and its gradient with respect to the scores.
///
/// For scores `z` and the target distribution `q` (`1 − s` on the label plus `s/n` on every class, with
/// smoothing `s` and `n` classes) the loss of a sample is `−Σ qₖ log pₖ` with `p = softmax(z)`, and its
/// gradient is `p − q`, divided by the number of samples for the mean.
///
/// Shapes: `scores (samples, classes)`, one label per sample, each below `classes` (labels that are not
/// contribute as if no class were right). Cost: one pass; the largest score is subtracted first, so
/// nothing overflows.
#[must_use]
pub fn softmax_cross_entropy<A: Scalar>(
    scores: ArrayView2<'_, A>,
    labels: &[u32],
    smoothing: f64,
) -> (f64, Array2<A>) {
    let n_classes = A::from_count(scores.ncols());
    let scale = A::from_count(scores.nrows()).recip();
    let background = A::from_f64(smoothing) / n_classes;
    let foreground = A::one() - A::from_f64(smoothing);
    let mut gradient = scores.to_owned();
    let mut loss = 0.0;
    for (mut row, &label) in gradient.rows_mut().into_iter().zip(labels) {
        let largest = row.iter().copied().fold(A::neg_infinity(), A::max);
        let total: A = row.iter().map(|&score| (score - largest).exp()).sum();
        let log_total = total.ln() + largest;
        for (class, value) in row.iter_mut().enumerate() {
            let log_probability = *value - log_total;
            let target = background + if class == label as usize { foreground } else { A::zero() };
            if target != A::zero() {
                loss -= (target * log_probability).as_f64();
            }
            *value = (log_probability.exp() - target) * scale;
        }
    }
    (loss * scale.as_f64(), gradient)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests")]
    use ndarray::array;

    use super::*;

    #[test]
    fn equal_scores_cost_the_logarithm_of_the_number_of_classes() {
        let (loss, gradient) =
            softmax_cross_entropy(array![[7.0, 7.0, 7.0, 7.0]].view(), &[2], 0.0);
        assert!((loss - 4.0_f64.ln()).abs() < 1e-12);
        let expected = array![[0.25, 0.25, -0.75, 0.25]];
        assert!(gradient.iter().zip(&expected).all(|(g, e)| f64::abs(g - e) < 1e-12));
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        let scores = array![[0.3, -1.2, 2.0], [4.0, 0.0, 0.5]];
        for smoothing in [0.0, 0.1] {
            let loss =
                |scores: &Array2<f64>| softmax_cross_entropy(scores.view(), &[1, 0], smoothing);
            let gradient = loss(&scores).1;
            for position in [(0, 0), (0, 1), (1, 2)] {
                let step = 1e-5;
                let mut moved = [scores.clone(), scores.clone()];
                moved[0][position] -= step;
                moved[1][position] += step;
                let slope = (loss(&moved[1]).0 - loss(&moved[0]).0) / (2.0 * step);
                assert!((slope - gradient[position]).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn extreme_scores_stay_finite() {
        let (loss, gradient) = softmax_cross_entropy(array![[1e30_f32, -1e30]].view(), &[0], 0.0);
        assert!(loss.abs() < 1e-6 && gradient.iter().all(|g| g.is_finite()));
    }
}
