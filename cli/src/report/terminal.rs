//! Where text goes and how it may look there.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, ErrorKind, IsTerminal, Write};

use anyhow::{Context, Result};

/// Columns assumed where there is no terminal.
const DEFAULT_WIDTH: usize = 100;

/// Widest layout, so that lines stay readable on very wide terminals.
const MAX_WIDTH: usize = 120;

/// What a stream can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Colors {
    /// Plain text.
    None,
    /// The sixteen named colors.
    Named,
    /// 256 colors.
    Palette,
    /// 24 bits per color.
    True,
}

impl Colors {
    /// What a stream can show, from the environment: `NO_COLOR` forbids, `CLICOLOR_FORCE` insists,
    /// `COLORTERM` and `TERM` say how many.
    fn detect(is_terminal: bool, variable: impl Fn(&str) -> Option<String>) -> Self {
        let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
        let term = variable("TERM").unwrap_or_default();
        let is_forced = variable("CLICOLOR_FORCE").is_some_and(|v| !v.is_empty() && v != "0");
        if is_set("NO_COLOR") || !(is_terminal || is_forced) || (term == "dumb" && !is_forced) {
            return Self::None;
        }
        let color_term = variable("COLORTERM").unwrap_or_default();
        if matches!(color_term.as_str(), "truecolor" | "24bit") || term.ends_with("-direct") {
            Self::True
        } else if term.contains("256color") {
            Self::Palette
        } else {
            Self::Named
        }
    }
}

/// Emphasis of a piece of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ink {
    /// As it is.
    Plain,
    /// Headings and results.
    Bold,
    /// Explanations.
    Dim,
    /// Names of things.
    Accent,
    /// What went well.
    Good,
    /// What deserves attention.
    Warn,
    /// What went wrong.
    Bad,
}

impl Ink {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Accent => "36",
            Self::Good => "1;32",
            Self::Warn => "1;33",
            Self::Bad => "1;31",
        }
    }
}

/// Text with emphasis where the stream can show it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Painted<T> {
    text: T,
    code: &'static str,
}

impl<T: fmt::Display> fmt::Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.code.is_empty() {
            self.text.fmt(f)
        } else {
            write!(f, "\x1b[{}m", self.code)?;
            self.text.fmt(f)?;
            f.write_str("\x1b[0m")
        }
    }
}

/// An output stream for people.
///
/// A reader that went away (`securedl … | head`) is no failure: what it does not want is dropped,
/// and the command goes on with its work. Any other failure to write is kept for
/// [`finish`](Self::finish).
pub(crate) struct Screen {
    stream: RefCell<Box<dyn Write>>,
    colors: Colors,
    is_terminal: bool,
    width: usize,
    is_gone: Cell<bool>,
    failure: RefCell<Option<io::Error>>,
}

impl Screen {
    /// Standard output: results.
    pub(crate) fn stdout() -> Self {
        let is_terminal = io::stdout().is_terminal();
        Self::new(Box::new(io::stdout()), is_terminal)
    }

    /// Standard error: for results too, when standard output carries JSON.
    pub(crate) fn stderr() -> Self {
        let is_terminal = io::stderr().is_terminal();
        Self::new(Box::new(io::stderr()), is_terminal)
    }

    fn new(stream: Box<dyn Write>, is_terminal: bool) -> Self {
        let columns = comfy_table::Table::new().width().filter(|_| is_terminal);
        Self {
            stream: RefCell::new(stream),
            colors: Colors::detect(is_terminal, |name| std::env::var(name).ok()),
            is_terminal,
            width: columns.map_or(DEFAULT_WIDTH, usize::from).min(MAX_WIDTH),
            is_gone: Cell::new(false),
            failure: RefCell::new(None),
        }
    }

    /// What the stream can show.
    pub(crate) fn colors(&self) -> Colors {
        self.colors
    }

    /// Columns to fill at most.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Whether a person may be watching.
    pub(crate) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// `text` with emphasis, if the stream can show it.
    pub(crate) fn paint<T: fmt::Display>(&self, ink: Ink, text: T) -> Painted<T> {
        let code = if self.colors == Colors::None { "" } else { ink.code() };
        Painted { text, code }
    }

    /// Write one line, or several.
    pub(crate) fn line(&self, text: impl fmt::Display) {
        self.write(format_args!("{text}\n"));
    }

    /// Write an empty line.
    pub(crate) fn gap(&self) {
        self.line("");
    }

    /// Write a heading, set off from what came before.
    pub(crate) fn heading(&self, text: impl fmt::Display) {
        self.gap();
        self.paragraph(0, self.paint(Ink::Bold, text));
    }

    /// Write a fact with its name, aligned with others; long ones go on below.
    pub(crate) fn fact(&self, name: &str, value: impl fmt::Display) {
        const NAME_WIDTH: usize = 12;
        self.labeled(2, Ink::Dim, &format!("{name:<NAME_WIDTH$}"), value);
    }

