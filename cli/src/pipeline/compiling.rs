//! From a model to a plan.

use anyhow::Result;
use ndarray::Array2;
use nn_poly::Error;
use nn_poly::compiler::{self, Compiled, Prepared, default_bits};
use nn_poly::model::{Bits, LayerBits, Model};
use nn_poly::plan::{ActivationSide, PlanOptions, compile};

use crate::failure::Hint;
use crate::options::BitsChoice;

/// The bits to compile a model with: the chosen ones, else those of its fine-tuning, else the
/// recipe's.
pub(crate) fn bits(model: &Model, choice: BitsChoice) -> Bits {
    match choice {
        BitsChoice::Of(bits) => bits,
        BitsChoice::Default | BitsChoice::None => default_bits(model),
    }
}

/// Who evaluates the activations unless the user says so: the server, if it can.
pub(crate) fn default_side(model: &Model) -> ActivationSide {
    if model.network().needs_client() { ActivationSide::Client } else { ActivationSide::Server }
}

/// What to do about a network without an integer form; bits do not help.
pub(crate) const OTHER_LAYERS: &str = "no choice of bits helps: change that layer or its place, and train again; `securedl inspect MODEL` \
     lists the layers, docs/import.md tells which orders have an integer form";

/// Quantize a model and watch it on raw `features`.
///
/// # Errors
/// Features of another shape, or a network whose integers grow too large.
pub(crate) fn prepare(model: &Model, bits: &LayerBits, features: &Array2<f32>) -> Result<Prepared> {
    const FEWER_BITS: &str = "choose fewer bits: --bits, such as 4/4/4";
    let prepared = compiler::prepare(model, bits, features);
    match &prepared {
        Err(Error::Accumulator { .. } | Error::OutOfRange { .. }) => prepared.hint(|| FEWER_BITS),
        Err(Error::CannotQuantize { .. } | Error::CannotFold { .. }) => {
            prepared.hint(|| OTHER_LAYERS)
        }
        Ok(_) | Err(_) => Ok(prepared?),
    }
}

/// Quantize a model, watch it on raw `features`, and plan its segments to move the fewest bytes.
///
/// # Errors
/// Features of another shape, or a network for which no parameters exist.
pub(crate) fn compile_model(
    model: &Model,
    bits: Bits,
    features: &Array2<f32>,
    options: &PlanOptions,
) -> Result<Compiled> {
    let Prepared { network, observed, facts, .. } = prepare(model, &bits.into(), features)?;
    let plan = match compile(&network, &observed.observed, facts, options) {
        Ok(plan) => plan,
        Err(error @ (Error::NoSegmentParameters { .. } | Error::Accumulator { .. })) => {
            return Err(error)
                .hint(|| "fewer bits or activations at the client make the numbers smaller");
        }
        Err(error) => return Err(error.into()),
    };
    Ok(Compiled { plan, observed, agreement: None })
}
