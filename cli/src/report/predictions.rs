//! The predictions file.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Result, bail};
use nn_poly::integer::ScoreMatrix;
use serde::Serialize;

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
}

/// How predictions are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// `index,prediction,score_0,…,out_of_calibration[,label]`, one line per sample.
    Csv,
    /// An array of scores (`int64`, one row per sample) for NumPy.
    Npy,
    /// One JSON object per line with the fields of the CSV.
    JsonLines,
}

impl Format {
    /// What the name of a file asks for; CSV unless it says otherwise.
    ///
    /// # Errors
    /// A name that promises something else.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let ending = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        Ok(match ending.as_str() {
            "npy" => Self::Npy,
            "jsonl" | "ndjson" => Self::JsonLines,
            "json" | "npz" | "parquet" | "xlsx" | "gz" => bail!(
                "predictions cannot be written as .{ending}: name a file that ends in .csv, .npy or .jsonl"
            ),
            _ => Self::Csv,
        })
    }
}

/// Writes predictions batch by batch.
pub(crate) struct PredictionsWriter<W> {
    out: W,
    format: Format,
    /// Samples written.
    n_written: usize,
}

impl<W: Write> PredictionsWriter<W> {
    /// Begin a file for `n_samples` samples of `n_classes` classes.
    ///
    /// # Errors
    /// Whatever the writer says.
    pub(crate) fn begin(
        mut out: W,
        format: Format,
        (n_samples, n_classes): (usize, usize),
        has_labels: bool,
    ) -> io::Result<Self> {
        match format {
            Format::Csv => {
                write!(out, "index,prediction")?;
                for class in 0..n_classes {
                    write!(out, ",score_{class}")?;
                }
                writeln!(out, ",out_of_calibration{}", if has_labels { ",label" } else { "" })?;
            }
            Format::Npy => {
                let shape = format!("({n_samples}, {n_classes})");
                let mut header =
                    format!("{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}, }}");
                // The data begin at a multiple of 64 bytes, behind a line end.
                let unpadded = 10 + header.len() + 1;
                header.push_str(&" ".repeat(unpadded.next_multiple_of(64) - unpadded));
                header.push('\n');
                let length = u16::try_from(header.len()).unwrap_or(u16::MAX);
                out.write_all(b"\x93NUMPY\x01\x00")?;
                out.write_all(&length.to_le_bytes())?;
                out.write_all(header.as_bytes())?;
            }
            Format::JsonLines => {}
        }
        Ok(Self { out, format, n_written: 0 })
    }

