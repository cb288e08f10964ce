//! A reply while it is opened: checked and decrypted piece by piece.

use bytes::Bytes;
use fingerprint::{BlockObservation, RowDifference, RowExtent, SlotLayout, WordCheckFinding};
use nn_poly::encrypted::{ClientTimes, ReplyCheckStream, ReplyDecryption, locate_mismatches};
use nn_poly::integer::Refresher;
use zeroize::Zeroizing;

use super::BatchSession;
use super::block::{BlockResult, Evidence, OpenedBlock, PreparedBlock};
use super::error::{Result, SessionError};
use super::lane::Lane;
use super::setup::{ClientPlan, ClientSegment};
use crate::client::PreparedRequest;

/// A block whose reply arrives.
pub(super) struct Opening<'a> {
    session: &'a BatchSession,
    segment: &'a ClientSegment,
    index: usize,
    n_samples: usize,
    seed: [u8; 32],
    bytes_up: u64,
    bytes_down: u64,
    times: ClientTimes,
    reply: Reply<'a>,
}

/// What was made of the bytes so far.
#[allow(clippy::large_enum_variant, reason = "one per block in flight; sizes depend on features")]
enum Reply<'a> {
    /// Nothing is decrypted before every word was checked, so the bytes are kept.
    Words {
        check: Box<ReplyCheckStream>,
        pieces: Vec<Bytes>,
        request: PreparedRequest,
    },
    Slots(Box<Slots<'a>>),
}

struct Slots<'a> {
    layout: SlotLayout,
    points: Zeroizing<Vec<Vec<i64>>>,
    decryption: ReplyDecryption<'a>,
    refresher: Refresher,
    observation: BlockObservation,
    /// The samples' values of the rows at hand, row after row.
    samples: Zeroizing<Vec<i64>>,
    n_samples: usize,
}

impl<'a> Opening<'a> {
    pub(super) fn new(session: &'a BatchSession, block: PreparedBlock) -> Result<Self> {
        let PreparedBlock { request, session: id, index, segment: number, evidence, times } = block;
        if number != session.segment || id != session.id {
            return Err(SessionError::BlocksOfRound {
                segment: session.segment,
                expected: session.segment,
                actual: number,
            });
        }
        let segment = session.plan.segment(session.segment)?;
        let n_samples = session.sample_range(index).len();
        let seed = request.header().seed;
        let bytes_up = request.payload().total_bytes() + seed.len() as u64;
        let reply = match evidence {
            Evidence::Words(check) => {
                let check = Box::new(ReplyCheckStream::new(&segment.context, check));
                Reply::Words { check, pieces: Vec::new(), request }
            }
            Evidence::Slots { layout, points } => Reply::Slots(Box::new(Slots {
                layout,
                points,
                decryption: ReplyDecryption::new(&segment.context, &session.key),
                refresher: session.plan.plan().refresher(session.segment, n_samples)?,
                observation: BlockObservation::new(segment.context.n_outputs()),
                samples: Zeroizing::default(),
                n_samples,
            })),
        };
        let bytes_down = 0;
        Ok(Self { session, segment, index, n_samples, seed, bytes_up, bytes_down, times, reply })
    }

    /// Takes the next bytes, in any cut.
    pub(super) fn push(&mut self, piece: Bytes) -> Result<()> {
        self.bytes_down += piece.len() as u64;
        match &mut self.reply {
            Reply::Words { check, pieces, .. } => {
                check.push(&piece)?;
                pieces.push(piece);
                Ok(())
            }
            Reply::Slots(slots) => slots.push(self.session, &piece),
        }
    }

    /// Back to the state before the first byte: another attempt of the same request begins, whose
    /// reply may be another.
    pub(super) fn restart(&mut self) -> Result<()> {
        self.bytes_down = 0;
        match &mut self.reply {
            Reply::Words { check, pieces, .. } => {
                check.restart();
                pieces.clear();
            }
            Reply::Slots(slots) => {
                let segment = self.session.segment;
                self.times.decrypt += slots.decryption.busy();
                slots.decryption = ReplyDecryption::new(&self.segment.context, &self.session.key);
                slots.refresher = self.session.plan.plan().refresher(segment, self.n_samples)?;
                slots.observation = BlockObservation::new(self.segment.context.n_outputs());
            }
        }
        Ok(())
    }

    /// The reply is complete. Decrypts what passed its word check, in turns of `lane`.
    pub(super) fn finish(self, lane: &Lane) -> Result<OpenedBlock> {
        let Self { session, segment, index, n_samples, seed, .. } = self;
        let Self { bytes_up, bytes_down, mut times, reply, .. } = self;
        let (observation, result) = match reply {
            Reply::Words { check, pieces, request } => {
                times.check += check.busy();
                let result = if check.finish()? {
                    drop(request);
                    decrypt_words(session, segment, n_samples, pieces, lane, &mut times)?
                } else {
                    let payload = request.payload().to_bytes().unwrap_or_default();
                    let _turn = lane.turn();
                    let finding = locate(segment, seed, &payload, &pieces.concat())?;
                    BlockResult::Unopened(finding)
                };
                (None, result)
            }
            Reply::Slots(slots) => {
                let Slots { decryption, refresher, observation, .. } = *slots;
                times.decrypt += decryption.busy();
                decryption.finish()?;
                let _turn = lane.turn();
                (Some(observation), finish(segment, refresher, &session.plan)?)
            }
        };
        Ok(OpenedBlock {
            session: session.id,
            index,
            segment: session.segment,
            observation,
            result,
            bytes_up,
            bytes_down,
            times,
        })
    }
}

impl Slots<'_> {
    fn push(&mut self, session: &BatchSession, bytes: &[u8]) -> Result<()> {
        let Self { layout, points, decryption, refresher, observation, samples, n_samples } = self;
        let capacity = layout.counts().n_slots();
        decryption.push_rows(bytes, |first, rows| {
            let n_rows = rows.len() / capacity;
            samples.resize(n_rows * *n_samples, 0);
            let targets = samples.chunks_exact_mut(*n_samples);
            for (output, (row, target)) in (first..).zip(rows.chunks_exact(capacity).zip(targets)) {
                let canaries = session.plan.canaries().outputs(session.segment, output)?;
                let points = points.get(output).map_or(&[][..], Vec::as_slice);
                layout.compare(output, row, canaries, points, observation, target)?;
            }
            Ok::<(), SessionError>(refresher.absorb_rows(first, samples, *n_samples)?)
        })
    }
}

/// Decrypts a reply that passed its word check; frees its pieces on the way.
fn decrypt_words(
    session: &BatchSession,
    segment: &ClientSegment,
    n_samples: usize,
    pieces: Vec<Bytes>,
    lane: &Lane,
    times: &mut ClientTimes,
) -> Result<BlockResult> {
    let mut refresher = session.plan.plan().refresher(session.segment, n_samples)?;
    let mut decryption = ReplyDecryption::new(&segment.context, &session.key);
    let capacity = segment.context.capacity();
    for piece in pieces {
        let _turn = lane.turn();
        decryption.push_rows(&piece, |first, rows| {
            Ok::<(), SessionError>(refresher.absorb_rows(first, rows, capacity)?)
        })?;
    }
    times.decrypt += decryption.busy();
    decryption.finish()?;
    let _turn = lane.turn();
    finish(segment, refresher, &session.plan)
}

fn finish(segment: &ClientSegment, refresher: Refresher, plan: &ClientPlan) -> Result<BlockResult> {
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
