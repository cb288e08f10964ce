//! One block on its way through all stages, as a state machine without I/O.

use std::sync::Arc;

use bytes::Bytes;
use fingerprint::SlotLayout;
use nn_poly::encrypted::masked::{MaskToken, RequestHash, StageKeys};
use nn_poly::encrypted::{self, ClientTimes};
use nn_poly::integer::{IntegerMatrix, ScoreMatrix, ValueRef};
use rand::{Rng, SeedableRng, TryRngCore, rngs::OsRng};
use rand_chacha::ChaCha20Rng;
use zeroize::{Zeroize, Zeroizing};

use super::plan::MaskedPlan;
use crate::client::PreparedRequest;
use crate::identifiers::RequestId;
use crate::message::EvaluateHeader;
use crate::session::secret::SecretRng;
use crate::session::{Result, SessionError};
use crate::transcript::ReplyShape;

/// What only a mistake in this crate can cause.
const INVARIANT: SessionError =
    SessionError::Internal { what: "values of an earlier masked round are missing" };

/// One block of samples, waiting to be sent or for a reply.
pub struct MaskedSession {
    plan: Arc<MaskedPlan>,
    rng: SecretRng,
    layout: SlotLayout,
    /// Canaries of the pack, by the layout's numbers.
    canaries: Vec<usize>,
    /// Every slot's network inputs, row after row; wiped on drop.
    inputs: Inputs,
    n_samples: usize,
    rounds: Vec<Opened>,
    awaited: Option<Awaited>,
    times: ClientTimes,
}

struct Inputs(Vec<i32>);

impl Drop for Inputs {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// What a finished round left: masked values, and the name of their masks.
struct Opened {
    values: Zeroizing<Vec<i128>>,
    token: MaskToken,
}

/// What is kept of a request until its reply comes.
struct Awaited {
    keys: StageKeys,
    hash: RequestHash,
}

/// What opening a reply ends in.
#[derive(Debug)]
pub enum MaskedRound {
    /// The next stage's request may be prepared.
    Continue,
    /// That was the last stage.
    Finished(BlockOutcome),
}

/// The result of a block, not to be used before all blocks have been judged.
#[derive(Debug)]
pub struct BlockOutcome {
    /// One row per class, one column per sample.
    pub scores: ScoreMatrix,
    /// Canaries of the block.
    pub n_canaries: u64,
    /// Canaries with scores that no honest run gives.
    pub n_failed: u64,
    /// Busy times of the client.
    pub times: ClientTimes,
}

impl core::fmt::Debug for MaskedSession {
    /// Counts only: values, keys, positions and generators are secret.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("MaskedSession")
            .field("stage", &self.rounds.len())
            .field("n_samples", &self.n_samples)
            .finish_non_exhaustive()
    }
}

impl MaskedSession {
    /// Starts a block: `samples` holds one row per input neuron, one column per sample, on the plan's
    /// input grid.
    ///
    /// # Errors
    /// - [`SessionError::EmptyBatch`], [`SessionError::BatchShape`], [`SessionError::InputRange`] for
    ///   samples that are not the plan's.
    /// - [`SessionError::Fingerprint`] when there are more than a block holds.
    /// - [`SessionError::Randomness`] when the operating system gives no random bytes.
    pub fn new(plan: &Arc<MaskedPlan>, samples: &IntegerMatrix) -> Result<Self> {
        let mut seed = Zeroizing::new(<ChaCha20Rng as SeedableRng>::Seed::default());
        OsRng.try_fill_bytes(seed.as_mut_slice()).map_err(|_| SessionError::Randomness)?;
        Self::with_generator(plan, samples, ChaCha20Rng::from_seed(*seed))
    }

    /// As [`MaskedSession::new`] with a given generator, for tests: same generator, same bytes.
    ///
    /// # Errors
    /// As [`MaskedSession::new`].
    ///
    /// # Security
    /// Two blocks from one state of a generator have the same keys, seeds and errors: a server that
    /// sees both learns the differences of their inputs.
    pub fn with_generator(
        plan: &Arc<MaskedPlan>,
        samples: &IntegerMatrix,
        rng: ChaCha20Rng,
    ) -> Result<Self> {
        plan.check_inputs(samples)?;
        let mut rng = SecretRng::new(rng);
        let n_samples = samples.ncols();
        let layout = SlotLayout::draw(plan.layout(), n_samples, &mut rng)?;
        let canaries = plan.draw_canaries(&mut rng)?;
        let inputs = fill(plan, samples, &layout, &canaries, &mut rng)?;
        Ok(Self {
            plan: Arc::clone(plan),
            rng,
            layout,
            canaries,
            inputs,
            n_samples,
            rounds: Vec::new(),
            awaited: None,
            times: ClientTimes::default(),
        })
    }

