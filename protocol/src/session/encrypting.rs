//! A block while it is encrypted: its request grows chunk by chunk.

use std::ops::Range;

use fingerprint::{RandomPoints, SlotLayout};
use nn_poly::encrypted::BlockEncryption;
use nn_poly::integer::{IntegerMatrix, ValueRef};
use zeroize::Zeroizing;

use super::BatchSession;
use super::block::{Evidence, PreparedBlock};
use super::error::{INVARIANT, Result};
use super::setup::{CheckPlan, ClientSegment};
use crate::client::{PayloadWriter, PreparedRequest};
use crate::identifiers::RequestId;
use crate::message::EvaluateHeader;
use crate::transcript::ReplyShape;

/// One block on its way to a [`PreparedBlock`]. Dropped before its end, it ends its request with
/// [`PayloadAbandoned`](crate::error::ResourceError::PayloadAbandoned).
pub struct GrowingBlock<'a> {
    session: &'a BatchSession,
    segment: &'a ClientSegment,
    /// Number of the segment in the plan.
    number: usize,
    index: usize,
    sources: Sources<'a>,
    encryption: BlockEncryption<'a>,
    content: Content,
    request: PreparedRequest,
    writer: PayloadWriter,
}

/// What fills a row besides samples.
enum Content {
    /// Nothing: the check is in the ciphertexts.
    Samples,
    /// Canaries and random points in secret slots.
    Slots { layout: SlotLayout, points: RandomPoints },
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

impl<'a> GrowingBlock<'a> {
    /// Draws everything that is random about a block of the session's round.
    pub(super) fn new(session: &'a BatchSession, index: usize) -> Result<Self> {
        let number = session.segment_of(index);
        let segment = session.plan.segment(number)?;
        let mut rng = session.fork_generator();
        let range = session.sample_range(index);
        let (content, map) = match &segment.check {
            CheckPlan::Words(check) => {
                let rows = check.rows() as usize;
                (Content::Samples, segment.map.as_ref().map(|map| (map, rows)))
            }
            CheckPlan::Slots(spec) => {
                let layout = SlotLayout::draw(spec, range.len(), &mut rng)?;
                let n_points = layout.counts().random_points();
                let t = segment.context.window().modulus;
                let points = RandomPoints::draw(n_points, segment.context.n_inputs(), t, &mut rng)?;
                (Content::Slots { layout, points }, None)
            }
        };
        let encryption =
            BlockEncryption::new(&segment.context, session.key_of(number)?, map, &mut rng)?;
        let header = EvaluateHeader {
            plan: session.plan.digest(),
            segment: narrow(number),
            request_id: RequestId::random(&mut rng),
            seed: encryption.seed(),
            n_ciphertexts: narrow(segment.context.n_inputs()),
            payload_bytes: segment.context.request_bytes(),
        };
        let reply = ReplyShape {
            n_ciphertexts: narrow(segment.context.n_outputs()),
            payload_bytes: segment.context.reply_bytes(),
        };
        let (request, writer) = PreparedRequest::growing(header, reply)?;
        let sources = Sources { matrices: session.source_matrices(segment)?, range };
        Ok(Self { session, segment, number, index, sources, encryption, content, request, writer })
    }

    /// What to send. Cheap to clone.
    #[must_use]
    pub fn request(&self) -> &PreparedRequest {
        &self.request
    }

    /// Encrypts the next few ciphertexts on every core and adds them to the request. Returns whether
    /// there were any.
    ///
    /// # Errors
    /// [`SessionError::Encrypted`](crate::session::SessionError::Encrypted), [`SessionError::Fingerprint`](crate::session::SessionError::Fingerprint) for broken invariants.
    pub fn encrypt_next(&mut self) -> Result<bool> {
        let sources = &self.sources;
        let chunk = match &self.content {
            Content::Samples => {
                let fill = |input: usize, row: &mut [i64]| -> Result<()> {
                    for (slot, &value) in row.iter_mut().zip(sources.row(input)?) {
                        *slot = i64::from(value);
                    }
                    Ok(())
                };
                self.encryption.next_chunk(&fill)?
            }
            Content::Slots { layout, points } => {
                let canaries = self.session.plan.canaries();
                let number = self.number;
                let fill = |input: usize, row: &mut [i64]| -> Result<()> {
                    let mut values = Zeroizing::new(vec![0; layout.counts().random_points()]);
                    points.values_into(input, &mut values)?;
                    let canary_values = canaries.inputs(number, input)?;
                    Ok(layout.fill(sources.row(input)?, canary_values, &values, row)?)
                };
                self.encryption.next_chunk(&fill)?
            }
        };
        let Some(chunk) = chunk else { return Ok(false) };
        self.writer.append(chunk)?;
        Ok(true)
    }

    /// The block, completely encrypted; evaluates the random points while the request travels.
    ///
    /// # Errors
    /// - [`SessionError::Protocol`](crate::session::SessionError::Protocol) when ciphertexts are still to come.
    /// - [`SessionError::Encrypted`](crate::session::SessionError::Encrypted), [`SessionError::Network`](crate::session::SessionError::Network) for broken invariants.
    pub fn finish(self) -> Result<PreparedBlock> {
        let Self { session, segment, number, index, encryption, content, request, writer, .. } =
            self;
        writer.finish()?;
        let (check, times) = encryption.finish()?;
        let evidence = match content {
            Content::Samples => Evidence::Words(check.ok_or(INVARIANT)?),
            Content::Slots { layout, points } => {
                let points = expected_results(session, (number, segment), &points)?;
                Evidence::Slots { layout, points }
            }
        };
        let session = session.id;
        Ok(PreparedBlock { request, session, index, segment: number, evidence, times })
    }
}

impl core::fmt::Debug for GrowingBlock<'_> {
    /// Public counts only: slots, points and check rows are secret.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("GrowingBlock")
            .field("index", &self.index)
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

/// What an honest server answers to the random points, one row per output neuron.
fn expected_results(
    session: &BatchSession,
    (number, segment): (usize, &ClientSegment),
    points: &RandomPoints,
) -> Result<Zeroizing<Vec<Vec<i64>>>> {
    let window = segment.context.window();
    let plan = session.plan.plan();
    let results = Zeroizing::new(plan.evaluate_segment_modular(number, points.points())?);
    let by_neuron = (0..segment.context.n_outputs())
        .map(|output| {
            results
                .iter()
                .map(|point| point.get(output).map_or(0, |&v| window.reduce(v.cast_signed())))
                .collect()
        })
        .collect();
    Ok(Zeroizing::new(by_neuron))
}

impl BatchSession {
    fn source_matrices(&self, segment: &ClientSegment) -> Result<Vec<&IntegerMatrix>> {
        let (structure, _) = self.plan.network().stage(segment.stage)?;
        structure
            .sources
            .iter()
            .map(|source| self.values.get(value_position(source)).ok_or(INVARIANT))
            .collect()
    }
}

/// Where a source stands among the session's values: the input, then each stage's.
pub(super) const fn value_position(source: &ValueRef) -> usize {
    match *source {
        ValueRef::Input => 0,
        ValueRef::Stage(stage) => stage as usize + 1,
    }
}

/// Counts of a checked plan are below 2^22.
fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
