//! Tables of measurements, for the terminal or to be pasted into a page.

use super::table::{Grid, Lean};
use super::terminal::Screen;

/// How a table is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableStyle {
    /// Aligned columns.
    Terminal,
    /// A Markdown table.
    Markdown,
}

/// A table: columns, then rows of as many cells.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    columns: Vec<(&'static str, Lean)>,
    rows: Vec<Vec<String>>,
}

impl Figures {
    /// A table without rows. `columns` are titles; the first `n_words` hold words, the others
    /// numbers.
    pub(crate) fn new(columns: &[&'static str], n_words: usize) -> Self {
        let lean = |i| if i < n_words { Lean::Left } else { Lean::Right };
        let columns = columns.iter().enumerate().map(|(i, &title)| (title, lean(i))).collect();
        Self { columns, rows: Vec::new() }
    }

    /// Add a row.
    pub(crate) fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Print it.
    pub(crate) fn print(&self, screen: &Screen, style: TableStyle) {
        match style {
            TableStyle::Terminal => {
                let mut grid = Grid::new(screen, &self.columns);
                self.rows.iter().for_each(|row| grid.row(row));
                grid.print(screen);
            }
            TableStyle::Markdown => {
                screen.gap();
                self.markdown().iter().for_each(|line| screen.line(line));
            }
        }
    }

    pub(crate) fn markdown(&self) -> Vec<String> {
        let line = |cells: &[String]| format!("| {} |", cells.join(" | "));
        let titles: Vec<String> = self.columns.iter().map(|(title, _)| (*title).into()).collect();
        let rules = self.columns.iter().map(|(_, lean)| match lean {
            Lean::Left => "---",
            Lean::Right => "--:",
        });
        let rule = format!("|{}|", rules.collect::<Vec<_>>().join("|"));
        let rows = self.rows.iter().map(|row| line(row));
        [line(&titles), rule].into_iter().chain(rows).collect()
    }
}

/// A figure that may be missing.
pub(crate) fn or_dash(figure: Option<String>) -> String {
    figure.unwrap_or_else(|| "–".to_owned())
}

/// A number with three significant digits: `45.8`, `0.612`, `1230`.
pub(crate) fn three_digits(value: f64) -> String {
    let decimals = match value.abs() {
        v if v < 0.9995 => 3,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

/// A share of 1 in whole percent.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

/// The median; of an even number the mean of the middle two. 0 of nothing.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let at = |i: usize| values.get(i).copied().unwrap_or(0.0);
    if values.len() % 2 == 1 {
        at(middle)
    } else {
        (at(middle.saturating_sub(1)) + at(middle)) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_has_a_rule_and_a_line_per_row() {
        let mut figures = Figures::new(&["layer", "G/s"], 1);
        figures.row(["conv1", "3.20"]);
        figures.row(["conv2", "45"]);
        let expected = ["| layer | G/s |", "|---|--:|", "| conv1 | 3.20 |", "| conv2 | 45 |"];
        assert_eq!(figures.markdown(), expected);
    }

    #[test]
    fn numbers_keep_three_digits() {
        let texts = [0.0617, 0.9996, 9.994, 9.996, 99.96, 1234.4].map(three_digits);
        assert_eq!(texts, ["0.062", "1.00", "9.99", "10.0", "100", "1234"]);
        assert_eq!(percent(0.654), "65 %");
        assert_eq!(or_dash(None), "–");
    }

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(&mut []), 0.0);
        assert_eq!(median(&mut [3.0]), 3.0);
        assert_eq!(median(&mut [9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 3.0, 2.0]), 2.5);
    }
}
