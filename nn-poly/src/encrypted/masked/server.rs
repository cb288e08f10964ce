//! The server's side of a masked stage: a pure function of plan, mask key and request.

use core::ops::ControlFlow;
use std::sync::Arc;

use he_core::{CiphertextBlock, Encoder, Plaintext, PublicKey, bytes::write_reply};
use rayon::prelude::*;
use zeroize::Zeroizing;

use super::key::{MaskKey, MaskToken, RequestHash, RequestHasher, RoundSecret, TOKEN};
use crate::encrypted::error::{Error, Result};
use crate::encrypted::evaluator::{DECODED_BYTES, PIECE_BYTES, SegmentEvaluator};
use crate::encrypted::pool::StoragePool;
use crate::integer::{Reduction128, Refresh, ValueRef};
use crate::plan::{Digest, MaskPart, Plan, Trust, token_stages};

const SEED: usize = 32;
/// Ciphertexts that are masked together.
const CHUNK: usize = 64;
/// Polynomials modulo one prime that a task keeps for itself while it draws and encodes masks: the draws,
/// the masks (two words each), values and digits.
const MASKING_ROWS: usize = 4;
/// As that, while it rerandomizes one ciphertext.
const RERANDOMIZING_ROWS: usize = 6;
/// Pieces of a reply that a server holds at a time: one in the making, three on their way.
const HELD_PIECES: usize = 4;

/// One stage of one masked plan, ready to evaluate request after request.
///
/// Evaluation is a pure function of plan, mask key and request: identical requests get identical
/// replies, from any server with the same key, and different requests other masks.
#[derive(Debug)]
pub struct MaskedEvaluator {
    plan: Digest,
    stage: u32,
    key: Arc<MaskKey>,
    residues: Vec<(SegmentEvaluator, MaskPart)>,
    inputs: Vec<Input>,
    earlier: Vec<Earlier>,
    request_bytes: u64,
    reply_bytes: u64,
}

/// Where one input of the stage comes from.
#[derive(Debug, Clone, Copy)]
enum Input {
    /// The network's input, which has no mask.
    Plain,
    /// Output `output` of the stage that token `token` names.
    Masked { token: usize, output: usize },
}

/// An earlier stage whose masks are subtracted.
#[derive(Debug)]
struct Earlier {
    stage: u32,
    mask_bits: u32,
    refresh: Refresh,
    n_channels: usize,
}

/// A request on its way in: kept as it is until all of it has been hashed.
#[derive(Debug)]
pub struct MaskedReceiver {
    seed: [u8; SEED],
    hasher: RequestHasher,
    payload: Vec<u8>,
    expected: u64,
}

/// A complete request whose tokens are this server's.
pub struct MaskedRequest {
    seed: [u8; SEED],
    hash: RequestHash,
    payload: Vec<u8>,
    earlier: Vec<RoundSecret>,
}

impl core::fmt::Debug for MaskedRequest {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("MaskedRequest").field("hash", &self.hash).finish_non_exhaustive()
    }
}

impl MaskedEvaluator {
    /// Prepares stage `stage` of a masked plan.
    ///
    /// # Errors
    /// - [`crate::Error::TrustSetting`] unless the plan is masked, [`crate::Error::OutOfRange`] if there is no
    ///   such stage.
    /// - [`crate::Error::Encrypted`] as [`SegmentEvaluator::new`].
    pub fn new(plan: &Plan, stage: usize, key: Arc<MaskKey>) -> crate::error::Result<Self> {
        let public = plan.public();
        public.expect_trust(Trust::Masked, "a masked evaluation")?;
        let (structure, weights) = plan.network().stage(stage)?;
        let range = public.segments_of(stage)?;
        let segments = public.segments.get(range.clone()).unwrap_or_default();
        let mut residues = Vec::with_capacity(segments.len());
        for (idx, segment) in range.zip(segments) {
            let evaluator = SegmentEvaluator::new(idx, segment, structure, weights)?;
            // A checked plan's segments have one.
            residues.extend(segment.mask.map(|part| (evaluator, part)));
        }
        let named = token_stages(structure);
        let mut earlier = Vec::with_capacity(named.len());
        for &stage in &named {
            let (source, _) = plan.network().stage(stage)?;
            let part = public.first_segment(stage)?.mask;
            if let (Some(refresh), Some(part)) = (&source.refresh, part) {
                earlier.push(Earlier {
                    stage: u32::try_from(stage).unwrap_or(u32::MAX),
                    mask_bits: part.mask_bits,
                    refresh: refresh.clone(),
                    n_channels: source.n_channels().max(1),
                });
            }
        }
        let mut inputs = Vec::with_capacity(structure.n_inputs());
        for source in &structure.sources {
            match *source {
                ValueRef::Input => {
                    inputs.extend(std::iter::repeat_n(Input::Plain, plan.network().n_inputs()));
                }
                ValueRef::Stage(source) => {
                    let token = named.iter().position(|&stage| stage == source as usize);
                    let (shape, _) = plan.network().stage(source as usize)?;
                    let token = token.unwrap_or(0);
                    inputs.extend(
                        (0..shape.n_outputs()).map(|output| Input::Masked { token, output }),
                    );
                }
            }
        }
        Ok(Self {
            plan: plan.digest(),
            stage: u32::try_from(stage).unwrap_or(u32::MAX),
            key,
            residues,
            inputs,
            earlier,
            request_bytes: segments.iter().map(crate::plan::Segment::request_bytes).sum(),
            reply_bytes: segments.iter().map(crate::plan::Segment::reply_bytes).sum(),
        })
    }

