//! What training makes small: cross-entropy with labels, agreement with given scores, or both.

use ndarray::{Array2, ArrayView1, ArrayView2, Zip};

use super::LabeledSamples;
use crate::error::{Error, Result};
use crate::network::Network;
use crate::tensor::{Scalar, check_finite};

/// The samples a loss is asked about.
#[derive(Clone, Copy, Debug)]
pub struct LossBatch<'a> {
    /// Rows of the training samples.
    pub positions: &'a [usize],
    /// Their labels.
    pub labels: &'a [u32],
    /// What the network was given for them, changes included: one row each.
    pub inputs: &'a Array2<f32>,
}

/// A function of the scores that training makes small.
///
/// [`Trainer::run`](super::Trainer::run) uses [`CrossEntropy`]; give others to
/// [`Trainer::run_with`](super::Trainer::run_with).
pub trait Loss {
    /// Whether the loss is defined for these samples and this number of scores.
    ///
    /// # Errors
    /// - [`Error::ShapeMismatch`] if what the loss knows of the samples has another shape.
    fn check(&self, samples: &LabeledSamples, n_scores: usize) -> Result<()>;

    /// Whether inputs may be mixtures of samples ([`Augmentation::mix`](super::Augmentation::mix)), of
    /// which neither labels nor given scores are those of their row. Default: no.
    fn allows_mixtures(&self) -> bool {
        false
    }

    /// Mean loss of a batch, and its gradient with respect to `scores (samples, classes)`.
    ///
    /// Called with positions and labels of samples that [`Self::check`] accepted.
    fn value_and_gradient(
        &self,
        scores: ArrayView2<'_, f32>,
        batch: LossBatch<'_>,
    ) -> (f64, Array2<f32>);
}

/// [`softmax_cross_entropy`] with the labels.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CrossEntropy {
    /// Share of the target probability spread over all classes, at least 0 and below 1.
    pub smoothing: f64,
}

impl Loss for CrossEntropy {
    fn check(&self, _: &LabeledSamples, _: usize) -> Result<()> {
        Ok(())
    }

    fn value_and_gradient(
        &self,
        scores: ArrayView2<'_, f32>,
        batch: LossBatch<'_>,
    ) -> (f64, Array2<f32>) {
        softmax_cross_entropy(scores, batch.labels, self.smoothing)
    }
}

/// Cross-entropy with the probabilities of a teacher, softened by a temperature; labels are ignored.
///
/// With the teacher's scores `t` and temperature `T`, the loss of a sample is
/// `−T² Σ softmax(t/T)ₖ log softmax(z/T)ₖ`; the factor keeps gradients of the same size for every
/// temperature.
///
/// # Source
/// Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network", section 2.
#[derive(Clone, Debug, PartialEq)]
pub struct Distillation {
    targets: Array2<f32>,
    temperature: f32,
}

impl Distillation {
    /// Teach these scores, one row per training sample, at a temperature of at least 0.01.
    ///
    /// # Errors
    /// - [`Error::NonFiniteInput`] if a score is NaN or infinite.
    /// - [`Error::InvalidSetting`] if the temperature is out of range.
    pub fn new(teacher_scores: &Array2<f32>, temperature: f32) -> Result<Self> {
        check_finite("scores of the teacher", teacher_scores.view())?;
        check_temperature(temperature)?;
        Ok(Self { targets: softened(teacher_scores, temperature), temperature })
    }
}

fn check_temperature(temperature: f32) -> Result<()> {
    if (0.01..=1e6).contains(&temperature) {
        return Ok(());
    }
    Err(Error::InvalidSetting {
        setting: "temperature",
        value: f64::from(temperature),
        requirement: "0.01 to 1000000",
    })
}

/// The probabilities of a teacher's scores.
fn softened(teacher_scores: &Array2<f32>, temperature: f32) -> Array2<f32> {
    let mut targets = teacher_scores.as_standard_layout().mapv(|score| score / temperature);
    targets.rows_mut().into_iter().for_each(|mut row| {
        let log_total = log_sum_exp(row.view());
        row.mapv_inplace(|score| (score - log_total).exp());
    });
    targets
}

