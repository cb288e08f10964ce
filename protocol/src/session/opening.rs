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
use super::pieces::Pieces;
use super::residues::Residues;
use super::setup::{ClientPlan, ClientSegment};
use crate::client::PreparedRequest;

/// A block whose reply arrives.
pub(super) struct Opening<'a> {
    session: &'a BatchSession,
    segment: &'a ClientSegment,
    /// Number of the segment in the plan.
    number: usize,
    index: usize,
    n_samples: usize,
    seed: [u8; 32],
    bytes_up: u64,
    bytes_down: u64,
    times: ClientTimes,
    reply: Reply<'a>,
}

/// What was made of the bytes so far.
enum Reply<'a> {
    /// Nothing is decrypted before every word was checked, so the bytes are kept.
    Words {
        check: Box<ReplyCheckStream>,
        pieces: Pieces,
        request: PreparedRequest,
    },
    Slots(Box<Slots<'a>>),
}

struct Slots<'a> {
    layout: SlotLayout,
    points: Zeroizing<Vec<Vec<i64>>>,
    decryption: ReplyDecryption<'a>,
    values: Values,
    observation: BlockObservation,
    /// The samples' values of the rows at hand, row after row.
    samples: Zeroizing<Vec<i64>>,
    n_samples: usize,
}

/// What becomes of the samples' values.
enum Values {
    /// They are finished at once.
    Refresher(Box<Refresher>),
    /// They wait for the other residues.
    Residues(Residues),
}

impl Values {
    fn new(session: &BatchSession, segment: &ClientSegment, n_samples: usize) -> Result<Self> {
        Ok(if segment.is_residue {
            Self::Residues(Residues::new(segment.context.n_outputs(), n_samples))
        } else {
            Self::Refresher(Box::new(session.plan.plan().refresher(session.stage, n_samples)?))
        })
    }
}

impl<'a> Opening<'a> {
    pub(super) fn new(session: &'a BatchSession, block: PreparedBlock) -> Result<Self> {
        let PreparedBlock { request, session: id, index, segment: number, evidence, times } = block;
        let expected = session.segment_of(index);
        if number != expected || id != session.id {
            return Err(SessionError::BlocksOfRound {
                segment: session.segments.start,
                expected,
                actual: number,
            });
        }
        let segment = session.plan.segment(number)?;
        let key = session.key_of(number)?;
        let n_samples = session.sample_range(index).len();
        let seed = request.header().seed;
        let bytes_up = request.payload().total_bytes() + seed.len() as u64;
        let reply = match evidence {
            Evidence::Words(check) => {
                let check = Box::new(ReplyCheckStream::new(&segment.context, check));
                Reply::Words { check, pieces: Pieces::default(), request }
            }
            Evidence::Slots { layout, points } => Reply::Slots(Box::new(Slots {
                layout,
                points,
                decryption: ReplyDecryption::new(&segment.context, key),
                values: Values::new(session, segment, n_samples)?,
                observation: BlockObservation::new(segment.context.n_outputs()),
                samples: Zeroizing::default(),
                n_samples,
            })),
        };
        let bytes_down = 0;
        Ok(Self {
            session,
            segment,
            number,
            index,
            n_samples,
            seed,
            bytes_up,
            bytes_down,
            times,
            reply,
        })
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
            Reply::Slots(slots) => slots.push(self.session, self.number, &piece),
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
                self.times.decrypt += slots.decryption.busy();
                let key = self.session.key_of(self.number)?;
                slots.decryption = ReplyDecryption::new(&self.segment.context, key);
                match &mut slots.values {
                    Values::Residues(residues) => residues.clear(),
                    values @ Values::Refresher(_) => {
                        *values = Values::new(self.session, self.segment, self.n_samples)?;
                    }
                }
                slots.observation = BlockObservation::new(self.segment.context.n_outputs());
            }
        }
        Ok(())
    }

    /// The reply is complete. Decrypts what passed its word check, in turns of `lane`.
    pub(super) fn finish(self, lane: &Lane) -> Result<OpenedBlock> {
        let Self { session, segment, number, index, n_samples, seed, .. } = self;
        let Self { bytes_up, bytes_down, mut times, reply, .. } = self;
        let (observation, result) = match reply {
            Reply::Words { check, pieces, request } => {
                times.check += check.busy();
                let result = if check.finish()? {
                    drop(request);
                    let pieces = pieces.into_list();
                    decrypt_words(session, (number, segment), n_samples, pieces, lane, &mut times)?
                } else {
                    let payload = request.payload().to_bytes().unwrap_or_default();
                    let _turn = lane.turn();
                    let finding = locate(segment, seed, &payload, &pieces.into_list().concat())?;
                    BlockResult::Unopened(finding)
                };
                (None, result)
            }
            Reply::Slots(slots) => {
                let Slots { decryption, values, observation, .. } = *slots;
                times.decrypt += decryption.busy();
                decryption.finish()?;
                let _turn = lane.turn();
                let result = match values {
                    Values::Residues(residues) => BlockResult::Residues(residues),
                    Values::Refresher(refresher) => {
                        refreshed(&session.plan, segment.stage, *refresher)?
                    }
                };
                (Some(observation), result)
            }
        };
        Ok(OpenedBlock {
            session: session.id,
            index,
            segment: number,
            observation,
            result,
            bytes_up,
            bytes_down,
            times,
            record: None,
        })
    }
}

impl Slots<'_> {
    fn push(&mut self, session: &BatchSession, number: usize, bytes: &[u8]) -> Result<()> {
        let Self { layout, points, decryption, values, observation, samples, n_samples } = self;
        let capacity = layout.counts().n_slots();
        decryption.push_rows(bytes, |first, rows| {
            let n_rows = rows.len() / capacity;
            samples.resize(n_rows * *n_samples, 0);
            let targets = samples.chunks_exact_mut(*n_samples);
            for (output, (row, target)) in (first..).zip(rows.chunks_exact(capacity).zip(targets)) {
                let canaries = session.plan.canaries().outputs(number, output)?;
                let points = points.get(output).map_or(&[][..], Vec::as_slice);
                layout.compare(output, row, canaries, points, observation, target)?;
            }
            match values {
                Values::Refresher(refresher) => {
                    refresher.absorb_rows(first, samples, *n_samples)?
                }
                Values::Residues(residues) => residues.write(first, samples),
            }
            Ok::<(), SessionError>(())
        })
    }
}

/// Decrypts a reply that passed its word check; frees its pieces on the way.
fn decrypt_words(
    session: &BatchSession,
    (number, segment): (usize, &ClientSegment),
    n_samples: usize,
    pieces: Vec<Bytes>,
    lane: &Lane,
    times: &mut ClientTimes,
) -> Result<BlockResult> {
    let mut refresher = session.plan.plan().refresher(segment.stage, n_samples)?;
    let mut decryption = ReplyDecryption::new(&segment.context, session.key_of(number)?);
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
    refreshed(&session.plan, segment.stage, refresher)
}

/// What a stage's values became.
pub(super) fn refreshed(
    plan: &ClientPlan,
    stage: usize,
    refresher: Refresher,
) -> Result<BlockResult> {
    let (structure, _) = plan.network().stage(stage)?;
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
