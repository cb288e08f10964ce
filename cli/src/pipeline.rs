//! The steps behind the commands: train, compile, run encrypted, attack.

pub(crate) mod attacking;
pub(crate) mod compiling;
pub(crate) mod fingerprinting;
pub(crate) mod inference;
pub(crate) mod studying;
pub(crate) mod training;
