//! `securedl verify`: is the model behind this endpoint the one of the fingerprint?

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fingerprint::endpoint::{Answers, Endpoint as _, EndpointError};
use fingerprint::{
    Audit, AuditError, AuditOutcome, ComparisonRule, Control, Fingerprint, LayoutOptions,
    Repetition, Verdict, audit,
};
use nn_poly::artifact;
use nn_poly::plan::Plan;
use protocol::client::{ClientOptions, Endpoint};
use protocol::endpoint::{
    AnswerForm, EncryptedEndpoint, HttpEndpoint, HttpSpec, ImageLayout, InputUnits,
    is_readable_on_the_way, shown_url,
};
use protocol::session::SessionOptions;
use protocol::signature::Subject;
use serde::Serialize;

use super::sign::{self, Voucher};
use crate::args::{AnswerName, LayoutName, UnitsName, VerifyArguments};
use crate::credentials;
use crate::failure::{Hint, Outcome};
use crate::kind::FileKind;
use crate::logs;
use crate::options::retry_policy;
use crate::output::{Destination, OutputFile};
use crate::pipeline::servers::{self, EvidenceFolder, Visitor};
use crate::pipeline::{fingerprinting, inference};
use crate::report::terminal::{Ink, Screen};
use crate::report::{Console, units, verdict};

/// Longest file with a template, headers or a certificate.
const MAX_SETTING_BYTES: usize = 1 << 20;
/// Samples named in messages.
const NAMED: usize = 16;

/// What an audit found.
enum Found {
    /// By comparing answers.
    Compared(Audit),
    /// Before there were answers, by the checks of the encrypted run.
    Rejected(Verdict),
}

/// Audit and report.
pub(crate) fn run(arguments: &VerifyArguments) -> Result<Outcome> {
    let Console { screen, progress } = Console::new(arguments.json.as_ref());
    logs::start("warn", logs::Style::Brief, &progress);
    let report = arguments.json.as_ref().map(Destination::check).transpose()?;
    let mut fingerprint = fingerprinting::load(&arguments.fingerprint)?;
    screen.fact(
        "Fingerprint",
        format!(
            "{} of `{}`, by {}",
            units::counted(fingerprint.n_samples(), "sample"),
            fingerprint.name(),
            fingerprint.generator()
        ),
    );
    let signed = Subject::of_fingerprint(&fingerprint)?;
    screen.fact("Signature", sign::check(&arguments.fingerprint, signed, &arguments.owners)?);
    let started = Instant::now();
    let bar = progress.spinner("asking the endpoint");
    let (place, found) = match (&arguments.endpoint, &arguments.server) {
        (Some(url), _) => {
            let place = shown_url(url);
            screen.fact("Endpoint", format!("{place}, in the clear"));
            if is_readable_on_the_way(url) {
                let text = "plain http: everybody on the way reads the samples and can answer in the \
                            service's place; use https";
                screen.fact("", screen.paint(Ink::Warn, text));
            }
            (place, over_http(arguments, url, &mut fingerprint)?)
        }
        (None, Some(address)) => {
            screen.fact("Endpoint", format!("{address}, encrypted"));
            (address.clone(), encrypted(arguments, address, &fingerprint, &screen)?)
        }
        (None, None) => bail!("name an endpoint: --endpoint URL or --server ADDR"),
    };
    drop(bar);
    let time = started.elapsed();
    let outcome = conclude(&screen, &fingerprint, &found, time);
    if let Some(destination) = &report {
        let json = JsonReport::new(&place, &fingerprint, &found)?;
        destination.write(&(serde_json::to_string_pretty(&json)? + "\n"))?;
    }
    screen.finish()?;
    Ok(outcome)
}

