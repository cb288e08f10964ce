//! One block of a round: prepared, then opened.

use std::ops::Range;

use bytes::Bytes;
use fingerprint::{
    BlockObservation, RandomPoints, RowDifference, RowExtent, SlotLayout, WordCheckFinding,
};
use nn_poly::encrypted::{
    ClientTimes, ReplyCheck, ReplyDecryption, check_reply, decrypt_reply, encrypt_block,
    locate_mismatches,
};
use nn_poly::integer::{IntegerMatrix, Refreshed, RefreshedScores, Refresher};
use zeroize::Zeroizing;

use super::BatchSession;
use super::error::{INVARIANT, Result, SessionError};
use super::secret::SecretRng;
use super::setup::{CheckPlan, ClientSegment};
use crate::client::PreparedRequest;
use crate::identifiers::RequestId;
use crate::message::EvaluateHeader;
use crate::transcript::ReplyShape;

/// One request, ready to be sent, and what is needed to open its reply.
///
/// A retry sends the same request again, byte for byte.
pub struct PreparedBlock {
    request: PreparedRequest,
    session: u64,
    index: usize,
    segment: usize,
    evidence: Evidence,
    times: ClientTimes,
}

/// What the client keeps of a request.
enum Evidence {
    Words(ReplyCheck),
    Slots {
        layout: SlotLayout,
        /// Expected results of the random points, one row per output neuron.
        points: Zeroizing<Vec<Vec<i64>>>,
    },
}

/// A reply after its checks. Says nothing about whether they passed until the round is judged.
pub struct OpenedBlock {
    pub(super) session: u64,
    pub(super) index: usize,
    pub(super) segment: usize,
    pub(super) observation: Option<BlockObservation>,
    pub(super) result: BlockResult,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
    pub(super) times: ClientTimes,
}

pub(super) enum BlockResult {
    Refreshed(Refreshed),
    Scores(RefreshedScores),
    /// A linear reply that failed its word check: nothing was decrypted.
    Unopened(WordCheckFinding),
}

impl core::fmt::Debug for PreparedBlock {
    /// Public counts only: slots, points and check rows are secret.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("PreparedBlock")
            .field("index", &self.index)
            .field("segment", &self.segment)
            .finish_non_exhaustive()
    }
}

impl core::fmt::Debug for OpenedBlock {
    /// Public counts only: values are not released before the verdict.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("OpenedBlock")
            .field("index", &self.index)
            .field("segment", &self.segment)
            .finish_non_exhaustive()
    }
}

impl OpenedBlock {
    pub(super) fn finding(&self) -> WordCheckFinding {
        match &self.result {
            BlockResult::Unopened(finding) => finding.clone(),
            BlockResult::Refreshed(_) | BlockResult::Scores(_) => WordCheckFinding::Passed,
        }
    }

    /// Number of the block in its round.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }
}

impl PreparedBlock {
    /// What to send. Cheap to clone.
    #[must_use]
    pub fn request(&self) -> &PreparedRequest {
        &self.request
    }

    /// Number of the block in its round.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }
}

/// Rows of the values a segment reads, over all its sources.
struct Sources<'a> {
    matrices: Vec<&'a IntegerMatrix>,
    range: Range<usize>,
}

impl Sources<'_> {
    /// The values of input neuron `input` for the samples of the block.
    fn row(&self, mut input: usize) -> Result<&[i32]> {
        for matrix in &self.matrices {
            if input < matrix.nrows() {
                let start = input * matrix.ncols();
                let row = matrix.as_slice().and_then(|all| all.get(start..start + matrix.ncols()));
                return row.and_then(|row| row.get(self.range.clone())).ok_or(INVARIANT);
            }
            input -= matrix.nrows();
        }
        Err(INVARIANT)
    }
}