/// Loss and gradient for scores that shall have these softened probabilities, row by row.
fn distance<'a>(
    scores: ArrayView2<'_, f32>,
    targets: impl Iterator<Item = ArrayView1<'a, f32>>,
    temperature: f32,
) -> (f64, Array2<f32>) {
    let scale = f32::from_count(scores.nrows()).recip();
    let mut gradient = scores.mapv(|score| score / temperature);
    let mut loss = 0.0;
    for (mut row, targets) in gradient.rows_mut().into_iter().zip(targets) {
        let log_total = log_sum_exp(row.view());
        for (value, &target) in row.iter_mut().zip(targets) {
            let log_probability = *value - log_total;
            loss -= f64::from(target) * f64::from(log_probability);
            *value = (log_probability.exp() - target) * temperature * scale;
        }
    }
    (loss * f64::from(temperature).powi(2) * f64::from(scale), gradient)
}

impl Loss for Distillation {
    fn check(&self, samples: &LabeledSamples, n_scores: usize) -> Result<()> {
        check_targets(&self.targets, samples, n_scores)
    }

    fn value_and_gradient(
        &self,
        scores: ArrayView2<'_, f32>,
        batch: LossBatch<'_>,
    ) -> (f64, Array2<f32>) {
        let targets = batch.positions.iter().map(|&position| self.targets.row(position));
        distance(scores, targets, self.temperature)
    }
}

/// As [`Distillation`], with a teacher who looks at the very inputs of every step: moved, mirrored, or mixed.
///
/// So there are as many different examples as steps, and the student learns the teacher's function, not
/// its answers to the training samples. Cost: a forward pass of the teacher more per step.
///
/// # Source
/// Beyer, Zhai, Royer, Markeeva, Anil and Kolesnikov 2022, "Knowledge distillation: A good teacher is
/// patient and consistent", section 3.
#[derive(Clone, Debug)]
pub struct FunctionMatching {
    teacher: Network<f32>,
    temperature: f32,
}

impl FunctionMatching {
    /// Match this network at a temperature of at least 0.01.
    ///
    /// # Errors
    /// - [`Error::InvalidSetting`] if the temperature is out of range.
    pub fn new(teacher: Network<f32>, temperature: f32) -> Result<Self> {
        check_temperature(temperature)?;
        Ok(Self { teacher, temperature })
    }
}

impl Loss for FunctionMatching {
    fn check(&self, samples: &LabeledSamples, n_scores: usize) -> Result<()> {
        self.teacher.check_input(samples.shape())?;
        let (expected, actual) = (vec![n_scores], vec![self.teacher.output_shape().len()]);
        if expected == actual {
            return Ok(());
        }
        Err(Error::ShapeMismatch { what: "scores of the teacher", expected, actual })
    }

    fn allows_mixtures(&self) -> bool {
        true
    }

    fn value_and_gradient(
        &self,
        scores: ArrayView2<'_, f32>,
        batch: LossBatch<'_>,
    ) -> (f64, Array2<f32>) {
        let taught = self.teacher.outputs(batch.inputs);
        let taught = taught.expect("invariant: the inputs were read by the student before");
        let targets = softened(&taught, self.temperature);
        distance(scores, targets.rows().into_iter(), self.temperature)
    }
}

/// Cross-entropy with the label plus squared distance to given scores, each with a weight per sample.
///
/// The loss of sample `i` is `aᵢ · CE(z, labelᵢ) + bᵢ · (1/n) Σ (zₖ − tᵢₖ)²` for `n` classes.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelsAndScores {
    targets: Array2<f32>,
    label_weights: Vec<f32>,
    score_weights: Vec<f32>,
}

impl LabelsAndScores {
    /// Target scores `t` and the weights `a` and `b`, one row or entry per training sample. Weights
    /// are finite and not negative.
    ///
    /// # Errors
    /// - [`Error::NonFiniteInput`] if a score is NaN or infinite.
    /// - [`Error::InvalidSetting`] if a weight is out of range.
    /// - [`Error::ShapeMismatch`] if there is not one weight of each kind per row.
    pub fn new(
        targets: Array2<f32>,
        label_weights: Vec<f32>,
        score_weights: Vec<f32>,
    ) -> Result<Self> {
        check_finite("scores to match", targets.view())?;
        for weights in [&label_weights, &score_weights] {
            if weights.len() != targets.nrows() {
                let (expected, actual) = (vec![targets.nrows()], vec![weights.len()]);
                return Err(Error::ShapeMismatch { what: "weights of a loss", expected, actual });
            }
            if let Some(&value) = weights.iter().find(|w| !(w.is_finite() && **w >= 0.0)) {
                let (setting, requirement) = ("weight of a loss", "finite and not negative");
                let value = f64::from(value);
                return Err(Error::InvalidSetting { setting, value, requirement });
            }
        }
        Ok(Self { targets, label_weights, score_weights })
    }
}

