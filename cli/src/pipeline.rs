//! The work behind the commands: train, make polynomial, compile, run encrypted.

pub(crate) mod compiling;
pub(crate) mod inference;
pub(crate) mod polynomializing;
pub(crate) mod training;