    /// The next samples.
    ///
    /// # Errors
    /// Whatever the writer says.
    pub(crate) fn write(&mut self, batch: &Predictions<'_>) -> io::Result<()> {
        for (column, prediction) in batch.classes().into_iter().enumerate() {
            let index = self.n_written;
            let scores = batch.scores.column(column);
            let is_out = batch.out_of_calibration.get(column).copied().unwrap_or(false);
            let label = batch.labels.and_then(|labels| labels.get(column));
            match self.format {
                Format::Csv => {
                    write!(self.out, "{index},{prediction}")?;
                    for score in scores {
                        write!(self.out, ",{score}")?;
                    }
                    write!(self.out, ",{}", u8::from(is_out))?;
                    if let Some(label) = label {
                        write!(self.out, ",{label}")?;
                    }
                    writeln!(self.out)?;
                }
                Format::Npy => {
                    for score in scores {
                        self.out.write_all(&score.to_le_bytes())?;
                    }
                }
                Format::JsonLines => {
                    let line = Line {
                        index,
                        prediction,
                        scores: scores.to_vec(),
                        out_of_calibration: is_out,
                        label: label.copied(),
                    };
                    serde_json::to_writer(&mut self.out, &line)?;
                    writeln!(self.out)?;
                }
            }
            self.n_written += 1;
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct Line {
    index: usize,
    prediction: usize,
    scores: Vec<i64>,
    out_of_calibration: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<u32>,
}

#[cfg(test)]
mod tests {
    use ndarray::{Axis, Slice, array};

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
        assert_eq!(text(&predictions, Format::Csv), labeled);
        let lines = "{\"index\":0,\"prediction\":0,\"scores\":[5,4],\"out_of_calibration\":false,\"label\":0}\n\
                     {\"index\":1,\"prediction\":1,\"scores\":[-3,-1],\"out_of_calibration\":true,\"label\":1}\n\
                     {\"index\":2,\"prediction\":0,\"scores\":[2,2],\"out_of_calibration\":false,\"label\":1}\n";
        assert_eq!(text(&predictions, Format::JsonLines), lines);
        let confidences = predictions.confidences(1.0);
        assert!((confidences[0] - 1.0 / (1.0 + (-1.0_f64).exp())).abs() < 1e-12);
        assert!((confidences[2] - 0.5).abs() < 1e-12);
        predictions.labels = None;
        assert_eq!(predictions.n_correct(), None);
        assert!(
            text(&predictions, Format::Csv)
                .starts_with("index,prediction,score_0,score_1,out_of_calibration\n0,0,5,4,0\n")
        );
    }

    fn bytes(predictions: &Predictions<'_>, format: Format, step: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let shape = (predictions.scores.ncols(), predictions.scores.nrows());
        let has_labels = predictions.labels.is_some();
        let mut writer = PredictionsWriter::begin(&mut bytes, format, shape, has_labels).unwrap();
        for start in (0..shape.0).step_by(step) {
            let range = start..(start + step).min(shape.0);
            let part = Predictions {
                scores: &predictions
                    .scores
                    .slice_axis(Axis(1), Slice::from(range.clone()))
                    .to_owned(),
                out_of_calibration: &predictions.out_of_calibration[range.clone()],
                labels: predictions.labels.map(|labels| &labels[range]),
            };
            writer.write(&part).unwrap();
        }
        bytes
    }

    fn text(predictions: &Predictions<'_>, format: Format) -> String {
        String::from_utf8(bytes(predictions, format, 9)).unwrap()
    }

    #[test]
    fn numpy_arrays_have_their_published_bytes() {
        let scores = array![[5, -3, 2], [4, -1, 2]];
        let predictions =
            Predictions { scores: &scores, out_of_calibration: &[false; 3], labels: None };
        let bytes = bytes(&predictions, Format::Npy, 2);
        assert_eq!(&bytes[..10], b"\x93NUMPY\x01\0\x76\0");
        let header = std::str::from_utf8(&bytes[10..128]).unwrap();
        let expected = "{'descr': '<i8', 'fortran_order': False, 'shape': (3, 2), }";
        assert!(header.starts_with(expected) && header.ends_with(" \n"), "{header:?}");
        let values: Vec<i64> = bytes[128..]
            .chunks_exact(8)
            .map(|b| i64::from_le_bytes(b.try_into().unwrap()))
            .collect();
        assert_eq!(values, [5, 4, -3, -1, 2, 2]);
    }

    #[test]
    fn batches_of_any_size_give_the_same_file() {
        let scores =
            ScoreMatrix::from_shape_fn((3, 17), |(i, j)| i64::try_from(i * j).unwrap() - 9);
        let predictions = Predictions {
            scores: &scores,
            out_of_calibration: &[true; 17],
            labels: Some(&[2; 17]),
        };
        for format in [Format::Csv, Format::Npy, Format::JsonLines] {
            let whole = bytes(&predictions, format, 17);
            assert!((1..17).all(|step| bytes(&predictions, format, step) == whole));
        }
    }

    #[test]
    fn formats_follow_the_name_of_the_file() {
        let format = |name: &str| Format::of(Path::new(name));
        for (name, expected) in [
            ("a.csv", Format::Csv),
            ("a", Format::Csv),
            ("/dev/null", Format::Csv),
            ("a.NPY", Format::Npy),
            ("a.jsonl", Format::JsonLines),
            ("a.ndjson", Format::JsonLines),
        ] {
            assert_eq!(format(name).unwrap(), expected, "{name}");
        }
        assert!(format("a.json").unwrap_err().to_string().contains(".jsonl"));
    }
}