impl BatchSession {
    /// Encrypts one block of this round: fresh seeds, positions, points and check rows.
    ///
    /// Every block is prepared once; to send it again keep the result. CPU-bound: run it on a
    /// worker thread.
    ///
    /// # Errors
    /// - [`SessionError::NoSuchBlock`] when the round has no such block.
    /// - [`SessionError::Encrypted`], [`SessionError::Network`], [`SessionError::Fingerprint`] for broken invariants.
    pub fn prepare(&self, index: usize) -> Result<PreparedBlock> {
        let count = self.n_blocks();
        if index >= count {
            return Err(SessionError::NoSuchBlock { index, count });
        }
        let segment = self.plan.segment(self.segment)?;
        let mut rng = self.fork_generator();
        let range = self.sample_range(index);
        let sources = Sources { matrices: self.source_matrices(segment)?, range: range.clone() };
        let (encrypted, evidence) = match &segment.check {
            CheckPlan::Words(check) => {
                let rows = check.rows() as usize;
                let map = segment.map.as_ref().map(|map| (map, rows));
                let fill = |input: usize, row: &mut [i64]| -> Result<()> {
                    for (slot, &value) in row.iter_mut().zip(sources.row(input)?) {
                        *slot = i64::from(value);
                    }
                    Ok(())
                };
                let mut block = encrypt_block(&segment.context, &self.key, map, fill, &mut rng)?;
                let check = block.check.take().ok_or(INVARIANT)?;
                (block, Evidence::Words(check))
            }
            CheckPlan::Slots(spec) => {
                let layout = SlotLayout::draw(spec, range.len(), &mut rng)?;
                let (points, expected) = self.draw_points(segment, &layout, &mut rng)?;
                let canaries = self.plan.canaries();
                let fill = |input: usize, row: &mut [i64]| -> Result<()> {
                    let mut values = Zeroizing::new(vec![0; layout.counts().random_points()]);
                    points.values_into(input, &mut values)?;
                    let canary_values = canaries.inputs(self.segment, input)?;
                    Ok(layout.fill(sources.row(input)?, canary_values, &values, row)?)
                };
                let block = encrypt_block(&segment.context, &self.key, None, fill, &mut rng)?;
                (block, Evidence::Slots { layout, points: expected })
            }
        };
        let payload = Bytes::from(encrypted.payload);
        let header = EvaluateHeader {
            plan: self.plan.digest(),
            segment: narrow(self.segment),
            request_id: RequestId::random(&mut rng),
            seed: encrypted.seed,
            n_ciphertexts: narrow(segment.context.n_inputs()),
            payload_bytes: payload.len() as u64,
        };
        let reply = ReplyShape {
            n_ciphertexts: narrow(segment.context.n_outputs()),
            payload_bytes: segment.context.reply_bytes(),
        };
        Ok(PreparedBlock {
            request: PreparedRequest::new(header, payload, reply)?,
            session: self.id,
            index,
            segment: self.segment,
            evidence,
            times: encrypted.times,
        })
    }

    /// Checks and decrypts the reply to one block. CPU-bound: run it on a worker thread.
    ///
    /// The outcome does not show whether the checks passed, and takes the same path either way as
    /// far as the network can see; [`BatchSession::finish_round`] judges.
    ///
    /// # Errors
    /// - [`SessionError::BlocksOfRound`] when the block belongs to another round.
    /// - [`SessionError::Encrypted`] when the reply is malformed: wrong length, residue out of range.
    pub fn open(&self, block: PreparedBlock, reply: &[u8]) -> Result<OpenedBlock> {
        let PreparedBlock { request, session, index, segment: number, evidence, mut times } = block;
        if number != self.segment || session != self.id {
            return Err(SessionError::BlocksOfRound {
                segment: self.segment,
                expected: self.segment,
                actual: number,
            });
        }
        let segment = self.plan.segment(self.segment)?;
        let seed = request.header().seed;
        let bytes_up = (request.payload().len() + seed.len()) as u64;
        let (observation, result) = match evidence {
            Evidence::Words(check) => {
                if check_reply(&segment.context, check, reply, &mut times)? {
                    drop(request);
                    (None, self.open_words(segment, index, reply, &mut times)?)
                } else {
                    let finding = locate(segment, seed, request.payload(), reply)?;
                    (None, BlockResult::Unopened(finding))
                }
            }
            Evidence::Slots { layout, points } => {
                drop(request);
                let (observation, result) =
                    self.open_slots(segment, index, &layout, &points, reply, &mut times)?;
                (Some(observation), result)
            }
        };
        Ok(OpenedBlock {
            session,
            index,
            segment: number,
            observation,
            result,
            bytes_up,
            bytes_down: reply.len() as u64,
            times,
        })
    }

