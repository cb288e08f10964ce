//! Stored rates, for when nothing is to be measured.

use super::cost::{BlockSeconds, ByteSeconds, CostSource};
use crate::encrypted::parameters::key_switch_transforms;
use crate::error::Result;
use crate::integer::{IntegerNetwork, LinearGeometry, StageOutput, StageStructure};
use crate::plan::{Packing, Segment};

/// Rates of one core of the machine of `docs/performance.md` (AVX-512), times a number of cores.
///
/// Counts operations of a segment and multiplies; on another machine the forecast is off by the ratio
/// of their speeds, while alternatives compare much as they do there.
#[derive(Clone, Copy, Debug)]
pub struct ReferenceRates {
    cores: f64,
}

/// Nanoseconds of one core per residue (ring degree × moduli) of a ciphertext, or as named.
mod nanoseconds {
    /// Encoding, encryption, packing.
    pub(super) const ENCRYPT: f64 = 6.4;
    /// Word checks, per word of two polynomials in requests and replies.
    pub(super) const CHECK: f64 = 0.65;
    /// Unpacking a request and expanding its other half.
    pub(super) const RECEIVE: f64 = 1.3;
    /// Decryption and decoding, of kept moduli.
    pub(super) const DECRYPT: f64 = 5.6;
    /// Square of one linear output.
    pub(super) const SQUARE: f64 = 1.45;
    /// Modulus switch of a reply of three polynomials.
    pub(super) const SWITCH: f64 = 7.5;
    /// Packing of a reply, per word.
    pub(super) const WRITE: f64 = 0.4;
    /// Refresh of one value of one sample.
    pub(super) const REFRESH: f64 = 1.0;
    /// Gathering one word of an input for one position.
    pub(super) const GATHER: f64 = 0.3;
    /// Reducing one word of a linear output.
    pub(super) const REDUCE: f64 = 0.5;
    /// Multiplying one residue of up to 31 bits by a weight.
    pub(super) const MULTIPLY_NARROW: f64 = 0.025;
    /// Multiplying one residue of more bits by a weight.
    pub(super) const MULTIPLY_WIDE: f64 = 0.036;
    /// Hashing and copying one byte.
    pub(super) const BYTE: f64 = 0.45;
    /// One transform of a key switch, and what goes with it, per residue.
    pub(super) const TRANSFORM: f64 = 3.7;
    /// First use of one byte of memory.
    pub(super) const MEMORY: f64 = 0.6;
    /// One weight of a linear map in a word check, per modulus and two rows.
    pub(super) const CHECK_WEIGHT: f64 = 3.0;
}

impl ReferenceRates {
    /// For a machine of `cores` cores.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a few cores")]
    pub fn new(cores: usize) -> Self {
        Self { cores: cores.max(1) as f64 }
    }
}

impl CostSource for ReferenceRates {
    #[expect(clippy::cast_precision_loss, reason = "a forecast of seconds")]
    fn block_seconds(
        &mut self,
        network: &IntegerNetwork,
        segment: &Segment,
    ) -> Result<BlockSeconds> {
        use nanoseconds as ns;
        let (stage, _) = network.stage(segment.stage as usize)?;
        let degree = f64::from(segment.ring.ring_degree);
        let residues = degree * segment.ring.moduli.len() as f64;
        let kept = degree * f64::from(segment.ring.reply_moduli);
        let (n_in, n_out) = (f64::from(segment.n_inputs), f64::from(segment.n_outputs));
        let words = 2.0 * residues;
        // Products of all linear maps, those of a chain included.
        let products = stage.n_products() as f64;
        let mut seconds = BlockSeconds {
            encrypt: n_in * residues * ns::ENCRYPT,
            receive: n_in * residues * ns::RECEIVE,
            evaluate: evaluate_nanoseconds(stage, segment),
            check: 0.0,
            decrypt: n_out * (kept * ns::DECRYPT + segment.capacity() as f64 * ns::REFRESH),
        };
        if segment.n_squares() > 0 {
            let n_points = 2 + segment.n_further_points();
            seconds.encrypt += n_points as f64 * products;
            seconds.receive += key_words(segment) * ns::RECEIVE;
        } else {
            let moduli = segment.ring.moduli.len() as f64;
            seconds.encrypt += n_in * residues * ns::CHECK + moduli * products * ns::CHECK_WEIGHT;
            seconds.check = n_out * words * ns::CHECK;
        }
        if segment.packing == Packing::Slots && segment.n_squares() == 0 {
            seconds.decrypt += n_out * degree;
        }
        let scale = 1e-9 / self.cores;
        Ok(BlockSeconds {
            encrypt: seconds.encrypt * scale,
            receive: seconds.receive * scale,
            evaluate: seconds.evaluate * scale,
            check: seconds.check * scale,
            decrypt: seconds.decrypt * scale,
        })
    }

