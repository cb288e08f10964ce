//! From the flags about servers and checks to servers that hold a plan: what commands that send
//! samples share.

use std::path::Path;

use anyhow::{Context, Result};
use fingerprint::{Fingerprint, LayoutOptions};
use nn_poly::plan::Plan;
use protocol::client::Endpoint;
use protocol::signature::Subject;

use super::sign::Voucher;
use crate::args::{CheckArguments, ConnectionArguments};
use crate::credentials;
use crate::failure::Hint;
use crate::options::{Venue, retry_policy};
use crate::pipeline::fingerprinting;
use crate::pipeline::inference::{self, RunSettings};
use crate::pipeline::servers::{self, Sought, Visitor};
use crate::report::terminal::{Ink, Screen};
use crate::report::units;

/// What the flags say about patience and checks.
///
/// # Errors
/// A fingerprint that cannot be read.
pub(super) fn settings(
    connection: &ConnectionArguments,
    checks: &CheckArguments,
) -> Result<RunSettings> {
    Ok(RunSettings {
        layout: LayoutOptions {
            network_canaries: checks.canaries as usize,
            replicas: checks.replicas as usize,
            ..LayoutOptions::default()
        },
        retry: retry_policy(connection.patience),
        fingerprint: checks.fingerprint.as_deref().map(fingerprinting::load).transpose()?,
    })
}

/// How this client shows itself, as the flags say.
///
/// # Errors
/// A token or an identity that is none.
pub(super) fn visitor(connection: &ConnectionArguments) -> Result<Visitor> {
    let identities = connection.identities.iter().map(|text| text.parse());
    Ok(Visitor {
        retry: retry_policy(connection.patience),
        token: credentials::token(&connection.credentials)?,
        identities: identities.collect::<Result<_, _>>().context("--identity")?,
    })
}

/// The servers named, with the certificates that are trusted.
///
/// # Errors
/// Addresses or files that are of no use.
pub(super) fn endpoints(
    addresses: &[String],
    tls: &Path,
    connection: &ConnectionArguments,
) -> Result<Vec<Endpoint>> {
    let trust = credentials::trust(tls, &connection.credentials)?;
    let endpoint = |address: &String| Endpoint::tls(address, trust.clone(), None);
    Ok(addresses.iter().map(endpoint).collect::<Result<_, _>>()?)
}

/// The servers that hold the plan, or one inside this process. Says what there is to say about them,
/// and about the plan's signature if it is they who announce it.
///
/// # Errors
/// No server that can be used; a plan that is not signed as the flags demand.
pub(super) async fn servers(
    venue: &Venue,
    plan: &Plan,
    connection: &ConnectionArguments,
    visitor: &Visitor,
    voucher: &Voucher,
    screen: &Screen,
) -> Result<Vec<Endpoint>> {
    let Venue::Server { addresses, tls } = venue else {
        return Ok(vec![inference::in_process(plan)?]);
    };
    let endpoints = endpoints(addresses, tls, connection)?;
    let found = servers::find(endpoints, &Sought::plan(plan), visitor).await?;
    for remark in &found.remarks {
        screen.fact("", screen.paint(Ink::Warn, remark));
    }
    if !voucher.is_beside_file() {
        screen.fact("Signature", voucher.check(found.signature.as_ref())?);
    }
    Ok(found.servers)
}

/// Say what a fingerprint adds to a run of a plan.
///
/// # Errors
/// A fingerprint of another plan, or one that is not signed as the flags demand.
pub(super) fn introduce_fingerprint(
    screen: &Screen,
    plan: &Plan,
    (fingerprint, path): (&Fingerprint, &Path),
    voucher: &Voucher,
) -> Result<()> {
    fingerprint
        .check_plan(plan)
        .hint(|| "make one: `securedl fingerprint generate PLAN --model MODEL …`")?;
    let segments = &plan.public().segments;
    let text = if segments.iter().any(|segment| segment.n_squares() > 0) {
        format!("drawn from {} of a fingerprint", units::counted(fingerprint.n_samples(), "sample"))
    } else {
        "none: this plan carries none, the fingerprint adds nothing; every word of every reply is \
         checked instead, and with it every weight"
            .to_owned()
    };
    screen.fact("Canaries", text);
    let subject = Subject::of_fingerprint(fingerprint)?;
    let owners = voucher.owners().to_vec();
    let signed = Voucher::of(path, subject, owners)?.check(None)?;
    screen.fact("", format!("fingerprint signed: {signed}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Arguments, Command};

    /// Forecasts are about these.
    #[test]
    fn without_flags_the_checks_are_the_default_ones() {
        let line = ["securedl", "infer", "--plan", "p", "--data", "d"];
        let Command::Infer(arguments) = Arguments::parse_from(line).command else {
            panic!("infer")
        };
        let settings = settings(&arguments.connection, &arguments.checks).unwrap();
        assert_eq!(settings.layout, LayoutOptions::default());
    }
}