    /// Takes memory from a pool that other evaluators use as well.
    #[must_use]
    pub fn with_pool(mut self, pool: &Arc<StoragePool>) -> Self {
        let residues = self.residues.into_iter();
        self.residues = residues
            .map(|(evaluator, part)| (evaluator.with_pool(Arc::clone(pool)), part))
            .collect();
        self
    }

    /// Answers under another plan's name: how the test kit plays a server that runs a model it should
    /// not.
    #[must_use]
    pub fn named(mut self, plan: Digest) -> Self {
        self.plan = plan;
        self
    }

    /// Exact bytes of a request payload.
    #[must_use]
    pub fn request_bytes(&self) -> u64 {
        self.request_bytes
    }

    /// Exact bytes of a reply payload.
    #[must_use]
    pub fn reply_bytes(&self) -> u64 {
        self.reply_bytes
    }

    /// Ciphertexts of a request, of all residues.
    #[must_use]
    pub fn n_inputs(&self) -> usize {
        self.inputs.len() * self.residues.len()
    }

    /// Ciphertexts of a reply, of all residues.
    #[must_use]
    pub fn n_outputs(&self) -> usize {
        let of_one =
            self.residues.first().map_or(0, |(evaluator, _)| evaluator.context().n_outputs());
        of_one * self.residues.len()
    }

