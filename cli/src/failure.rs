//! How a command ends, and how errors are told.

use std::error::Error as StdError;
use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use fingerprint::Verdict;
use nn_poly::error::{causes, harmless};

use crate::report::terminal::{Ink, Screen};

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It did what it was asked to, and any server was intact.
    Success,
    /// A server ran another model, or tampered with the computation.
    Cheated,
    /// There is a result, but nothing vouches for it.
    Unverified,
}

impl Outcome {
    /// The outcome that goes with a verdict.
    pub(crate) fn of(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Intact { .. } => Self::Success,
            Verdict::ModelModified { .. } | Verdict::ComputationTampered { .. } => Self::Cheated,
            Verdict::Unverified { .. } => Self::Unverified,
        }
    }

    /// The exit code: 0, 1 or 2.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Cheated => 1,
            Self::Unverified => 2,
        }
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(outcome.code())
    }
}

/// The exit code of every failure.
pub(crate) const FAILURE: u8 = 2;

/// An error with advice what to do about it.
struct Hinted {
    error: anyhow::Error,
    hint: String,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl fmt::Debug for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} (hint: {})", self.error, self.hint)
    }
}

impl StdError for Hinted {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.error.source()
    }
}

/// Adds advice to errors.
pub(crate) trait Hint<T> {
    /// The same result, with advice what to do if it is an error.
    fn hint<H: Into<String>>(self, hint: impl FnOnce() -> H) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> Hint<T> for Result<T, E> {
    fn hint<H: Into<String>>(self, hint: impl FnOnce() -> H) -> anyhow::Result<T> {
        self.map_err(|error| {
            anyhow::Error::new(Hinted { error: error.into(), hint: hint().into() })
        })
    }
}

/// Tell an error once: what happened, why, and what to do.
pub(crate) fn tell(error: &anyhow::Error) {
    let screen = Screen::stderr();
    screen.labeled(0, Ink::Bad, "error:", harmless(&error.to_string()));
    for cause in causes(error.as_ref()) {
        screen.labeled(2, Ink::Dim, "because:", harmless(&cause));
    }
    if let Some(hint) = hint_of(error) {
        screen.labeled(2, Ink::Accent, "hint:", harmless(hint));
    }
}

fn hint_of(error: &anyhow::Error) -> Option<&str> {
    error.chain().find_map(|cause| cause.downcast_ref::<Hinted>()).map(|found| found.hint.as_str())
}

/// Make panics say what they are, in one line without a backtrace, and ask for a report.
pub(crate) fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|place| format!(" at {}:{}", place.file(), place.line()));
        let payload = panic.payload();
        let what = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("unknown cause");
        // There is nobody left to tell if this fails.
        let _ = writeln!(
            std::io::stderr(),
            "error: internal error{}: {what}\n  hint: this is a bug in securedl {}; please report \
             it with the command line and this message",
            place.unwrap_or_default(),
            env!("CARGO_PKG_VERSION"),
        );
    }));
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn causes_are_told_once_and_hints_are_found() {
        let inner = std::io::Error::other("disk on fire");
        let error: anyhow::Error = Err::<(), _>(inner)
            .hint(|| "fetch water")
            .context("cannot write x: disk on fire")
            .context("the run failed")
            .unwrap_err();
        assert_eq!(error.to_string(), "the run failed");
        assert_eq!(causes(error.as_ref()), ["cannot write x: disk on fire"]);
        assert_eq!(hint_of(&error), Some("fetch water"));
        assert_eq!(hint_of(&anyhow!("plain")), None);
    }

    #[test]
    fn verdicts_have_their_exit_codes() {
        let tampered = Verdict::ComputationTampered { segment: 0, blocks: vec![0] };
        let modified = Verdict::ModelModified { segment: 0, neurons: vec![0] };
        let reason = fingerprint::UnverifiedReason::NoServer;
        let intact = Verdict::Intact { soundness: fingerprint::Soundness::unchecked() };
        for verdict in [intact, tampered, modified, Verdict::Unverified { reason }] {
            assert_eq!(Outcome::of(&verdict).code(), verdict.exit_code());
        }
    }
}
