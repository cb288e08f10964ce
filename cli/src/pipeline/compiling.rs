//! From a model to a plan.

use anyhow::Result;
use ndarray::Array2;
use nn_poly::Error;
use nn_poly::integer::{Evaluation, IntegerNetwork};
use nn_poly::model::{Bits, LayerBits, Model};
use nn_poly::plan::{ActivationSide, ModelFacts, Plan, PlanOptions, compile};
use nn_poly::quantize::quantize_model;
use nn_poly::train::TrainRecipe;

use crate::failure::Hint;
use crate::options::BitsChoice;

/// A plan and what it was made from.
#[derive(Debug)]
pub(crate) struct Compiled {
    /// The plan.
    pub(crate) plan: Plan,
    /// What was seen on the calibration data.
    pub(crate) observed: Evaluation,
    /// Of a network with joined stages: on which share of the samples it was watched on its answer is
    /// that of the network before rounding.
    pub(crate) agreement: Option<f64>,
}

/// The bits to compile a model with: the chosen ones, else those of its fine-tuning, else the
/// recipe's.
pub(crate) fn bits(model: &Model, choice: BitsChoice) -> Bits {
    let spec = model.spec();
    match (choice, spec.bits) {
        (BitsChoice::Of(bits), _) => bits,
        (BitsChoice::Default | BitsChoice::None, Some(bits)) => bits,
        (BitsChoice::Default | BitsChoice::None, None) => {
            TrainRecipe::for_network(spec.kind, spec.activation, 1).bits
        }
    }
}

/// Who evaluates the activations unless the user says so: the server, if it can.
pub(crate) fn default_side(model: &Model) -> ActivationSide {
    if model.network().needs_client() { ActivationSide::Client } else { ActivationSide::Server }
}

/// A network in integers, and what was seen of it.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The network.
    pub(crate) network: IntegerNetwork,
    /// What was seen on the calibration data.
    pub(crate) observed: Evaluation,
    /// What its plan says about the model.
    pub(crate) facts: ModelFacts,
    /// As [`Compiled::agreement`].
    pub(crate) agreement: Option<f64>,
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
    let inputs = model.spec().preprocessing.apply(features)?;
    let quantized = match quantize_model(model, bits, &inputs) {
        Err(error @ (Error::Accumulator { .. } | Error::OutOfRange { .. })) => {
            return Err(error).hint(|| FEWER_BITS);
        }
        Err(error @ (Error::CannotQuantize { .. } | Error::CannotFold { .. })) => {
            return Err(error).hint(|| OTHER_LAYERS);
        }
        quantized => quantized?,
    };
    let inputs = quantized.network.input().quantize(inputs.view())?;
    let observed = quantized.network.evaluate(&inputs)?;
    let facts = ModelFacts::of(model, quantized.score_step);
    Ok(Prepared { network: quantized.network, observed, facts, agreement: None })
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
