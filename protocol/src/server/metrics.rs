//! What a server counts and measures, in the text format of Prometheus.
//!
//! Counters and times are noted where they happen; levels (connections, queues, memory) are read from
//! the server when somebody asks. Labels are outcomes, codes, phases and segments of hosted plans:
//! their number is bounded, whatever clients send. What a client's checks found is not among them: it
//! is never sent.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::ServerStatus;
use crate::identifiers::Digest;
use crate::message::RefusalCode;

/// Segments of plans with figures of their own; those of further plans are counted together.
const MAX_SEGMENTS: usize = 256;

/// Upper bounds of the buckets of times, in seconds.
const BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0];

const METADATA: Metadata<'static> =
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// A part of a request's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestPhase {
    /// From the announcement to the place in memory.
    Admission,
    /// From admission to the last payload byte, decoded.
    Upload,
    /// From the last payload byte to a place at the processors.
    Wait,
    /// From that place to the last byte computed; waits for the client only where there was no memory for
    /// what it had not taken.
    Evaluation,
    /// Of the evaluation, busy time of all threads, decoding included.
    Busy,
}

impl RequestPhase {
    const fn name(self) -> &'static str {
        match self {
            Self::Admission => "admission",
            Self::Upload => "upload",
            Self::Wait => "wait",
            Self::Evaluation => "evaluation",
            Self::Busy => "busy",
        }
    }
}

/// The direction of payload bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From clients.
    In,
    /// To clients.
    Out,
}

/// The figures of a server. Cheap to clone; clones are one.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    /// Segments with figures of their own.
    segments: Mutex<HashSet<(Digest, u32)>>,
}

impl Metrics {
    /// Figures that start at zero. Every name and label that does not depend on plans is there from
    /// the beginning.
    #[must_use]
    pub fn new() -> Self {
        let builder = PrometheusBuilder::new();
        let builder = builder.set_buckets(&BUCKETS).unwrap_or_else(|_| PrometheusBuilder::new());
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        describe(&recorder);
        let metrics =
            Self { inner: Arc::new(Inner { recorder, handle, segments: Mutex::default() }) };
        metrics.gauge("securedl_build_info", &[("version", env!("CARGO_PKG_VERSION"))]).set(1.0);
        for code in RefusalCode::ALL {
            metrics.refusals(code).increment(0);
        }
        let outcomes =
            ["accepted", "turned away", "dropped", "dropped by address", "handshake failed"];
        for outcome in outcomes {
            metrics.connections(outcome).increment(0);
        }
        for result in ["ok", "failed"] {
            metrics.reloads(result).increment(0);
        }
        metrics.counter("securedl_panics_total", &[]).increment(0);
        metrics.set("securedl_plan_files_broken", 0);
        metrics
    }

    /// The figures as Prometheus reads them, with the levels of now.
    #[must_use]
    pub fn render(&self, status: &ServerStatus) -> String {
        let levels = [
            ("securedl_connections", status.connections as u64),
            ("securedl_connections_limit", status.max_connections as u64),
            ("securedl_requests_admitted", status.requests_admitted as u64),
            ("securedl_requests_waiting", status.requests_waiting as u64),
            ("securedl_evaluations_running", status.evaluations_running as u64),
            ("securedl_evaluations_waiting", status.evaluations_waiting as u64),
            ("securedl_memory_declared_bytes", status.memory_declared_bytes),
            ("securedl_memory_limit_bytes", status.memory_limit_bytes),
            ("securedl_plans_loaded", status.plans as u64),
            ("securedl_draining", u64::from(status.draining)),
        ];
        for (name, level) in levels {
            self.set(name, level);
        }
        if let Some(bytes) = status.resident_bytes {
            self.set("securedl_memory_resident_bytes", bytes);
        }
        self.inner.handle.render()
    }

    /// Fold the samples noted so far into their buckets, which bounds their memory. A server does so
    /// by itself.
    pub fn upkeep(&self) {
        self.inner.handle.run_upkeep();
    }

    /// Note that the plans were read again, and whether all of it went well.
    pub fn plans_read(&self, succeeded: bool) {
        self.reloads(if succeeded { "ok" } else { "failed" }).increment(1);
    }

