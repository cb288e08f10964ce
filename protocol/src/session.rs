//! One encrypted batch, as a state machine without I/O.
//!
//! ```text
//!  BatchSession (segment k) ── prepare(block) ──► PreparedBlock ──► transport
//!        │  ▲                                                          │
//!        │  └── Round::Continue ◄── finish_round ◄── OpenedBlock ◄── open(reply)
//!        └────► Round::Finished(BatchResult) | Round::Rejected(Verdict)
//! ```
//!
//! A round is one stage on all blocks of a batch: one segment or, for a chain whose values are known by
//! several residues, one for each. Blocks are prepared and opened in any order and
//! on any thread; the verdict is taken once per round, after every block has been opened, and decides
//! alone whether the session goes on. What the client sends depends only on public counts and on
//! those verdicts: a failed block is opened like any other, clamps and wraps change nothing, and a
//! rejected session is consumed together with its keys.
//!
//! - **Linear segments**: every word of a reply is checked before anything of it is decrypted.
//! - **Segments with a square**: network canaries and random points in secret slots, redrawn for
//!   every block and every segment, are compared after decryption.
//!
//! Invariant: keys, errors, check rows and slot positions come from the operating system's generator
//! (or, in tests, from an injected one), never from a user's seed.

mod block;
mod encrypting;
mod error;
mod lane;
mod opening;
mod pieces;
mod residues;
pub(crate) mod secret;
mod setup;

pub use block::{OpenedBlock, PreparedBlock};
pub use encrypting::GrowingBlock;
pub use error::{Result, SessionError};
pub use lane::{IdleTimes, Lane, Turn};
pub use setup::{ClientPlan, SessionOptions};

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fingerprint::{Soundness, Verdict, WordCheckFinding, judge, judge_words};
use ndarray::{Array2, ArrayViewMut2, Axis, Slice, Zip};
use nn_poly::encrypted::{ClientTimes, SegmentKey};
use nn_poly::integer::{IntegerMatrix, ScoreMatrix};
use rand::{RngCore, SeedableRng, TryRngCore, rngs::OsRng};
use rand_chacha::ChaCha20Rng;
use zeroize::Zeroizing;

use block::BlockResult;
use error::INVARIANT;
use secret::{SecretRng, SecretValues};

/// A batch on its way through the network, waiting for the replies of one round.
pub struct BatchSession {
    plan: Arc<ClientPlan>,
    values: SecretValues,
    stage: usize,
    /// The stage's segments, and a key for each.
    segments: Range<usize>,
    keys: Vec<SegmentKey>,
    rng: Mutex<SecretRng>,
    /// Tells blocks of this session from those of another.
    id: u64,
    soundness: Soundness,
    out_of_calibration: Vec<bool>,
    tally: Tally,
}

/// Public counts and times of a batch so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    /// Rounds finished.
    pub rounds: u32,
    /// Blocks opened.
    pub blocks: u64,
    /// Payload and seed bytes of all requests.
    pub bytes_up: u64,
    /// Payload bytes of all replies.
    pub bytes_down: u64,
    /// Values that the clamp of a refresh changed.
    pub n_clamped: u64,
    /// Busy time of the client's phases.
    pub times: ClientTimes,
    /// Part of it that refreshes take: decrypting what comes out of every stage but the last, and
    /// encoding and encrypting what goes into every stage but the first. Word checks are not in it.
    pub refresh: Duration,
}

impl Tally {
    /// Adds the tally of another batch.
    pub fn add(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.blocks += other.blocks;
        self.bytes_up += other.bytes_up;
        self.bytes_down += other.bytes_down;
        self.n_clamped += other.n_clamped;
        self.times.add(&other.times);
        self.refresh += other.refresh;
    }
}

impl core::fmt::Debug for BatchSession {
    /// Counts only: values, keys and generators are secret.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("BatchSession")
            .field("stage", &self.stage)
            .field("n_samples", &self.n_samples())
            .finish_non_exhaustive()
    }
}

/// What a round ended with.
#[derive(Debug)]
pub enum Round {
    /// The round was intact; the next segment waits.
    Continue(Box<BatchSession>),
    /// The last round was intact.
    Finished(BatchResult),
    /// The verdict was not `Intact`; keys and values are gone.
    Rejected {
        /// What was found.
        verdict: Verdict,
        /// Counts up to here.
        tally: Tally,
    },
}

/// The result of an intact batch.
#[derive(Debug)]
pub struct BatchResult {
    /// One row per class, one column per sample.
    pub scores: ScoreMatrix,
    /// Per sample, whether a value left the range its segment expects.
    pub out_of_calibration: Vec<bool>,
    /// `Intact`, with what that is worth.
    pub verdict: Verdict,
    /// Counts and times.
    pub tally: Tally,
}