fn over_http(
    arguments: &VerifyArguments,
    url: &str,
    fingerprint: &mut Fingerprint,
) -> Result<Found> {
    let spec = http_spec(arguments, url, fingerprint)?;
    let (shape, grid) = (fingerprint.shape().clone(), fingerprint.grid().clone());
    let mut endpoint = HttpEndpoint::new(spec, shape, grid, fingerprint.class_names())?;
    let repetition = if arguments.once { Repetition::Once } else { Repetition::Twice };
    let rule = arguments.rule.unwrap_or_else(|| fingerprint.rule());
    rule.check_reference(&fingerprint.reference())?;
    // Counted before anything is sent: what an endpoint may have seen counts as seen.
    let file = OutputFile::check(&arguments.fingerprint)?;
    fingerprint.record_use();
    file.write(&fingerprint.to_bytes()?)
        .with_context(|| "cannot count the use of the fingerprint")?;
    let audit = audit(&mut endpoint, fingerprint, arguments.rule, repetition);
    match audit {
        Ok(audit) => Ok(Found::Compared(audit)),
        Err(AuditError::Setup(error)) => Err(error).hint(
            || "choose another --rule, or describe the service with --answers and --response",
        ),
        Err(error @ AuditError::Endpoint(EndpointError::Untrusted { .. })) => {
            Err(error).hint(|| "name the file with the authority's certificate: --ca FILE")
        }
        Err(error) => Err(error.into()),
    }
}