    /// Note how many plan files cannot be used.
    pub fn broken_plan_files(&self, n_files: usize) {
        self.set("securedl_plan_files_broken", n_files as u64);
    }

    pub(super) fn connection(&self, outcome: &'static str) {
        self.connections(outcome).increment(1);
    }

    /// A question was answered, or a request ended. `kind` and `outcome` are those of the audit log.
    pub(super) fn request(&self, kind: &'static str, outcome: &'static str) {
        let labels = [("kind", kind), ("outcome", outcome)];
        self.counter("securedl_requests_total", &labels).increment(1);
    }

    pub(super) fn refusal(&self, code: RefusalCode) {
        self.refusals(code).increment(1);
    }

    pub(super) fn panicked(&self) {
        self.counter("securedl_panics_total", &[]).increment(1);
    }

    pub(super) fn payload(&self, direction: Direction, plan: &Digest, segment: u32, bytes: u64) {
        let direction = match direction {
            Direction::In => "in",
            Direction::Out => "out",
        };
        let labels = self.labels(("direction", direction), plan, segment);
        let key = Key::from_parts("securedl_payload_bytes_total", labels);
        self.inner.recorder.register_counter(&key, &METADATA).increment(bytes);
    }

    pub(super) fn phase(&self, phase: RequestPhase, plan: &Digest, segment: u32, time: Duration) {
        let labels = self.labels(("phase", phase.name()), plan, segment);
        let key = Key::from_parts("securedl_request_seconds", labels);
        let histogram: Histogram = self.inner.recorder.register_histogram(&key, &METADATA);
        histogram.record(time.as_secs_f64());
    }

    fn labels(&self, first: (&'static str, &'static str), plan: &Digest, at: u32) -> Vec<Label> {
        let mut segments = self.inner.segments.lock().unwrap_or_else(PoisonError::into_inner);
        let known = segments.contains(&(*plan, at))
            || (segments.len() < MAX_SEGMENTS && segments.insert((*plan, at)));
        let (plan, segment) = match known {
            true => (plan.short(), at.to_string()),
            false => ("other".to_owned(), "other".to_owned()),
        };
        vec![
            Label::from_static_parts(first.0, first.1),
            Label::new("plan", plan),
            Label::new("segment", segment),
        ]
    }

    fn connections(&self, outcome: &'static str) -> Counter {
        self.counter("securedl_connections_total", &[("outcome", outcome)])
    }

    fn refusals(&self, code: RefusalCode) -> Counter {
        self.counter("securedl_refusals_total", &[("code", code_name(code))])
    }

    fn reloads(&self, result: &'static str) -> Counter {
        self.counter("securedl_plan_reloads_total", &[("result", result)])
    }

    fn counter(&self, name: &'static str, labels: &[(&'static str, &'static str)]) -> Counter {
        self.inner.recorder.register_counter(&key(name, labels), &METADATA)
    }

    fn gauge(&self, name: &'static str, labels: &[(&'static str, &'static str)]) -> Gauge {
        self.inner.recorder.register_gauge(&key(name, labels), &METADATA)
    }

