//! The functions `φ_c` of the scores whose movement is measured, with first and second derivatives.

use ndarray::{Array1, Array2, Axis};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Which functions of the scores a sensitivity is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SensitivityOutputs {
    /// The scores themselves. Grows without bound away from decision boundaries.
    Logits,
    /// All softmax probabilities.
    Probabilities,
    /// Log-probabilities of the classes with the given number of largest scores.
    TopLogProbabilities(usize),
    /// One function: the sum of the log-probabilities of the given number of first classes.
    SumLogProbabilities(usize),
}

impl SensitivityOutputs {
    pub(super) fn check(self) -> Result<()> {
        match self {
            Self::Logits | Self::Probabilities => Ok(()),
            Self::TopLogProbabilities(n) | Self::SumLogProbabilities(n) if n > 0 => Ok(()),
            Self::TopLogProbabilities(_) | Self::SumLogProbabilities(_) => {
                let name = "number of log-probabilities";
                Err(Error::CountOutOfRange { name, actual: 0, min: 1, max: u64::MAX })
            }
        }
    }
}

/// Rows whose largest entry is below this share of the largest of all are left out: their squares
/// vanish in double precision.
const LOG_NEGLIGIBLE: f64 = -25.0;

/// `∂φ_c/∂z` of every function that matters at one point, divided by a common scale.
#[derive(Clone, Debug)]
pub(super) struct Head {
    kind: Kind,
    /// One row per function.
    rows: Array2<f64>,
    log_scale: f64,
    softmax: Softmax,
}

/// What distinguishes the second derivatives.
#[derive(Clone, Debug)]
enum Kind {
    Linear,
    /// Class of each row.
    Probabilities(Vec<usize>),
    /// Each row is a sum of so many log-probabilities.
    LogProbabilities(f64),
}

impl Head {
    pub(super) fn new(outputs: SensitivityOutputs, scores: &[f64]) -> Self {
        let n = scores.len();
        let softmax = Softmax::new(scores);
        let (kind, rows, log_scale) = match outputs {
            SensitivityOutputs::Logits => (Kind::Linear, Array2::eye(n), 0.0),
            SensitivityOutputs::Probabilities => softmax.probability_rows(),
            SensitivityOutputs::TopLogProbabilities(count) => {
                let classes = top_classes(scores, count);
                let mut rows = Array2::zeros((classes.len(), n));
                for (mut row, &class) in rows.rows_mut().into_iter().zip(&classes) {
                    let log_q = softmax.log_q.iter();
                    for (j, (entry, (&p, &log_q))) in
                        row.iter_mut().zip(softmax.p.iter().zip(log_q)).enumerate()
                    {
                        *entry = if j == class { log_q.exp() } else { -p };
                    }
                }
                (Kind::LogProbabilities(1.0), rows, 0.0)
            }
            SensitivityOutputs::SumLogProbabilities(count) => {
                let count = count.min(n);
                let total: f64 = (0..count).map(|_| 1.0).sum();
                let entry = |(j, &p): (usize, &f64)| f64::from(u8::from(j < count)) - total * p;
                let row: Array1<f64> = softmax.p.iter().enumerate().map(entry).collect();
                (Kind::LogProbabilities(total), row.insert_axis(Axis(0)), 0.0)
            }
        };
        Self { kind, rows, log_scale, softmax }
    }

    /// `∂φ_c/∂z` divided by `exp(log_scale)`, one row per function.
    pub(super) fn rows(&self) -> &Array2<f64> {
        &self.rows
    }

    pub(super) fn log_scale(&self) -> f64 {
        self.log_scale
    }

    /// `Σ_c ‖row_c‖²`.
    pub(super) fn squared_rows(&self) -> f64 {
        self.rows.iter().map(|g| g * g).sum()
    }

    /// `∂²φ_c/∂z² · ż_c` divided by `exp(log_scale)`, for one tangent `ż_c` per function.
    pub(super) fn curvature(&self, tangents: &Array2<f64>) -> Array2<f64> {
        let mut bent = Array2::zeros(tangents.dim());
        let p = &self.softmax.p;
        let rows = bent.rows_mut().into_iter().zip(tangents.rows()).zip(self.rows.rows());
        for (function, ((mut bent, tangent), row)) in rows.enumerate() {
            let mean: f64 = p.iter().zip(tangent).map(|(p, t)| p * t).sum();
            match &self.kind {
                Kind::Linear => {}
                Kind::LogProbabilities(count) => {
                    for ((bent, &p), &t) in bent.iter_mut().zip(p).zip(tangent) {
                        *bent = -count * p * (t - mean);
                    }
                }
                Kind::Probabilities(classes) => {
                    let class = classes.get(function).copied().unwrap_or_default();
                    let own = tangent.get(class).copied().unwrap_or_default() - mean;
                    for ((bent, &row), &t) in bent.iter_mut().zip(row).zip(tangent) {
                        *bent = row * (own + t - mean);
                    }
                    if let (Some(bent), Some(&diagonal)) = (bent.get_mut(class), row.get(class)) {
                        *bent = diagonal * self.softmax.diagonal_bend(class, tangent.iter());
                    }
                }
            }
        }
        bent
    }
}