    /// The stage whose request is to be prepared, or whose reply is awaited.
    #[must_use]
    pub fn stage(&self) -> usize {
        self.rounds.len()
    }

    /// The hash of the request under way: what the server's masks are a function of.
    #[must_use]
    pub fn request_hash(&self) -> Option<RequestHash> {
        self.awaited.as_ref().map(|awaited| awaited.hash)
    }

    /// What every slot holds: `[input][slot]`, canaries and decoys included. Secret, for tests.
    #[must_use]
    pub fn slot_inputs(&self) -> &[i32] {
        &self.inputs.0
    }

    /// The slots of samples 0, 1, …: secret, for tests.
    ///
    /// # Errors
    /// Only broken invariants.
    pub fn sample_slots(&self) -> Result<&[u32]> {
        Ok(self.layout.replica_slots(0)?)
    }

    /// Encrypts the request of the next stage. Send it, and send the identical bytes again for as long
    /// as there is no reply: preparing another one abandons this one's keys.
    ///
    /// # Errors
    /// - [`SessionError::NoSuchSegment`] after the last stage.
    /// - [`SessionError::Encrypted`] for broken invariants.
    pub fn prepare(&mut self) -> Result<PreparedRequest> {
        let number = self.stage();
        let mut rng = self.rng.fork();
        let stage = self.plan.stage(number)?;
        let keys = stage.generate_keys(&mut rng)?;
        let tokens = stage
            .token_stages()
            .iter()
            .map(|&earlier| self.rounds.get(earlier).map(|round| round.token).ok_or(INVARIANT));
        let tokens = tokens.collect::<Result<Vec<_>>>()?;
        let capacity = stage.capacity().max(1);
        let sources = self.sources(number)?;
        let fill = |input: usize, row: &mut [i128]| sources.fill(input, capacity, row);
        let digest = self.plan.inner_digest();
        let block = stage.encrypt(digest, &keys, &tokens, fill, &mut rng)?;
        self.times.add(&block.times);
        let header = EvaluateHeader {
            plan: self.plan.digest(),
            segment: narrow(number),
            request_id: RequestId::random(&mut rng),
            seed: block.seed,
            n_ciphertexts: narrow(stage.n_request_ciphertexts()),
            payload_bytes: stage.request_bytes(),
        };
        let reply = ReplyShape {
            n_ciphertexts: narrow(stage.n_reply_ciphertexts()),
            payload_bytes: stage.reply_bytes(),
        };
        self.awaited = Some(Awaited { keys, hash: block.hash });
        Ok(PreparedRequest::new(header, Bytes::from(block.payload), reply)?)
    }

    /// Takes the reply to the last request.
    ///
    /// # Errors
    /// - [`SessionError::Encrypted`] when the reply is malformed, or answers another request.
    /// - [`SessionError::Internal`] without a request.
    pub fn open(&mut self, reply: &[u8]) -> Result<MaskedRound> {
        let Awaited { keys, hash } = self.awaited.take().ok_or(INVARIANT)?;
        let stage = self.plan.stage(self.stage())?;
        let opened = stage.open(&keys, hash, reply)?;
        self.times.add(&opened.times);
        if self.stage() + 1 == self.plan.n_stages() {
            return Ok(MaskedRound::Finished(self.conclude(&opened.values)?));
        }
        self.rounds.push(Opened { values: opened.values, token: opened.token });
        Ok(MaskedRound::Continue)
    }

