//! The server's side: receive a request, evaluate the segment band by band, emit reply bytes.

mod chain;
mod receiver;

use core::ops::{ControlFlow, Range};
use std::sync::Arc;

use he_core::{CiphertextBlock, LinearMap, PooledQuadratic, Quadratic};

use super::{
    context::SegmentContext,
    error::{Error, Result},
    map::{band_unit, linear_map},
    pool::StoragePool,
};
use crate::integer::{LinearGeometry, Pool, StageStructure, StageWeights};
use crate::plan::Segment;
use chain::{ChainEvaluator, chain_evaluators};
pub use receiver::{ReceivedRequest, RequestReceiver};

/// Bytes of results that exist at one time (before modulus switching): about a level-3 cache, and
/// enough for bands of a convolution to share most of the inputs they read.
const BAND_BYTES: usize = 32 << 20;
/// Bytes of a reply that are handed over together, about.
pub(super) const PIECE_BYTES: usize = 2 << 20;
/// Bytes of a request that are decoded together, about: enough to keep all threads busy.
pub(super) const DECODED_BYTES: usize = 1 << 20;

/// One segment of one plan, ready to evaluate request after request.
///
/// Evaluation is a pure function of plan, segment and request: any replica gives the same bytes.
#[derive(Debug)]
pub struct SegmentEvaluator {
    context: SegmentContext,
    steps: Vec<ChainEvaluator>,
    map: LinearMap,
    bands: Vec<Band>,
    pool: Arc<StoragePool>,
}

/// Part of a reply and the linear outputs it needs.
#[derive(Debug)]
struct Band {
    linear: Range<usize>,
    activated: Option<Vec<PooledQuadratic>>,
}

impl Band {
    fn n_results(&self) -> usize {
        self.activated.as_ref().map_or(self.linear.len(), Vec::len)
    }
}

impl SegmentEvaluator {
    /// Prepares segment number `index` of a plan.
    ///
    /// Cost: builds the gathered map (some milliseconds for a wide convolution).
    ///
    /// # Errors
    /// - [`Error::Arithmetic`] when ring or weights are not usable.
    /// - [`Error::Inconsistent`] when segment and stage contradict each other.
    pub fn new(
        index: usize,
        segment: &Segment,
        structure: &StageStructure,
        weights: &StageWeights,
    ) -> Result<Self> {
        let context = SegmentContext::new(index, segment)?;
        let map = linear_map(&context, structure, weights)?;
        let steps = chain_evaluators(&context, structure, weights)?;
        let n_inputs = steps.first().map_or_else(|| map.n_inputs(), ChainEvaluator::n_inputs);
        let n_outputs = if segment.evaluates_activation {
            structure.n_outputs()
        } else {
            structure.linear.n_outputs()
        };
        let is_refused = segment.evaluates_activation && structure.non_polynomial().is_some();
        let n_refused = usize::from(is_refused);
        for (what, expected, actual) in [
            ("number of steps that are no polynomials", 0, n_refused),
            ("number of chain steps", steps.len(), context.step_moduli().len()),
            ("number of inputs", n_inputs, context.n_inputs()),
            ("number of outputs", n_outputs, context.n_outputs()),
        ] {
            if expected != actual {
                let (expected, actual) = (expected as u128, actual as u128);
                return Err(Error::Inconsistent { segment: index, what, expected, actual });
            }
        }
        let quadratic: Option<Vec<Quadratic>> =
            match (&weights.quadratic, segment.evaluates_activation) {
                (Some(_), true) => Some(
                    (0..structure.n_channels())
                        .map(|channel| {
                            let coefficients = weights.wide_coefficients(structure, channel);
                            server_quadratic(&context, coefficients)
                        })
                        .collect(),
                ),
                (None, true) => {
                    let what = "number of quadratics";
                    return Err(Error::Inconsistent {
                        segment: index,
                        what,
                        expected: 1,
                        actual: 0,
                    });
                }
                (_, false) => None,
            };
        let row_bytes = row_bytes(&context, context.reply_degree() + 1);
        let fitting = (BAND_BYTES / row_bytes).max(1);
        let bands =
            bands(&structure.linear, structure.pool.as_ref(), quadratic.as_deref(), fitting);
        Ok(Self { context, steps, map, bands, pool: Arc::default() })
    }

    /// Takes memory from a pool that other evaluators use as well.
    #[must_use]
    pub fn with_pool(mut self, pool: Arc<StoragePool>) -> Self {
        self.pool = pool;
        self
    }

    /// Public parameters of the segment.
    #[must_use]
    pub fn context(&self) -> &SegmentContext {
        &self.context
    }

    /// The linear map, for the owner's word check.
    #[must_use]
    pub fn map(&self) -> &LinearMap {
        &self.map
    }

