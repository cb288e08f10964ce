//! How often a fingerprint misses a modified model, and how many queries certainty takes.
//!
//! ```text
//!  bag of N samples ─► attacked model ─► answers ─ ComparisonRule ─► detected[0..N]
//!        │                                                               │
//!        └─ Draws: many choices of up to `most` of the N samples ────────┴─► MissingRates
//! ```
//! A draw *misses* if none of its first `NS` samples detects. Choices are nested (the best two begin
//! with the best one), so one draw serves every `NS`; and they do not depend on the attack, so all
//! attacks and rules are measured on the same draws.
//!
//! Two kinds of error bars are kept apart. [`MissingRates::interval`] is Wilson's interval over the
//! draws from *one* bag against *one* modified model. Models differ more than draws do, so claims
//! about a kind of attack rest on [`Instances`]: mean and worst over modified models, and a bootstrap
//! over them.

pub use self::draws::{DrawSpec, Draws, MissingRates};
pub use self::float::{FloatVariant, float_variants};
pub use self::instances::Instances;
pub use self::queries::{
    MISSING_TARGETS, efficiency, fresh_missing_interval, queries_needed, queries_needed_in_bag,
    queries_needed_on_average,
};

mod draws;
mod float;
mod instances;
mod permutation;
mod queries;
