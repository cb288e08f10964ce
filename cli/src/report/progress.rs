//! Progress of long work, on standard error.
//!
//! A terminal gets bars that vanish when the work is done, and one line that stays. Anything else
//! (a file, a pipe, a job log) gets only the lines.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::units;

const BAR: &str = "  {prefix:.dim} {bar:28.green/white.dim} {msg:.dim}";
const SPINNER: &str = "  {prefix:.dim} {spinner:.green} {msg:.dim}";

/// How often bars are drawn.
const DRAWS_PER_SECOND: u8 = 12;

/// The bars of one command. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    bars: MultiProgress,
    /// Whether somebody still reads standard error.
    is_heard: Arc<AtomicBool>,
}

impl Progress {
    /// Bars on standard error, if that is a terminal.
    pub(crate) fn stderr() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal {
            ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND)
        } else {
            ProgressDrawTarget::hidden()
        };
        Self {
            bars: MultiProgress::with_draw_target(target),
            is_heard: Arc::new(AtomicBool::new(true)),
        }
    }

    /// Shows nothing: for work that is repeated and has a bar of its own.
    pub(crate) fn silent() -> Self {
        Self {
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()),
            is_heard: Arc::new(AtomicBool::new(false)),
        }
    }

    /// A bar of `length` steps, named `name`.
    pub(crate) fn bar(&self, name: impl Into<String>, length: u64) -> Bar {
        self.start(ProgressBar::new(length), BAR, name.into())
    }

    /// A sign of life for work of unknown length.
    pub(crate) fn spinner(&self, name: impl Into<String>) -> Bar {
        let bar = self.start(ProgressBar::new_spinner(), SPINNER, name.into());
        bar.bar.enable_steady_tick(Duration::from_millis(120));
        bar
    }

    /// A line that stays, above any bar.
    pub(crate) fn line(&self, text: impl std::fmt::Display) {
        self.bars.suspend(|| self.write_line(&text.to_string()));
    }

    /// Run `write` while no bar is on the screen.
    pub(crate) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bars.suspend(write)
    }

    fn start(&self, bar: ProgressBar, template: &str, name: String) -> Bar {
        let style = ProgressStyle::with_template(template)
            .expect("invariant: the template is a constant")
            .progress_chars("━╸━")
            .tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ ");
        let bar = self.bars.add(bar.with_style(style).with_prefix(name));
        bar.tick();
        Bar { bar, progress: self.clone(), started: Instant::now() }
    }

    /// Nobody has to listen to progress: a closed standard error ends it, not the command.
    fn write_line(&self, text: &str) {
        if self.is_heard.load(Ordering::Relaxed)
            && writeln!(std::io::stderr().lock(), "{text}").is_err()
        {
            self.is_heard.store(false, Ordering::Relaxed);
        }
    }
}

/// One piece of work.
#[derive(Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
    progress: Progress,
    started: Instant,
}

impl Bar {
    /// Some steps further.
    pub(crate) fn advance(&self, n_steps: u64) {
        self.bar.inc(n_steps);
    }

    /// So many steps are done in all.
    pub(crate) fn at(&self, n_steps: u64) {
        self.bar.set_position(n_steps);
    }

    /// What happens right now, beside the bar.
    pub(crate) fn message(&self, text: impl Into<String>) {
        self.bar.set_message(text.into());
    }

    /// Time since the bar appeared.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Take the bar away and leave a line with the time it took.
    pub(crate) fn finish(self, summary: impl std::fmt::Display) {
        let time = units::duration(self.elapsed());
        self.bar.finish_and_clear();
        self.progress.line(format_args!("  {summary}  ({time})"));
    }
}

/// Work that failed leaves no bar behind.
impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
