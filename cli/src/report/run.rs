//! The report of a run, as JSON and as text.

use std::time::Duration;

use fingerprint::{Soundness, Verdict};
use nn_poly::plan::{Plan, PublicPlan, Segment};
use serde::Serialize;

use super::terminal::Screen;
use super::units;
use crate::pipeline::inference::{Costs, Run};

/// Everything a program may want to know about a run. `null` is unknown or not applicable.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RunReport {
    securedl: &'static str,
    mode: &'static str,
    plan: PlanReport,
    samples: usize,
    batches: Option<usize>,
    blocks: Option<u64>,
    accuracy: Option<f64>,
    matches_integer_network: Option<bool>,
    out_of_calibration: Option<usize>,
    /// Batches that an earlier run had finished; bytes, blocks and times are without them.
    resumed_batches: Option<usize>,
    clamped_values: Option<u64>,
    verdict: &'static str,
    verdict_details: VerdictReport,
    /// Files that prove the fault.
    evidence: Vec<String>,
    soundness: Soundness,
    rounds: Option<u32>,
    bytes_up: Option<u64>,
    bytes_down: Option<u64>,
    wire_bytes_up: Option<u64>,
    wire_bytes_down: Option<u64>,
    peak_memory_bytes: Option<u64>,
    seconds: SecondsReport,
    params: ParamsReport,
    segments: Vec<SegmentReport>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct PlanReport {
    name: String,
    digest: String,
    trust: String,
    activation: String,
}

/// Where and what, for verdicts other than `Intact`.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct VerdictReport {
    message: String,
    segment: Option<u32>,
    neurons: Option<Vec<u32>>,
    blocks: Option<Vec<u32>>,
}

/// Wall time, then busy time per phase.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct SecondsReport {
    total: f64,
    encode: Option<f64>,
    encrypt: Option<f64>,
    network: Option<f64>,
    evaluate: Option<f64>,
    check: Option<f64>,
    decrypt: Option<f64>,
}

/// The largest parameters of all segments, and the weakest security.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct ParamsReport {
    ring_degree: u32,
    plaintext_modulus_bits: f64,
    ciphertext_modulus_bits: f64,
    security_bits: u32,
}

/// Parameters of one segment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct SegmentReport {
    activation_at_server: bool,
    ring_degree: u32,
    plaintext_modulus_bits: f64,
    ciphertext_modulus_bits: f64,
    packing: String,
    inputs: u32,
    outputs: u32,
    range_low: i64,
    range_high: i64,
    range: String,
    noise_margin_bits: f64,
}

/// What is known about the predictions of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Findings {
    /// Share of right predictions, where labels are known.
    pub(crate) accuracy: Option<f64>,
    /// Whether every score equals the integer network's, where that was looked at.
    pub(crate) matches: Option<bool>,
    /// Samples out of calibration, unless the scores of the run are at hand.
    pub(crate) out_of_calibration: Option<usize>,
    /// Batches that an earlier run had finished.
    pub(crate) resumed_batches: Option<usize>,
}

impl RunReport {
    /// Put the report together.
    ///
    /// `mode` says where the run took place: `server`, `local` or `simulate`.
    pub(crate) fn new(plan: &Plan, mode: &'static str, run: &Run, findings: Findings) -> Self {
        let public = plan.public();
        let costs = run.costs.as_ref();
        let flags = run.scores.as_ref().map(|scores| &scores.out_of_calibration);
        Self {
            securedl: env!("CARGO_PKG_VERSION"),
            mode,
            plan: PlanReport {
                name: public.name.clone(),
                digest: plan.digest().to_string(),
                trust: public.trust.to_string(),
                activation: public.activation_side.to_string(),
            },
            samples: run.n_samples,
            batches: costs.map(|costs| costs.n_batches),
            blocks: costs.map(|costs| costs.tally.blocks),
            accuracy: findings.accuracy,
            matches_integer_network: findings.matches,
            out_of_calibration: flags
                .map(|flags| flags.iter().filter(|&&flag| flag).count())
                .or(findings.out_of_calibration),
            resumed_batches: findings.resumed_batches,
            clamped_values: costs.map(|costs| costs.tally.n_clamped),
            verdict: run.verdict.name(),
            verdict_details: verdict_report(&run.verdict),
            evidence: run.evidence.iter().map(|file| file.display().to_string()).collect(),
            soundness: soundness(&run.verdict),
            rounds: costs.map(|costs| costs.tally.rounds),
            bytes_up: costs.map(|costs| costs.tally.bytes_up),
            bytes_down: costs.map(|costs| costs.tally.bytes_down),
            wire_bytes_up: costs.map(|costs| costs.traffic.sent_bytes),
            wire_bytes_down: costs.map(|costs| costs.traffic.received_bytes),
            peak_memory_bytes: super::memory::peak_bytes(),
            seconds: seconds(run.total, costs),
            params: params(public),
            segments: public.segments.iter().map(SegmentReport::new).collect(),
        }
    }

