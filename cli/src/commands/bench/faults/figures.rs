//! What the faults led to.

use std::collections::BTreeMap;

use serde::Serialize;

use super::meddler::Meddling;
use super::proxy::Damage;
use crate::commands::bench::subject::Ended;
use crate::report::figures::{Figures, TableStyle, three_digits};
use crate::report::terminal::Screen;

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Above TLS, on the way.
    Above(Meddling),
    /// Above TLS, by the server itself, under its signature.
    Tampered,
    /// Below TLS.
    Below(Damage),
}

impl Fault {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Above(Meddling::Reorder) => "frame after the next one",
            Self::Above(Meddling::Repeat) => "frame twice",
            Self::Above(Meddling::Oversize) => "frame too large",
            Self::Above(Meddling::WrongClient) => "frame of another client",
            Self::Above(Meddling::Alter) => "reply altered on the way",
            Self::Tampered => "word altered and signed by the server",
            Self::Below(Damage::Kill) => "server killed",
            Self::Below(Damage::Cut) => "connection cut",
            Self::Below(Damage::Stall) => "connection stalled",
            Self::Below(Damage::Corrupt) => "byte corrupted below TLS",
        }
    }
}

/// How runs with one kind of fault ended.
#[derive(Debug, Default, Serialize)]
pub(super) struct Ends {
    pub(super) injected: usize,
    /// Runs that completed with the right scores.
    pub(super) completed: usize,
    /// Runs that ended in a verdict against the server.
    pub(super) verdicts: usize,
    /// Runs that ended in an error.
    pub(super) errors: usize,
    /// Runs that completed with wrong scores.
    pub(super) wrong: usize,
    /// The first error, as it is told.
    pub(super) first_error: Option<String>,
}

/// Every figure of a run.
#[derive(Debug, Serialize)]
pub(super) struct FaultFigures {
    pub(super) network: String,
    pub(super) samples_per_batch: usize,
    /// By fault.
    pub(super) faults: BTreeMap<&'static str, Ends>,
    /// Batches that completed with the right scores, faults below TLS included.
    pub(super) batches_right: usize,
    /// Batches that did not, though nobody tampered with them.
    pub(super) batches_lost: usize,
    pub(super) restarts: usize,
    pub(super) panics: usize,
    pub(super) seconds: f64,
}

impl FaultFigures {
    pub(super) fn new(network: &str, samples_per_batch: usize) -> Self {
        Self {
            network: network.to_owned(),
            samples_per_batch,
            faults: BTreeMap::new(),
            batches_right: 0,
            batches_lost: 0,
            restarts: 0,
            panics: 0,
            seconds: 0.0,
        }
    }

    /// A run with one fault above TLS has ended.
    pub(super) fn above(&mut self, fault: Fault, ended: &Ended) {
        self.note(fault, ended);
    }

    /// A batch with these faults below TLS has ended.
    pub(super) fn below(&mut self, damages: &[Damage], ended: &Ended) {
        damages.iter().for_each(|&damage| self.note(Fault::Below(damage), ended));
        match ended {
            Ended::Right => self.batches_right += 1,
            Ended::Wrong | Ended::Rejected | Ended::Failed(_) => self.batches_lost += 1,
        }
    }

    fn note(&mut self, fault: Fault, ended: &Ended) {
        let ends = self.faults.entry(fault.name()).or_default();
        ends.injected += 1;
        match ended {
            Ended::Right => ends.completed += 1,
            Ended::Wrong => ends.wrong += 1,
            Ended::Rejected => ends.verdicts += 1,
            Ended::Failed(error) => {
                ends.errors += 1;
                ends.first_error.get_or_insert_with(|| error.clone());
            }
        }
    }

    /// What does not hold, in words.
    pub(super) fn broken_promises(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let wrong: usize = self.faults.values().map(|ends| ends.wrong).sum();
        let unnoticed: usize = self
            .faults
            .iter()
            .filter(|(name, _)| **name == Fault::Tampered.name())
            .map(|(_, ends)| ends.injected - ends.verdicts)
            .sum();
        for (count, what) in [
            (wrong, "runs with wrong results"),
            (self.batches_lost, "batches lost to faults below TLS"),
            (unnoticed, "altered replies without a verdict"),
            (self.panics, "internal errors"),
        ] {
            if count > 0 {
                broken.push(format!("{count} {what}"));
            }
        }
        broken
    }

    pub(super) fn print(&self, screen: &Screen, style: TableStyle) {
        let columns = ["fault", "injected", "completed", "verdicts", "errors", "wrong"];
        let mut table = Figures::new(&columns, 1);
        for (name, ends) in &self.faults {
            let counts = [ends.injected, ends.completed, ends.verdicts, ends.errors, ends.wrong];
            let counts = counts.map(|count| count.to_string());
            table.row([vec![(*name).to_owned()], counts.to_vec()].concat());
        }
        table.print(screen, style);
        let mut table = Figures::new(&["with faults", "figure"], 1);
        table.row(["batches completed, results right", &self.batches_right.to_string()]);
        table.row(["batches lost", &self.batches_lost.to_string()]);
        table.row(["restarts of the server", &self.restarts.to_string()]);
        table.row(["internal errors", &self.panics.to_string()]);
        table.row(["seconds", &three_digits(self.seconds)]);
        table.print(screen, style);
    }
}
