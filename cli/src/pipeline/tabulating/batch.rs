//! One encrypted batch, measured and checked.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use nn_poly::integer::ScoreMatrix;
use nn_poly::plan::{Evidence, Forecast, Plan, forecast_run};
use serde::{Deserialize, Serialize};

use super::{Measured, Mode, Subject};
use crate::pipeline::inference::{self, Run, RunSettings};
use crate::pipeline::keeping::Kept;
use crate::report::figures::median;
use crate::report::machine::Machine;
use crate::report::predictions::Predictions;
use crate::report::{memory, process, units};

/// What one batch took. Every run behind it was intact, its scores were those of the integer network,
/// and its bytes those of the forecast.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BatchRecord {
    format: u32,
    version: String,
    machine: String,
    /// Architecture.
    pub(crate) network: String,
    /// Data set.
    pub(crate) data: String,
    /// Who evaluates activations, or `non-interactive`.
    pub(crate) mode: String,
    /// Bits of inputs/weights/activations.
    pub(crate) bits: String,
    /// Samples of the batch.
    pub(crate) samples: u64,
    /// Test accuracy of the network before any rounding.
    pub(crate) float_accuracy: f64,
    /// Share of the batch that is classified right.
    pub(crate) accuracy: f64,
    /// Round trips of all batches the client made of it.
    pub(crate) rounds: u32,
    /// Those batches.
    pub(crate) batches: u64,
    /// Most plaintext moduli of a stage.
    pub(crate) residues: u32,
    /// Largest ring degree.
    pub(crate) ring_degree: u32,
    /// Most bits of a ciphertext modulus.
    pub(crate) modulus_bits: f64,
    /// Whether every range is proven.
    pub(crate) proven: bool,
    /// Wall time of each run, client and server on one machine.
    pub(crate) runs: Vec<f64>,
    /// Time that refreshes take at the client: busy time over threads, median.
    pub(crate) refresh_seconds: f64,
    /// All work of the client, likewise.
    pub(crate) client_seconds: f64,
    /// The server's work, likewise.
    pub(crate) server_seconds: f64,
    /// Payload bytes of requests, seeds included.
    pub(crate) bytes_up: u64,
    /// Payload bytes of replies.
    pub(crate) bytes_down: u64,
    /// What the plan says about both together, before any key exists.
    pub(crate) forecast_bytes: u64,
    /// Most memory of client and server together.
    pub(crate) peak_memory_bytes: Option<u64>,
}

impl Kept for BatchRecord {
    const FORMAT: u32 = 1;
    const WHAT: &'static str = "record of a batch";

    fn origin(&self) -> (u32, &str) {
        (self.format, &self.version)
    }
}

impl Measured for BatchRecord {
    fn machine(&self) -> &str {
        &self.machine
    }
}

impl BatchRecord {
    /// Wall time, median.
    pub(crate) fn seconds(&self) -> f64 {
        median(&mut self.runs.clone())
    }

    /// Payload bytes of both directions.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes_up + self.bytes_down
    }

    /// Messages between client and server that only refreshes need: one reply and one request for every
    /// round but the first of a batch.
    pub(crate) fn refresh_messages(&self) -> u64 {
        2 * u64::from(self.rounds).saturating_sub(self.batches)
    }
}

/// Busy times of one run over the threads.
struct Shares {
    refresh: f64,
    client: f64,
    server: f64,
}

impl Shares {
    fn of(run: &Run) -> Result<Self> {
        let costs = run.costs.as_ref().context("an encrypted run has costs")?;
        #[expect(clippy::cast_precision_loss, reason = "a few threads")]
        let threads = rayon::current_num_threads() as f64;
        let over_threads = |busy: Duration| micros(busy.as_secs_f64() / threads);
        let times = &costs.tally.times;
        Ok(Self {
            refresh: over_threads(costs.tally.refresh),
            client: over_threads(times.encode + times.encrypt + times.check + times.decrypt),
            server: over_threads(costs.evaluate),
        })
    }
}

