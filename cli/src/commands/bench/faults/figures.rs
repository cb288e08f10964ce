//! What the faults led to.

use std::collections::BTreeMap;

use serde::Serialize;

use super::meddler::{Meddling, Toward};
use super::proxy::Damage;
use crate::commands::bench::subject::Ended;
use crate::report::figures::{Figures, TableStyle, three_digits};
use crate::report::terminal::Screen;

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Above TLS, on the way there.
    Above(Meddling, Toward),
    /// Above TLS, by the server itself, under its signature.
    Tampered,
    /// Below TLS.
    Below(Damage),
}

impl Fault {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Above(Meddling::Reorder, Toward::Client) => {
                "frame after the next one, in a reply"
            }
            Self::Above(Meddling::Reorder, Toward::Server) => {
                "frame after the next one, in a request"
            }
            Self::Above(Meddling::Repeat, Toward::Client) => "frame twice, in a reply",
            Self::Above(Meddling::Repeat, Toward::Server) => "frame twice, in a request",
            Self::Above(Meddling::Oversize, Toward::Client) => "frame too large, in a reply",
            Self::Above(Meddling::Oversize, Toward::Server) => "frame too large, in a request",
            Self::Above(Meddling::WrongClient, Toward::Client) => {
                "frame of another client, in a reply"
            }
            Self::Above(Meddling::WrongClient, Toward::Server) => {
                "frame of another client, in a request"
            }
            Self::Above(Meddling::Alter, Toward::Client) => "reply altered on the way",
            Self::Above(Meddling::Alter, Toward::Server) => "request altered on the way",
            Self::Tampered => "word altered and signed by the server",
            Self::Below(Damage::Kill) => "server killed",
            Self::Below(Damage::Cut) => "connection cut",
            Self::Below(Damage::Stall) => "connection stalled",
            Self::Below(Damage::Corrupt) => "byte corrupted below TLS",
        }
    }
}

/// How a run with a fault may end; anything else breaks a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Permitted {
    /// With the right scores.
    Right,
    /// In a verdict against the server.
    Verdict,
    /// In an error that says one of these.
    Error(&'static [&'static str]),
    /// In such an error or, if the connection broke before anybody could say so, with the right scores: the
    /// request was repeated.
    ErrorOrRight(&'static [&'static str]),
}

/// What a client says of frames that do not follow one another.
const OUT_OF_ORDER: &str = "a payload frame starts at byte";
/// What it says of a frame at the wrong moment.
const UNEXPECTED: &str = "its program does not follow the protocol";
/// What it says of more data than was announced.
const TOO_LONG: &str = "the payload passes its announced length";
/// What a server says of the like.
const UNEXPECTED_THERE: &str = "the server refused: it did not expect our message";
const UNREADABLE_THERE: &str = "the server refused: it could not read our message";

impl Fault {
    /// How a run with this fault may end.
    const fn permitted(self) -> Permitted {
        match self {
            // A frame that the next one should follow is missed if there is none: nobody says anything.
            Self::Above(
                Meddling::Reorder | Meddling::Repeat | Meddling::WrongClient,
                Toward::Server,
            ) => Permitted::ErrorOrRight(&[UNEXPECTED_THERE]),
            Self::Above(Meddling::Oversize, Toward::Server) => {
                Permitted::ErrorOrRight(&[UNREADABLE_THERE])
            }
            Self::Above(Meddling::Reorder, Toward::Client) => {
                Permitted::Error(&[OUT_OF_ORDER, UNEXPECTED])
            }
            Self::Above(Meddling::Repeat, Toward::Client) => {
                Permitted::Error(&[OUT_OF_ORDER, UNEXPECTED, TOO_LONG])
            }
            Self::Above(Meddling::Oversize, Toward::Client) => Permitted::Error(&[TOO_LONG]),
            Self::Above(Meddling::WrongClient, Toward::Client) => {
                Permitted::Error(&["a payload frame belongs to another request"])
            }
            Self::Above(Meddling::Alter, Toward::Client) => {
                Permitted::Error(&["the receipt names another reply hash"])
            }
            Self::Above(Meddling::Alter, Toward::Server) => {
                Permitted::Error(&["the receipt names another request hash"])
            }
            Self::Tampered => Permitted::Verdict,
            Self::Below(_) => Permitted::Right,
        }
    }

    fn permits(self, ended: &Ended) -> bool {
        match (self.permitted(), ended) {
            (Permitted::Right | Permitted::ErrorOrRight(_), Ended::Right)
            | (Permitted::Verdict, Ended::Rejected) => true,
            (Permitted::Error(words) | Permitted::ErrorOrRight(words), Ended::Failed(error)) => {
                words.iter().any(|words| error.contains(words))
            }
            (_, Ended::Right | Ended::Wrong | Ended::Rejected | Ended::Failed(_)) => false,
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
    /// Runs that ended in a way that this fault must not lead to, and how the first of them did.
    pub(super) not_permitted: usize,
    pub(super) first_not_permitted: Option<String>,
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
        if !fault.permits(ended) {
            ends.not_permitted += 1;
            ends.first_not_permitted.get_or_insert_with(|| format!("{ended:?}"));
        }
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
        for (count, what) in [
            (wrong, "runs with wrong results"),
            (self.batches_lost, "batches lost to faults below TLS"),
            (self.panics, "internal errors"),
        ] {
            if count > 0 {
                broken.push(format!("{count} {what}"));
            }
        }
        for (name, ends) in &self.faults {
            if let Some(ended) = &ends.first_not_permitted {
                broken.push(format!("{name}: {} not as it may, as {ended}", ends.not_permitted));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_may_end_in_its_own_ways_only() {
        let failed = |words: &str| Ended::Failed(format!("round 1: {words} 7"));
        let twice = Fault::Above(Meddling::Repeat, Toward::Client);
        assert!(twice.permits(&failed(OUT_OF_ORDER)));
        assert!(!twice.permits(&Ended::Right), "nobody repeats after a reply that does not fit");
        assert!(!twice.permits(&failed("cannot reach")));
        let there = Fault::Above(Meddling::Repeat, Toward::Server);
        assert!(there.permits(&failed(UNEXPECTED_THERE)) && there.permits(&Ended::Right));
        assert!(!there.permits(&failed(UNREADABLE_THERE)) && !there.permits(&Ended::Rejected));
        for damage in Damage::ALL {
            let below = Fault::Below(damage);
            assert!(below.permits(&Ended::Right) && !below.permits(&failed(OUT_OF_ORDER)));
        }
        assert!(Fault::Tampered.permits(&Ended::Rejected));
        assert!(!Fault::Tampered.permits(&failed(OUT_OF_ORDER)));
        for fault in [twice, there, Fault::Below(Damage::Cut), Fault::Tampered] {
            assert!(!fault.permits(&Ended::Wrong));
        }
    }

    #[test]
    fn an_end_that_is_not_permitted_breaks_a_promise() {
        let mut figures = FaultFigures::new("network", 1);
        figures.above(Fault::Tampered, &Ended::Rejected);
        assert!(figures.broken_promises().is_empty());
        figures.above(Fault::Tampered, &Ended::Failed("gave up".to_owned()));
        let broken = figures.broken_promises().join("; ");
        assert!(
            broken.contains("signed by the server: 1") && broken.contains("gave up"),
            "{broken}"
        );
    }
}
