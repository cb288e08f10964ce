//! Classes: their names, and labels that are numbers or names.

use std::collections::BTreeMap;
use std::path::Path;

use super::excerpt;
use crate::artifact;
use crate::error::{Error, Result};

/// Most classes a data set may have.
pub const MAX_CLASSES: usize = 4096;

/// Longest name of a class in a data set, in bytes.
const MAX_NAME_BYTES: usize = 200;

/// The labels of samples as a file gives them.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Labels {
    /// Numbers of classes.
    Numbers(Vec<u32>),
    /// Names: the position in `names`, which are sorted and distinct, of each sample's class.
    Names { positions: Vec<u32>, names: Vec<String> },
}

impl Labels {
    /// Labels that refer to `names` in any order, each name once; numbers if all names are numbers of
    /// classes.
    pub(super) fn of_names(positions: Vec<u32>, names: Vec<String>) -> Self {
        let numbers = names.iter().map(|name| class_number(name)).collect::<Option<Vec<u32>>>();
        if let Some(numbers) = numbers {
            return Self::Numbers(positions.iter().filter_map(|&p| at(&numbers, p)).collect());
        }
        let mut order = (0_u32..).zip(&names).map(|(p, name)| (name, p)).collect::<Vec<_>>();
        order.sort_unstable();
        let mut rank = vec![0; names.len()];
        for (place, &(_, position)) in (0_u32..).zip(&order) {
            if let Some(slot) = rank.get_mut(position as usize) {
                *slot = place;
            }
        }
        let positions = positions.iter().filter_map(|&p| at(&rank, p)).collect();
        Self::Names { positions, names: order.into_iter().map(|(name, _)| name.clone()).collect() }
    }

    /// These labels, then `more`; `None` if only one of them has names.
    pub(super) fn join(self, more: Self) -> Option<Self> {
        match (self, more) {
            (Self::Numbers(first), Self::Numbers(second)) => {
                Some(Self::Numbers([first, second].concat()))
            }
            (
                Self::Names { mut positions, names: first },
                Self::Names { positions: more, names: second },
            ) => {
                let mut names = first;
                let mut known: BTreeMap<String, u32> = names.iter().cloned().zip(0_u32..).collect();
                let mut moved = Vec::with_capacity(second.len());
                for name in second {
                    let next = u32::try_from(names.len()).unwrap_or(u32::MAX);
                    let position = *known.entry(name.clone()).or_insert(next);
                    if position == next {
                        names.push(name);
                    }
                    moved.push(position);
                }
                positions.extend(more.iter().filter_map(|&p| at(&moved, p)));
                Some(Self::of_names(positions, names))
            }
            _ => None,
        }
    }
}

/// The entry at `position`; labels were checked against what they refer to.
fn at(values: &[u32], position: u32) -> Option<u32> {
    values.get(position as usize).copied()
}

/// A whole number below [`MAX_CLASSES`], written as such (`7`, not `+7` or `07`).
fn class_number(text: &str) -> Option<u32> {
    let is_plain = text == "0" || !text.starts_with(['0', '+']);
    text.parse().ok().filter(|&n: &u32| is_plain && (n as usize) < MAX_CLASSES)
}

/// Collects the cells of a label column: numbers if the first is a number, else names.
#[derive(Debug, Default)]
pub(super) struct LabelColumn {
    labels: Vec<u32>,
    /// Position of every name seen, in the order of appearance; `None` for numbers.
    names: Option<BTreeMap<String, u32>>,
}

impl LabelColumn {
    /// Append one cell.
    ///
    /// # Errors
    /// - [`Error::InvalidLabel`] for anything but a number of a class, if the first cell was a number.
    /// - [`Error::InvalidTable`] for an empty or overlong name, or more than [`MAX_CLASSES`] names.
    pub(super) fn push(&mut self, cell: &str, line: u64) -> Result<()> {
        if self.labels.is_empty() && cell.parse::<f64>().is_err() {
            self.names = Some(BTreeMap::new());
        }
        let Some(names) = &mut self.names else {
            self.labels.push(parse_label(cell, self.labels.len())?);
            return Ok(());
        };
        let invalid = |reason: &str| Error::InvalidTable { line, reason: reason.into() };
        if cell.is_empty() || cell.len() > MAX_NAME_BYTES || cell.chars().any(char::is_control) {
            let reason = "the name of a class must have 1 to 200 bytes and no control characters";
            return Err(invalid(reason));
        }
        let next = u32::try_from(names.len()).unwrap_or(u32::MAX);
        let label = match names.get(cell) {
            Some(&known) => known,
            None if names.len() < MAX_CLASSES => {
                names.insert(cell.to_owned(), next);
                next
            }
            None => return Err(invalid("more than 4096 different names in the label column")),
        };
        self.labels.push(label);
        Ok(())
    }