impl Loss for LabelsAndScores {
    fn check(&self, samples: &LabeledSamples, n_scores: usize) -> Result<()> {
        check_targets(&self.targets, samples, n_scores)
    }

    fn value_and_gradient(
        &self,
        scores: ArrayView2<'_, f32>,
        batch: LossBatch<'_>,
    ) -> (f64, Array2<f32>) {
        let scale = f32::from_count(scores.nrows()).recip();
        let n_classes = f32::from_count(scores.ncols());
        let mut gradient = scores.to_owned();
        let mut loss = 0.0_f64;
        let rows = gradient.rows_mut().into_iter().zip(batch.positions).zip(batch.labels);
        for ((mut row, &position), &label) in rows {
            let weight = |weights: &[f32]| weights.get(position).copied().unwrap_or(0.0);
            let (a, b) = (weight(&self.label_weights), weight(&self.score_weights) / n_classes);
            let log_total = log_sum_exp(row.view());
            let label = label as usize;
            if let Some(&score) = row.get(label) {
                loss += f64::from(a) * f64::from(log_total - score);
            }
            let mut class = 0;
            Zip::from(&mut row).and(&self.targets.row(position)).for_each(|value, &target| {
                let hit = if class == label { 1.0 } else { 0.0 };
                let distance = *value - target;
                loss += f64::from(b) * f64::from(distance).powi(2);
                let slope = a * ((*value - log_total).exp() - hit) + 2.0 * b * distance;
                *value = slope * scale;
                class += 1;
            });
        }
        (loss * f64::from(scale), gradient)
    }
}

/// `log Σ exp(zₖ)`, with the largest taken out first so that nothing overflows.
fn log_sum_exp(scores: ArrayView1<'_, f32>) -> f32 {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter().map(|&score| (score - largest).exp()).sum::<f32>().ln() + largest
}