    /// Write `text` after a label, both indented; long texts go on below themselves.
    pub(crate) fn labeled(&self, indent: usize, ink: Ink, label: &str, text: impl fmt::Display) {
        let n_columns = label.chars().count();
        let mut label = self.paint(ink, label).to_string();
        for line in self.wrapped(&text.to_string(), indent + n_columns + 1) {
            self.line(format_args!("{:indent$}{label} {line}", ""));
            label = " ".repeat(n_columns);
        }
    }

    /// Write text indented by `indent` columns, broken into lines that fit.
    pub(crate) fn paragraph(&self, indent: usize, text: impl fmt::Display) {
        for line in self.wrapped(&text.to_string(), indent) {
            self.line(format_args!("{:indent$}{line}", ""));
        }
    }

    /// The lines of `text`, broken at spaces so that they fit beside `indent` columns. Only a
    /// terminal has an edge to run over.
    fn wrapped(&self, text: &str, indent: usize) -> Vec<String> {
        let width = self.width.saturating_sub(indent).max(20);
        if self.is_terminal { wrap(text, width) } else { vec![text.to_owned()] }
    }

    fn write(&self, text: fmt::Arguments<'_>) {
        if self.is_gone.get() {
            return;
        }
        let mut stream = self.stream.borrow_mut();
        let Err(error) = stream.write_fmt(text).and_then(|()| stream.flush()) else { return };
        self.is_gone.set(true);
        if error.kind() != ErrorKind::BrokenPipe {
            *self.failure.borrow_mut() = Some(error);
        }
    }

    /// Whether everything could be written that somebody wanted to read.
    ///
    /// # Errors
    /// The first failure to write, such as a full disk.
    pub(crate) fn finish(&self) -> Result<()> {
        let failure = self.failure.borrow_mut().take();
        failure.map_or(Ok(()), Err).context("cannot write to standard output")
    }
}

/// Break `text` at spaces into lines of at most `width` visible characters; longer words stay whole.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut used = 0;
    for (idx, word) in text.split(' ').enumerate() {
        let length = visible_length(word);
        if idx > 0 && used > 0 && used + 1 + length > width {
            lines.push(std::mem::take(&mut line));
            used = 0;
        } else if idx > 0 {
            line.push(' ');
            used += 1;
        }
        line.push_str(word);
        used += length;
    }
    lines.push(line);
    lines
}

/// Characters that take a column: all but those of escape sequences.
fn visible_length(text: &str) -> usize {
    let mut is_escape = false;
    text.chars()
        .filter(|&c| {
            let is_hidden = is_escape || c == '\x1b';
            is_escape = is_hidden && c != 'm';
            !is_hidden
        })
        .count()
}

impl fmt::Debug for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Screen")
            .field("colors", &self.colors)
            .field("is_terminal", &self.is_terminal)
            .field("width", &self.width)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colors_follow_the_environment() {
        use Colors::{Named, None, Palette, True};
        for (is_terminal, variables, expected) in [
            (true, &[("TERM", "xterm-256color")] as &[(&str, &str)], Palette),
            (true, &[("TERM", "xterm-256color"), ("COLORTERM", "truecolor")], True),
            (true, &[("TERM", "xterm-direct")], True),
            (true, &[("TERM", "linux")], Named),
            (true, &[("TERM", "dumb")], None),
            (true, &[("TERM", "xterm-256color"), ("NO_COLOR", "1")], None),
            (true, &[("TERM", "xterm-256color"), ("NO_COLOR", "")], Palette),
            (false, &[("TERM", "xterm-256color")], None),
            (false, &[("TERM", "xterm-256color"), ("CLICOLOR_FORCE", "1")], Palette),
            (false, &[("TERM", "xterm-256color"), ("CLICOLOR_FORCE", "0")], None),
        ] {
            let variable = |name: &str| {
                let found = variables.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(Colors::detect(is_terminal, variable), expected, "{variables:?}");
        }
    }

    #[test]
    fn long_lines_break_at_spaces_and_escapes_take_no_room() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("one two three", 100), ["one two three"]);
        assert_eq!(wrap("unbreakable x", 4), ["unbreakable", "x"]);
        assert_eq!(
            wrap("\x1b[1;32mone\x1b[0m two three", 7),
            ["\x1b[1;32mone\x1b[0m two", "three"]
        );
        assert_eq!(wrap("", 7), [""]);
    }

    struct Failing(ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_left_is_no_failure_but_a_full_disk_is() {
        for (kind, is_failure) in [(ErrorKind::BrokenPipe, false), (ErrorKind::StorageFull, true)] {
            let screen = Screen::new(Box::new(Failing(kind)), false);
            screen.line("one");
            screen.line("two");
            assert_eq!(screen.finish().is_err(), is_failure, "{kind:?}");
        }
    }
}