fn http_spec(
    arguments: &VerifyArguments,
    url: &str,
    fingerprint: &Fingerprint,
) -> Result<HttpSpec> {
    let form = match arguments.answers {
        AnswerName::Labels => AnswerForm::Labels,
        AnswerName::Ranked => AnswerForm::Ranked,
        AnswerName::Logits => AnswerForm::Logits,
        AnswerName::Probabilities => AnswerForm::Probabilities,
        AnswerName::Integers => AnswerForm::Integers,
    };
    let mut spec = HttpSpec::new(url, form);
    if let Some(request) = &arguments.request {
        spec.request = text_or_file(request)?;
    }
    if let Some(response) = &arguments.response {
        spec.response.clone_from(response);
    }
    spec.units = match arguments.units {
        UnitsName::Levels => InputUnits::Levels,
        UnitsName::Preprocessed => InputUnits::Preprocessed,
        UnitsName::Raw => InputUnits::Raw(fingerprint.preprocessing().clone()),
    };
    spec.layout = match arguments.layout {
        LayoutName::Hwc => ImageLayout::ChannelsLast,
        LayoutName::Chw => ImageLayout::ChannelsFirst,
    };
    spec.first_label = arguments.first_label;
    spec.insecure_headers_over_http = arguments.insecure_headers_over_http;
    if let Some(proxy) = &arguments.proxy {
        spec.proxy = Some(text_or_file(proxy)?.trim().to_owned());
    }
    for header in &arguments.header {
        let text = text_or_file(header)?;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let Some((name, value)) = line.split_once(':') else {
                bail!("a header is written `Name: value`")
            };
            spec.headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    spec.ca_pem = match &arguments.ca {
        Some(path) => Some(artifact::read_file(path, MAX_SETTING_BYTES)?),
        None => None,
    };
    spec.timeout = Duration::from_secs(arguments.timeout);
    spec.attempts = arguments.attempts;
    Ok(spec)
}

/// The text, or the content of the file behind `@`.
fn text_or_file(argument: &str) -> Result<String> {
    match argument.strip_prefix('@') {
        None => Ok(argument.to_owned()),
        Some(path) => {
            let bytes = artifact::read_file(Path::new(path), MAX_SETTING_BYTES)?;
            String::from_utf8(bytes).with_context(|| format!("{path} is not UTF-8 text"))
        }
    }
}

fn encrypted(
    arguments: &VerifyArguments,
    address: &str,
    fingerprint: &Fingerprint,
    screen: &Screen,
) -> Result<Found> {
    let (Some(path), Some(tls)) = (&arguments.plan, &arguments.tls) else {
        bail!("--server goes with --plan and --tls")
    };
    FileKind::Plan.expect_of(path)?;
    let plan = Plan::load(path)?;
    fingerprint
        .check_plan(&plan)
        .hint(|| "make one: `securedl fingerprint generate PLAN --model MODEL …`")?;
    let retry = retry_policy(arguments.patience);
    let voucher = Voucher::of(path, Subject::of_plan(&plan), sign::owners(&arguments.owners)?)?;
    let trust = credentials::trust(tls, &arguments.credentials)?;
    let token = credentials::token(&arguments.credentials)?;
    let server = Endpoint::tls(address, trust, None)?;
    let visitor = Visitor { token: token.clone(), ..Visitor::plain(&retry) };
    let announced = super::runtime()?.block_on(servers::check(&server, &plan, &visitor))?;
    screen.fact("Plan signed", voucher.check(announced.as_ref())?);
    // All samples are asked; a few of them ride as canaries besides.
    let options = SessionOptions { layout: LayoutOptions::default(), ..SessionOptions::default() };
    let client_plan = inference::fingerprinted(&plan, options, fingerprint)?;
    let client_options = ClientOptions { token, ..inference::client_options(retry)? };
    let folder = EvidenceFolder::new(!arguments.no_evidence, arguments.evidence.as_deref(), None);
    let mut endpoint = EncryptedEndpoint::new(client_plan, vec![server], client_options)?
        .with_evidence(folder.path().map(Path::to_owned));
    let audited = audit(&mut endpoint, fingerprint, arguments.rule, Repetition::Once);
    for file in endpoint.evidence() {
        screen.fact("Evidence", file.display());
    }
    match audited {
        Ok(audit) => Ok(Found::Compared(audit)),
        Err(AuditError::Endpoint(EndpointError::Rejected { verdict })) => {
            debug_assert_eq!(endpoint.n_classes(), plan.network().n_scores());
            Ok(Found::Rejected(verdict))
        }
        Err(error) => Err(error.into()),
    }
}

fn conclude(screen: &Screen, fingerprint: &Fingerprint, found: &Found, time: Duration) -> Outcome {
    let audit = match found {
        Found::Rejected(found) => {
            verdict::print(screen, found);
            return Outcome::of(found);
        }
        Found::Compared(audit) => audit,
    };
    let times = if audit.times == 1 { "once" } else { "twice" };
    screen.fact(
        "Asked",
        format!(
            "{} {times}, in {}; answers are {}",
            units::counted(audit.n_samples, "sample"),
            units::duration(time),
            audit.answers
        ),
    );
    screen.fact("Rule", audit.rule);
    screen.fact("Control", control(audit));
    screen.gap();
    let (ink, text) = judgment(audit);
    screen.paragraph(2, screen.paint(ink, text));
    advise(screen, fingerprint, audit);
    match audit.outcome.exit_code() {
        0 => Outcome::Success,
        1 => Outcome::Cheated,
        _ => Outcome::Unverified,
    }
}

/// How the natural samples came out.
fn control(audit: &Audit) -> String {
    match audit.control {
        Some(control) => format!(
            "{} of {} are answered like by the true model",
            units::count((control.n_asked - control.n_disagreeing) as u64),
            units::counted(control.n_asked, "natural sample")
        ),
        None => {
            "none: the fingerprint holds no natural samples, so that a wrong description of the \
                 service looks like another model"
                .to_owned()
        }
    }
}

/// What came of an audit, for people.
fn judgment(audit: &Audit) -> (Ink, String) {
    let n = audit.n_samples;
    match &audit.outcome {
        AuditOutcome::Same => (Ink::Good, format!("✓ Same model: all {n} answers agree")),
        AuditOutcome::Different { samples } => (
            Ink::Bad,
            format!(
                "✗ Another model: {} of {n} answers differ (samples {})",
                samples.len(),
                listed(samples)
            ),
        ),
        AuditOutcome::Unsteady { samples } => (
            Ink::Warn,
            format!(
                "? No verdict: the endpoint answers {} differently from one time to the next \
                 (samples {}); that is not a sign of tampering. The first time {} of {n} answers \
                 differed from the true model's",
                units::counted(samples.len(), "sample"),
                listed(samples),
                audit.differing.len(),
            ),
        ),
        AuditOutcome::DoesNotFit { n_disagreeing, n_originals } => (
            Ink::Warn,
            format!(
                "? No verdict: {n_disagreeing} of {n_originals} natural samples are answered otherwise \
                 than by the true model, and {} of {n} samples. The description does not fit, or it is \
                 an entirely different model. Check the units (--units), the order of axes (--layout), \
                 the number of the first class (--first-label) and the order of the classes",
                audit.differing.len(),
            ),
        ),
        AuditOutcome::Undecided => (
            Ink::Warn,
            "? No verdict: every answer leaves several classes equal, so that any model would agree"
                .to_owned(),
        ),
        other => (Ink::Warn, format!("? No verdict: {other:?}")),
    }
}

/// Say what would have told more.
fn advise(screen: &Screen, fingerprint: &Fingerprint, audit: &Audit) {
    let finer = ComparisonRule::strictest_for(&audit.answers);
    let tells_more = !matches!(audit.answers, Answers::Labels(_)) && audit.rule != finer;
    let is_coarse = matches!(audit.rule, ComparisonRule::Top1 | ComparisonRule::TopK(_));
    let agrees = matches!(audit.outcome, AuditOutcome::Same | AuditOutcome::Undecided);
    if audit.n_tied > 0 && agrees {
        let text = format!(
            "{} of {} answers leave several classes equal at the precision of the endpoint: those \
             agree with any model.",
            audit.n_tied, audit.n_samples
        );
        screen.paragraph(2, screen.paint(Ink::Warn, text));
    }
    if tells_more && is_coarse && agrees {
        let text = format!(
            "The endpoint tells {}: --rule {finer} notices smaller changes.",
            audit.answers
        );
        screen.paragraph(2, screen.paint(Ink::Dim, text));
    }
    if fingerprint.uses() > 1 {
        let text = format!(
            "This fingerprint was shown in the clear {} times; endpoints that keep what they see can \
             answer it right and cheat elsewhere. Make a new one for an untrusted endpoint.",
            units::count(fingerprint.uses())
        );
        screen.paragraph(2, screen.paint(Ink::Warn, text));
    }
}

fn listed(samples: &[usize]) -> String {
    let shown: Vec<String> = samples.iter().take(NAMED).map(usize::to_string).collect();
    let more = if samples.len() > NAMED { ", …" } else { "" };
    shown.join(", ") + more
}

/// What `--json` writes.
#[derive(Serialize)]
struct JsonReport<'a> {
    endpoint: &'a str,
    fingerprint: String,
    model: &'a str,
    samples: usize,
    uses_in_clear: u64,
    outcome: &'static str,
    rule: Option<String>,
    times: Option<u32>,
    /// What the verdict names: samples that differ, or that are answered unsteadily.
    differing_samples: &'a [usize],
    /// Samples whose first answers differ from the reference.
    n_differing: Option<usize>,
    /// Samples that the endpoint's precision leaves open.
    n_tied: Option<usize>,
    /// The natural samples; null without them.
    control: Option<Control>,
    verdict: Option<String>,
}

