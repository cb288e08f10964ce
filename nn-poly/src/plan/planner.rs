//! The planner: which plans a network can have, what each costs, and which one serves a goal best.
//!
//! ```text
//!  IntegerNetwork ─► sides × batch sizes ─► per segment: candidates ─► picks ─► alternatives
//!                                            (ring, packing, range)      │         ranked by the
//!  CostSource: measured or stored ─► seconds of a block ─────────────────┘         objective
//! ```
//!
//! Segments cost independently of each other once side and batch size are fixed: bytes and times of
//! rounds add up, and memory is that of the largest. So the best plan of a side picks for every
//! segment the candidate that is best by itself; nothing is lost by not trying their products.
//!
//! Bytes and rounds are exact; seconds and memory are forecasts, see `docs/planner.md`.

mod cost;
mod memory;
mod reference;

pub use cost::{BlockSeconds, CostSource, Link, TimeForecast};
pub use reference::ReferenceRates;

use cost::{RoundCost, round_time};

use super::compile::{assemble, demands, finish};
use super::forecast::{batch_samples, of_batches, samples_per_block};
use super::{
    ActivationSide, Forecast, MAX_BATCH_SAMPLES, ModelFacts, Plan, PlanOptions, RangePolicy,
    RunSize, SEED_BYTES, Segment, Trust,
};
use crate::encrypted::parameters;
use crate::error::{Error, Result};
use crate::integer::{ActivationKind, IntegerNetwork, StageObservation, require};

/// What is to be small.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Objective {
    /// Seconds of a run from first to last, bytes where those are equal.
    #[default]
    Time,
    /// Payload bytes of both directions, then seconds.
    Bytes,
    /// Round trips of a run, then seconds.
    Rounds,
}

/// What a plan is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlanGoal {
    /// What is to be small.
    pub objective: Objective,
    /// What lies between client and server.
    pub link: Link,
    /// How many times as fast the server computes as the machine whose costs are known.
    pub server_speed: f64,
    /// Memory that client and server may each take for a run, bytes.
    pub memory_bytes: Option<u64>,
    /// Round trips that one batch may take.
    pub max_rounds: Option<u32>,
    /// Which ranges the plan may rest on.
    pub ranges: RangePolicy,
    /// Who evaluates activations, if that is settled.
    pub activation_side: Option<ActivationSide>,
    /// Who may see intermediate values.
    pub trust: Trust,
    /// The run: its samples, and slots of blocks that carry none.
    pub size: RunSize,
}

impl PlanGoal {
    /// Least time over a link of 1 Gbit/s and a millisecond, proven ranges preferred, nothing else
    /// settled, no limits.
    #[must_use]
    pub const fn new(size: RunSize) -> Self {
        Self {
            objective: Objective::Time,
            link: Link::Network { bits_per_second: 1e9, round_trip_seconds: 1e-3 },
            server_speed: 1.0,
            memory_bytes: None,
            max_rounds: None,
            ranges: RangePolicy::PreferProven,
            activation_side: None,
            trust: Trust::Owner,
            size,
        }
    }

    fn check(&self) -> Result<()> {
        require("run", 0, "number of samples", self.size.n_samples, 1, 1 << 40)?;
        let mut figures = vec![("speed of the server", self.server_speed)];
        if let Link::Network { bits_per_second, round_trip_seconds } = self.link {
            figures.push(("bits per second of the link", bits_per_second));
            if !(round_trip_seconds.is_finite() && round_trip_seconds >= 0.0) {
                return Err(Error::InvalidSetting {
                    setting: "round trip of the link",
                    value: round_trip_seconds,
                    requirement: "finite and not negative, in seconds",
                });
            }
        }
        for (setting, value) in figures {
            if !(value.is_finite() && value > 0.0) {
                let requirement = "finite and positive";
                return Err(Error::InvalidSetting { setting, value, requirement });
            }
        }
        Ok(())
    }
}

