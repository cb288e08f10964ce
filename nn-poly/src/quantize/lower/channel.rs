//! Activations of a stage, channel by channel, and its biases and coefficients as whole numbers.

use super::{BLENDED, coefficients};
use crate::error::{Error, Result};
use crate::integer::chain::{Exponents, MAX_WIDE_MAGNITUDE};
use crate::integer::{MAX_BIAS, Quadratic};
use crate::layer::Activation;
use crate::quantize::blocks::Block;
use crate::quantize::quadratic::{IntegerQuadratic, integer_quadratic};
use crate::quantize::refuse;

/// Activation coefficients and unit of one channel, as whole numbers, and what its bias needs.
#[derive(Clone, Copy)]
pub(super) struct Channel {
    pub(super) bias: f64,
    pub(super) a: i32,
    pub(super) b: f64,
    pub(super) c: f64,
    pub(super) unit: f64,
}

/// Let channels without a square count units of the others': all lose the same low bits where the chain
/// ends.
pub(super) fn refine_linear_channels(channels: &mut [Channel]) {
    let squares = channels.iter().filter(|channel| channel.a != 0);
    let finest = squares.map(|channel| channel.unit).fold(f64::INFINITY, f64::min);
    for channel in channels.iter_mut().filter(|channel| channel.a == 0) {
        let ratio = (channel.unit / finest).round();
        if finest.is_finite() && ratio > 1.0 {
            channel.b *= ratio;
            channel.c *= ratio;
            channel.unit /= ratio;
        }
    }
}

impl Channel {
    /// Largest magnitude of a value when products add up to `products` at most.
    pub(super) fn reach(&self, products: f64) -> f64 {
        let z = products + self.bias.abs() + 1.0;
        f64::from(self.a.abs()) * z * z + self.b.abs() * z + self.c.abs()
    }
}

/// The activation of a channel whose linear outputs count `unit`; `bias` is what it adds to them.
pub(super) fn lower_channel(
    block: &Block<'_>,
    channel: usize,
    unit: f64,
    (z_max, resolution): (f64, f64),
) -> Result<Channel> {
    match block.activation {
        Some(Activation::Square) => {
            Ok(Channel { bias: 0.0, a: 1, b: 0.0, c: 0.0, unit: unit * unit })
        }
        Some(Activation::Polynomial { .. }) => {
            let IntegerQuadratic { offset, a, b, c, unit } =
                integer_quadratic(coefficients(block, channel), unit, z_max, resolution);
            Ok(Channel { bias: offset, a, b, c, unit })
        }
        Some(Activation::Blend(_)) => Err(refuse(block.value_idx, "blend", BLENDED)),
        // The server, who has quadratics only, hands on the linear output itself.
        Some(Activation::Relu | Activation::Function(_)) | None => {
            Ok(Channel { bias: 0.0, a: 0, b: 1.0, c: 0.0, unit })
        }
    }
}

/// Whole biases and quadratics of a stage.
pub(super) struct Numbers {
    pub(super) bias: Vec<i64>,
    pub(super) quadratic: Quadratic,
}

/// Round biases and coefficients; in a chain those that outgrow 56 bits get an exponent.
pub(super) fn numbers(
    block: &Block<'_>,
    channels: &[Channel],
    is_chained: bool,
) -> Result<(Exponents, Numbers)> {
    const TOO_LARGE: &str = "a bias or coefficient is too large for the scale of its weights";
    let exponent = |of: fn(&Channel) -> f64| {
        let largest = channels.iter().map(|channel| of(channel).abs()).fold(0.0, f64::max);
        if is_chained { bits_beyond(largest, MAX_CONSTANT_BITS) } else { 0 }
    };
    let exponents = Exponents {
        bias: exponent(|channel| channel.bias),
        constant: exponent(|channel| channel.c),
    };
    let rounded = |v: f64, exponent: u32| {
        let v = v / f64::from(exponent).exp2();
        whole(v).ok_or_else(|| refuse(block.first_idx, "linear layer", TOO_LARGE))
    };
    let each =
        |of: &dyn Fn(&Channel) -> Result<i64>| channels.iter().map(of).collect::<Result<_>>();
    let quadratic = Quadratic {
        a: channels.iter().map(|channel| channel.a).collect(),
        b: each(&|channel| rounded(channel.b, 0))?,
        c: each(&|channel| rounded(channel.c, exponents.constant))?,
    };
    let quadratic = if quadratic.is_square() { Quadratic::square() } else { quadratic };
    let bias = each(&|channel| rounded(channel.bias, exponents.bias))?;
    Ok((exponents, Numbers { bias, quadratic }))
}

/// Bits of the largest constant that is given without an exponent.
pub(super) const MAX_CONSTANT_BITS: f64 = 55.0;
/// Bits of values after the division that ends a chain. Proven ranges exceed what occurs by many bits,
/// and channels may differ by many more.
pub(super) const DIVIDED_BITS: f64 = 54.0;

/// The same of values that the key holder squares and sums over a pool, or looks up.
pub(super) const ACTIVATED_BITS: f64 = 26.0;

/// By how many bits a chain's values outgrow the `kept` ones.
///
/// # Errors
/// - [`Error::ChainTooWide`] for values that outgrow the chain's arithmetic.
pub(super) fn excess_bits(stage: usize, largest: f64, kept: f64) -> Result<u32> {
    if bits_beyond(largest, 0.0) > MAX_WIDE_MAGNITUDE.ilog2() {
        let step = "sum of products and squares of a chain";
        return Err(Error::ChainTooWide { stage, step, magnitude: i128::MAX });
    }
    Ok(bits_beyond(largest, kept))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to a few hundred")]
pub(super) fn bits_beyond(largest: f64, bits: f64) -> u32 {
    if largest <= 1.0 { 0 } else { (largest.log2().ceil() - bits).clamp(0.0, 1e3) as u32 }
}

/// The nearest whole number, halves upward, if it is an allowed bias.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "the magnitude is checked against 2^56 first"
)]
pub(super) fn whole(v: f64) -> Option<i64> {
    let nearest = (v + 0.5).floor();
    (nearest.abs() <= MAX_BIAS as f64).then_some(nearest as i64)
}
