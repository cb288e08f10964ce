//! The search with activations at one side.

use super::alternative::{Alternative, best_of_each_kind};
use super::candidate::{CostedSegment, Pick, bytes_up};
use super::cost::{RoundCost, round_time};
use super::{BlockSeconds, CostSource, Link, PlanGoal, Subject, TimeForecast, memory};
use crate::encrypted::parameters;
use crate::error::{Error, Result};
use crate::integer::Refresher;
use crate::plan::chained::plan_chain;
use crate::plan::check::arrivals;
use crate::plan::compile::{assemble, demands};
use crate::plan::forecast::{of_batches, samples_per_batch, samples_per_block};
use crate::plan::{
    ActivationSide, MAX_BATCH_SAMPLES, PlanOptions, RangePolicy, Relinearization, Segment,
};

/// Batches tried beyond the largest that fits, each half of the one before: fewer blocks in flight
/// leave room for larger ones.
const MAX_SMALLER_BATCHES: u32 = 2;

/// How many candidates of a batch size keep within the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// None of some segment.
    Not,
    /// At least one of every segment.
    Some,
    /// All of them.
    All,
}

/// The plans of one subject with activations at one side.
pub(super) struct SideSearch<'a> {
    /// Which of the subjects, from 0.
    pub(super) number: usize,
    pub(super) subject: &'a Subject<'a>,
    pub(super) goal: &'a PlanGoal,
    pub(super) side: ActivationSide,
    pub(super) relinearization: Relinearization,
}