    fn byte_seconds(&mut self) -> Result<ByteSeconds> {
        let scale = 1e-9 / self.cores;
        let (payload, memory) = (nanoseconds::BYTE * scale, nanoseconds::MEMORY * scale);
        Ok(ByteSeconds { payload, memory })
    }
}

/// Residues of a relinearization key that are unpacked, and as many that are expanded.
#[expect(clippy::cast_precision_loss, reason = "a forecast of seconds")]
fn key_words(segment: &Segment) -> f64 {
    if !segment.relinearizes() {
        return 0.0;
    }
    let n_moduli = segment.ring.moduli.len() as f64;
    f64::from(segment.ring.ring_degree) * n_moduli * (n_moduli + 1.0)
}

/// Nanoseconds of one core that evaluating a block takes, from the linear map to the packed reply.
#[expect(clippy::cast_precision_loss, reason = "a forecast of seconds")]
pub(crate) fn evaluate_nanoseconds(stage: &StageStructure, segment: &Segment) -> f64 {
    use nanoseconds as ns;
    let steps = stage.chain.as_ref().map_or(&[][..], |chain| &chain.steps);
    let left = segment.chain.as_ref().map_or(&[][..], |part| &part.step_moduli);
    let before = steps.iter().map(|step| (&step.linear, step.n_outputs(), true));
    let n_out = stage.n_outputs_at(if segment.evaluates_activation {
        StageOutput::Pooled
    } else {
        StageOutput::Linear
    });
    let last = (&stage.linear, n_out, segment.evaluates_activation);
    let degree = f64::from(segment.ring.ring_degree);
    let (mut total, mut polynomials, mut n_moduli) = (0.0, 2.0, segment.ring.moduli.len());
    for (position, (linear, n_out, squares)) in before.chain(std::iter::once(last)).enumerate() {
        let residues = degree * n_moduli as f64;
        let Shape { products, gathers } = Shape::of(linear);
        let (n_linear, n_out) = (linear.n_outputs() as f64, n_out as f64);
        let multiply: f64 = segment
            .ring
            .moduli_bits()
            .take(n_moduli)
            .map(|bits| if bits > 31 { ns::MULTIPLY_WIDE } else { ns::MULTIPLY_NARROW })
            .map(|each| each * polynomials * degree * products)
            .sum();
        let words = polynomials * residues;
        total += multiply + words * (gathers * ns::GATHER + n_linear * ns::REDUCE);
        if squares {
            // The rates are those of a square of two polynomials, and of a reply of three.
            total += residues * n_linear * ns::SQUARE * polynomials * (polynomials + 1.0) / 6.0;
            polynomials = 2.0 * polynomials - 1.0;
            if position < steps.len() && segment.relinearizes() {
                total += degree * n_out * key_switch_transforms(n_moduli) * ns::TRANSFORM;
                polynomials = 2.0;
            }
            total += residues * n_out * ns::SWITCH * polynomials / 3.0;
        }
        n_moduli = left.get(position).map_or(n_moduli, |&left| left as usize);
    }
    let kept = degree * f64::from(segment.ring.reply_moduli);
    total + f64::from(segment.n_outputs) * polynomials * kept * ns::WRITE
}

/// What a linear map does per word of a ciphertext.
struct Shape {
    /// Multiplications.
    products: f64,
    /// Inputs gathered by all positions.
    gathers: f64,
}

impl Shape {
    #[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
    fn of(linear: &LinearGeometry) -> Self {
        let out = linear.output();
        let positions = (out.height * out.width) as f64;
        let taps = linear.n_weights() as f64 / out.channels.max(1) as f64;
        let groups = match linear {
            LinearGeometry::Dense { .. } => 1,
            LinearGeometry::Conv2d(conv) => conv.n_groups(),
            LinearGeometry::Sum(sum) => sum.common_groups().unwrap_or(1),
        };
        let products = positions * out.channels as f64 * taps;
        Self { products, gathers: positions * groups as f64 * taps }
    }
}
