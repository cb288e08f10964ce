//! Tables in CSV: a header line, numeric features, and a column of classes.

use std::path::Path;

use csv::{ReaderBuilder, StringRecord};
use ndarray::Array2;

use super::classes::LabelColumn;
use super::files::Part;
use super::{MAX_FEATURE_VALUES, MAX_FILE_BYTES, excerpt, gzip};
use crate::error::{Error, Result};
use crate::tensor::Shape;

/// Name of the column that holds the classes, if no other is named.
const LABEL_COLUMN: &str = "label";

/// Read one table.
pub(super) fn read(path: &Path, label_column: Option<&str>) -> Result<Part> {
    let bytes = gzip::read(path, MAX_FILE_BYTES)?;
    parse(&bytes, label_column).map_err(|error| error.in_file(path))
}

/// Decode a table. The column named by `label_column` must be there; without a name, samples of a table
/// without a column `label` are unlabeled.
pub(super) fn parse(bytes: &[u8], label_column: Option<&str>) -> Result<Part> {
    let mut reader = ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes);
    let header = reader.headers().map_err(|error| invalid(&error))?.clone();
    let label_idx = check_header(&header, label_column)?;
    let n_features = header.len() - usize::from(label_idx.is_some());
    let shape = Shape::vector(n_features)
        .map_err(|_| Error::InvalidTable { line: 1, reason: "no feature columns".into() })?;
    let mut values = Vec::new();
    let mut labels = LabelColumn::default();
    let mut record = StringRecord::new();
    while reader.read_record(&mut record).map_err(|error| invalid(&error))? {
        let line = record.position().map_or(0, csv::Position::line);
        if values.len() + n_features > MAX_FEATURE_VALUES {
            return Err(Error::TooLarge {
                what: "number of table cells",
                actual: (values.len() + n_features) as u64,
                limit: MAX_FEATURE_VALUES as u64,
            });
        }
        for (column_idx, cell) in record.iter().enumerate() {
            if Some(column_idx) == label_idx {
                labels.push(cell, line)?;
            } else {
                values.push(parse_feature(cell, line, header.get(column_idx))?);
            }
        }
    }
    let n_samples = values.len() / n_features;
    let features = Array2::from_shape_vec((n_samples, n_features), values)
        .expect("invariant: the reader refuses rows of another length");
    Ok(Part { shape, features, labels: label_idx.map(|_| labels.finish()) })
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