    pub(super) fn finish(self) -> Labels {
        let Some(names) = self.names else { return Labels::Numbers(self.labels) };
        // The map is sorted by name; names are wanted in the order of their numbers.
        let mut ordered = names.into_iter().collect::<Vec<_>>();
        ordered.sort_unstable_by_key(|&(_, position)| position);
        Labels::of_names(self.labels, ordered.into_iter().map(|(name, _)| name).collect())
    }
}

fn parse_label(cell: &str, position: usize) -> Result<u32> {
    let max = u32::try_from(MAX_CLASSES - 1).unwrap_or(u32::MAX);
    cell.parse::<u32>().ok().filter(|&label| label <= max).ok_or_else(|| Error::InvalidLabel {
        position,
        value: excerpt(cell),
        max,
    })
}

/// Check that every label is below `n_classes`.
pub(crate) fn check_labels(labels: &[u32], n_classes: usize) -> Result<()> {
    let n_classes = n_classes.min(MAX_CLASSES);
    match labels.iter().enumerate().find(|&(_, &label)| label as usize >= n_classes) {
        None => Ok(()),
        Some((position, label)) => Err(Error::InvalidLabel {
            position,
            value: label.to_string(),
            max: u32::try_from(n_classes).unwrap_or(u32::MAX).saturating_sub(1),
        }),
    }
}

/// The numbers that labels by name have in another list of classes.
///
/// # Errors
/// - [`Error::UnknownClass`] if a class that is used is not in that list.
pub(super) fn translate(labels: &[u32], names: &[String], wanted: &[String]) -> Result<Vec<u32>> {
    let numbers: BTreeMap<&str, u32> = wanted.iter().map(String::as_str).zip(0..).collect();
    let number = |&label: &u32| {
        let name = names.get(label as usize).map_or("", String::as_str);
        numbers
            .get(name)
            .copied()
            .ok_or_else(|| Error::UnknownClass { name: excerpt(name), known: list(wanted) })
    };
    labels.iter().map(number).collect()
}

/// The first names of a list, for messages.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let mut text =
        names.iter().take(SHOWN).map(|name| excerpt(name)).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += ", …";
    }
    text
}

/// Read `classes.txt` of a folder: one line `number name` per class, in order.
pub(super) fn read_class_names(folder: &Path) -> Result<Vec<String>> {
    let path = folder.join("classes.txt");
    if path.is_file() { read_labels(&path) } else { Ok(Vec::new()) }
}

/// Read the names of classes from a file like `classes.txt`: lines `number name`, in order from 0.
///
/// # Errors
/// - [`Error::Io`] or [`Error::TooLarge`] (1 MiB) if the file cannot be read.
/// - [`Error::InFile`] around [`Error::InvalidTable`] for a line of another form.
pub fn read_labels(path: &Path) -> Result<Vec<String>> {
    const MAX_BYTES: usize = 1 << 20;
    let bytes = artifact::read_file(path, MAX_BYTES)?;
    parse_class_names(&bytes).map_err(|error| error.in_file(path))
}