impl BatchSession {
    /// Starts a batch: `inputs` holds one row per input neuron, one column per sample, on the plan's
    /// input grid.
    ///
    /// # Errors
    /// - [`SessionError::EmptyBatch`] without samples.
    /// - [`SessionError::BatchShape`] when the number of rows is not the plan's.
    /// - [`SessionError::Network`] when a value lies outside the input grid.
    /// - [`SessionError::Randomness`] when the operating system gives no random bytes.
    pub fn new(plan: &Arc<ClientPlan>, inputs: IntegerMatrix) -> Result<Self> {
        let mut seed = Zeroizing::new(<ChaCha20Rng as SeedableRng>::Seed::default());
        OsRng.try_fill_bytes(seed.as_mut_slice()).map_err(|_| SessionError::Randomness)?;
        Self::with_generator(plan, inputs, ChaCha20Rng::from_seed(*seed))
    }

    /// As [`BatchSession::new`] with a given generator, for tests: same generator, same bytes.
    ///
    /// # Errors
    /// As [`BatchSession::new`].
    ///
    /// # Security
    /// Two batches from one state of a generator have the same keys, seeds and errors: a server that
    /// sees both learns the differences of their inputs.
    pub fn with_generator(
        plan: &Arc<ClientPlan>,
        inputs: IntegerMatrix,
        rng: ChaCha20Rng,
    ) -> Result<Self> {
        let mut rng = SecretRng::new(rng);
        let inputs = inputs.as_standard_layout().into_owned();
        let n_samples = inputs.ncols();
        let expected = plan.network().n_inputs();
        if n_samples == 0 {
            return Err(SessionError::EmptyBatch);
        }
        if inputs.nrows() != expected {
            return Err(SessionError::BatchShape { expected, actual: inputs.nrows() });
        }
        plan.check_inputs(&inputs)?;
        let soundness = plan.soundness(n_samples)?;
        let (segments, keys) = plan.generate_keys(0, &mut rng)?;
        Ok(Self {
            plan: Arc::clone(plan),
            values: SecretValues::new(inputs),
            id: rng.fork().next_u64(),
            stage: 0,
            segments,
            keys,
            rng: Mutex::new(rng),
            soundness,
            out_of_calibration: vec![false; n_samples],
            tally: Tally::default(),
        })
    }

    /// The stage whose values are awaited.
    #[must_use]
    pub fn stage(&self) -> usize {
        self.stage
    }

    /// The segment of block `block` of this round: those of one stage take turns.
    #[must_use]
    pub fn segment_of(&self, block: usize) -> usize {
        self.segments.start + block % self.n_residues()
    }

    /// Samples of the batch.
    #[must_use]
    pub fn n_samples(&self) -> usize {
        self.out_of_calibration.len()
    }

    /// Blocks of this round.
    #[must_use]
    pub fn n_blocks(&self) -> usize {
        self.n_samples().div_ceil(self.samples_per_block()) * self.n_residues()
    }

    /// Blocks that hold the same samples.
    fn n_residues(&self) -> usize {
        self.segments.len().max(1)
    }

    fn key_of(&self, segment: usize) -> Result<&SegmentKey> {
        self.keys.get(segment.wrapping_sub(self.segments.start)).ok_or(INVARIANT)
    }

