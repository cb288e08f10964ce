//! `securedl ui`: a page to classify samples on, served by the client itself.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use nn_poly::import::{Dataset, Split};
use nn_poly::plan::{Plan, Trust};
use protocol::signature::Subject;

use super::reaching;
use super::sign::{self, Voucher};
use crate::args::UiArguments;
use crate::failure::{Hint, Outcome};
use crate::kind::FileKind;
use crate::logs;
use crate::options::Venue;
use crate::pipeline::servers::EvidenceFolder;
use crate::pipeline::source::DataSource;
use crate::pipeline::streaming;
use crate::report::terminal::{Ink, Screen};
use crate::report::{Console, units};
use crate::ui::{Desk, EvidencePlace, Page, Reach};

/// Examples that are kept in memory, at most.
const MAX_EXAMPLES: u64 = 2000;

/// Serve the page until the user ends it.
pub(crate) fn run(arguments: &UiArguments) -> Result<Outcome> {
    let Console { screen, progress } = &Console::new(None);
    logs::start("warn", logs::Style::Brief, progress);
    FileKind::Plan.expect_of(&arguments.plan)?;
    let plan = Plan::load(&arguments.plan)?;
    plan.public()
        .expect_trust(Trust::Owner, "the page")
        .hint(|| "data owners run the public part with the pack: securedl infer --pack PACK")?;
    let connection = &arguments.connection;
    let venue = Venue::of_connection(connection);
    screen.fact("Plan", format!("{} ({})", plan.public().name, plan.digest().short()));
    screen.fact("Server", venue.in_words());
    let owners = sign::owners(&connection.owners)?;
    let voucher = Voucher::of(&arguments.plan, Subject::of_plan(&plan), owners)?;
    if voucher.is_beside_file() || !matches!(venue, Venue::Server { .. }) {
        screen.fact("Signature", voucher.check(None)?);
    }
    let settings = reaching::settings(connection, &arguments.checks)?;
    if let (Some(fingerprint), Some(path)) = (&settings.fingerprint, &arguments.checks.fingerprint)
    {
        let named = (fingerprint, path.as_path());
        reaching::introduce_fingerprint(screen, &plan, named, &voucher)?;
    }
    let examples = examples(screen, &plan, arguments)?;
    let is_wanted = !arguments.no_evidence && matches!(venue, Venue::Server { .. });
    // Removed again at the end if nothing is in it.
    let folder = EvidenceFolder::new(is_wanted, arguments.evidence.as_deref(), None);
    let evidence = folder
        .path()
        .map_or(EvidencePlace::Nowhere, |path: &Path| EvidencePlace::Folder(path.to_owned()));
    super::runtime()?.block_on(async {
        let page = Page::bind(arguments.listen).await?;
        let visitor = reaching::visitor(connection)?;
        let servers =
            reaching::servers(&venue, &plan, connection, &visitor, &voucher, screen).await?;
        let is_elsewhere = matches!(venue, Venue::Server { .. });
        let reach = Reach { visitor, servers, place: venue.in_words(), is_elsewhere };
        let desk = Desk::new(plan, reach, settings, examples, evidence, None)?;
        serve(screen, page, desk).await;
        anyhow::Ok(())
    })?;
    screen.finish()?;
    Ok(Outcome::Success)
}

/// Tell the address, and serve until the user ends it.
pub(super) async fn serve(screen: &Screen, page: Page, desk: Arc<Desk>) {
    screen.fact("Page", screen.paint(Ink::Bold, page.url()));
    let text = "for this machine, and for whoever has this address, until Ctrl-C";
    screen.fact("", screen.paint(Ink::Dim, text));
    page.serve(desk, super::infer::interrupted()).await;
}

/// The first samples of the data's test part.
fn examples(screen: &Screen, plan: &Plan, arguments: &UiArguments) -> Result<Option<Dataset>> {
    let Some(name) = &arguments.data else { return Ok(None) };
    let source = DataSource::new(name, &arguments.reading);
    let mut samples = streaming::open(plan, &source, Split::Test, Some(MAX_EXAMPLES))?;
    let (labels, source) = (samples.labels().map(<[u32]>::to_vec), samples.source());
    let features = samples.next_features(samples.n_samples())?.context("there are no samples")?;
    let public = plan.public();
    let (shape, classes) = (public.input_shape.clone(), public.class_names.clone());
    let data = Dataset::new(shape, features, labels, classes, source)?;
    let n_samples = units::counted(data.n_samples(), "sample");
    screen.fact("Examples", format!("{n_samples} of {}, also for canaries", data.source()));
    Ok(Some(data))
}
