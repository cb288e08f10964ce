//! Structured logs on standard error. They never hold inputs, keys or ciphertext.

use std::io::{self, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::report::progress::Progress;
use crate::report::terminal::{Colors, Screen};

/// What a log line says besides its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Time, level and origin: for servers.
    Full,
    /// A JSON object per line, with the same.
    Json,
    /// The level: for people who watch.
    Brief,
}

/// Start logging at `level` and above, or as `RUST_LOG` says; lines appear above progress bars.
pub(crate) fn start(level: &str, style: Style, progress: &Progress) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(Screen::stderr().colors() != Colors::None)
        .with_writer(AboveBars(progress.clone()));
    // Only fails if logging has been started already.
    let _ = match style {
        Style::Full => builder.try_init(),
        Style::Json => {
            builder.with_ansi(false).json().flatten_event(true).with_span_list(false).try_init()
        }
        Style::Brief => builder.without_time().with_target(false).try_init(),
    };
}

struct AboveBars(Progress);

/// One log line.
struct Line(Progress);

impl<'a> MakeWriter<'a> for AboveBars {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(self.0.clone())
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A log nobody reads must not stop the work.
        self.0.suspend(|| {
            let _ = io::stderr().write_all(bytes);
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
