//! A finished run as people see it, in a page or in a report: one description for both.
//!
//! Everything here is text and counts, ready to be shown. [`html`](super::html) writes it down.

mod faults;
mod predicted;

use nn_poly::plan::{Plan, PublicPlan};
use serde::Serialize;

use fingerprint::Verdict;

pub(crate) use self::faults::FaultView;
#[cfg(test)]
pub(crate) use self::predicted::BarView;
pub(crate) use self::predicted::{PredictionsView, SampleView, Sheet};
use super::drawing::Drawing;
use super::{segments, units, verdict};
use crate::pipeline::inference::Run;
use crate::pipeline::recording::{Record, RoundRecord, RoundState};

/// A finished run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RunView {
    pub(crate) securedl: &'static str,
    pub(crate) plan: PlanView,
    /// Where it was evaluated.
    pub(crate) place: String,
    /// Where the samples are from, and how many they are.
    pub(crate) source: String,
    pub(crate) n_samples: usize,
    /// What a batch has room for, in a sentence.
    pub(crate) room: Option<String>,
    pub(crate) verdict: VerdictView,
    /// What gave a cheat away.
    pub(crate) faults: Vec<FaultView>,
    /// Nothing unless the verdict releases them.
    pub(crate) predictions: Option<PredictionsView>,
    /// A sample, and the first ciphertext that was sent.
    pub(crate) input: Option<Drawing>,
    pub(crate) ciphertext: Option<Drawing>,
    pub(crate) rounds: Vec<RoundView>,
    pub(crate) figures: Vec<Figure>,
    pub(crate) receipts: ReceiptsView,
}

/// The plan in short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlanView {
    pub(crate) name: String,
    pub(crate) digest: String,
    pub(crate) trust: String,
    pub(crate) activation: String,
}

/// How a verdict is to be read at a glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Tone {
    Good,
    Bad,
    Doubtful,
}

/// A verdict in plain words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VerdictView {
    pub(crate) tone: Tone,
    /// Its name, as programs know it.
    pub(crate) name: &'static str,
    pub(crate) headline: &'static str,
    pub(crate) text: String,
    /// Kinds of cheating, and how likely each would have been caught.
    pub(crate) chances: Vec<Chance>,
    pub(crate) advice: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chance {
    pub(crate) what: &'static str,
    pub(crate) caught: String,
}

/// One round.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RoundView {
    pub(crate) number: usize,
    pub(crate) computes: String,
    pub(crate) state: &'static str,
    pub(crate) n_blocks: usize,
    pub(crate) n_begun: usize,
    pub(crate) n_answered: usize,
    pub(crate) bytes_up: u64,
    pub(crate) bytes_down: u64,
    pub(crate) seconds: f64,
    /// `13.3 MB up, 2.1 MB down`, and the time, for people.
    pub(crate) sizes: String,
    pub(crate) time: String,
}

/// A named figure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) value: String,
}

/// Receipts that were checked: the first ones, and how many there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ReceiptsView {
    pub(crate) n_receipts: usize,
    /// Who signed them.
    pub(crate) identities: Vec<String>,
    pub(crate) first: Vec<ReceiptView>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReceiptView {
    pub(crate) segment: u32,
    pub(crate) request: String,
    pub(crate) request_hash: String,
    pub(crate) reply_hash: String,
}

/// What a view is made of.
#[derive(Debug)]
pub(crate) struct Finished<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) place: String,
    pub(crate) source: String,
    pub(crate) room: Option<String>,
    pub(crate) run: &'a Run,
    pub(crate) record: &'a Record,
    /// Scores that differ from the integer network's although the verdict is intact.
    pub(crate) is_contradicted: bool,
    /// Whether every score was compared with the integer network's.
    pub(crate) is_compared: bool,
    pub(crate) predictions: Option<PredictionsView>,
    pub(crate) faults: Vec<FaultView>,
    pub(crate) input: Option<Drawing>,
}

impl RunView {
    /// Put a view together.
    ///
    /// # Errors
    /// Only broken invariants.
    pub(crate) fn new(finished: Finished<'_>) -> anyhow::Result<Self> {
        let Finished { plan, run, record, .. } = finished;
        let public = plan.public();
        let verdict = if finished.is_contradicted {
            VerdictView::contradicted()
        } else {
            VerdictView::new(&run.verdict)
        };
        let is_released = verdict.tone != Tone::Bad;
        Ok(Self {
            securedl: env!("CARGO_PKG_VERSION"),
            plan: PlanView {
                name: public.name.clone(),
                digest: plan.digest().to_string(),
                trust: public.trust.to_string(),
                activation: public.activation_side.to_string(),
            },
            place: finished.place,
            source: finished.source,
            n_samples: run.n_samples,
            room: finished.room,
            figures: figures(run, public, finished.is_compared && is_released),
            verdict,
            faults: finished.faults,
            predictions: finished.predictions.filter(|_| is_released),
            input: finished.input,
            ciphertext: ciphertext(record)?,
            rounds: rounds(public, record),
            receipts: receipts(record),
        })
    }
}

