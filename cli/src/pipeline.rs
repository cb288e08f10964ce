//! The steps that several commands share: train, compile, run encrypted.

pub(crate) mod compiling;
pub(crate) mod inference;
pub(crate) mod training;
