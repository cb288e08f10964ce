//! Predictions counted: per class, against labels, and the first ones one by one.

use super::predictions::Predictions;

/// Samples that are shown one by one.
pub(crate) const SHOWN: usize = 12;
/// Most classes of which every pair is counted.
const MAX_CONFUSED: usize = 64;

/// Counts over any number of samples.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Distribution {
    /// Samples by predicted class.
    pub(crate) predicted: Vec<u64>,
    /// Samples by label, then by predicted class; nothing without labels or with very many classes.
    pub(crate) confusion: Vec<Vec<u64>>,
    /// Samples with a label, and those of them that were predicted right.
    pub(crate) n_labeled: usize,
    pub(crate) n_right: usize,
    /// The first samples.
    pub(crate) first: Vec<Shown>,
}

/// One sample.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shown {
    pub(crate) class: usize,
    /// One per class.
    pub(crate) scores: Vec<i64>,
    pub(crate) label: Option<u32>,
}

impl Distribution {
    /// Count the next samples.
    pub(crate) fn add(&mut self, predictions: &Predictions<'_>) {
        let n_classes = predictions.scores.nrows();
        self.predicted.resize(n_classes.max(self.predicted.len()), 0);
        let is_confused = predictions.labels.is_some() && n_classes <= MAX_CONFUSED;
        if is_confused && self.confusion.is_empty() {
            self.confusion = vec![vec![0; n_classes]; n_classes];
        }
        for (sample, class) in predictions.classes().into_iter().enumerate() {
            if let Some(count) = self.predicted.get_mut(class) {
                *count += 1;
            }
            let label = predictions.labels.and_then(|labels| labels.get(sample)).copied();
            if let Some(label) = label {
                self.n_labeled += 1;
                self.n_right += usize::from(label as usize == class);
                let row = self.confusion.get_mut(label as usize);
                if let Some(count) = row.and_then(|row| row.get_mut(class)) {
                    *count += 1;
                }
            }
            if self.first.len() < SHOWN {
                let scores = predictions.scores.column(sample).to_vec();
                self.first.push(Shown { class, scores, label });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::arr2;

    use super::*;

    #[test]
    fn samples_are_counted_by_class_and_by_label() {
        let scores = arr2(&[[5, 1, 0], [2, 3, 9]]);
        let flags = [false; 3];
        let labels = [0, 0, 1];
        let labeled =
            Predictions { scores: &scores, out_of_calibration: &flags, labels: Some(&labels) };
        let mut counts = Distribution::default();
        counts.add(&labeled);
        counts.add(&labeled);
        assert_eq!(counts.predicted, [2, 4]);
        assert_eq!(counts.confusion, [[2, 2], [0, 2]]);
        assert_eq!((counts.n_labeled, counts.n_right), (6, 4));
        assert_eq!(counts.first.len(), 6);
        assert_eq!(counts.first[1], Shown { class: 1, scores: vec![1, 3], label: Some(0) });
        let mut unlabeled = Distribution::default();
        unlabeled.add(&Predictions { labels: None, ..labeled });
        assert_eq!((unlabeled.n_labeled, unlabeled.confusion.len()), (0, 0));
    }
}
