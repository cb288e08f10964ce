//! How runs are watched: rounds of one batch, or many batches with their rate and the time left.

#![expect(clippy::cast_precision_loss, reason = "figures for people")]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::runner::RunProgress;

use crate::report::progress::{Bar, Progress};
use crate::report::units;

/// Least time between two lines about batches.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Shows every round of a run.
pub(crate) fn progress_of_rounds(progress: &Progress) -> Arc<dyn RunProgress> {
    Arc::new(Rounds { progress: progress.clone(), current: Mutex::new(None) })
}

/// Shows a run of many batches as a whole.
///
/// `finished` samples of `n_samples` were classified by an earlier run.
pub(crate) fn progress_of_batches(
    progress: &Progress,
    (n_batches, n_samples): (usize, usize),
    finished: usize,
) -> Arc<dyn RunProgress> {
    let bar = progress.bar("samples", n_samples as u64);
    bar.at(finished as u64);
    let state = State { finished, rounds: 0.0, last_line: None };
    Arc::new(Meter {
        progress: progress.clone(),
        bar,
        n_batches,
        n_samples,
        finished_before: finished,
        started: Instant::now(),
        state: Mutex::new(state),
    })
}

struct Rounds {
    progress: Progress,
    current: Mutex<Option<(String, Bar)>>,
}

impl Rounds {
    /// A panic while the bar was held leaves it usable.
    fn current(&self) -> MutexGuard<'_, Option<(String, Bar)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RunProgress for Rounds {
    fn round_started(
        &self,
        batch: usize,
        n_batches: usize,
        stage: usize,
        n_stages: usize,
        n_blocks: usize,
    ) {
        let mut name = format!("round {}/{n_stages}", stage + 1);
        if n_batches > 1 {
            name = format!("batch {}/{n_batches}, {name}", batch + 1);
        }
        let blocks = units::counted(n_blocks, "block");
        let bar = self.progress.bar(format!("{name}, {blocks}"), n_blocks as u64);
        *self.current() = Some((format!("{name}: {blocks}"), bar));
    }

    fn block_finished(&self) {
        if let Some((_, bar)) = self.current().as_ref() {
            bar.advance(1);
        }
    }

    fn round_finished(&self) {
        if let Some((summary, bar)) = self.current().take() {
            bar.finish(summary);
        }
    }
}

/// Many batches: finished rounds count for the rate, finished batches are told.
struct Meter {
    progress: Progress,
    bar: Bar,
    n_batches: usize,
    n_samples: usize,
    finished_before: usize,
    started: Instant,
    state: Mutex<State>,
}

struct State {
    /// Samples of finished batches, those of an earlier run included.
    finished: usize,
    /// Rounds finished by this run, in batches.
    rounds: f64,
    last_line: Option<Instant>,
}

impl Meter {
    /// A panic while the state was held leaves it usable.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `410 samples/s, 12 min 30 s left`, once there is something to tell.
    fn rate(&self, state: &State) -> Option<String> {
        let per_batch = self.n_samples as f64 / self.n_batches.max(1) as f64;
        let finished = (state.finished - self.finished_before) as f64;
        rate(finished.max(state.rounds * per_batch), self.started.elapsed()).map(|rate| {
            let left = (self.n_samples - self.finished_before) as f64 - finished;
            let left = Duration::from_secs_f64((left / rate).clamp(0.0, 1e9));
            let digits = if rate < 10.0 { 1 } else { 0 };
            format!("{rate:.digits$} samples/s, {} left", units::duration(left))
        })
    }
}

/// Samples per second; nothing before a second has passed or anything was done.
fn rate(n_samples: f64, elapsed: Duration) -> Option<f64> {
    (elapsed >= Duration::from_secs(1) && n_samples > 0.0)
        .then(|| n_samples / elapsed.as_secs_f64())
}

impl RunProgress for Meter {
    fn round_started(&self, batch: usize, _: usize, stage: usize, n_stages: usize, _: usize) {
        let mut state = self.state();
        if stage > 0 {
            state.rounds += 1.0 / n_stages.max(1) as f64;
        }
        let mut text =
            format!("batch {} of {}, round {}/{n_stages}", batch + 1, self.n_batches, stage + 1);
        if let Some(rate) = self.rate(&state) {
            text = format!("{text}; {rate}");
        }
        self.bar.message(text);
    }

    fn block_finished(&self) {}

    fn round_finished(&self) {}

    fn batch_finished(&self, batch: usize, n_samples: usize) {
        let mut state = self.state();
        state.finished += n_samples;
        let per_batch = self.n_samples as f64 / self.n_batches.max(1) as f64;
        state.rounds = state.rounds.max((state.finished - self.finished_before) as f64 / per_batch);
        self.bar.at(state.finished as u64);
        let is_due = state.last_line.is_none_or(|last| last.elapsed() >= LINE_INTERVAL);
        if is_due || batch + 1 == self.n_batches {
            state.last_line = Some(Instant::now());
            let rate = self.rate(&state).map_or(String::new(), |rate| format!("; {rate}"));
            self.progress.line(format_args!(
                "  batch {} of {}: {} of {}{rate}",
                batch + 1,
                self.n_batches,
                units::count(state.finished),
                units::counted(self.n_samples, "sample"),
            ));
        }
    }
}