    /// Upper bound of the memory one request occupies while it is received and evaluated, bytes: its
    /// payload, and of one residue at a time the public key, the decoded block, and whatever takes most
    /// of decoding it, subtracting old masks, and computing results, masking them and handing them over.
    /// What the pool keeps for others is not counted, nor what threads keep of their own (about two
    /// megabytes each). Depends on the number of threads here.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let of_one = self.residues.iter().map(|(evaluator, _)| self.residue_bytes(evaluator));
        self.request_bytes + of_one.max().unwrap_or(0) as u64
    }

    /// Memory of one residue beside the payload.
    fn residue_bytes(&self, evaluator: &SegmentEvaluator) -> usize {
        let context = evaluator.context();
        let n_moduli = context.params().moduli().len();
        let row = context.params().ring_degree() * size_of::<u64>();
        let decoding = 2 * (DECODED_BYTES + context.request_ciphertext_bytes());
        let n_masked = self.inputs.iter().filter(|input| matches!(input, Input::Masked { .. }));
        let tasks = |n: usize| n.min(rayon::current_num_threads());
        let n_masked = n_masked.count().min(CHUNK);
        let unmasking = (n_masked * n_moduli + tasks(n_masked) * MASKING_ROWS) * row;
        let (n_results, band) = evaluator.largest_band();
        let n_polynomials = context.reply_degree() + 1;
        // A switch by several primes holds two blocks at a time, beside the one it began with; one by none
        // holds a copy.
        let switched: usize = (context.reply_moduli()..n_moduli).rev().take(2).sum();
        let switching = n_moduli + if switched == 0 { n_moduli } else { switched };
        let n_chunk = n_results.min(CHUNK);
        let masking = n_chunk * n_moduli + tasks(n_chunk) * MASKING_ROWS;
        let masked = n_chunk * n_polynomials * context.reply_moduli()
            + masking.max(tasks(n_chunk) * RERANDOMIZING_ROWS);
        let chunk = masked.max(n_chunk * n_polynomials * switching) * row;
        // No more pieces than there are bytes of a reply.
        let piece = PIECE_BYTES + context.reply_ciphertext_bytes();
        let reply = usize::try_from(self.reply_bytes).unwrap_or(usize::MAX);
        let pieces = (HELD_PIECES * piece).min(reply);
        let key = 2 * n_moduli * row;
        key + evaluator.block_bytes() + decoding.max(unmasking).max(band + chunk + pieces)
    }

    /// Starts receiving a request whose first residue's `c_1` polynomials expand from `seed`.
    #[must_use]
    pub fn receive(&self, seed: [u8; 32]) -> MaskedReceiver {
        MaskedReceiver {
            seed,
            hasher: RequestHasher::new(&self.plan, self.stage, &seed),
            payload: Vec::with_capacity(usize::try_from(self.request_bytes).unwrap_or(0)),
            expected: self.request_bytes,
        }
    }

    /// Checks length and tokens of a request.
    ///
    /// # Errors
    /// - [`Error::ByteCount`] when bytes are missing.
    /// - [`Error::MaskToken`] when a token is none that a server with this key gave for this plan and
    ///   the stage in question.
    pub fn open(&self, received: MaskedReceiver) -> Result<MaskedRequest> {
        let MaskedReceiver { seed, hasher, payload, expected } = received;
        if payload.len() as u64 != expected {
            let actual = payload.len() as u64;
            return Err(Error::ByteCount { what: "request payload", expected, actual });
        }
        let tokens = payload.chunks(TOKEN).zip(&self.earlier);
        let earlier = tokens.map(|(token, earlier)| {
            let missing = Error::MaskToken { stage: earlier.stage };
            let token = MaskToken::read(token).ok_or(missing)?;
            self.key.open(&self.plan, earlier.stage, &token)
        });
        let earlier = earlier.collect::<Result<_>>()?;
        Ok(MaskedRequest { seed, hash: hasher.finish(), payload, earlier })
    }

    /// Evaluates the stage; reply bytes go to `sink` in order, in pieces as they are finished.
    ///
    /// Parallel on the current rayon pool, but for the time `sink` takes. Returns `Break` when the sink
    /// asked to stop.
    ///
    /// # Errors
    /// [`Error::Arithmetic`] when a public key or a ciphertext is malformed.
    pub fn evaluate(
        &self,
        request: &MaskedRequest,
        sink: &mut dyn FnMut(Vec<u8>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let round = self.key.round(&self.plan, self.stage, request.hash);
        let mut rest = request.payload.get(self.earlier.len() * TOKEN..).unwrap_or_default();
        for (evaluator, part) in &self.residues {
            let context = evaluator.context();
            let mut seed = request.seed;
            if part.residue > 0 {
                seed.copy_from_slice(take(&mut rest, SEED)?);
            }
            let key_bytes = take(&mut rest, PublicKey::byte_len(context.params()))?;
            let key = PublicKey::from_bytes(context.params(), key_bytes)?;
            let mut receiver = evaluator.receive(seed)?;
            let n_bytes = usize::try_from(context.request_bytes()).unwrap_or(usize::MAX);
            // In parts: a receiver copies what it is given at one time.
            for part in take(&mut rest, n_bytes)?.chunks(DECODED_BYTES) {
                receiver.push(part)?;
            }
            let mut received = receiver.finish()?;
            self.subtract_masks(received.ciphertexts_mut(), evaluator, &request.earlier)?;
            let mut reply = Reply { evaluator, part: *part, round: &round, key: &key, next: 0 };
            let block = received.ciphertexts();
            let flow = evaluator.for_each_band(block, &mut |results| reply.emit(results, sink))?;
            evaluator.recycle(received);
            if flow.is_break() {
                return Ok(flow);
            }
        }
        let token = self.key.token(&self.plan, self.stage, request.hash);
        Ok(sink(token.0.to_vec()))
    }

    /// Subtracts the scaled masks of earlier rounds: what is left is refreshed values.
    fn subtract_masks(
        &self,
        block: &mut CiphertextBlock,
        evaluator: &SegmentEvaluator,
        rounds: &[RoundSecret],
    ) -> Result<()> {
        let context = evaluator.context();
        let reduction = Reduction128::new(context.window().modulus);
        let masked =
            |index: usize, input: &Input| -> Option<(usize, &Earlier, &RoundSecret, usize)> {
                let Input::Masked { token, output } = *input else { return None };
                Some((index, self.earlier.get(token)?, rounds.get(token)?, output))
            };
        let inputs: Vec<_> =
            self.inputs.iter().enumerate().filter_map(|(i, input)| masked(i, input)).collect();
        for chunk in inputs.chunks(CHUNK) {
            let plaintexts = chunk
                .par_iter()
                .map(|&(_, earlier, round, output)| {
                    let mut masks = Zeroizing::new(vec![0; context.capacity()]);
                    round.masks(output, earlier.mask_bits, &mut masks);
                    let channel = output % earlier.n_channels;
                    let scaled = |&mask: &u128| {
                        let scaled = earlier.refresh.scale_mask(channel, mask);
                        reduction.residue(scaled.wrapping_neg()).cast_signed()
                    };
                    encode(context.encoder(), masks.iter().map(scaled))
                })
                .collect::<Result<Vec<_>>>()?;
            let mut rest = &plaintexts[..];
            // Inputs of one source are neighbours; what lies between two sources has no mask.
            for run in chunk.chunk_by(|a, b| a.0 + 1 == b.0) {
                let (now, later) = rest.split_at(run.len().min(rest.len()));
                rest = later;
                block.add_plaintexts(run.first().map_or(0, |input| input.0), now)?;
            }
        }
        Ok(())
    }
}