    /// Reads off samples and canaries.
    fn conclude(&self, values: &[i128]) -> Result<BlockOutcome> {
        let stage = self.plan.stage(self.stage())?;
        let capacity = stage.capacity().max(1);
        let at = |class: usize, slot: u32| values.get(class * capacity + slot as usize).copied();
        let slots = self.layout.replica_slots(0)?;
        let mut scores = ScoreMatrix::zeros((stage.n_outputs(), self.n_samples));
        for (class, mut row) in scores.rows_mut().into_iter().enumerate() {
            for (score, &slot) in row.iter_mut().zip(slots) {
                // Ranges of a checked plan lie inside ±2^62; others saturate.
                let value = at(class, slot).ok_or(INVARIANT)?;
                *score = i64::try_from(value).unwrap_or(i64::MAX);
            }
        }
        let mut n_failed = 0;
        for (&canary, &slot) in self.canaries.iter().zip(self.layout.canary_slots()) {
            let found: Option<Vec<i128>> =
                (0..stage.n_outputs()).map(|class| at(class, slot)).collect();
            let is_tolerated = self.plan.pack().is_tolerated(canary, &found.ok_or(INVARIANT)?);
            n_failed += u64::from(!is_tolerated);
        }
        let n_canaries = self.canaries.len() as u64;
        Ok(BlockOutcome { scores, n_canaries, n_failed, times: self.times })
    }

    /// The values that a stage is sent, over all its sources.
    fn sources(&self, stage: usize) -> Result<Sources<'_>> {
        let structure = self.plan.public().stages.get(stage).ok_or(INVARIANT)?;
        let parts = structure.sources.iter().map(|source| match *source {
            ValueRef::Input => Ok(Part::Inputs(&self.inputs.0)),
            ValueRef::Stage(earlier) => {
                let round = self.rounds.get(earlier as usize).ok_or(INVARIANT)?;
                Ok(Part::Masked(&round.values))
            }
        });
        Ok(Sources(parts.collect::<Result<_>>()?))
    }
}

/// What a stage reads, source after source.
struct Sources<'a>(Vec<Part<'a>>);

enum Part<'a> {
    Inputs(&'a [i32]),
    Masked(&'a [i128]),
}

impl Sources<'_> {
    fn fill(
        &self,
        mut input: usize,
        capacity: usize,
        row: &mut [i128],
    ) -> core::result::Result<(), encrypted::Error> {
        for part in &self.0 {
            let n_rows = match part {
                Part::Inputs(values) => values.len() / capacity,
                Part::Masked(values) => values.len() / capacity,
            };
            if input >= n_rows {
                input -= n_rows;
                continue;
            }
            let range = input * capacity..(input + 1) * capacity;
            match part {
                Part::Inputs(values) => {
                    let values = values.get(range).unwrap_or_default();
                    row.iter_mut().zip(values).for_each(|(slot, &x)| *slot = x.into());
                }
                Part::Masked(values) => row.copy_from_slice(values.get(range).unwrap_or_default()),
            }
            return Ok(());
        }
        let (expected, actual) = (0, input as u64);
        Err(encrypted::Error::ByteCount { what: "inputs of a stage", expected, actual })
    }
}

/// The network inputs of every slot: samples, canaries, and decoys drawn from the grid.
fn fill(
    plan: &MaskedPlan,
    samples: &IntegerMatrix,
    layout: &SlotLayout,
    canaries: &[usize],
    rng: &mut SecretRng,
) -> Result<Inputs> {
    let n_slots = layout.counts().n_slots();
    let n_decoys = layout.counts().random_points();
    let (min, max) = (plan.public().input.min(), plan.public().input.max());
    let mut inputs = Inputs(Vec::with_capacity(samples.nrows() * n_slots));
    let mut row = Zeroizing::new(vec![0_i64; n_slots]);
    for (input, values) in samples.rows().into_iter().enumerate() {
        let values = Zeroizing::new(values.to_vec());
        let of_canaries = canaries.iter().map(|&canary| {
            plan.pack().inputs(canary).get(input).map(|&x| i64::from(x)).ok_or(INVARIANT)
        });
        let of_canaries = of_canaries.collect::<Result<Vec<_>>>()?;
        let decoys = (0..n_decoys).map(|_| i64::from(rng.random_range(min..=max)));
        let decoys = Zeroizing::new(decoys.collect::<Vec<_>>());
        layout.fill(&values, &of_canaries, &decoys, &mut row)?;
        // Of the grid: 32 bits hold them.
        inputs.0.extend(row.iter().map(|&x| i32::try_from(x).unwrap_or(0)));
    }
    Ok(inputs)
}

/// Counts of a checked plan fit.
fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