    #[expect(clippy::cast_precision_loss, reason = "the format's numbers are doubles")]
    fn set(&self, name: &'static str, level: u64) {
        self.gauge(name, &[]).set(level as f64);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn key(name: &'static str, labels: &[(&'static str, &'static str)]) -> Key {
    let labels: Vec<Label> =
        labels.iter().map(|&(name, value)| Label::from_static_parts(name, value)).collect();
    Key::from_parts(name, labels)
}

/// The label of a refusal.
const fn code_name(code: RefusalCode) -> &'static str {
    match code {
        RefusalCode::UnsupportedVersion => "unsupported_version",
        RefusalCode::MalformedMessage => "malformed_message",
        RefusalCode::UnexpectedMessage => "unexpected_message",
        RefusalCode::UnknownPlan => "unknown_plan",
        RefusalCode::UnknownSegment => "unknown_segment",
        RefusalCode::WrongShape => "wrong_shape",
        RefusalCode::MalformedPayload => "malformed_payload",
        RefusalCode::TooLarge => "too_large",
        RefusalCode::Busy => "busy",
        RefusalCode::ShuttingDown => "shutting_down",
        RefusalCode::TooSlow => "too_slow",
        RefusalCode::Internal => "internal",
        RefusalCode::Unauthorized => "unauthorized",
        RefusalCode::RateLimited => "rate_limited",
    }
}

fn describe(recorder: &PrometheusRecorder) {
    let counters = [
        ("securedl_connections_total", "Connections since the start, by what became of them"),
        ("securedl_requests_total", "Requests that ended, by kind and outcome"),
        ("securedl_refusals_total", "Refusals sent, by code"),
        ("securedl_payload_bytes_total", "Payload bytes moved, by direction and segment"),
        ("securedl_plan_reloads_total", "Looks at the plan folder that found changes"),
        ("securedl_panics_total", "Requests that ended in a panic of the server"),
    ];
    for (name, text) in counters {
        recorder.describe_counter(name.into(), Some(Unit::Count), text.into());
    }
    let text = "Time of requests, by phase and segment";
    recorder.describe_histogram("securedl_request_seconds".into(), None, text.into());
    let gauges = [
        ("securedl_build_info", "Always 1; the label tells the version"),
        ("securedl_connections", "Open connections"),
        ("securedl_connections_limit", "Most connections at the same time"),
        ("securedl_requests_admitted", "Requests that hold memory"),
        ("securedl_requests_waiting", "Requests that wait for memory"),
        ("securedl_evaluations_running", "Evaluations begun and not finished"),
        ("securedl_evaluations_waiting", "Uploaded requests that wait for the processors"),
        ("securedl_memory_declared_bytes", "Memory that admitted requests have declared"),
        ("securedl_memory_limit_bytes", "Memory that requests may declare together"),
        ("securedl_memory_resident_bytes", "Memory of the process, plans included"),
        ("securedl_plans_loaded", "Plans served"),
        ("securedl_plan_files_broken", "Plan files that cannot be used"),
        ("securedl_draining", "1 while the server finishes its last requests"),
    ];
    for (name, text) in gauges {
        recorder.describe_gauge(name.into(), None, text.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> ServerStatus {
        ServerStatus { connections: 3, memory_declared_bytes: 77, ..ServerStatus::default() }
    }

    #[test]
    fn levels_counts_and_times_are_rendered() {
        let metrics = Metrics::new();
        let plan = Digest([7; 32]);
        metrics.refusal(RefusalCode::Busy);
        metrics.request("evaluate", "evaluated");
        metrics.payload(Direction::In, &plan, 1, 1000);
        metrics.phase(RequestPhase::Upload, &plan, 1, Duration::from_millis(3));
        let text = metrics.render(&status());
        let plan = plan.short();
        for line in [
            "securedl_connections 3".to_owned(),
            "securedl_memory_declared_bytes 77".to_owned(),
            "securedl_refusals_total{code=\"busy\"} 1".to_owned(),
            "securedl_refusals_total{code=\"internal\"} 0".to_owned(),
            "securedl_requests_total{kind=\"evaluate\",outcome=\"evaluated\"} 1".to_owned(),
            format!(
                "securedl_payload_bytes_total{{direction=\"in\",plan=\"{plan}\",segment=\"1\"}} 1000"
            ),
            format!(
                "securedl_request_seconds_bucket{{phase=\"upload\",plan=\"{plan}\",segment=\"1\",\
                 le=\"0.005\"}} 1"
            ),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.contains("# TYPE securedl_request_seconds histogram"), "{text}");
        assert!(!text.contains("verdict"));
    }

    #[test]
    fn plans_without_end_do_not_make_series_without_end() {
        let metrics = Metrics::new();
        for number in 0..10_000_u32 {
            let mut plan = Digest([0; 32]);
            plan.0[..4].copy_from_slice(&number.to_le_bytes());
            metrics.payload(Direction::Out, &plan, 0, 1);
        }
        let text = metrics.render(&status());
        let series =
            text.lines().filter(|l| l.starts_with("securedl_payload_bytes_total{")).count();
        assert_eq!(series, MAX_SEGMENTS + 1);
        let rest = 10_000 - MAX_SEGMENTS;
        assert!(text.contains(&format!("plan=\"other\",segment=\"other\"}} {rest}")), "{text}");
    }
}