    /// Upper bound of the memory one request occupies while it is received and evaluated, bytes,
    /// four pieces of its reply included; what the pool keeps for others is not counted. Depends on the number of
    /// threads here where ciphertexts are relinearized.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let band = self.bands.iter().map(Band::n_results).max().unwrap_or(0);
        let results = band * row_bytes(&self.context, self.context.reply_degree() + 1);
        let reply = self.context.reply_ciphertext_bytes();
        let own = memory_bytes(
            self.input_bytes(),
            results,
            self.context.request_ciphertext_bytes(),
            reply,
        );
        own + self.chain_memory_bytes() + key_memory_bytes(&self.context)
    }

    /// Starts receiving a request whose `c_1` polynomials expand from `seed`.
    ///
    /// # Errors
    /// [`Error::Arithmetic`] never for a checked segment.
    pub fn receive(&self, seed: [u8; 32]) -> Result<RequestReceiver> {
        RequestReceiver::new(&self.context, seed, self.pool.take(self.input_bytes()))
    }

    /// Evaluates the segment on a received request; reply bytes go to `sink` in order, in pieces of a
    /// few megabytes as they are finished.
    ///
    /// Parallel on the current rayon pool, but for the time `sink` takes. Returns `Break` when the
    /// sink asked to stop. A segment with a chain asks it with empty pieces as well, several times a second
    /// while nothing of the reply exists yet.
    ///
    /// # Errors
    /// [`Error::Arithmetic`] when the request does not belong to the segment.
    pub fn evaluate(
        &self,
        request: &ReceivedRequest,
        sink: &mut dyn FnMut(Vec<u8>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        if !self.steps.is_empty() {
            return self.evaluate_chain(request, sink);
        }
        self.for_each_band(request.ciphertexts(), &mut |results| self.emit(results, sink))
    }

    /// Evaluates a segment without a chain band by band: `visit` gets the results of each, in order.
    pub(super) fn for_each_band(
        &self,
        block: &CiphertextBlock,
        visit: &mut dyn FnMut(&CiphertextBlock) -> Result<ControlFlow<()>>,
    ) -> Result<ControlFlow<()>> {
        let n_moduli = self.context.params().moduli().len();
        let degree = self.context.reply_degree();
        let most = self.bands.iter().map(Band::n_results).max().unwrap_or(0);
        let storage = self.pool.take(most * row_bytes(&self.context, degree + 1));
        let params = self.context.params();
        let mut results = CiphertextBlock::zeros_in(params, 0, degree, n_moduli, storage)?;
        let mut flow = ControlFlow::Continue(());
        for band in &self.bands {
            let linear = band.linear.clone();
            match &band.activated {
                None => self.map.apply_range_into(block, linear, &mut results)?,
                Some(activated) => {
                    self.map.apply_pooled_into(block, linear, activated, &mut results)?;
                }
            }
            flow = visit(&results)?;
            if flow.is_break() {
                break;
            }
        }
        self.pool.give(results.into_storage());
        Ok(flow)
    }

    /// Most results that exist at one time, and the memory that the pool may give for them.
    pub(super) fn largest_band(&self) -> (usize, usize) {
        let most = self.bands.iter().map(Band::n_results).max().unwrap_or(0);
        let bytes = most * row_bytes(&self.context, self.context.reply_degree() + 1);
        (most, StoragePool::most_for(bytes))
    }

    /// Memory that the pool may give for a request's block.
    pub(super) fn block_bytes(&self) -> usize {
        StoragePool::most_for(self.input_bytes())
    }

    /// Switches, packs and hands over the results of a band.
    fn emit(
        &self,
        results: &CiphertextBlock,
        sink: &mut dyn FnMut(Vec<u8>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let size = self.context.reply_ciphertext_bytes();
        let step = (PIECE_BYTES / size).max(1);
        for first in (0..results.count()).step_by(step) {
            let range = first..(first + step).min(results.count());
            let mut piece = Vec::with_capacity(range.len() * size);
            results.write_switched(range, self.context.reply_moduli(), &mut piece)?;
            if sink(piece).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Keeps the memory of an evaluated request's ciphertexts for the next one.
    pub fn recycle(&self, request: ReceivedRequest) {
        self.pool.give(request.into_ciphertexts().into_storage());
    }

    fn input_bytes(&self) -> usize {
        self.context.n_inputs() * row_bytes(&self.context, 2)
    }
}

/// Coefficients of a quadratic as ciphertexts take them.
fn server_quadratic(context: &SegmentContext, (a, b, c): (i32, i64, i128)) -> Quadratic {
    Quadratic { a: a.into(), b, c: context.reduce_constant(c) }
}

/// As [`SegmentEvaluator::memory_bytes`], from the description of a segment and its stage alone.
///
/// Cost: one pass over the outputs.
#[must_use]
pub fn request_memory_bytes(segment: &Segment, structure: &StageStructure) -> u64 {
    let ring = &segment.ring;
    let row = |n_polynomials: usize| {
        n_polynomials * ring.ring_degree as usize * ring.moduli.len() * size_of::<u64>()
    };
    let square = [Quadratic { a: 1, b: 0, c: 0 }];
    let quadratic = segment.evaluates_activation.then_some(&square[..]);
    let polynomials = segment.reply_degree() as usize + 1;
    let fitting = (BAND_BYTES / row(polynomials)).max(1);
    let bands = bands(&structure.linear, structure.pool.as_ref(), quadratic, fitting);
    let results = bands.iter().map(Band::n_results).max().unwrap_or(0) * row(polynomials);
    let of_one = |bytes: u64, count: u32| {
        usize::try_from(bytes / u64::from(count.max(1))).unwrap_or(usize::MAX)
    };
    let key_bytes = segment.relinearization_key_bytes();
    let own = memory_bytes(
        segment.n_inputs as usize * row(2),
        results,
        of_one(segment.request_bytes().saturating_sub(key_bytes), segment.n_inputs),
        of_one(segment.reply_bytes(), segment.n_outputs),
    );
    let n_moduli = ring.moduli.len();
    own + chain::memory_bytes(segment, structure)
        + key_memory(key_bytes, ring.ring_degree as usize, n_moduli)
}

/// Memory of the relinearization key of a request, if it has one.
fn key_memory_bytes(context: &SegmentContext) -> u64 {
    let params = context.params();
    let bytes = context.relinearization_key_bytes() as u64;
    key_memory(bytes, params.ring_degree(), params.moduli().len())
}

/// Memory of a key of so many packed bytes: these, for every modulus two polynomials over all moduli and the
/// special one, and what every thread keeps for switching.
fn key_memory(packed: u64, ring_degree: usize, n_moduli: usize) -> u64 {
    if packed == 0 {
        return 0;
    }
    let words = 16 * ring_degree * n_moduli * (n_moduli + 1);
    let of_thread = 8 * ring_degree * (2 * n_moduli + 6);
    packed + (words + rayon::current_num_threads() * of_thread) as u64
}

/// Memory of a request with these bytes of inputs, of results of its largest band, and of one packed
/// ciphertext of request and reply.
fn memory_bytes(inputs: usize, results: usize, request: usize, reply: usize) -> u64 {
    let pieces = 4 * (PIECE_BYTES + reply);
    let undecoded = 2 * (DECODED_BYTES + request);
    let blocks = StoragePool::most_for(inputs) + StoragePool::most_for(results);
    (blocks + pieces.max(undecoded)) as u64
}

/// Bytes of one ciphertext of so many polynomials over all moduli, in memory.
fn row_bytes(context: &SegmentContext, n_polynomials: usize) -> usize {
    let params = context.params();
    n_polynomials * params.ring_degree() * params.moduli().len() * size_of::<u64>()
}

/// Cuts the outputs into bands of whole positions (convolutions) or row groups (dense), of about
/// `fitting` results each.
fn bands(
    linear: &LinearGeometry,
    pool: Option<&Pool>,
    quadratic: Option<&[Quadratic]>,
    fitting: usize,
) -> Vec<Band> {
    let out = linear.output();
    let pool = quadratic.and(pool);
    let Some(pool) = pool else {
        let whole = band_unit(linear);
        let step = (fitting / whole).max(1) * whole;
        return (0..out.len())
            .step_by(step)
            .map(|first| {
                let linear = first..(first + step).min(out.len());
                let single = |i: usize| activation(quadratic?, vec![index(i)]);
                let activated = quadratic.and_then(|_| linear.clone().map(single).collect());
                Band { linear, activated }
            })
            .collect();
    };
    let pooled = pool.output();
    let (row, pooled_row) = (out.width * out.channels, pooled.width * pooled.channels);
    // One position gives all outputs.
    let is_one = out.height * out.width == 1;
    let rows = if is_one { pooled.height } else { (fitting / pooled_row).max(1) };
    (0..pooled.height)
        .step_by(rows)
        .map(|first| {
            let last = (first + rows).min(pooled.height);
            let linear = if is_one {
                0..out.len()
            } else {
                let end = (last - 1) * pool.stride.0 + pool.window.0;
                first * pool.stride.0 * row..end * row
            };
            let result = |output| {
                let mut members = Vec::with_capacity(pool.n_terms());
                pool.for_each_term(output, |input| members.push(index(input)));
                activation(quadratic?, members)
            };
            let activated = (first * pooled_row..last * pooled_row).map(result).collect();
            Band { linear, activated }
        })
        .collect()
}

/// The activation of outputs of one channel, summed. Outputs are channel-fastest.
fn activation(quadratic: &[Quadratic], members: Vec<u32>) -> Option<PooledQuadratic> {
    let channel = *members.first()? as usize % quadratic.len();
    Some(PooledQuadratic { quadratic: *quadratic.get(channel)?, members })
}

/// Stage sizes are checked to stay below 2^22.
fn index(output: usize) -> u32 {
    u32::try_from(output).unwrap_or(u32::MAX)
}
