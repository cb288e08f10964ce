//! The server's side: receive a request, evaluate the segment band by band, emit reply bytes.

use core::ops::{ControlFlow, Range};

use he_core::{CiphertextBlock, LinearMap, PublicSeed, Quadratic, bytes};

use super::{
    context::SegmentContext,
    error::{Error, Result},
    map::{DENSE_ROWS, linear_map},
};
use crate::integer::{LinearGeometry, StageStructure, StageWeights};
use crate::plan::Segment;

/// Bytes of linear outputs that exist at one time (before squaring).
const BAND_BYTES: usize = 48 << 20;

/// One segment of one plan, ready to evaluate request after request.
///
/// Evaluation is a pure function of plan, segment and request: any replica gives the same bytes.
#[derive(Debug)]
pub struct SegmentEvaluator {
    context: SegmentContext,
    map: LinearMap,
    structure: StageStructure,
    /// Present when the segment applies the activation: coefficients per channel.
    quadratic: Option<Vec<Quadratic>>,
}

/// Part of a reply: values produced and the linear outputs they need.
struct Band {
    linear: Range<usize>,
    outputs: Range<usize>,
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
        let n_outputs = if segment.evaluates_activation {
            structure.n_outputs()
        } else {
            structure.linear.n_outputs()
        };
        for (what, expected, actual) in [
            ("number of inputs", map.n_inputs(), context.n_inputs()),
            ("number of outputs", n_outputs, context.n_outputs()),
        ] {
            if expected != actual {
                let (expected, actual) = (expected as u128, actual as u128);
                return Err(Error::Inconsistent { segment: index, what, expected, actual });
            }
        }
        let quadratic = match (&weights.quadratic, segment.evaluates_activation) {
            (Some(quadratic), true) => Some(
                (0..structure.n_channels())
                    .map(|channel| {
                        let (a, b, c) = quadratic.coefficients(channel);
                        Quadratic { a: a.into(), b, c: context.reduce_constant(c) }
                    })
                    .collect(),
            ),
            (None, true) => {
                let what = "number of quadratics";
                return Err(Error::Inconsistent { segment: index, what, expected: 1, actual: 0 });
            }
            (_, false) => None,
        };
        Ok(Self { context, map, structure: structure.clone(), quadratic })
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

