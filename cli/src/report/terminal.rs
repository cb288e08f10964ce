//! Where text goes and how it may look there.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, ErrorKind, IsTerminal, Write};

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
        self.line(self.paint(Ink::Bold, text));
    }

    /// Write a fact with its name, aligned with others.
    pub(crate) fn fact(&self, name: &str, value: impl fmt::Display) {
        const NAME_WIDTH: usize = 12;
        let lines = value.to_string();
        let mut lines = lines.lines();
        let padded = format!("{name:<NAME_WIDTH$}");
        let first = lines.next().unwrap_or_default();
        self.line(format_args!("  {} {first}", self.paint(Ink::Dim, padded)));
        for more in lines {
            self.line(format_args!("  {:NAME_WIDTH$} {more}", ""));
        }
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
    pub(crate) fn finish(&self) -> io::Result<()> {
        self.failure.borrow_mut().take().map_or(Ok(()), Err)
    }
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
