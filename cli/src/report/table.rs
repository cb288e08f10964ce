//! Tables of a few columns.

use comfy_table::{
    Attribute, Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, Width,
};

use super::terminal::{Colors, Screen};

/// Columns left of every table.
const INDENT: usize = 2;

/// Words are not squeezed into columns narrower than this.
const LEAST_WIDTH: u16 = 14;

/// Which way a column leans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lean {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table under construction: a header, then rows.
#[derive(Debug)]
pub(crate) struct Grid {
    table: Table,
}

impl Grid {
    /// A table with these columns, for `screen`.
    pub(crate) fn new(screen: &Screen, columns: &[(&str, Lean)]) -> Self {
        let mut table = Table::new();
        // A line under the header, nothing else: left border, then top to bottom.
        table.load_preset("     ──            ");
        if screen.is_terminal() {
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_width(
                u16::try_from(screen.width().saturating_sub(INDENT)).unwrap_or(u16::MAX),
            );
        } else {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
        if screen.colors() == Colors::None {
            table.force_no_tty();
        } else {
            table.enforce_styling();
        }
        let header = columns.iter().map(|&(title, _)| {
            let cell = Cell::new(title);
            if screen.colors() == Colors::None { cell } else { cell.add_attribute(Attribute::Dim) }
        });
        table.set_header(header);
        for (column, &(_, lean)) in table.column_iter_mut().zip(columns) {
            column.set_padding((0, 1));
            match lean {
                Lean::Left => {
                    column.set_cell_alignment(CellAlignment::Left);
                    let least = Width::Fixed(LEAST_WIDTH);
                    column.set_constraint(ColumnConstraint::LowerBoundary(least));
                }
                Lean::Right => {
                    // Words may be wrapped, numbers not.
                    column.set_cell_alignment(CellAlignment::Right);
                    column.set_constraint(ColumnConstraint::ContentWidth);
                }
            }
        }
        Self { table }
    }

    /// Add a row.
    pub(crate) fn row<T: ToString>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.table.add_row(cells.into_iter().map(|cell| cell.to_string()).collect::<Vec<_>>());
    }

    /// Print the table, indented like facts.
    pub(crate) fn print(&self, screen: &Screen) {
        for line in self.table.lines() {
            screen.line(format_args!("{:INDENT$}{}", "", line.trim_end()));
        }
    }
}