    /// Upper bound of the memory one request occupies while it is received and evaluated, bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let row = self.row_bytes() as u64;
        let input = self.context.n_inputs() as u64 * row;
        let band = self
            .bands()
            .iter()
            .map(|band| (band.linear.len() + band.outputs.len()) as u64 * row * 3)
            .max()
            .unwrap_or(0);
        input + band + self.context.request_ciphertext_bytes() as u64
    }

    /// Starts receiving a request whose `c_1` polynomials expand from `seed`.
    ///
    /// # Errors
    /// [`Error::Arithmetic`] never for a checked segment.
    pub fn receive(&self, seed: [u8; 32]) -> Result<RequestReceiver> {
        let params = self.context.params();
        let block =
            CiphertextBlock::zeros(params, self.context.n_inputs(), 1, params.moduli().len())?;
        Ok(RequestReceiver {
            block,
            seed: PublicSeed(seed),
            next: 0,
            pending: Vec::new(),
            received: 0,
            expected: self.context.request_bytes(),
            ciphertext_bytes: self.context.request_ciphertext_bytes(),
        })
    }

    /// Evaluates the segment on a received block; reply bytes go to `sink` in order, band by band.
    ///
    /// Parallel on the current rayon pool. Returns `Break` when the sink asked to stop.
    ///
    /// # Errors
    /// [`Error::Arithmetic`] when the block does not belong to the segment.
    pub fn evaluate(
        &self,
        block: &CiphertextBlock,
        sink: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let mut bytes = Vec::new();
        let mut linear = self.context.empty_block()?;
        for band in self.bands() {
            self.map.apply_range_into(block, band.linear.clone(), &mut linear)?;
            bytes.clear();
            match &self.quadratic {
                None => bytes::write_reply(&linear, &mut bytes),
                Some(quadratic) => {
                    let values = self.activate(&linear, quadratic, &band)?;
                    let reply = values.mod_switch_to(self.context.reply_moduli())?;
                    bytes::write_reply(&reply, &mut bytes);
                }
            }
            if sink(&bytes).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Activation and sum pool of one band.
    fn activate(
        &self,
        linear: &CiphertextBlock,
        quadratic: &[Quadratic],
        band: &Band,
    ) -> Result<CiphertextBlock> {
        let members = self.structure.pool.as_ref().map(|pool| {
            let terms_of = |output| {
                let mut terms = Vec::with_capacity(pool.n_terms());
                pool.for_each_term(output, |input| terms.push(input - band.linear.start));
                terms
            };
            band.outputs.clone().map(terms_of).collect::<Vec<_>>()
        });
        if quadratic.iter().all(|q| *q == Quadratic::SQUARE) {
            let each = || (0..linear.count()).map(|i| vec![i]).collect();
            return Ok(linear.sums_of_squares(&members.unwrap_or_else(each))?);
        }
        // Outputs are channel-fastest, so the coefficients repeat from the first channel on.
        let first = band.linear.start % quadratic.len();
        let coefficients: Vec<Quadratic> =
            quadratic.iter().copied().cycle().skip(first).take(linear.count()).collect();
        let values = linear.quadratic(&coefficients)?;
        Ok(match members {
            Some(members) => values.sums(&members)?,
            None => values,
        })
    }

    fn row_bytes(&self) -> usize {
        let params = self.context.params();
        2 * params.ring_degree() * params.moduli().len() * 8
    }

    /// Cuts the outputs into bands of whole positions (convolutions) or row groups (dense).
    fn bands(&self) -> Vec<Band> {
        let fitting = (BAND_BYTES / self.row_bytes()).max(1);
        let out = self.structure.linear.output();
        match (&self.structure.linear, self.quadratic.as_ref().and(self.structure.pool)) {
            (LinearGeometry::Dense { n_out, .. }, None) => {
                let step = (fitting / DENSE_ROWS).max(1) * DENSE_ROWS;
                plain_bands(*n_out, step)
            }
            (LinearGeometry::Conv2d(_), None) => {
                let step = (fitting / out.channels).max(1) * out.channels;
                plain_bands(out.len(), step)
            }
            (LinearGeometry::Dense { n_out, .. }, Some(pool)) => {
                vec![Band { linear: 0..*n_out, outputs: 0..pool.output().len() }]
            }
            (LinearGeometry::Conv2d(_), Some(pool)) => {
                let pooled = pool.output();
                let row = out.width * out.channels;
                let rows = (fitting / row).saturating_sub(pool.window.0) / pool.stride.0 + 1;
                (0..pooled.height)
                    .step_by(rows)
                    .map(|first| {
                        let last = (first + rows).min(pooled.height);
                        let end = (last - 1) * pool.stride.0 + pool.window.0;
                        let out_row = pooled.width * pooled.channels;
                        Band {
                            linear: first * pool.stride.0 * row..end * row,
                            outputs: first * out_row..last * out_row,
                        }
                    })
                    .collect()
            }
        }
    }
}

fn plain_bands(n_outputs: usize, step: usize) -> Vec<Band> {
    (0..n_outputs)
        .step_by(step)
        .map(|first| {
            let range = first..(first + step).min(n_outputs);
            Band { linear: range.clone(), outputs: range }
        })
        .collect()
}

/// A request on its way in: decodes whole ciphertexts as their bytes arrive.
#[derive(Debug)]
pub struct RequestReceiver {
    block: CiphertextBlock,
    seed: PublicSeed,
    next: usize,
    pending: Vec<u8>,
    received: u64,
    expected: u64,
    ciphertext_bytes: usize,
}

impl RequestReceiver {
    /// Takes the next bytes of the payload, in any cut.
    ///
    /// # Errors
    /// - [`Error::ByteCount`] when more bytes arrive than the segment's requests have.
    /// - [`Error::Arithmetic`] when a residue is not below its modulus.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.received += bytes.len() as u64;
        if self.received > self.expected {
            return Err(Error::ByteCount {
                what: "request payload",
                expected: self.expected,
                actual: self.received,
            });
        }
        self.pending.extend_from_slice(bytes);
        let whole = self.pending.len() / self.ciphertext_bytes;
        if whole == 0 {
            return Ok(());
        }
        let taken = whole * self.ciphertext_bytes;
        let ready = self.pending.get(..taken).unwrap_or_default();
        bytes::read_request_into(&mut self.block, self.next, self.seed, ready)?;
        self.next += whole;
        self.pending.drain(..taken);
        Ok(())
    }

    /// The complete block.
    ///
    /// # Errors
    /// [`Error::ByteCount`] when bytes are missing.
    pub fn finish(self) -> Result<CiphertextBlock> {
        if self.received == self.expected && self.pending.is_empty() {
            return Ok(self.block);
        }
        Err(Error::ByteCount {
            what: "request payload",
            expected: self.expected,
            actual: self.received,
        })
    }
}