impl MaskedReceiver {
    /// Takes the next bytes of the payload, in any cut.
    ///
    /// # Errors
    /// [`Error::ByteCount`] when more bytes arrive than the stage's requests have.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let actual = self.payload.len() as u64 + bytes.len() as u64;
        if actual > self.expected {
            let expected = self.expected;
            return Err(Error::ByteCount { what: "request payload", expected, actual });
        }
        self.hasher.update(bytes);
        self.payload.extend_from_slice(bytes);
        Ok(())
    }
}

impl MaskedRequest {
    /// The hash that names the request, and its masks.
    #[must_use]
    pub fn hash(&self) -> RequestHash {
        self.hash
    }
}

/// The reply of one residue in the making.
struct Reply<'a> {
    evaluator: &'a SegmentEvaluator,
    part: MaskPart,
    round: &'a RoundSecret,
    key: &'a PublicKey,
    next: usize,
}

impl Reply<'_> {
    /// Switches, masks, rerandomizes and hands over the next outputs.
    fn emit(
        &mut self,
        results: &CiphertextBlock,
        sink: &mut dyn FnMut(Vec<u8>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let context = self.evaluator.context();
        for first in (0..results.count()).step_by(CHUNK) {
            let chosen: Vec<usize> = (first..results.count().min(first + CHUNK)).collect();
            let mut chunk = results.select(&chosen)?.mod_switch_to(context.reply_moduli())?;
            let outputs = self.next..self.next + chosen.len();
            self.next = outputs.end;
            if self.part.mask_bits > 0 {
                let masks = outputs.clone().into_par_iter().map(|output| self.mask(output));
                chunk.add_plaintexts(0, &masks.collect::<Result<Vec<_>>>()?)?;
            }
            let seeds = outputs.map(|output| self.round.flood(self.part.residue, output));
            let seeds = Zeroizing::new(seeds.collect::<Vec<[u8; 32]>>());
            chunk.rerandomize(self.key, self.part.flood_bits, &seeds)?;
            if hand_over(&chunk, context.reply_ciphertext_bytes(), sink)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The masks of one output, as this residue sees them.
    fn mask(&self, output: usize) -> Result<Plaintext> {
        let context = self.evaluator.context();
        let reduction = Reduction128::new(context.window().modulus);
        let mut masks = Zeroizing::new(vec![0; context.capacity()]);
        self.round.masks(output, self.part.mask_bits, &mut masks);
        encode(
            context.encoder(),
            masks.iter().map(|mask| reduction.residue(mask.cast_signed()).cast_signed()),
        )
    }
}

/// Packs ciphertexts of `size` bytes in pieces of a few megabytes.
fn hand_over(
    chunk: &CiphertextBlock,
    size: usize,
    sink: &mut dyn FnMut(Vec<u8>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    let step = (PIECE_BYTES / size.max(1)).max(1);
    for first in (0..chunk.count()).step_by(step) {
        let chosen: Vec<usize> = (first..chunk.count().min(first + step)).collect();
        let mut piece = Vec::with_capacity(chosen.len() * size);
        write_reply(&chunk.select(&chosen)?, &mut piece);
        if sink(piece).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn encode(encoder: &Encoder, values: impl Iterator<Item = i64>) -> Result<Plaintext> {
    let values = Zeroizing::new(values.collect::<Vec<i64>>());
    Ok(encoder.encode(&values)?)
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8]> {
    let Some((now, later)) = rest.split_at_checked(len) else {
        let (expected, actual) = (len as u64, rest.len() as u64);
        return Err(Error::ByteCount { what: "part of a request", expected, actual });
    };
    *rest = later;
    Ok(now)
}
