//! What a run under load has shown.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::probe::Health;
use crate::commands::bench::subject::Ended;
use crate::commands::serve;
use crate::report::figures::{Figures, TableStyle, or_dash, three_digits};
use crate::report::terminal::Screen;
use crate::report::units;

/// How the batches ended.
#[derive(Debug, Default, Serialize)]
pub(super) struct Batches {
    /// Completed, with the right scores.
    pub(super) right: usize,
    /// Completed, with wrong ones.
    pub(super) wrong: usize,
    /// Found tampered, though nobody did.
    pub(super) rejected: usize,
    /// Ended in an error.
    pub(super) failed: usize,
    /// Clients that had not ended in time.
    pub(super) unfinished: usize,
    /// What the first errors were.
    pub(super) errors: Vec<String>,
    /// Wall time of all of them together.
    pub(super) seconds: f64,
    /// Longest time of one batch, refusals included.
    pub(super) longest_seconds: f64,
}

impl Batches {
    pub(super) fn add(&mut self, ended: &Ended, time: Duration) {
        self.longest_seconds = self.longest_seconds.max(time.as_secs_f64());
        match ended {
            Ended::Right => self.right += 1,
            Ended::Wrong => self.wrong += 1,
            Ended::Rejected => self.rejected += 1,
            Ended::Failed(error) => {
                self.failed += 1;
                if self.errors.len() < 5 {
                    self.errors.push(error.clone());
                }
            }
        }
    }
}

/// Every figure of a run.
#[derive(Debug, Serialize)]
pub(super) struct LoadFigures {
    pub(super) network: String,
    pub(super) plan: String,
    pub(super) samples_per_batch: usize,
    /// Connections that were open from the beginning to the end.
    pub(super) connections: usize,
    pub(super) clients: usize,
    pub(super) batches: Batches,
    /// Refusals with a time to come back; the batches completed later.
    pub(super) refused_busy: f64,
    pub(super) health: Health,
    /// Longest time in which 99 of 100 questions for health must be answered, in milliseconds.
    pub(super) health_limit_ms: f64,
    pub(super) memory_limit_bytes: u64,
    /// Of the server process: with its plan, without connections.
    pub(super) resident_before_bytes: Option<u64>,
    /// With all idle connections.
    pub(super) resident_idle_bytes: Option<u64>,
    /// The most there ever was.
    pub(super) resident_peak_bytes: Option<u64>,
    pub(super) panics: usize,
    pub(super) server_survived: bool,
}

impl LoadFigures {
    /// What does not hold, in words.
    pub(super) fn broken_promises(&self) -> Vec<String> {
        let Self { batches, health, .. } = self;
        let mut broken = Vec::new();
        for (count, what) in [
            (batches.wrong, "batches with wrong results"),
            (batches.rejected, "batches found tampered"),
            (batches.failed, "batches that failed"),
            (batches.unfinished, "clients that did not finish"),
            (self.panics, "internal errors"),
            (health.failures, "questions for health without an answer"),
        ] {
            if count > 0 {
                broken.push(format!("{count} {what}"));
            }
        }
        broken.extend(batches.errors.first().cloned());
        if !self.server_survived {
            broken.push("the server ended".to_owned());
        }
        if self.resident_peak_bytes.is_some_and(|peak| peak > self.memory_limit_bytes) {
            broken.push("memory above the limit".to_owned());
        }
        if health.p99_ms > self.health_limit_ms {
            broken.push(format!("health after {:.0} ms (p99)", health.p99_ms));
        }
        broken
    }

    pub(super) fn print(&self, screen: &Screen, style: TableStyle) {
        let Self { batches, health, .. } = self;
        let bytes = |bytes: Option<u64>| or_dash(bytes.map(units::bytes));
        let mut table = Figures::new(&["under load", "figure"], 1);
        table.row(["connections", &self.connections.to_string()]);
        table.row(["clients", &self.clients.to_string()]);
        table.row(["samples in a batch", &self.samples_per_batch.to_string()]);
        table.row(["batches completed, results right", &batches.right.to_string()]);
        let others = batches.wrong + batches.rejected + batches.failed + batches.unfinished;
        table.row(["batches that ended otherwise", &others.to_string()]);
        table.row(["refused with a time to come back", &format!("{:.0}", self.refused_busy)]);
        table.row(["seconds", &three_digits(batches.seconds)]);
        table.row(["longest batch, seconds", &three_digits(batches.longest_seconds)]);
        table.row(["/healthz, answers", &health.answers.to_string()]);
        table.row(["/healthz, median, ms", &three_digits(health.p50_ms)]);
        table.row(["/healthz, p99, ms", &three_digits(health.p99_ms)]);
        table.row(["/healthz, longest, ms", &three_digits(health.max_ms)]);
        table.row(["memory limit", &units::bytes(self.memory_limit_bytes)]);
        table.row(["server's memory at its start", &bytes(self.resident_before_bytes)]);
        table.row(["server's memory, all idle", &bytes(self.resident_idle_bytes)]);
        table.row(["server's memory, most", &bytes(self.resident_peak_bytes)]);
        table.row(["internal errors", &self.panics.to_string()]);
        table.print(screen, style);
    }
}

/// A size as `--memory` takes it.
pub(super) fn size(text: &str) -> Result<u64> {
    serve::size(text).with_context(|| format!("`{text}` is not a size such as 1GiB"))
}
