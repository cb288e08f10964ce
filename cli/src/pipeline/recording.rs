//! What a run shows while it goes on: rounds, receipts, and the bytes of its first ciphertext.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fingerprint::Verdict;
use nn_poly::plan::{Plan, Segment};
use protocol::client::{PreparedRequest, RequestPayload};
use protocol::runner::RunProgress;
use protocol::transcript::VerifiedReceipt;

/// Most bytes that are kept of the first ciphertext.
pub(crate) const CIPHERTEXT_BYTES: usize = 1 << 14;
/// Most receipts that are kept: the first ones. All are counted.
pub(crate) const MAX_RECEIPTS: usize = 64;

/// How far a round is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum RoundState {
    /// It has not begun.
    #[default]
    Waiting,
    /// Its blocks are under way.
    Running,
    /// All that was judged of it was intact.
    Passed,
    /// It was not.
    Rejected,
}

/// One round, over all batches.
#[derive(Debug, Clone, Default)]
pub(crate) struct RoundRecord {
    pub(crate) state: RoundState,
    /// Blocks announced, begun and answered.
    pub(crate) n_blocks: usize,
    pub(crate) n_begun: usize,
    pub(crate) n_answered: usize,
    pub(crate) bytes_up: u64,
    pub(crate) bytes_down: u64,
    /// From the first block to the verdict; of several batches the sum.
    pub(crate) time: Duration,
}

/// One receipt that was checked.
#[derive(Debug, Clone)]
pub(crate) struct ReceiptRecord {
    pub(crate) segment: u32,
    pub(crate) request: String,
    pub(crate) request_hash: String,
    pub(crate) reply_hash: String,
    pub(crate) identity: String,
}

/// Everything recorded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    /// In the order of the stages.
    pub(crate) rounds: Vec<RoundRecord>,
    pub(crate) receipts: Vec<ReceiptRecord>,
    pub(crate) n_receipts: usize,
    /// The first bytes of the first ciphertext, and its length.
    pub(crate) ciphertext: Option<(Bytes, u64)>,
}

/// Records a run, and passes everything on to another watcher.
pub(crate) struct Recorder {
    next: Arc<dyn RunProgress>,
    /// Stage of each segment, and bytes of its requests before the first ciphertext.
    segments: Vec<(usize, u64)>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    record: Record,
    /// The first request, until enough of it exists: a handle keeps all of its bytes.
    first: Option<First>,
    begun: HashMap<(usize, usize), Instant>,
}

/// Where the first ciphertext of a request stands.
struct First {
    payload: RequestPayload,
    start: u64,
    length: u64,
}

impl Recorder {
    /// Record a run of a plan.
    pub(crate) fn new(plan: &Plan, next: Arc<dyn RunProgress>) -> Arc<Self> {
        let public = plan.public();
        let of_segment =
            |segment: &Segment| (segment.stage as usize, segment.relinearization_key_bytes());
        let rounds = vec![RoundRecord::default(); public.stages.len()];
        let record = Record { rounds, ..Record::default() };
        let state = Mutex::new(State { record, ..State::default() });
        Arc::new(Self { next, segments: public.segments.iter().map(of_segment).collect(), state })
    }

    /// What was recorded so far.
    pub(crate) fn record(&self) -> Record {
        let mut state = self.state();
        state.take_ciphertext();
        state.record.clone()
    }

    /// Whether a round failed its check: the verdict is known, though not told yet.
    pub(crate) fn is_rejected(&self) -> bool {
        self.state().record.rounds.iter().any(|round| round.state == RoundState::Rejected)
    }

    /// A panic while the state was held leaves it usable: at worst something is not recorded.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stage_of(&self, request: &PreparedRequest) -> usize {
        self.segment_of(request).map_or(usize::MAX, |(stage, _)| stage)
    }

    fn segment_of(&self, request: &PreparedRequest) -> Option<(usize, u64)> {
        self.segments.get(request.header().segment as usize).copied()
    }
}

impl State {
    /// The bytes of the first ciphertext, as soon as they exist.
    fn take_ciphertext(&mut self) {
        let Some(First { payload, start, length }) = &self.first else { return };
        let shown = usize::try_from(*length).map_or(CIPHERTEXT_BYTES, |n| n.min(CIPHERTEXT_BYTES));
        match payload.piece(*start, shown) {
            Ok(None) => return,
            // A copy: a piece may share the memory of a longer one.
            Ok(Some(bytes)) => {
                self.record.ciphertext = Some((Bytes::copy_from_slice(&bytes), *length));
            }
            // The run has failed and says why.
            Err(_) => {}
        }
        self.first = None;
    }
}

impl RunProgress for Recorder {
    fn round_started(&self, batch: usize, n_batches: usize, stage: usize, n: usize, blocks: usize) {
        let mut state = self.state();
        if let Some(round) = state.record.rounds.get_mut(stage) {
            round.n_blocks += blocks;
            if round.state != RoundState::Rejected {
                round.state = RoundState::Running;
            }
        }
        state.begun.insert((batch, stage), Instant::now());
        drop(state);
        self.next.round_started(batch, n_batches, stage, n, blocks);
    }

    fn block_finished(&self) {
        self.next.block_finished();
    }

    fn round_finished(&self) {
        self.next.round_finished();
    }

    fn request_begun(&self, request: &PreparedRequest) {
        let stage = self.stage_of(request);
        let mut state = self.state();
        if state.first.is_none() && state.record.ciphertext.is_none() {
            let payload = request.payload().clone();
            let start = self.segment_of(request).map_or(0, |(_, key_bytes)| key_bytes);
            let n_ciphertexts = u64::from(request.header().n_ciphertexts.max(1));
            let length = payload.total_bytes().saturating_sub(start) / n_ciphertexts;
            state.first = Some(First { payload, start, length });
        }
        if let Some(round) = state.record.rounds.get_mut(stage) {
            round.n_begun += 1;
        }
        drop(state);
        self.next.request_begun(request);
    }

    fn request_answered(&self, request: &PreparedRequest, receipt: &VerifiedReceipt) {
        let stage = self.stage_of(request);
        let mut state = self.state();
        state.take_ciphertext();
        if let Some(round) = state.record.rounds.get_mut(stage) {
            round.n_answered += 1;
            round.bytes_up += request.payload().total_bytes() + request.header().seed.len() as u64;
            round.bytes_down += request.reply_shape().payload_bytes;
        }
        state.record.n_receipts += 1;
        if state.record.receipts.len() < MAX_RECEIPTS {
            let signed = receipt.receipt();
            state.record.receipts.push(ReceiptRecord {
                segment: signed.segment,
                request: signed.request_id.to_string(),
                request_hash: signed.request_hash.to_string(),
                reply_hash: signed.reply_hash.to_string(),
                identity: receipt.identity().to_string(),
            });
        }
        drop(state);
        self.next.request_answered(request, receipt);
    }

    fn round_judged(&self, batch: usize, stage: usize, rejected: Option<&Verdict>) {
        let mut state = self.state();
        let begun = state.begun.remove(&(batch, stage));
        if let Some(round) = state.record.rounds.get_mut(stage) {
            round.time += begun.map(|begun| begun.elapsed()).unwrap_or_default();
            round.state = match (rejected, round.state) {
                (Some(_), _) | (None, RoundState::Rejected) => RoundState::Rejected,
                _ => RoundState::Passed,
            };
        }
        drop(state);
        self.next.round_judged(batch, stage, rejected);
    }

    fn batch_finished(&self, batch: usize, n_samples: usize) {
        self.next.batch_finished(batch, n_samples);
    }
}