impl Subject<'_> {
    /// Run a batch under `plan` as often as the scale says.
    pub(super) fn measure_plan(
        &self,
        plan: &Plan,
        mode: Mode,
        n_samples: u64,
    ) -> Result<BatchRecord> {
        let (features, labels) = self.batch(n_samples)?;
        let inputs = plan.public().quantize(&features)?;
        let settings = RunSettings::default();
        let expected = Expected {
            scores: plan.network().evaluate(&inputs)?.scores,
            forecast: forecast_run(
                plan.public(),
                &inference::run_size(n_samples, &settings.layout),
            )?,
        };
        let repeat = self.laboratory.scale.repeat.max(1);
        let name =
            format!("{} on {}, {mode}, {n_samples}", self.design.network(), self.design.data());
        let bar = self.laboratory.progress.bar(name.clone(), repeat as u64);
        let serving = inference::in_process(plan)?;
        let has_own_peak = process::forget_peak_memory();
        let (mut totals, mut shares, mut last) = (Vec::new(), Vec::new(), None);
        for _ in 0..repeat {
            let run = inference::run_alone(plan, &inputs, &serving, &settings);
            let run = self.laboratory.runtime.block_on(run)?;
            expected.check(&run)?;
            totals.push(micros(run.total.as_secs_f64()));
            shares.push(Shares::of(&run)?);
            last = Some(run);
            bar.advance(1);
        }
        bar.finish(name);
        let run = last.context("nothing was run")?;
        let peak_memory_bytes = memory::peak_bytes().filter(|_| has_own_peak);
        let of =
            |part: fn(&Shares) -> f64| median(&mut shares.iter().map(part).collect::<Vec<_>>());
        let tally = &run.costs.as_ref().context("an encrypted run has costs")?.tally;
        Ok(BatchRecord {
            accuracy: accuracy(&run, &labels),
            rounds: tally.rounds,
            bytes_up: tally.bytes_up,
            bytes_down: tally.bytes_down,
            batches: run.costs.as_ref().map_or(1, |costs| costs.n_batches) as u64,
            runs: totals,
            refresh_seconds: of(|s| s.refresh),
            client_seconds: of(|s| s.client),
            server_seconds: of(|s| s.server),
            peak_memory_bytes,
            ..self.description(plan, mode, &expected.forecast)
        })
    }

    /// What is known before the run.
    fn description(&self, plan: &Plan, mode: Mode, forecast: &Forecast) -> BatchRecord {
        let segments = &plan.public().segments;
        let of_stage =
            |stage: u32| segments.iter().filter(|segment| segment.stage == stage).count();
        let residues = segments.iter().map(|segment| of_stage(segment.stage)).max();
        let bits = segments.iter().map(|segment| segment.ring.log2_ciphertext_modulus());
        BatchRecord {
            format: BatchRecord::FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            machine: Machine::here().summary(),
            network: self.design.network(),
            data: self.design.data().to_owned(),
            mode: mode.to_string(),
            bits: self.bits(mode).to_string(),
            samples: forecast.n_samples,
            float_accuracy: self.float_accuracy(),
            residues: residues.and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
            ring_degree: segments.iter().map(|s| s.ring.ring_degree).max().unwrap_or_default(),
            modulus_bits: bits.fold(0.0, f64::max),
            proven: segments.iter().all(|s| s.range.evidence == Evidence::Proven),
            forecast_bytes: forecast.bytes_up + forecast.bytes_down,
            ..BatchRecord::default()
        }
    }
}

/// Seconds in whole microseconds: what is kept in a file reads back as the same figure.
fn micros(seconds: f64) -> f64 {
    (1e6 * seconds).round() / 1e6
}

/// What every run must come to.
struct Expected {
    scores: ScoreMatrix,
    forecast: Forecast,
}

impl Expected {
    fn check(&self, run: &Run) -> Result<()> {
        let Some(released) = &run.scores else {
            bail!("a server in this process is found {}; please report it", run.verdict.name());
        };
        if !run.verdict.is_intact() {
            bail!("a run that released scores is found {}", run.verdict.name());
        }
        if released.scores != self.scores {
            bail!("the encrypted scores are not those of the integer network; please report it");
        }
        let tally = &run.costs.as_ref().context("an encrypted run has costs")?.tally;
        let moved = (tally.bytes_up, tally.bytes_down);
        let forecast = (self.forecast.bytes_up, self.forecast.bytes_down);
        if moved != forecast {
            bail!("the run moved {moved:?} bytes up and down, its forecast was {forecast:?}");
        }
        Ok(())
    }
}

fn accuracy(run: &Run, labels: &[u32]) -> f64 {
    let Some(scores) = &run.scores else { return 0.0 };
    let predictions = Predictions {
        scores: &scores.scores,
        out_of_calibration: &scores.out_of_calibration,
        labels: Some(labels),
    };
    units::share(predictions.n_correct().unwrap_or(0), run.n_samples)
}
