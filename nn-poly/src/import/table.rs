//! Tables in CSV: a header line, numeric features, and a column of classes.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use csv::{ReaderBuilder, StringRecord};
use ndarray::Array2;

use super::classes::LabelColumn;
use super::files::Part;
use super::{MAX_FEATURE_VALUES, MAX_FILE_BYTES, excerpt, gzip};
use crate::error::{Error, Result};
use crate::tensor::Shape;

/// Name of the column that holds the classes, if no other is named.
const LABEL_COLUMN: &str = "label";

/// Longest row: a row is kept in memory, also of a file that is longer than any memory.
const MAX_ROW_BYTES: usize = 1 << 26;

/// Read one table.
pub(super) fn read(path: &Path, label_column: Option<&str>) -> Result<Part> {
    let bytes = gzip::read(path, MAX_FILE_BYTES)?;
    parse(&bytes, label_column).map_err(|error| error.in_file(path))
}

/// Decode a table. The column named by `label_column` must be there; without a name, samples of a table
/// without a column `label` are unlabeled.
pub(super) fn parse(bytes: &[u8], label_column: Option<&str>) -> Result<Part> {
    let mut rows = Rows::new(bytes, label_column)?;
    let (shape, n_features) = (rows.shape()?, rows.n_features);
    let mut values = Vec::new();
    let mut labels = LabelColumn::default();
    while rows.next(&mut values, Some(&mut labels))? {
        if values.len() > MAX_FEATURE_VALUES {
            return Err(Error::TooLarge {
                what: "number of table cells",
                actual: values.len() as u64,
                limit: MAX_FEATURE_VALUES as u64,
            });
        }
    }
    let n_samples = values.len() / n_features;
    let features = Array2::from_shape_vec((n_samples, n_features), values)
        .expect("invariant: the reader refuses rows of another length");
    let labels = rows.has_labels().then(|| labels.finish());
    Ok(Part { shape, features, labels })
}

/// The rows of a table, one after the other.
pub(super) struct Rows<R> {
    reader: csv::Reader<Limited<R>>,
    left: Arc<AtomicUsize>,
    header: StringRecord,
    label_idx: Option<usize>,
    pub(super) n_features: usize,
    record: StringRecord,
}

impl<R: Read> Rows<R> {
    /// Read the header.
    pub(super) fn new(source: R, label_column: Option<&str>) -> Result<Self> {
        let left = Arc::new(AtomicUsize::new(MAX_ROW_BYTES));
        let limited = Limited { source, left: Arc::clone(&left) };
        let mut reader = ReaderBuilder::new().trim(csv::Trim::All).from_reader(limited);
        let header = reader.headers().map_err(|error| invalid(&error))?.clone();
        let label_idx = check_header(&header, label_column)?;
        let n_features = header.len() - usize::from(label_idx.is_some());
        let rows =
            Self { reader, left, header, label_idx, n_features, record: StringRecord::new() };
        rows.shape()?;
        Ok(rows)
    }

    /// Shape of a sample.
    pub(super) fn shape(&self) -> Result<Shape> {
        Shape::vector(self.n_features)
            .map_err(|_| Error::InvalidTable { line: 1, reason: "no feature columns".into() })
    }

    pub(super) fn has_labels(&self) -> bool {
        self.label_idx.is_some()
    }

    /// Append the values of the next row, and its label if they are wanted; false at the end.
    pub(super) fn next(
        &mut self,
        values: &mut Vec<f32>,
        mut labels: Option<&mut LabelColumn>,
    ) -> Result<bool> {
        if !self.skip()? {
            return Ok(false);
        }
        let line = self.record.position().map_or(0, csv::Position::line);
        for (column_idx, cell) in self.record.iter().enumerate() {
            if Some(column_idx) != self.label_idx {
                values.push(parse_feature(cell, line, self.header.get(column_idx))?);
            } else if let Some(labels) = &mut labels {
                labels.push(cell, line)?;
            }
        }
        Ok(true)
    }

    /// Pass over the next row; false at the end.
    pub(super) fn skip(&mut self) -> Result<bool> {
        self.left.store(MAX_ROW_BYTES, Ordering::Relaxed);
        self.reader.read_record(&mut self.record).map_err(|error| invalid(&error))
    }
}

/// A source that ends in an error if so many bytes are read for one row: a row is kept in memory.
pub(super) struct Limited<R> {
    source: R,
    left: Arc<AtomicUsize>,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(io::Error::other("a row is longer than 64 MiB"));
        }
        let length = buffer.len().min(left);
        let n = self.source.read(buffer.get_mut(..length).unwrap_or_default())?;
        self.left.store(left - n, Ordering::Relaxed);
        Ok(n)
    }
}