impl VerdictView {
    /// A verdict in words.
    pub(crate) fn new(verdict: &Verdict) -> Self {
        let (tone, headline) = match verdict {
            Verdict::Intact { .. } => (Tone::Good, "Intact"),
            Verdict::ModelModified { .. } => (Tone::Bad, "Caught: the server ran another model"),
            Verdict::ComputationTampered { .. } => {
                (Tone::Bad, "Caught: the server tampered with its replies")
            }
            Verdict::Unverified { .. } => (Tone::Doubtful, "Unverified"),
        };
        let soundness =
            if let Verdict::Intact { soundness } = verdict { Some(soundness) } else { None };
        let chances = soundness.map(verdict::soundness_lines).unwrap_or_default();
        Self {
            tone,
            name: verdict.name(),
            headline,
            text: verdict::explanation(verdict),
            chances: chances
                .into_iter()
                .map(|(what, caught)| Chance { what, caught: raised(&caught) })
                .collect(),
            advice: soundness.and_then(verdict::advice),
        }
    }

    /// The checks passed, and yet some scores are not the integer network's.
    fn contradicted() -> Self {
        Self {
            tone: Tone::Bad,
            name: "Contradicted",
            headline: "Caught: some scores are not the model's",
            text: verdict::CONTRADICTED.to_owned(),
            chances: Vec::new(),
            advice: None,
        }
    }
}

/// `2^-57` as it is written on paper: `2⁻⁵⁷`.
fn raised(text: &str) -> String {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let Some((base, exponent)) = text.split_once('^') else { return text.to_owned() };
    let raise = |c: char| match c.to_digit(10) {
        Some(digit) => DIGITS.get(digit as usize).copied().unwrap_or(c),
        None if c == '-' => '⁻',
        None => c,
    };
    let raised: String = exponent.chars().map(raise).collect();
    format!("{base}{raised}")
}

/// The rounds of a record: live or finished.
pub(crate) fn rounds(public: &PublicPlan, record: &Record) -> Vec<RoundView> {
    let describe = |stage_idx: usize| {
        let stage = public.stages.get(stage_idx)?;
        let segment = public.segments.iter().find(|s| s.stage as usize == stage_idx)?;
        Some(segments::describe(stage, segment))
    };
    let view = |(stage, round): (usize, &RoundRecord)| RoundView {
        number: stage + 1,
        computes: describe(stage).unwrap_or_default(),
        state: match round.state {
            RoundState::Waiting => "waiting",
            RoundState::Running => "running",
            RoundState::Passed => "passed",
            RoundState::Rejected => "rejected",
        },
        n_blocks: round.n_blocks,
        n_begun: round.n_begun,
        n_answered: round.n_answered,
        bytes_up: round.bytes_up,
        bytes_down: round.bytes_down,
        seconds: round.time.as_secs_f64(),
        sizes: format!(
            "{} up, {} down",
            units::bytes(round.bytes_up),
            units::bytes(round.bytes_down)
        ),
        time: units::duration(round.time),
    };
    record.rounds.iter().enumerate().map(view).collect()
}

/// The picture of the first ciphertext.
///
/// # Errors
/// Only broken invariants.
pub(crate) fn ciphertext(record: &Record) -> anyhow::Result<Option<Drawing>> {
    let Some((bytes, length)) = &record.ciphertext else { return Ok(None) };
    let text = format!(
        "The first {} of the {} of the first ciphertext, a pixel each: noise to whoever has no key",
        units::count(bytes.len()),
        units::counted(*length, "byte"),
    );
    Drawing::of_bytes(bytes, &text)
}

fn figures(run: &Run, public: &PublicPlan, is_exact: bool) -> Vec<Figure> {
    let mut figures = vec![Figure { name: "Time", value: units::duration(run.total) }];
    let mut figure = |name, value: String| figures.push(Figure { name, value });
    if let Some(costs) = &run.costs {
        let tally = &costs.tally;
        figure("Sent", units::bytes(tally.bytes_up));
        figure("Received", units::bytes(tally.bytes_down));
        if let Some(n_bytes) = costs.bytes_per_sample() {
            figure("Per sample", units::bytes(n_bytes));
        }
        figure("Encrypting", units::duration(tally.times.encode + tally.times.encrypt));
        figure("Server busy", units::duration(costs.evaluate));
        figure("Checking", units::duration(tally.times.check));
        figure("Decrypting", units::duration(tally.times.decrypt));
    }
    if let Some(degree) = public.segments.iter().map(|s| s.ring.ring_degree).max() {
        figure("Ring degree", units::count(degree));
    }
    figure("Security", format!("{} bits", public.security_bits));
    if is_exact {
        figure("Exactness", "every score equals the integer network's".to_owned());
    }
    figures
}

fn receipts(record: &Record) -> ReceiptsView {
    let mut identities: Vec<String> =
        record.receipts.iter().map(|receipt| receipt.identity.clone()).collect();
    identities.sort();
    identities.dedup();
    let first = record
        .receipts
        .iter()
        .map(|receipt| ReceiptView {
            segment: receipt.segment,
            request: receipt.request.clone(),
            request_hash: receipt.request_hash.clone(),
            reply_hash: receipt.reply_hash.clone(),
        })
        .collect();
    ReceiptsView { n_receipts: record.n_receipts, identities, first }
}

/// How much of a batch is used, and that the rest costs nothing. `n_places` samples go into the
/// smallest blocks of a plan.
pub(crate) fn room(n_samples: usize, n_places: usize) -> Option<String> {
    if n_samples == 0 || n_samples >= n_places {
        return None;
    }
    Some(format!(
        "{} of {} places are used. A ciphertext costs the same however little is in it: this batch \
         has room for {} more at the same price.",
        units::count(n_samples),
        units::count(n_places),
        units::counted(n_places - n_samples, "sample"),
    ))
}
