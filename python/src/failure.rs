//! Errors as exceptions, in the words of the command line.

use std::error::Error as StdError;
use std::fmt;
use std::path::PathBuf;

use fingerprint::Verdict as Found;
use nn_poly::error::{causes, harmless};
use protocol::error::{Error as ProtocolError, PeerFault, ResourceError};
use protocol::session::SessionError;
use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

use crate::results::Verdict;

create_exception!(
    securedl,
    Error,
    PyException,
    "What went wrong, with the values that differ and what to do.\n\nThe text is that of the command line."
);
create_exception!(
    securedl,
    VerdictError,
    Error,
    "A run was not intact, so that there are no predictions.\n\n`verdict` says what was found, `evidence` \
     names the files that prove it, if any were kept."
);
create_exception!(
    securedl,
    RefusedError,
    Error,
    "A server refused. `code` is its reason in one word, such as `UnknownPlan`."
);

/// Any error on its way to Python. Exceptions pass through as they are.
pub(crate) struct Failure(Box<dyn StdError + Send + Sync>);

/// Result of what Python calls.
pub(crate) type Outcome<T> = Result<T, Failure>;

impl<E: StdError + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

/// A run that was not intact.
#[derive(Debug)]
pub(crate) struct Rejected {
    pub(crate) verdict: Found,
    pub(crate) evidence: Vec<PathBuf>,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.verdict.fmt(f)
    }
}

impl StdError for Rejected {}

/// A failure that only this package can have.
#[derive(Debug)]
pub(crate) struct Told(pub(crate) String);

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Told {}

/// A failure with this text.
pub(crate) fn told(text: impl Into<String>) -> Failure {
    Told(text.into()).into()
}

impl From<Failure> for PyErr {
    fn from(Failure(error): Failure) -> Self {
        let error = match error.downcast::<PyErr>() {
            Ok(exception) => return *exception,
            Err(error) => error,
        };
        match error.downcast::<Rejected>() {
            Ok(rejected) => raised_verdict(*rejected),
            Err(error) => raised(error.as_ref()),
        }
    }
}

/// `what happened`, and below it a line for every cause.
fn text_of(error: &(dyn StdError + 'static)) -> String {
    let told = causes(error).into_iter().map(|cause| format!("\n  because: {cause}"));
    harmless(&std::iter::once(error.to_string()).chain(told).collect::<String>())
}

fn raised(error: &(dyn StdError + Send + Sync + 'static)) -> PyErr {
    let text = text_of(error);
    let Some(code) = refusal(error) else { return Error::new_err(text) };
    let exception = RefusedError::new_err(text);
    with_attributes(exception, |value| value.setattr("code", code))
}

fn raised_verdict(rejected: Rejected) -> PyErr {
    let exception = VerdictError::new_err(harmless(&rejected.to_string()));
    let Rejected { verdict, evidence } = rejected;
    with_attributes(exception, |value| {
        value.setattr("verdict", Verdict::of(&verdict))?;
        value.setattr("evidence", evidence)
    })
}

fn with_attributes(exception: PyErr, set: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<()>) -> PyErr {
    Python::attach(|py| match set(exception.value(py).as_any()) {
        Ok(()) => exception,
        Err(other) => other,
    })
}

/// Why a server refused, if one did.
fn refusal(error: &(dyn StdError + 'static)) -> Option<String> {
    let protocol = match error.downcast_ref::<SessionError>() {
        Some(SessionError::Protocol(error)) => error,
        _ => error.downcast_ref::<ProtocolError>()?,
    };
    if let ProtocolError::Peer(PeerFault::Refused { code, .. }) = protocol {
        return Some(format!("{code:?}"));
    }
    if let ProtocolError::Resource(ResourceError::GaveUp { last, .. }) = protocol {
        return refusal(last.as_ref());
    }
    None
}