impl SideSearch<'_> {
    /// The best alternatives with the largest batches that fit the memory and, where it excluded
    /// candidates even so, with the next smaller ones; if none fit, those of single samples, marked.
    pub(super) fn alternatives(&self, costs: &mut dyn CostSource) -> Result<Vec<Alternative>> {
        let mut batch = self.goal.size.n_samples.min(MAX_BATCH_SAMPLES);
        let mut found = Vec::new();
        let mut n_smaller = 0;
        loop {
            let (stages, fit) = self.stages(batch)?;
            // Batches are cut at whole blocks, so they may be larger than what was tried.
            let tried = if fit == Fit::Not && batch > 1 {
                Vec::new()
            } else {
                self.picks(batch, stages, costs)?
            };
            let is_served = !found.is_empty() || tried.iter().any(|plan| !plan.exceeds_memory);
            if is_served || batch == 1 {
                found.extend(tried);
            }
            if batch == 1 || is_served && (fit == Fit::All || n_smaller == MAX_SMALLER_BATCHES) {
                return Ok(best_of_each_kind(&found));
            }
            n_smaller += u32::from(is_served);
            batch = batch.div_ceil(2);
        }
    }

    /// The candidates of every segment that fit the memory, or all of a segment of which none does.
    fn stages(&self, batch: u64) -> Result<(Vec<Vec<CostedSegment>>, Fit)> {
        let mut fit = Fit::All;
        let mut stages = Vec::new();
        for (idx, stage) in self.subject.network.structure().iter().enumerate() {
            if stage.chain.is_some() {
                // What is chosen for one residue is chosen for all.
                for costed in self.residues(idx, batch)? {
                    fit = if self.fits(&costed) { fit } else { Fit::Not };
                    stages.push(vec![costed]);
                }
                continue;
            }
            let mut candidates = self.candidates(idx, batch)?;
            let n_fitting = candidates.iter().filter(|costed| self.fits(costed)).count();
            if n_fitting == 0 {
                fit = Fit::Not;
            } else if n_fitting < candidates.len() {
                candidates.retain(|costed| self.fits(costed));
                fit = fit.min(Fit::Some);
            }
            stages.push(candidates);
        }
        Ok((stages, fit))
    }

    fn fits(&self, costed: &CostedSegment) -> bool {
        let most = self.goal.memory_bytes.unwrap_or(u64::MAX);
        costed.client_memory <= most && costed.server_memory <= most
    }

    /// The segments of a stage with a chain.
    fn residues(&self, idx: usize, batch: u64) -> Result<Vec<CostedSegment>> {
        let Subject { network, observed } = *self.subject;
        let (segments, security_bits) =
            plan_chain(network, idx, observed.get(idx), &self.options(batch))?;
        let (stage, weights) = network.stage(idx)?;
        let arrivals = arrivals(stage, &segments)?;
        Refresher::check(idx, stage, weights.quadratic.as_ref(), arrivals)?;
        segments.into_iter().map(|segment| self.weighed(segment, security_bits, batch)).collect()
    }

    /// The candidates of one segment, with memory and bytes but no times yet.
    fn candidates(&self, idx: usize, batch: u64) -> Result<Vec<CostedSegment>> {
        let Subject { network, observed } = *self.subject;
        let options = self.options(batch);
        let mut found = Vec::new();
        let mut refused = None;
        for demand in demands(network, idx, observed.get(idx), &options)? {
            match parameters::candidates(&demand) {
                Ok(candidates) => {
                    for chosen in candidates {
                        let (segment, security_bits) = assemble(network, idx, &demand, chosen)?;
                        let (stage, weights) = network.stage(idx)?;
                        let quadratic = weights.quadratic.as_ref();
                        let arrivals = arrivals(stage, std::slice::from_ref(&segment))?;
                        match Refresher::check(idx, stage, quadratic, arrivals) {
                            Ok(_) => found.push(self.weighed(segment, security_bits, batch)?),
                            Err(error) => refused = Some(error),
                        }
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

    pub(super) fn weighed(
        &self,
        segment: Segment,
        security_bits: u32,
        batch: u64,
    ) -> Result<CostedSegment> {
        let (network, idx) = (self.subject.network, segment.stage as usize);
        let blocks = batch.div_ceil(samples_per_block(idx, &segment, &self.goal.size)?);
        let samples = batch.min(self.goal.size.n_samples);
        Ok(CostedSegment {
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
        mut stages: Vec<Vec<CostedSegment>>,
        costs: &mut dyn CostSource,
    ) -> Result<Vec<Alternative>> {
        for costed in stages.iter_mut().flatten() {
            costed.seconds = self.block_seconds(&costed.segment, costs)?;
            costed.time = self.round(costed, batch, costs)?.total;
        }
        let mut found: Vec<Alternative> = Vec::new();
        for pick in Pick::ALL {
            let chosen: Option<Vec<&CostedSegment>> =
                stages.iter().map(|candidates| pick.best(candidates)).collect();
            let Some(chosen) = chosen else { continue };
            let alternative = self.alternative(batch, &chosen, costs)?;
            if found.iter().all(|other| other.segments != alternative.segments) {
                found.push(alternative);
            }
        }
        Ok(found)
    }

    pub(super) fn block_seconds(
        &self,
        segment: &Segment,
        costs: &mut dyn CostSource,
    ) -> Result<BlockSeconds> {
        let seconds = costs.block_seconds(self.subject.network, segment)?;
        let faster = self.goal.server_speed;
        Ok(BlockSeconds {
            receive: seconds.receive / faster,
            evaluate: seconds.evaluate / faster,
            ..seconds
        })
    }

    /// One round of `n_samples` samples.
    #[expect(clippy::cast_precision_loss, reason = "a forecast of seconds")]
    fn round(
        &self,
        costed: &CostedSegment,
        n_samples: u64,
        costs: &mut dyn CostSource,
    ) -> Result<TimeForecast> {
        let (segment, network) = (&costed.segment, self.subject.network);
        let idx = segment.stage as usize;
        let blocks = n_samples.div_ceil(samples_per_block(idx, segment, &self.goal.size)?);
        let of_client = memory::new_client_bytes(network, idx, segment, n_samples, blocks)?;
        let of_server = memory::server_bytes(network, segment, blocks)?;
        let each = costs.byte_seconds()?;
        let round = RoundCost {
            blocks,
            seconds: costed.seconds,
            bytes_up: bytes_up(segment),
            bytes_down: segment.reply_bytes(),
            is_linear: segment.n_squares() == 0,
            client_memory: of_client as f64 * each.memory,
            server_memory: of_server as f64 * each.memory / self.goal.server_speed,
        };
        let link = match self.goal.link {
            // Residues travel in one round: only the first one waits for a round trip.
            Link::Network { bits_per_second, .. } if !segment.begins_round() => {
                Link::Network { bits_per_second, round_trip_seconds: 0.0 }
            }
            link @ (Link::SameMachine | Link::Network { .. }) => link,
        };
        Ok(round_time(&round, link, each.payload))
    }

    #[expect(clippy::cast_precision_loss, reason = "a forecast of seconds")]
    pub(super) fn alternative(
        &self,
        batch: u64,
        chosen: &[&CostedSegment],
        costs: &mut dyn CostSource,
    ) -> Result<Alternative> {
        let segments: Vec<Segment> = chosen.iter().map(|costed| costed.segment.clone()).collect();
        let size = &self.goal.size;
        let per_batch = samples_per_batch(&segments, batch, size)?;
        let security = chosen.iter().map(|costed| costed.security_bits).min().unwrap_or(0);
        let mut time = TimeForecast::default();
        let (full, rest) = (size.n_samples / per_batch, size.n_samples % per_batch);
        for costed in chosen {
            if full > 0 {
                time.add(&self.round(costed, per_batch, costs)?, full as f64);
            }
            if rest > 0 {
                time.add(&self.round(costed, rest, costs)?, 1.0);
            }
        }
        let (mut client_memory_bytes, mut server_memory_bytes) = (0, 0);
        for costed in chosen {
            let samples = per_batch.min(size.n_samples);
            let costed = self.weighed(costed.segment.clone(), security, samples)?;
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
            relinearization: self.relinearization,
        }
    }
}