    fn open_words(
        &self,
        segment: &ClientSegment,
        index: usize,
        reply: &[u8],
        times: &mut ClientTimes,
    ) -> Result<BlockResult> {
        let n_samples = self.sample_range(index).len();
        let mut refresher = self.plan.plan().refresher(self.segment, n_samples)?;
        let mut decryption = ReplyDecryption::new(&segment.context, &self.key);
        let capacity = segment.context.capacity();
        decryption.push_rows(reply, |first, rows| {
            Ok::<(), SessionError>(refresher.absorb_rows(first, rows, capacity)?)
        })?;
        times.decrypt += decryption.busy();
        decryption.finish()?;
        finish(segment, refresher, &self.plan)
    }

    fn open_slots(
        &self,
        segment: &ClientSegment,
        index: usize,
        layout: &SlotLayout,
        points: &[Vec<i64>],
        reply: &[u8],
        times: &mut ClientTimes,
    ) -> Result<(BlockObservation, BlockResult)> {
        let n_samples = self.sample_range(index).len();
        let mut refresher = self.plan.plan().refresher(self.segment, n_samples)?;
        let mut observation = BlockObservation::new(segment.context.n_outputs());
        let mut samples = Zeroizing::new(vec![0_i64; n_samples]);
        decrypt_reply(&segment.context, &self.key, reply, times, |output, values| {
            let canaries = self.plan.canaries().outputs(self.segment, output)?;
            let points = points.get(output).map_or(&[][..], Vec::as_slice);
            layout.compare(output, values, canaries, points, &mut observation, &mut samples)?;
            Ok::<(), SessionError>(refresher.absorb(output, &samples)?)
        })?;
        Ok((observation, finish(segment, refresher, &self.plan)?))
    }

    /// Fresh random points and what an honest server answers, one row per output neuron.
    fn draw_points(
        &self,
        segment: &ClientSegment,
        layout: &SlotLayout,
        rng: &mut SecretRng,
    ) -> Result<(RandomPoints, Zeroizing<Vec<Vec<i64>>>)> {
        let window = segment.context.window();
        let t = window.modulus;
        let n_points = layout.counts().random_points();
        let points = RandomPoints::draw(n_points, segment.context.n_inputs(), t, rng)?;
        let results = self.plan.plan().evaluate_segment_modular(self.segment, points.points())?;
        let by_neuron = (0..segment.context.n_outputs())
            .map(|output| {
                results
                    .iter()
                    .map(|point| point.get(output).map_or(0, |&v| window.reduce(v.cast_signed())))
                    .collect()
            })
            .collect();
        Ok((points, Zeroizing::new(by_neuron)))
    }

    fn source_matrices(&self, segment: &ClientSegment) -> Result<Vec<&IntegerMatrix>> {
        let (structure, _) = self.plan.network().stage(segment.stage)?;
        structure
            .sources
            .iter()
            .map(|source| {
                let position = match *source {
                    nn_poly::integer::ValueRef::Input => 0,
                    nn_poly::integer::ValueRef::Stage(stage) => stage as usize + 1,
                };
                self.values.get(position).ok_or(INVARIANT)
            })
            .collect()
    }
}

fn finish(
    segment: &ClientSegment,
    refresher: Refresher,
    plan: &super::ClientPlan,
) -> Result<BlockResult> {
    let (structure, _) = plan.network().stage(segment.stage)?;
    Ok(if structure.refresh.is_some() {
        BlockResult::Refreshed(refresher.finish()?)
    } else {
        BlockResult::Scores(refresher.finish_scores()?)
    })
}

/// Finds the output rows that differ, from public data only.
fn locate(
    segment: &ClientSegment,
    seed: [u8; 32],
    payload: &[u8],
    reply: &[u8],
) -> Result<WordCheckFinding> {
    let Some(map) = &segment.map else { return Ok(WordCheckFinding::Failed) };
    let mismatches = locate_mismatches(&segment.context, map, seed, payload, reply)?;
    let rows = mismatches
        .iter()
        .filter_map(|m| {
            let extent = match RowExtent::from_counts(&m.differing, m.words)? {
                // Throughout, but not as a bias changes it: an addition to some samples.
                RowExtent::ConstantPolynomial if !m.is_constant => RowExtent::Scattered,
                extent @ (RowExtent::Everywhere
                | RowExtent::ConstantPolynomial
                | RowExtent::Scattered) => extent,
            };
            Some(RowDifference { row: m.row, extent })
        })
        .collect();
    Ok(WordCheckFinding::FailedAt { rows })
}

/// Counts of a checked plan are below 2^22.
fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
