//! The predictions file.

use std::fmt::Write;

use nn_poly::integer::ScoreMatrix;

/// What is known about every sample after an evaluation.
#[derive(Debug, Clone)]
pub(crate) struct Predictions<'a> {
    /// One row per class, one column per sample.
    pub(crate) scores: &'a ScoreMatrix,
    /// Per sample, whether a value left the range its segment expects.
    pub(crate) out_of_calibration: &'a [bool],
    /// Labels of the samples, where known.
    pub(crate) labels: Option<&'a [u32]>,
}

impl Predictions<'_> {
    /// Per sample, the class with the largest score; the first of equals.
    pub(crate) fn classes(&self) -> Vec<usize> {
        self.scores
            .columns()
            .into_iter()
            .map(|column| {
                let mut best = (0, i64::MIN);
                for (class, &score) in column.iter().enumerate() {
                    if score > best.1 {
                        best = (class, score);
                    }
                }
                best.0
            })
            .collect()
    }

    /// Per sample, the softmax of the predicted class; `score_step` is what a unit of a score stands
    /// for in the network's outputs.
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    pub(crate) fn confidences(&self, score_step: f64) -> Vec<f64> {
        let of_column = |column: ndarray::ArrayView1<'_, i64>| {
            let best = column.iter().copied().max().unwrap_or(0);
            let odds = |score: i64| ((score.saturating_sub(best)) as f64 * score_step).exp();
            1.0 / column.iter().map(|&score| odds(score)).sum::<f64>().max(1.0)
        };
        self.scores.columns().into_iter().map(of_column).collect()
    }

    /// Number of predictions that equal their label; `None` without labels.
    pub(crate) fn n_correct(&self) -> Option<usize> {
        let labels = self.labels?;
        let right = |(class, &label): (usize, &u32)| class == label as usize;
        Some(self.classes().into_iter().zip(labels).filter(|&pair| right(pair)).count())
    }

    /// The file: `index,prediction,score_0,…,out_of_calibration[,label]`, one line per sample.
    pub(crate) fn to_csv(&self) -> String {
        let mut text = String::from("index,prediction");
        for class in 0..self.scores.nrows() {
            let _ = write!(text, ",score_{class}");
        }
        text.push_str(",out_of_calibration");
        if self.labels.is_some() {
            text.push_str(",label");
        }
        text.push('\n');
        for (index, prediction) in self.classes().into_iter().enumerate() {
            let _ = write!(text, "{index},{prediction}");
            for score in self.scores.column(index) {
                let _ = write!(text, ",{score}");
            }
            let is_out = self.out_of_calibration.get(index).copied().unwrap_or(false);
            let _ = write!(text, ",{}", u8::from(is_out));
            if let Some(label) = self.labels.and_then(|labels| labels.get(index)) {
                let _ = write!(text, ",{label}");
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn the_file_has_one_line_per_sample() {
        let scores = array![[5, -3, 2], [4, -1, 2]];
        let mut predictions = Predictions {
            scores: &scores,
            out_of_calibration: &[false, true, false],
            labels: Some(&[0, 1, 1]),
        };
        assert_eq!(predictions.classes(), [0, 1, 0], "the first of equals");
        assert_eq!(predictions.n_correct(), Some(2));
        let labeled = "index,prediction,score_0,score_1,out_of_calibration,label\n\
                       0,0,5,4,0,0\n1,1,-3,-1,1,1\n2,0,2,2,0,1\n";
        assert_eq!(predictions.to_csv(), labeled);
        let confidences = predictions.confidences(1.0);
        assert!((confidences[0] - 1.0 / (1.0 + (-1.0_f64).exp())).abs() < 1e-12);
        assert!((confidences[2] - 0.5).abs() < 1e-12);
        predictions.labels = None;
        assert_eq!(predictions.n_correct(), None);
        assert!(
            predictions
                .to_csv()
                .starts_with("index,prediction,score_0,score_1,out_of_calibration\n0,0,5,4,0\n")
        );
    }
}
