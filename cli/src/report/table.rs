//! Tables of a few columns.

use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Table};

use super::terminal::{Colors, Screen};

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
            table.set_width(u16::try_from(screen.width()).unwrap_or(u16::MAX));
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
            column.set_cell_alignment(match lean {
                Lean::Left => CellAlignment::Left,
                Lean::Right => CellAlignment::Right,
            });
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
            screen.line(format_args!(" {}", line.trim_end()));
        }
    }
}