    /// The report as indented JSON with a line end.
    ///
    /// # Errors
    /// Only broken invariants: every field has a JSON form.
    pub(crate) fn to_json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

/// What an intact verdict is worth; nothing for the others.
fn soundness(verdict: &Verdict) -> Soundness {
    if let Verdict::Intact { soundness } = verdict { *soundness } else { Soundness::unchecked() }
}

fn verdict_report(verdict: &Verdict) -> VerdictReport {
    let (segment, neurons, blocks) = match verdict {
        Verdict::Intact { .. } | Verdict::Unverified { .. } => (None, None, None),
        Verdict::ModelModified { segment, neurons } => {
            (Some(*segment), Some(neurons.clone()), None)
        }
        Verdict::ComputationTampered { segment, blocks } => {
            (Some(*segment), None, Some(blocks.clone()))
        }
    };
    let message = super::verdict::explanation(verdict);
    VerdictReport { message, segment, neurons, blocks }
}

fn seconds(total: Duration, costs: Option<&Costs>) -> SecondsReport {
    let of = |time: fn(&Costs) -> Duration| costs.map(|costs| time(costs).as_secs_f64());
    SecondsReport {
        total: total.as_secs_f64(),
        encode: of(|costs| costs.tally.times.encode),
        encrypt: of(|costs| costs.tally.times.encrypt),
        network: of(|costs| costs.network),
        evaluate: of(|costs| costs.evaluate),
        check: of(|costs| costs.tally.times.check),
        decrypt: of(|costs| costs.tally.times.decrypt),
    }
}

fn params(plan: &PublicPlan) -> ParamsReport {
    let largest = |bits: fn(&Segment) -> f64| plan.segments.iter().map(bits).fold(0.0, f64::max);
    ParamsReport {
        ring_degree: plan.segments.iter().map(|s| s.ring.ring_degree).max().unwrap_or(0),
        plaintext_modulus_bits: rounded(largest(|s| s.ring.log2_plaintext_modulus())),
        ciphertext_modulus_bits: rounded(largest(|s| s.ring.log2_ciphertext_modulus())),
        security_bits: plan.security_bits,
    }
}

impl SegmentReport {
    /// The parameters of `segment`.
    pub(crate) fn new(segment: &Segment) -> Self {
        Self {
            activation_at_server: segment.evaluates_activation,
            ring_degree: segment.ring.ring_degree,
            plaintext_modulus_bits: rounded(segment.ring.log2_plaintext_modulus()),
            ciphertext_modulus_bits: rounded(segment.ring.log2_ciphertext_modulus()),
            packing: segment.packing.to_string(),
            inputs: segment.n_inputs,
            outputs: segment.n_outputs,
            range_low: segment.range.low,
            range_high: segment.range.high,
            range: segment.range.evidence.to_string(),
            noise_margin_bits: rounded(segment.noise.margin_bits()),
        }
    }
}

/// Three decimals: more would pretend to be exact.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// Print what a run took.
pub(crate) fn print_costs(screen: &Screen, run: &Run) {
    let Some(costs) = &run.costs else {
        screen.fact("Time", format!("{} (no encryption)", units::duration(run.total)));
        return;
    };
    let Costs { tally, .. } = costs;
    let per_sample = costs.bytes_per_sample();
    let per_sample = per_sample.map(|n_bytes| format!(" ({} per sample)", units::bytes(n_bytes)));
    screen.fact(
        "Traffic",
        format!(
            "{} up, {} down in {}{}",
            units::bytes(tally.bytes_up),
            units::bytes(tally.bytes_down),
            units::counted(tally.rounds, "round"),
            per_sample.unwrap_or_default(),
        ),
    );
    screen.fact("Time", units::duration(run.total));
    let phases = [
        ("encode", tally.times.encode),
        ("encrypt", tally.times.encrypt),
        ("network", costs.network),
        ("evaluate", costs.evaluate),
        ("check", tally.times.check),
        ("decrypt", tally.times.decrypt),
    ];
    let phases: Vec<String> =
        phases.iter().map(|(name, time)| format!("{name} {}", units::duration(*time))).collect();
    screen.fact("Busy", phases.join(", "));
}
