//! Accuracy of any predictor.

use super::LabeledSamples;
use crate::error::{Error, Result};
use crate::network::{Predictor, predictions};

/// How a predictor did on labeled samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Correct predictions, by class.
    correct: Vec<usize>,
    /// Samples, by class.
    total: Vec<usize>,
}

impl Evaluation {
    /// Compare predicted with true classes; the slices are equally long.
    #[must_use]
    pub fn of(predicted: &[usize], labels: &[u32], n_classes: usize) -> Self {
        let mut correct = vec![0; n_classes];
        let mut total = vec![0; n_classes];
        for (&predicted, &label) in predicted.iter().zip(labels) {
            let class = label as usize;
            if let (Some(total), Some(correct)) = (total.get_mut(class), correct.get_mut(class)) {
                *total += 1;
                *correct += usize::from(predicted == class);
            }
        }
        Self { correct, total }
    }

    /// Number of samples.
    #[must_use]
    pub fn n_samples(&self) -> usize {
        self.total.iter().sum()
    }

    /// Number of correct predictions.
    #[must_use]
    pub fn n_correct(&self) -> usize {
        self.correct.iter().sum()
    }

    /// Share of correct predictions, 0 to 1.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        ratio(self.n_correct(), self.n_samples())
    }

    /// Mean over the classes that occur of their share of correct predictions: what counts where
    /// classes are of very different size.
    #[must_use]
    pub fn balanced_accuracy(&self) -> f64 {
        let occurring = self.correct.iter().zip(&self.total).filter(|&(_, &total)| total > 0);
        let shares: Vec<f64> = occurring.map(|(&correct, &total)| ratio(correct, total)).collect();
        shares.iter().sum::<f64>() / ratio(shares.len(), 1).max(1.0)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / (whole as f64).max(1.0)
}

/// Accuracy of `predictor` on `samples`, whose inputs it takes as they are.
///
/// # Errors
/// - [`Error::ShapeMismatch`] if samples and predictor differ in shape or number of classes.
/// - [`Error::NonFiniteInput`] never: labeled samples are finite.
pub fn evaluate(predictor: &dyn Predictor, samples: &LabeledSamples) -> Result<Evaluation> {
    if samples.shape() != predictor.input_shape() {
        return Err(Error::ShapeMismatch {
            what: "a sample",
            expected: predictor.input_shape().dims().to_vec(),
            actual: samples.shape().dims().to_vec(),
        });
    }
    if samples.n_classes() > predictor.n_classes() {
        let (expected, actual) = (vec![predictor.n_classes()], vec![samples.n_classes()]);
        return Err(Error::ShapeMismatch { what: "the classes of the samples", expected, actual });
    }
    let scores = predictor.scores(samples.inputs())?;
    Ok(Evaluation::of(&predictions(&scores), samples.labels(), predictor.n_classes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balance_weighs_classes_equally() {
        let evaluation = Evaluation::of(&[0, 0, 0, 0, 0], &[0, 0, 0, 0, 2], 3);
        assert_eq!((evaluation.n_correct(), evaluation.n_samples()), (4, 5));
        assert!((evaluation.accuracy() - 0.8).abs() < 1e-12);
        assert!((evaluation.balanced_accuracy() - 0.5).abs() < 1e-12);
    }
}
