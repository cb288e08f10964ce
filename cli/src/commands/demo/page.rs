//! `securedl demo --ui`: the demonstration's model on a page, with a server that can be made to cheat.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use fingerprint::LayoutOptions;
use nn_poly::import::Dataset;
use nn_poly::plan::Plan;
use protocol::client::{Endpoint, RetryPolicy};

use super::cheating::Cheating;
use crate::commands::{runtime, ui};
use crate::pipeline::inference::{self, RunSettings};
use crate::pipeline::servers::Visitor;
use crate::report::terminal::Screen;
use crate::ui::{Desk, EvidencePlace, Page, Reach};

/// Serve the page until the user ends it.
///
/// # Errors
/// An address that is not loopback or is taken; a plan that cannot be used.
pub(super) fn serve(
    screen: &Screen,
    plan: Plan,
    examples: Dataset,
    address: SocketAddr,
) -> Result<()> {
    screen.heading("3  A page to try it on");
    let (host, cheating) = Cheating::host(&plan)?;
    let retry = RetryPolicy::never();
    let settings = RunSettings { layout: LayoutOptions::default(), retry, fingerprint: None };
    let folder = tempfile::tempdir().context("no temporary folder for evidence")?;
    runtime()?.block_on(async {
        let page = Page::bind(address).await?;
        let reach = Reach {
            visitor: Visitor::plain(&settings.retry),
            servers: vec![Endpoint::in_process(inference::server(host)?)],
            place: "a server in this process, through the same messages".to_owned(),
            is_elsewhere: false,
        };
        let evidence = EvidencePlace::Moment(folder);
        let desk = Desk::new(plan, reach, settings, Some(examples), evidence, Some(cheating))?;
        ui::serve(screen, page, desk).await;
        anyhow::Ok(())
    })?;
    screen.finish()
}