/// A network to plan for. Several of them, such as one model in different bits, compete.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The network.
    pub network: &'a IntegerNetwork,
    /// What was seen on calibration data, as for [`super::compile()`].
    pub observed: &'a [StageObservation],
}

/// One plan a network can have, and what a run under it costs.
#[derive(Clone, Debug, PartialEq)]
pub struct Alternative {
    /// Which of the subjects, from 0.
    pub subject: usize,
    /// Who evaluates activations.
    pub activation_side: ActivationSide,
    /// Most samples of a batch.
    pub batch_samples: u64,
    /// Exact bytes and rounds of the whole run.
    pub forecast: Forecast,
    /// Forecast seconds of the whole run.
    pub time: TimeForecast,
    /// Forecast memory of the client, bytes: values of a batch, requests and replies in flight.
    pub client_memory_bytes: u64,
    /// Forecast memory of the server for this client's requests in flight, bytes.
    pub server_memory_bytes: u64,
    /// Whether one side takes more memory than the goal allows.
    pub exceeds_memory: bool,
    options: PlanOptions,
    segments: Vec<Segment>,
}

impl Alternative {
    /// Payload bytes of both directions, seeds included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.forecast.bytes_up.saturating_add(self.forecast.bytes_down)
    }

    /// The larger of both sides' memory.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.client_memory_bytes.max(self.server_memory_bytes)
    }

    /// Ring, packing and range of every segment.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The plan itself. `network` is that of the alternative's subject.
    ///
    /// # Errors
    /// - As for [`super::compile()`]; where it is another network, whatever does not fit.
    pub fn compile(&self, network: &IntegerNetwork, facts: ModelFacts) -> Result<Plan> {
        let security_bits = self.forecast.security_bits;
        finish(network, facts, &self.options, self.segments.clone(), security_bits)
    }

    /// What the objective compares, the smaller the better.
    #[expect(clippy::cast_precision_loss, reason = "ranks: bytes of a run are below 2^53")]
    fn rank(&self, objective: Objective) -> [f64; 3] {
        let (bytes, seconds) = (self.bytes() as f64, self.time.total);
        match objective {
            Objective::Time => [seconds, bytes, f64::from(self.forecast.rounds)],
            Objective::Bytes => [bytes, seconds, f64::from(self.forecast.rounds)],
            Objective::Rounds => [f64::from(self.forecast.rounds), seconds, bytes],
        }
    }
}