impl<'a> JsonReport<'a> {
    fn new(endpoint: &'a str, fingerprint: &'a Fingerprint, found: &'a Found) -> Result<Self> {
        let (outcome, samples, audit, verdict): (_, &[usize], _, _) = match found {
            Found::Rejected(verdict) => ("rejected", &[], None, Some(verdict.to_string())),
            Found::Compared(audit) => match &audit.outcome {
                AuditOutcome::Same => ("same", &[], Some(audit), None),
                AuditOutcome::Different { samples } => ("different", samples, Some(audit), None),
                AuditOutcome::Unsteady { samples } => ("unsteady", samples, Some(audit), None),
                AuditOutcome::DoesNotFit { .. } => ("does-not-fit", &[], Some(audit), None),
                AuditOutcome::Undecided => ("undecided", &[], Some(audit), None),
                _ => ("no-verdict", &[], Some(audit), None),
            },
        };
        Ok(Self {
            endpoint,
            fingerprint: fingerprint.identity()?.to_string(),
            model: fingerprint.name(),
            samples: fingerprint.n_samples(),
            uses_in_clear: fingerprint.uses(),
            outcome,
            rule: audit.map(|audit| audit.rule.to_string()),
            times: audit.map(|audit| audit.times),
            differing_samples: samples,
            n_differing: audit.map(|audit| audit.differing.len()),
            n_tied: audit.map(|audit| audit.n_tied),
            control: audit.and_then(|audit| audit.control),
            verdict,
        })
    }
}