    /// Counts up to the last finished round.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    fn samples_per_block(&self) -> usize {
        self.plan.segment(self.segments.start).map_or(1, setup::ClientSegment::samples_per_block)
    }

    fn sample_range(&self, block: usize) -> Range<usize> {
        let step = self.samples_per_block();
        let start = (block / self.n_residues() * step).min(self.n_samples());
        start..(start + step).min(self.n_samples())
    }

    /// A generator of its own for one block, so that blocks can be prepared in parallel.
    fn fork_generator(&self) -> SecretRng {
        let mut rng = self.rng.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        rng.fork()
    }

    /// Ends the round: one verdict over all blocks, which decides alone how it goes on.
    ///
    /// # Errors
    /// - [`SessionError::BlocksOfRound`] unless every block of the round was opened exactly once.
    /// - [`SessionError::Network`], [`SessionError::Fingerprint`] for broken invariants.
    pub fn finish_round(mut self, mut blocks: Vec<OpenedBlock>) -> Result<Round> {
        blocks.sort_by_key(|block| block.index);
        let complete = blocks.len() == self.n_blocks()
            && blocks.iter().enumerate().all(|(i, block)| {
                block.index == i && block.segment == self.segment_of(i) && block.session == self.id
            });
        if !complete {
            return Err(SessionError::BlocksOfRound {
                segment: self.segments.start,
                expected: self.n_blocks(),
                actual: blocks.len(),
            });
        }
        self.tally.rounds += 1;
        for block in &blocks {
            self.tally.blocks += 1;
            self.tally.bytes_up += block.bytes_up;
            self.tally.bytes_down += block.bytes_down;
            self.tally.times.add(&block.times);
            self.tally.refresh += self.refresh_time(&block.times);
        }
        let verdict = self.judge_round(&blocks)?;
        if !verdict.is_intact() {
            return Ok(Round::Rejected { verdict, tally: self.tally });
        }
        self.collect(blocks)
    }

    /// What of a block's time in this stage belongs to a refresh.
    fn refresh_time(&self, times: &ClientTimes) -> Duration {
        let is_last = self.stage + 1 >= self.plan.network().structure().len();
        let before = if self.stage == 0 { Duration::ZERO } else { times.encode + times.encrypt };
        before + if is_last { Duration::ZERO } else { times.decrypt }
    }

    fn judge_round(&self, blocks: &[OpenedBlock]) -> Result<Verdict> {
        let mut verdict = None;
        for number in self.segments.clone() {
            let of_segment = || blocks.iter().filter(move |block| block.segment == number);
            let segment = u32::try_from(number).unwrap_or(u32::MAX);
            let found = if self.plan.segment(number)?.context.is_linear() {
                let findings: Vec<WordCheckFinding> =
                    of_segment().map(OpenedBlock::finding).collect();
                judge_words(segment, &findings, &self.soundness)?
            } else {
                let observations: Vec<_> =
                    of_segment().filter_map(|block| block.observation.clone()).collect();
                judge(segment, &observations, &self.soundness)?
            };
            // The first finding counts; one prime's segment may be served wrong alone.
            if verdict.as_ref().is_none_or(Verdict::is_intact) {
                verdict = Some(found);
            }
        }
        verdict.ok_or(INVARIANT)
    }

    /// Puts the residues of blocks with the same samples together; other blocks stay as they are.
    fn results(&self, blocks: Vec<OpenedBlock>) -> Result<Vec<(Range<usize>, BlockResult)>> {
        let mut results = Vec::with_capacity(blocks.len());
        let mut residues = Vec::new();
        for block in blocks {
            let range = self.sample_range(block.index);
            if let BlockResult::Residues(part) = block.result {
                residues.push(part);
            } else {
                results.push((range.clone(), block.result));
            }
            if residues.len() == self.n_residues() {
                let parts = std::mem::take(&mut residues);
                results.push((range, residues::combine(&self.plan, self.stage, &parts)?));
            }
        }
        Ok(results)
    }

    /// Puts the blocks' columns together and moves to the next segment.
    fn collect(mut self, blocks: Vec<OpenedBlock>) -> Result<Round> {
        let n_samples = self.n_samples();
        let mut values: Option<IntegerMatrix> = None;
        let mut scores: Option<ScoreMatrix> = None;
        for (range, result) in self.results(blocks)? {
            let columns = Slice::from(range.clone());
            let flags = match result {
                BlockResult::Refreshed(refreshed) => {
                    self.tally.n_clamped += refreshed.n_clamped;
                    let shape = (refreshed.values.nrows(), n_samples);
                    let values = values.get_or_insert_with(|| IntegerMatrix::zeros(shape));
                    assign(values.slice_axis_mut(Axis(1), columns), &refreshed.values);
                    refreshed.out_of_range
                }
                BlockResult::Scores(block) => {
                    let shape = (block.scores.nrows(), n_samples);
                    let scores = scores.get_or_insert_with(|| ScoreMatrix::zeros(shape));
                    assign(scores.slice_axis_mut(Axis(1), columns), &block.scores);
                    block.out_of_range
                }
                BlockResult::Unopened(_) | BlockResult::Residues(_) => return Err(INVARIANT),
            };
            let marks = self.out_of_calibration.get_mut(range).unwrap_or_default();
            marks.iter_mut().zip(flags).for_each(|(mark, flag)| *mark |= flag);
        }
        if let Some(scores) = scores {
            return Ok(Round::Finished(BatchResult {
                scores,
                out_of_calibration: self.out_of_calibration,
                verdict: Verdict::Intact { soundness: self.soundness },
                tally: self.tally,
            }));
        }
        self.values.push(values.ok_or(INVARIANT)?);
        self.stage += 1;
        let later = self.plan.network().structure().get(self.stage..).unwrap_or_default();
        let read: HashSet<usize> =
            later.iter().flat_map(|stage| &stage.sources).map(encrypting::value_position).collect();
        self.values.keep(|position| read.contains(&position));
        let mut rng = self.fork_generator();
        (self.segments, self.keys) = self.plan.generate_keys(self.stage, &mut rng)?;
        Ok(Round::Continue(Box::new(self)))
    }
}

/// Copies row by row, in parallel: every page of a fresh matrix is touched here for the first time.
fn assign<A: Copy + Send + Sync>(mut target: ArrayViewMut2<'_, A>, source: &Array2<A>) {
    Zip::from(target.rows_mut())
        .and(source.rows())
        .par_for_each(|mut target, source| target.assign(&source));
}