fn parse_class_names(bytes: &[u8]) -> Result<Vec<String>> {
    let invalid = |line: usize, reason: &str| Error::InvalidTable {
        line: line as u64,
        reason: reason.into(),
    };
    let text = std::str::from_utf8(bytes).map_err(|_| invalid(1, "the text is not UTF-8"))?;
    let mut names = Vec::new();
    for (line_idx, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let (number, name) = line
            .trim()
            .split_once(char::is_whitespace)
            .ok_or_else(|| invalid(line_idx + 1, "expected a class number, a space and a name"))?;
        if number.parse() != Ok(names.len()) {
            return Err(invalid(line_idx + 1, "classes must be numbered from 0 without gaps"));
        }
        if names.len() >= MAX_CLASSES {
            return Err(invalid(line_idx + 1, "at most 4096 classes are supported"));
        }
        if name.chars().any(char::is_control) {
            return Err(invalid(line_idx + 1, "the name holds control characters"));
        }
        names.push(name.trim().to_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    fn column(cells: &[&str]) -> Result<Labels> {
        let mut column = LabelColumn::default();
        for (cell, line) in cells.iter().zip(2..) {
            column.push(cell, line)?;
        }
        Ok(column.finish())
    }

    fn named(positions: &[u32], names: &[&str]) -> Labels {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        Labels::Names { positions: positions.to_vec(), names }
    }

    #[test]
    fn the_first_cell_decides_between_numbers_and_names() {
        assert_eq!(column(&["2", "0"]).unwrap(), Labels::Numbers(vec![2, 0]));
        let expected = named(&[2, 0, 2, 1], &["3", "a", "b"]);
        assert_eq!(column(&["b", "3", "b", "a"]).unwrap(), expected);
        assert!(matches!(column(&["3", "b"]), Err(Error::InvalidLabel { position: 1, .. })));
        assert!(matches!(column(&["1.5"]), Err(Error::InvalidLabel { position: 0, .. })));
        assert!(matches!(column(&["a", ""]), Err(Error::InvalidTable { line: 3, .. })));
        for bad in [&"x".repeat(201), "a\u{1b}[2J"] {
            assert!(matches!(column(&[bad]), Err(Error::InvalidTable { .. })));
        }
        let many = (0..=MAX_CLASSES).map(|i| format!("c{i}")).collect::<Vec<_>>();
        let many = many.iter().map(String::as_str).collect::<Vec<_>>();
        assert!(matches!(column(&many), Err(Error::InvalidTable { line: 4098, .. })));
        let Labels::Names { names, .. } = column(&many[..MAX_CLASSES]).unwrap() else { panic!() };
        assert_eq!(names.len(), MAX_CLASSES);
    }

    #[test]
    fn names_that_are_numbers_are_these_numbers() {
        let names = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        let labels = Labels::of_names(vec![0, 1, 0], names(&["10", "9"]));
        assert_eq!(labels, Labels::Numbers(vec![10, 9, 10]));
        for other in ["4096", "07", "-1", "1.0", "+1"] {
            let labels = Labels::of_names(vec![0, 1], names(&["3", other]));
            assert!(matches!(labels, Labels::Names { .. }), "{other}");
        }
    }

    #[test]
    fn parts_join_by_name() {
        let joined = named(&[0, 1], &["b", "d"]).join(named(&[2, 0, 1], &["a", "b", "c"]));
        assert_eq!(joined, Some(named(&[1, 3, 2, 0, 1], &["a", "b", "c", "d"])));
        assert_eq!(named(&[0], &["a"]).join(Labels::Numbers(vec![0])), None);
    }

    proptest! {
        #[test]
        fn labels_keep_their_names(cells in prop::collection::vec("[a-f]{1,2}", 1..50)) {
            let cells = cells.iter().map(String::as_str).collect::<Vec<_>>();
            let Labels::Names { positions, names } = column(&cells).unwrap() else {
                return Err(TestCaseError::fail("names"));
            };
            prop_assert!(names.is_sorted());
            for (cell, position) in cells.iter().zip(positions) {
                prop_assert_eq!(*cell, &names[position as usize]);
            }
        }

        #[test]
        fn translation_goes_by_name(labels in prop::collection::vec(0_u32..3, 0..20)) {
            let names = ["a", "b", "c"].map(String::from);
            let wanted = ["c", "x", "a", "b"].map(String::from);
            let translated = translate(&labels, &names, &wanted).unwrap();
            for (&label, number) in labels.iter().zip(translated) {
                prop_assert_eq!(&names[label as usize], &wanted[number as usize]);
            }
        }
    }

    #[test]
    fn only_classes_in_use_must_be_known() {
        let (names, wanted) = (["a", "b"].map(String::from), ["a"].map(String::from));
        assert_eq!(translate(&[0, 0], &names, &wanted).unwrap(), [0, 0]);
        let error = translate(&[0, 1], &names, &wanted).unwrap_err().to_string();
        assert_eq!(error, "class `b` of the data is none of the model's classes: a");
    }

    #[test]
    fn class_names_are_numbered_lines() {
        assert_eq!(parse_class_names(b"0 T-shirt/top\n1 a b\n").unwrap(), ["T-shirt/top", "a b"]);
        for text in ["0 a\n2 b", "x a", "0", "0 \u{1b}[2J"] {
            assert!(matches!(parse_class_names(text.as_bytes()), Err(Error::InvalidTable { .. })));
        }
    }
}