fn check_targets(targets: &Array2<f32>, samples: &LabeledSamples, n_scores: usize) -> Result<()> {
    let expected = [samples.n_samples(), n_scores];
    if targets.shape() == expected {
        return Ok(());
    }
    let (expected, actual) = (expected.to_vec(), targets.shape().to_vec());
    Err(Error::ShapeMismatch { what: "target scores of the loss", expected, actual })
}

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
    #![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "tests")]
    use ndarray::array;

    use super::*;
    use crate::layer::{Dense, Layer};
    use crate::tensor::Shape;

    /// Positions 2 and 0 of three samples, so that rows are looked up and not counted.
    fn check_slope(loss: &dyn Loss) {
        let inputs = array![[0.5_f32, -1.0], [0.25, 2.0]];
        let batch = LossBatch { positions: &[2, 0], labels: &[1, 0], inputs: &inputs };
        let scores = array![[0.3_f32, -1.2, 2.0], [1.0, 0.0, 0.5]];
        let gradient = loss.value_and_gradient(scores.view(), batch).1;
        for position in [(0, 0), (0, 1), (1, 2), (1, 0)] {
            let value_at = |step: f32| {
                let mut moved = scores.clone();
                moved[position] += step;
                loss.value_and_gradient(moved.view(), batch).0
            };
            let slope = (value_at(1e-2) - value_at(-1e-2)) / 2e-2;
            assert!((slope - f64::from(gradient[position])).abs() < 2e-4, "{slope} {gradient}");
        }
    }

    /// Three scores of two inputs.
    fn teacher() -> Network<f32> {
        let weights = array![[1.0_f32, -0.5], [0.25, 2.0], [-1.5, 0.75]];
        let dense = Layer::Dense(Dense::new(weights, array![0.1, -0.2, 0.3]));
        Network::new(Shape::vector(2).unwrap(), vec![dense]).unwrap()
    }

    #[test]
    fn every_loss_has_its_slope_as_gradient() {
        let targets = array![[0.1_f32, 2.0, -1.0], [9.0, 9.0, 9.0], [1.0, 0.0, -2.0]];
        check_slope(&CrossEntropy { smoothing: 0.1 });
        for temperature in [0.5, 1.0, 4.0] {
            check_slope(&Distillation::new(&targets, temperature).unwrap());
            check_slope(&FunctionMatching::new(teacher(), temperature).unwrap());
        }
        let mixed =
            LabelsAndScores::new(targets, vec![1.0, 9.0, 0.0], vec![0.5, 9.0, 2.0]).unwrap();
        check_slope(&mixed);
    }

    #[test]
    fn without_scores_to_match_the_mixed_loss_is_cross_entropy() {
        let scores = array![[0.3_f32, -1.2, 2.0], [40.0, 0.0, 0.5]];
        let inputs = Array2::zeros((2, 1));
        let batch = LossBatch { positions: &[0, 1], labels: &[1, 0], inputs: &inputs };
        let mixed =
            LabelsAndScores::new(Array2::zeros((2, 3)), vec![1.0; 2], vec![0.0; 2]).unwrap();
        let (value, gradient) = mixed.value_and_gradient(scores.view(), batch);
        let expected = CrossEntropy::default().value_and_gradient(scores.view(), batch);
        assert!((value - expected.0).abs() < 1e-6);
        assert!(gradient.iter().zip(&expected.1).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn the_teacher_itself_has_no_gradient() {
        let scores = array![[3.0_f32, -1.0, 0.5]];
        let loss = Distillation::new(&scores, 2.0).unwrap();
        let inputs = Array2::zeros((1, 1));
        let batch = LossBatch { positions: &[0], labels: &[2], inputs: &inputs };
        let gradient = loss.value_and_gradient(scores.view(), batch).1;
        assert!(gradient.iter().all(|g| g.abs() < 1e-6), "{gradient}");
    }

    /// On inputs that are samples, both kinds of distillation are the same; on others only one follows.
    #[test]
    fn a_consistent_teacher_looks_at_the_inputs() {
        let samples = array![[1.0_f32, 0.5], [-2.0, 0.0]];
        let answers = Distillation::new(&teacher().outputs(&samples).unwrap(), 2.0).unwrap();
        let function = FunctionMatching::new(teacher(), 2.0).unwrap();
        let scores = array![[0.3_f32, -1.2, 2.0], [1.0, 0.0, 0.5]];
        let of = |loss: &dyn Loss, inputs: &Array2<f32>| {
            let batch = LossBatch { positions: &[0, 1], labels: &[1, 0], inputs };
            loss.value_and_gradient(scores.view(), batch)
        };
        assert_eq!(of(&answers, &samples), of(&function, &samples));
        let mixed = array![[-0.5_f32, 0.25], [0.0, 0.0]];
        assert_eq!(of(&answers, &samples), of(&answers, &mixed));
        assert_ne!(of(&function, &samples), of(&function, &mixed));
        assert!(function.allows_mixtures() && !answers.allows_mixtures());
    }

    #[test]
    fn losses_refuse_what_does_not_fit() {
        let shape = Shape::vector(1).unwrap();
        let samples = LabeledSamples::new(shape, Array2::zeros((2, 1)), vec![0, 1], 2).unwrap();
        let loss = Distillation::new(&Array2::zeros((3, 2)), 1.0).unwrap();
        assert!(matches!(loss.check(&samples, 2), Err(Error::ShapeMismatch { .. })));
        assert!(Distillation::new(&array![[f32::NAN]], 1.0).is_err());
        assert!(Distillation::new(&array![[1.0]], 0.0).is_err());
        let function = FunctionMatching::new(teacher(), 1.0).unwrap();
        assert!(function.check(&samples, 3).is_err(), "one input each, two for the teacher");
        let shape = Shape::vector(2).unwrap();
        let pairs = LabeledSamples::new(shape, Array2::zeros((2, 2)), vec![0, 1], 2).unwrap();
        assert!(matches!(function.check(&pairs, 2), Err(Error::ShapeMismatch { .. })));
        assert!(function.check(&pairs, 3).is_ok());
        assert!(FunctionMatching::new(teacher(), f32::NAN).is_err());
        let mixed = |a: Vec<f32>, b: Vec<f32>| LabelsAndScores::new(Array2::zeros((2, 2)), a, b);
        assert!(mixed(vec![1.0; 2], vec![1.0; 2]).unwrap().check(&samples, 2).is_ok());
        assert!(matches!(mixed(vec![1.0], vec![1.0; 2]), Err(Error::ShapeMismatch { .. })));
        let negative = mixed(vec![1.0, -1.0], vec![1.0; 2]);
        assert!(matches!(negative, Err(Error::InvalidSetting { .. })));
    }

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