/// Softmax with accurate complements.
#[derive(Clone, Debug)]
struct Softmax {
    p: Vec<f64>,
    log_p: Vec<f64>,
    /// `log(1 − p)`, from the other classes where `p` is near 1.
    log_q: Vec<f64>,
}

impl Softmax {
    fn new(scores: &[f64]) -> Self {
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let winner = scores.iter().position(|&z| z == largest).unwrap_or(0);
        let others = || scores.iter().enumerate().filter(|(j, _)| *j != winner).map(|(_, &z)| z);
        let second = others().fold(f64::NEG_INFINITY, f64::max);
        // log Σ_{j ≠ winner} e^(z_j − z_winner)
        let log_rest = (second - largest) + others().map(|z| (z - second).exp()).sum::<f64>().ln();
        let log_total = log_rest.exp().ln_1p();
        let log_p: Vec<f64> = scores.iter().map(|z| z - largest - log_total).collect();
        let p: Vec<f64> = log_p.iter().map(|log_p| log_p.exp()).collect();
        let mut log_q: Vec<f64> = p.iter().map(|p| (-p).ln_1p()).collect();
        if let Some(log_q) = log_q.get_mut(winner) {
            *log_q = log_rest - log_total;
        }
        Self { p, log_p, log_q }
    }

    /// `p_c (e_c − p)` of the classes that matter, with the scale taken out.
    fn probability_rows(&self) -> (Kind, Array2<f64>, f64) {
        // The diagonal p_c (1 − p_c) is the largest entry of its row in magnitude.
        let diagonal: Vec<f64> = self.log_p.iter().zip(&self.log_q).map(|(p, q)| p + q).collect();
        let log_scale = diagonal.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let matters = |&(_, d): &(usize, &f64)| d - log_scale >= LOG_NEGLIGIBLE;
        let classes: Vec<usize> =
            diagonal.iter().enumerate().filter(matters).map(|(class, _)| class).collect();
        let mut rows = Array2::zeros((classes.len(), self.p.len()));
        for (mut row, &class) in rows.rows_mut().into_iter().zip(&classes) {
            let own = self.log_p.get(class).copied().unwrap_or_default() - log_scale;
            for (j, (entry, log_p)) in row.iter_mut().zip(&self.log_p).enumerate() {
                *entry = -(own + log_p).exp();
                if j == class {
                    let log_q = self.log_q.get(class).copied().unwrap_or_default();
                    *entry = (own + log_q).exp();
                }
            }
        }
        (Kind::Probabilities(classes), rows, log_scale)
    }

    /// `d/dτ log(p_c (1 − p_c))` along `ż`, without the cancellation in `ż_c − Σ p_j ż_j`:
    /// `(1 − 2 p_c) (ż_c − Σ_{j≠c} p_j ż_j/(1 − p_c))`.
    fn diagonal_bend<'t>(&self, class: usize, tangent: impl Iterator<Item = &'t f64>) -> f64 {
        let log_q = self.log_q.get(class).copied().unwrap_or_default();
        let p = self.p.get(class).copied().unwrap_or_default();
        let mut difference = 0.0;
        for (j, (log_p, t)) in self.log_p.iter().zip(tangent).enumerate() {
            difference += if j == class { *t } else { -(log_p - log_q).exp() * t };
        }
        (log_q.exp() - p) * difference
    }
}

/// The classes of the `count` largest scores, largest first; the lower of equals first.
pub(crate) fn top_classes(scores: &[f64], count: usize) -> Vec<usize> {
    let mut classes: Vec<usize> = (0..scores.len()).collect();
    let score = |class: usize| scores.get(class).copied().unwrap_or(f64::NEG_INFINITY);
    classes.sort_by(|&a, &b| score(b).total_cmp(&score(a)).then(a.cmp(&b)));
    classes.truncate(count);
    classes
}
