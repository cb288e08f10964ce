//! One block of a round: prepared, then opened.

use std::path::Path;

use bytes::Bytes;
use fingerprint::{BlockObservation, SlotLayout, WordCheckFinding};
use nn_poly::encrypted::{ClientTimes, ReplyCheck};
use nn_poly::integer::{Refreshed, RefreshedScores};
use zeroize::Zeroizing;

use super::BatchSession;
use super::encrypting::GrowingBlock;
use super::error::{Result, SessionError};
use super::lane::Lane;
use super::opening::Opening;
use super::residues::Residues;
use crate::client::{PreparedRequest, ReplyEvent, ReplyStream};
use crate::evidence::{Recorded, Recorder};

/// One request, ready to be sent, and what is needed to open its reply.
///
/// A retry sends the same request again, byte for byte.
pub struct PreparedBlock {
    pub(super) request: PreparedRequest,
    pub(super) session: u64,
    pub(super) index: usize,
    pub(super) segment: usize,
    pub(super) evidence: Evidence,
    pub(super) times: ClientTimes,
}

/// What the client keeps of a request.
pub(super) enum Evidence {
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
    pub(super) record: Option<Recorded>,
}

pub(super) enum BlockResult {
    Refreshed(Refreshed),
    Scores(RefreshedScores),
    /// Of a chain, whose values need those of other segments too.
    Residues(Residues),
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
    /// Request and reply as recorded. What is not kept is removed.
    pub fn take_record(&mut self) -> Option<Recorded> {
        self.record.take()
    }

    pub(super) fn finding(&self) -> WordCheckFinding {
        match &self.result {
            BlockResult::Unopened(finding) => finding.clone(),
            BlockResult::Refreshed(_) | BlockResult::Scores(_) | BlockResult::Residues(_) => {
                WordCheckFinding::Passed
            }
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

impl BatchSession {
    /// Starts one block of this round: fresh seeds, positions, points and check rows. Its request
    /// can be sent at once; [`GrowingBlock::encrypt_next`] makes the payload grow.
    ///
    /// Every block is prepared once; to send it again keep the request.
    ///
    /// # Errors
    /// - [`SessionError::NoSuchBlock`] when the round has no such block.
    /// - [`SessionError::Encrypted`], [`SessionError::Fingerprint`] for broken invariants.
    pub fn begin(&self, index: usize) -> Result<GrowingBlock<'_>> {
        let count = self.n_blocks();
        if index >= count {
            return Err(SessionError::NoSuchBlock { index, count });
        }
        GrowingBlock::new(self, index)
    }

    /// Encrypts one block of this round, all at once. CPU-bound: run it on a worker thread.
    ///
    /// # Errors
    /// As [`begin`](Self::begin) and [`GrowingBlock::encrypt_next`].
    pub fn prepare(&self, index: usize) -> Result<PreparedBlock> {
        let mut block = self.begin(index)?;
        while block.encrypt_next()? {}
        block.finish()
    }

    /// Checks and decrypts the reply to one block while it arrives: the words of linear segments are
    /// checked at once and decrypted when the check has passed and the receipt is verified; slots
    /// are decrypted at once and judged with the round. Blocks the thread; computes in turns of
    /// `lane`. `None`: the request failed.
    ///
    /// The outcome does not show whether the checks passed, and takes the same path either way as
    /// far as the network can see; [`BatchSession::finish_round`] judges. The stream is taken to its
    /// end even when the reply turns out to be malformed.
    ///
    /// # Errors
    /// - [`SessionError::BlocksOfRound`] when the block belongs to another round.
    /// - [`SessionError::Encrypted`] when the reply is malformed: wrong length, residue out of range.
    pub fn open_stream(
        &self,
        block: PreparedBlock,
        stream: ReplyStream,
        lane: &Lane,
    ) -> Result<Option<OpenedBlock>> {
        self.open_recorded(block, stream, lane, None)
    }

    /// As [`open_stream`](Self::open_stream), recording request and reply in a folder, so that they
    /// can be kept if the round is rejected: [`OpenedBlock::take_record`].
    ///
    /// Every block is recorded in the same way. A record that cannot be written is given up, with a
    /// warning; the block is opened all the same. A reply that is malformed, and signed, ends the
    /// round at once; its record is kept, and a warning names the file.
    ///
    /// # Errors
    /// As [`open_stream`](Self::open_stream).
    pub fn open_recorded(
        &self,
        block: PreparedBlock,
        mut stream: ReplyStream,
        lane: &Lane,
        folder: Option<&Path>,
    ) -> Result<Option<OpenedBlock>> {
        let mut recorder = folder.map(|folder| Recorder::new(folder, &block.request));
        let mut opening = Opening::new(self, block)?;
        let mut outcome = Ok(());
        while let Some(event) = stream.blocking_next() {
            match event {
                ReplyEvent::Piece(piece) => {
                    if let Some(recorder) = &mut recorder {
                        recorder.piece(&piece);
                    }
                    if outcome.is_ok() {
                        let _turn = lane.turn();
                        outcome = opening.push(piece);
                    }
                }
                ReplyEvent::Restart => {
                    if let Some(recorder) = &mut recorder {
                        recorder.restart();
                    }
                    outcome = opening.restart();
                }
                ReplyEvent::Verified(receipt) => {
                    let record = recorder.take().and_then(|recorder| {
                        let told = |error: &_| tracing::warn!(%error, "no evidence is kept");
                        recorder.finish(&receipt).inspect_err(told).ok()
                    });
                    let opened = outcome.and_then(|()| opening.finish(lane));
                    return keep_with(opened, record).map(Some);
                }
            }
        }
        Ok(None)
    }

    /// Checks and decrypts the reply to one block, all at once. CPU-bound: run it on a worker
    /// thread.
    ///
    /// # Errors
    /// As [`open_stream`](Self::open_stream).
    pub fn open(&self, block: PreparedBlock, reply: impl Into<Bytes>) -> Result<OpenedBlock> {
        let mut opening = Opening::new(self, block)?;
        opening.push(reply.into())?;
        opening.finish(&Lane::default())
    }
}

/// A block with its record; of a malformed reply, which nobody will judge, the record stays.
fn keep_with(opened: Result<OpenedBlock>, record: Option<Recorded>) -> Result<OpenedBlock> {
    match opened {
        Ok(opened) => Ok(OpenedBlock { record, ..opened }),
        Err(error) => {
            if let (SessionError::Encrypted(_), Some(record)) = (&error, record) {
                match record.keep() {
                    Ok(file) => tracing::warn!(
                        file = %file.display(),
                        "the reply is signed, but none: its evidence is kept"
                    ),
                    Err(error) => tracing::warn!(%error, "no evidence is kept"),
                }
            }
            Err(error)
        }
    }
}