/// Find the label column; refuse headers that are missing or ambiguous.
fn check_header(header: &StringRecord, label_column: Option<&str>) -> Result<Option<usize>> {
    let invalid = |reason: &str| Error::InvalidTable { line: 1, reason: reason.into() };
    if header.is_empty() {
        return Err(invalid("the file is empty, expected a header line"));
    }
    if header.iter().all(|name| name.parse::<f64>().is_ok()) {
        return Err(invalid("the first line holds only numbers, expected column names"));
    }
    let wanted = label_column.unwrap_or(LABEL_COLUMN);
    let mut found = header.iter().enumerate().filter(|(_, name)| *name == wanted);
    let first = found.next().map(|(position, _)| position);
    if found.next().is_some() {
        return Err(invalid(&format!("two columns are named `{}`", excerpt(wanted))));
    }
    if label_column.is_some() && first.is_none() {
        const SHOWN: usize = 12;
        let mut names = header.iter().take(SHOWN).map(excerpt).collect::<Vec<_>>().join("`, `");
        if header.len() > SHOWN {
            names += "`, …, `…";
        }
        let reason = format!("no column is named `{}`; there are `{names}`", excerpt(wanted));
        return Err(invalid(&reason));
    }
    Ok(first)
}

fn parse_feature(cell: &str, line: u64, column: Option<&str>) -> Result<f32> {
    cell.parse::<f32>().ok().filter(|value| value.is_finite()).ok_or_else(|| Error::InvalidCell {
        line,
        column: excerpt(column.unwrap_or_default()),
        value: excerpt(cell),
    })
}

/// Translate an error of the CSV reader.
fn invalid(error: &csv::Error) -> Error {
    let line = error.position().map_or(1, csv::Position::line);
    let reason = if let csv::ErrorKind::UnequalLengths { expected_len, len, .. } = error.kind() {
        format!("{len} cells, but the header has {expected_len} columns")
    } else if let csv::ErrorKind::Utf8 { .. } = error.kind() {
        "the text is not UTF-8".into()
    } else {
        error.to_string()
    };
    Error::InvalidTable { line, reason }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use ndarray::array;
    use proptest::prelude::*;

    use super::super::classes::Labels;
    use super::*;

    #[test]
    fn the_label_column_is_found_by_name() {
        let part = parse(b"a,label,b\n1,2,3\n-4e0, 0 ,.5\n", None).unwrap();
        assert_eq!(part.features, array![[1.0, 3.0], [-4.0, 0.5]]);
        assert_eq!(part.labels, Some(Labels::Numbers(vec![2, 0])));
        let part = parse(b"a,b\n1,2\n", None).unwrap();
        assert_eq!((part.labels, part.features), (None, array![[1.0, 2.0]]));
    }

    #[test]
    fn another_column_of_names_can_be_chosen() {
        // With the mark of byte order that spreadsheets write.
        let text = "\u{feff}label,kind,x\n1,cat,2\n3, ant ,4\n".as_bytes();
        let part = parse(text, Some("kind")).unwrap();
        assert_eq!(part.features, array![[1.0, 2.0], [3.0, 4.0]]);
        let names = vec!["ant".to_owned(), "cat".to_owned()];
        assert_eq!(part.labels, Some(Labels::Names { positions: vec![1, 0], names }));
        assert!(parse(text, Some("label")).unwrap_err().to_string().contains("column `kind`"));
        let error = parse(text, Some("sort")).unwrap_err().to_string();
        assert_eq!(error, "line 1: no column is named `sort`; there are `label`, `kind`, `x`");
    }

    #[test]
    fn faults_are_named_with_line_and_column() {
        let message = |text: &str| parse(text.as_bytes(), None).err().unwrap().to_string();
        let cases = [
            ("a,b,label\n1,2,0\n1,NaN,0\n", "line 3, column `b`: `NaN` is not a finite number"),
            ("a,label\n1e99,0\n", "line 2, column `a`: `1e99` is not a finite number"),
            ("a,label\n,0\n", "line 2, column `a`: `` is not a finite number"),
            ("a,label\n1,-1\n", "label 0 is `-1`, expected a whole number from 0 to 4095"),
            ("a,label\n1,0\n1,1.5\n", "label 1 is `1.5`, expected a whole number from 0 to 4095"),
            ("a,label\n1,4096\n", "label 0 is `4096`, expected a whole number from 0 to 4095"),
            ("a,label\n1,0,3\n", "line 2: 3 cells, but the header has 2 columns"),
            ("1,2\n3,4\n", "line 1: the first line holds only numbers, expected column names"),
            ("label,label\n1,0\n", "line 1: two columns are named `label`"),
            ("label\n0\n", "line 1: no feature columns"),
            ("", "line 1: the file is empty, expected a header line"),
        ];
        for (text, expected) in cases {
            assert_eq!(message(text), expected, "for {text:?}");
        }
        let error = parse(b"a,label\n\xff,0\n", None).err().unwrap().to_string();
        assert_eq!(error, "line 2: the text is not UTF-8");
    }

    proptest! {
        #[test]
        fn mutated_tables_never_panic(position in 0_usize..30, value in any::<u8>(), cut in 0_usize..31) {
            let mut bytes = b"a,b,label\n1,2,0\n\"3\",4,1\n5,6,2\n".to_vec();
            bytes[position] = value;
            bytes.truncate(cut);
            let _ = parse(&bytes, None);
        }
    }
}
