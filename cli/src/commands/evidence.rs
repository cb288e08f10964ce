//! `securedl evidence verify`: judge a fault offline.

use anyhow::Result;
use nn_poly::plan::Plan;
use protocol::evidence::{self, Finding};
use protocol::identity::PublicIdentity;
use serde_json::json;

use crate::args::EvidenceVerifyArguments;
use crate::failure::Outcome;
use crate::kind::FileKind;
use crate::output::Destination;
use crate::report::terminal::Ink;
use crate::report::{Console, units};

/// Recompute and compare.
pub(crate) fn verify(arguments: &EvidenceVerifyArguments) -> Result<Outcome> {
    let Console { screen, .. } = Console::new(arguments.json.as_ref());
    let destination = arguments.json.as_ref().map(Destination::check).transpose()?;
    let expected: Option<PublicIdentity> =
        arguments.identity.as_deref().map(str::parse).transpose()?;
    FileKind::Plan.expect_of(&arguments.plan)?;
    let plan = Plan::load(&arguments.plan)?;
    let report = evidence::verify(&arguments.file, &plan)?;
    let is_other = expected.is_some_and(|expected| expected != report.identity);
    let (name, text, outcome) = match report.finding {
        Finding::Altered => {
            ("altered", "the file is not as it was written".to_owned(), Outcome::Unverified)
        }
        Finding::ReceiptMismatch { field } => (
            "receipt_mismatch",
            format!("the receipt's {field} is not of this request and reply: nothing is shown"),
            Outcome::Unverified,
        ),
        _ if is_other => (
            "other_identity",
            "the reply is signed by another identity than --identity names".to_owned(),
            Outcome::Unverified,
        ),
        Finding::ServerWasRight => {
            ("server_was_right", "the signed reply is the plan's".to_owned(), Outcome::Success)
        }
        Finding::ProvenFault { first_byte, n_ciphertexts } => (
            "proven_fault",
            format!(
                "the server signed a reply that is not the plan's: {} {} from byte {first_byte} on",
                units::counted(n_ciphertexts, "ciphertext"),
                if n_ciphertexts == 1 { "differs," } else { "differ," },
            ),
            Outcome::Cheated,
        ),
    };
    screen.fact("Plan", report.plan.short());
    screen.fact("Segment", report.segment);
    screen.fact("Request", report.request_id);
    screen.fact("Identity", report.identity);
    if expected.is_none() {
        let text = "not checked: compare it with the operator's, or name that with --identity";
        screen.fact("", screen.paint(Ink::Warn, text));
    }
    let ink = if outcome == Outcome::Success { Ink::Good } else { Ink::Bad };
    screen.fact("Finding", screen.paint(ink, text));
    if let Some(destination) = destination {
        let (first_byte, n_ciphertexts) = match report.finding {
            Finding::ProvenFault { first_byte, n_ciphertexts } => {
                (Some(first_byte), Some(n_ciphertexts))
            }
            Finding::ReceiptMismatch { .. } | Finding::ServerWasRight | Finding::Altered => {
                (None, None)
            }
        };
        let value = json!({
            "finding": name,
            "exit_code": outcome.code(),
            "plan": report.plan.to_string(),
            "segment": report.segment,
            "request": report.request_id.to_string(),
            "identity": report.identity.to_string(),
            "identity_checked": expected.is_some(),
            "first_differing_byte": first_byte,
            "differing_ciphertexts": n_ciphertexts,
        });
        destination.write(&format!("{value:#}\n"))?;
    }
    screen.finish()?;
    Ok(outcome)
}
