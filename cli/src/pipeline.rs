//! The steps behind the commands: train, make polynomial, fine-tune, compile, cross-validate, run
//! encrypted, attack.

pub(crate) mod altering;
pub(crate) mod assessing;
pub(crate) mod attacking;
pub(crate) mod compiling;
pub(crate) mod cross_validating;
pub(crate) mod fine_tuning;
pub(crate) mod fingerprinting;
pub(crate) mod inference;
pub(crate) mod keeping;
pub(crate) mod planning;
pub(crate) mod polynomializing;
pub(crate) mod recording;
pub(crate) mod servers;
pub(crate) mod source;
pub(crate) mod streaming;
pub(crate) mod studying;
pub(crate) mod tabulating;
pub(crate) mod training;
pub(crate) mod watching;