/// Enumerates the plans of the subjects and ranks them by the goal's objective: the first one is the
/// planner's choice. Those that take too much memory come last.
///
/// Candidates are: the side of the activations (both, where the network and the goal leave it open);
/// per segment the parameters of [`parameters::candidates`], with the ranges the goal allows; batches
/// of the whole run or, as long as memory does not suffice, of half the samples. A segment is a
/// stage, so a batch takes as many round trips as the network has stages.
///
/// Cost: some milliseconds per segment and side, and what `costs` takes to measure.
///
/// # Errors
/// - [`Error::InvalidSetting`], [`Error::OutOfRange`] for a goal that makes no sense.
/// - [`Error::RoundLimit`] if no network gets by with so few rounds.
/// - [`Error::MemoryLimit`] if no plan keeps within the memory.
/// - [`Error::ReluAtServer`], [`Error::NoSegmentParameters`] if no side has parameters.
/// - Those of `costs`.
pub fn search(
    subjects: &[Subject<'_>],
    goal: &PlanGoal,
    costs: &mut dyn CostSource,
) -> Result<Vec<Alternative>> {
    goal.check()?;
    let mut found = Vec::new();
    let mut refused = None;
    let mut fewest_rounds = u32::MAX;
    for (number, subject) in subjects.iter().enumerate() {
        let rounds = u32::try_from(subject.network.structure().len()).unwrap_or(u32::MAX);
        fewest_rounds = fewest_rounds.min(rounds);
        if goal.max_rounds.is_some_and(|most| rounds > most) {
            continue;
        }
        for side in sides(subject.network, goal.activation_side) {
            let search = SideSearch { number, subject, goal, side };
            match search.alternatives(costs) {
                Ok(alternatives) => found.extend(alternatives),
                Err(error @ (Error::NoSegmentParameters { .. } | Error::ReluAtServer { .. })) => {
                    refused = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
    }
    rank(&mut found, goal.objective);
    match found.first() {
        None => Err(refused.unwrap_or(Error::RoundLimit {
            needed: fewest_rounds,
            allowed: goal.max_rounds.unwrap_or(0),
        })),
        Some(best) if best.exceeds_memory => Err(Error::MemoryLimit {
            needed: found.iter().map(Alternative::memory_bytes).min().unwrap_or(0),
            allowed: goal.memory_bytes.unwrap_or(0),
        }),
        Some(_) => Ok(found),
    }
}

/// What a run under a finished plan costs, as an alternative.
///
/// Side, trust, ranges and batches are the plan's; the goal says the size of the run, the link, and
/// the memory.
///
/// # Errors
/// - [`Error::InvalidSetting`], [`Error::OutOfRange`] for a goal that makes no sense.
/// - Those of `costs`.
pub fn assess(plan: &Plan, goal: &PlanGoal, costs: &mut dyn CostSource) -> Result<Alternative> {
    goal.check()?;
    let public = plan.public();
    let subject = Subject { network: plan.network(), observed: &[] };
    let side = public.activation_side;
    let search = SideSearch { number: 0, subject: &subject, goal, side };
    let batch = public.expected_samples;
    let mut chosen = Vec::with_capacity(public.segments.len());
    for (idx, segment) in public.segments.iter().enumerate() {
        let mut costed = search.weighed(idx, segment.clone(), public.security_bits, batch)?;
        costed.seconds = search.block_seconds(segment, costs)?;
        chosen.push(costed);
    }
    search.alternative(batch, &chosen.iter().collect::<Vec<_>>(), costs)
}

fn rank(found: &mut [Alternative], objective: Objective) {
    found.sort_by(|a, b| {
        let by_rank = || {
            let (a, b) = (a.rank(objective), b.rank(objective));
            a.iter().zip(&b).map(|(a, b)| a.total_cmp(b)).find(|order| order.is_ne())
        };
        let by_memory = a.exceeds_memory.cmp(&b.exceeds_memory);
        by_memory.then_with(|| by_rank().unwrap_or(std::cmp::Ordering::Equal))
    });
}

/// The sides that may evaluate the activations of a network.
fn sides(network: &IntegerNetwork, settled: Option<ActivationSide>) -> Vec<ActivationSide> {
    let has = |kind| network.structure().iter().any(|stage| stage.activation == kind);
    match settled {
        Some(side) => vec![side],
        None if has(ActivationKind::Relu) => vec![ActivationSide::Client],
        None if has(ActivationKind::Quadratic) => {
            vec![ActivationSide::Server, ActivationSide::Client]
        }
        // Nothing to evaluate: both sides give the same segments.
        None => vec![ActivationSide::Server],
    }
}

/// Bytes of one request, its seed included.
fn bytes_up(segment: &Segment) -> u64 {
    segment.request_bytes() + SEED_BYTES
}

/// One candidate of one segment with its cost in a batch.
#[derive(Clone)]
struct Costed {
    segment: Segment,
    security_bits: u32,
    seconds: BlockSeconds,
    time: f64,
    bytes: u64,
    client_memory: u64,
    server_memory: u64,
}

/// By what a segment's candidate is picked.
#[derive(Clone, Copy)]
enum Pick {
    Time,
    Bytes,
    Memory,
}

impl Pick {
    const ALL: [Self; 3] = [Self::Time, Self::Bytes, Self::Memory];

    #[expect(clippy::cast_precision_loss, reason = "ranks: bytes of a run are below 2^53")]
    fn rank(self, costed: &Costed) -> (f64, f64) {
        let memory = costed.client_memory.max(costed.server_memory) as f64;
        match self {
            Self::Time => (costed.time, costed.bytes as f64),
            Self::Bytes => (costed.bytes as f64, costed.time),
            Self::Memory => (memory, costed.time),
        }
    }

    fn best(self, candidates: &[Costed]) -> Option<&Costed> {
        candidates.iter().min_by(|a, b| {
            let (a, b) = (self.rank(a), self.rank(b));
            a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
        })
    }
}

/// The plans of one subject with activations at one side.
struct SideSearch<'a> {
    number: usize,
    subject: &'a Subject<'a>,
    goal: &'a PlanGoal,
    side: ActivationSide,
}

impl SideSearch<'_> {
    /// Alternatives with the largest batches that fit the memory; if none do, those of single samples,
    /// marked.
    fn alternatives(&self, costs: &mut dyn CostSource) -> Result<Vec<Alternative>> {
        let mut batch = self.goal.size.n_samples.min(MAX_BATCH_SAMPLES);
        loop {
            let mut stages = Vec::new();
            let mut is_fitting = true;
            for idx in 0..self.subject.network.structure().len() {
                let mut candidates = self.candidates(idx, batch)?;
                let fits = |costed: &Costed| self.fits(costed);
                if candidates.iter().any(fits) {
                    candidates.retain(fits);
                } else {
                    is_fitting = false;
                }
                stages.push(candidates);
            }
            if is_fitting || batch == 1 {
                let found = self.picks(batch, stages, costs)?;
                // Batches are cut at whole blocks, so they may be larger than what was tried.
                if batch == 1 || found.iter().any(|alternative| !alternative.exceeds_memory) {
                    return Ok(found);
                }
            }
            batch = batch.div_ceil(2);
        }
    }

    fn fits(&self, costed: &Costed) -> bool {
        let most = self.goal.memory_bytes.unwrap_or(u64::MAX);
        costed.client_memory <= most && costed.server_memory <= most
    }

    /// The candidates of one segment, with memory and bytes but no times yet.
    fn candidates(&self, idx: usize, batch: u64) -> Result<Vec<Costed>> {
        let Subject { network, observed } = *self.subject;
        let options = self.options(batch);
        let mut found = Vec::new();
        let mut refused = None;
        for demand in demands(network, idx, observed.get(idx), &options)? {
            match parameters::candidates(&demand) {
                Ok(candidates) => {
                    for chosen in candidates {
                        let (segment, security_bits) = assemble(network, idx, &demand, chosen)?;
                        found.push(self.weighed(idx, segment, security_bits, batch)?);
                    }
                }
                Err(error) => {
                    let (evidence, cause) = (demand.evidence, Box::new(error));
                    refused = Some(Error::NoSegmentParameters { segment: idx, evidence, cause });
                }
            }
            if !found.is_empty() && self.goal.ranges != RangePolicy::Cheapest {
                break;
            }
        }
        match refused {
            Some(error) if found.is_empty() => Err(error),
            _ => Ok(found),
        }
    }

    fn weighed(
        &self,
        idx: usize,
        segment: Segment,
        security_bits: u32,
        batch: u64,
    ) -> Result<Costed> {
        let network = self.subject.network;
        let blocks = batch.div_ceil(samples_per_block(idx, &segment, &self.goal.size)?);
        let samples = batch.min(self.goal.size.n_samples);
        Ok(Costed {
            bytes: blocks.saturating_mul(bytes_up(&segment) + segment.reply_bytes()),
            client_memory: memory::client_bytes(network, idx, &segment, samples, blocks)?,
            server_memory: memory::server_bytes(network, &segment, blocks)?,
            segment,
            security_bits,
            seconds: BlockSeconds::default(),
            time: 0.0,
        })
    }

    /// The alternatives that the picks make, without repetitions.
    fn picks(
        &self,
        batch: u64,
        mut stages: Vec<Vec<Costed>>,
        costs: &mut dyn CostSource,
    ) -> Result<Vec<Alternative>> {
        for (idx, candidates) in stages.iter_mut().enumerate() {
            for costed in candidates {
                costed.seconds = self.block_seconds(&costed.segment, costs)?;
                costed.time = self.round(idx, costed, batch, costs)?.total;
            }
        }
        let mut found: Vec<Alternative> = Vec::new();
        for pick in Pick::ALL {
            let chosen: Option<Vec<&Costed>> =
                stages.iter().map(|candidates| pick.best(candidates)).collect();
            let Some(chosen) = chosen else { continue };
            let alternative = self.alternative(batch, &chosen, costs)?;
            if found.iter().all(|other| other.segments != alternative.segments) {
                found.push(alternative);
            }
        }
        Ok(found)
    }

    fn block_seconds(&self, segment: &Segment, costs: &mut dyn CostSource) -> Result<BlockSeconds> {
        let seconds = costs.block_seconds(self.subject.network, segment)?;
        let faster = self.goal.server_speed;
        Ok(BlockSeconds {
            receive: seconds.receive / faster,
            evaluate: seconds.evaluate / faster,
            ..seconds
        })
    }

    /// One round of `n_samples` samples.
    fn round(
        &self,
        idx: usize,
        costed: &Costed,
        n_samples: u64,
        costs: &mut dyn CostSource,
    ) -> Result<TimeForecast> {
        let segment = &costed.segment;
        let round = RoundCost {
            blocks: n_samples.div_ceil(samples_per_block(idx, segment, &self.goal.size)?),
            seconds: costed.seconds,
            bytes_up: bytes_up(segment),
            bytes_down: segment.reply_bytes(),
            is_linear: !segment.evaluates_activation,
        };
        Ok(round_time(&round, self.goal.link, costs.seconds_per_byte()))
    }

    #[expect(clippy::cast_precision_loss, reason = "a forecast of seconds")]
    fn alternative(
        &self,
        batch: u64,
        chosen: &[&Costed],
        costs: &mut dyn CostSource,
    ) -> Result<Alternative> {
        let segments: Vec<Segment> = chosen.iter().map(|costed| costed.segment.clone()).collect();
        let size = &self.goal.size;
        let mut smallest = MAX_BATCH_SAMPLES;
        for (idx, segment) in segments.iter().enumerate() {
            smallest = smallest.min(samples_per_block(idx, segment, size)?);
        }
        let per_batch = batch_samples(batch, smallest);
        let security = chosen.iter().map(|costed| costed.security_bits).min().unwrap_or(0);
        let mut time = TimeForecast::default();
        let (full, rest) = (size.n_samples / per_batch, size.n_samples % per_batch);
        for (idx, costed) in chosen.iter().enumerate() {
            if full > 0 {
                time.add(&self.round(idx, costed, per_batch, costs)?, full as f64);
            }
            if rest > 0 {
                time.add(&self.round(idx, costed, rest, costs)?, 1.0);
            }
        }
        let (mut client_memory_bytes, mut server_memory_bytes) = (0, 0);
        for (idx, costed) in chosen.iter().enumerate() {
            let samples = per_batch.min(size.n_samples);
            let costed = self.weighed(idx, costed.segment.clone(), security, samples)?;
            client_memory_bytes = client_memory_bytes.max(costed.client_memory);
            server_memory_bytes = server_memory_bytes.max(costed.server_memory);
        }
        let most = self.goal.memory_bytes.unwrap_or(u64::MAX);
        Ok(Alternative {
            subject: self.number,
            activation_side: self.side,
            batch_samples: per_batch,
            forecast: of_batches(&segments, self.side, security, size, per_batch)?,
            time,
            client_memory_bytes,
            server_memory_bytes,
            exceeds_memory: client_memory_bytes.max(server_memory_bytes) > most,
            options: self.options(batch),
            segments,
        })
    }

    fn options(&self, batch: u64) -> PlanOptions {
        PlanOptions {
            activation_side: self.side,
            trust: self.goal.trust,
            expected_samples: batch,
            ranges: self.goal.ranges,
        }
    }
}
