#![doc = include_str!("../README.md")]
//!
//! # Modules
//! | module | content |
//! |---|---|
//! | [`attack`] | what attackers do to models, and whether it worked |
//! | [`canary`] | secret slot layouts, network canaries, random points |
//! | [`word_check`] | how many random rows check a whole reply; what a failed check points at |
//! | [`detect`] | comparisons and findings to a [`Verdict`] |
//! | [`soundness`] | how likely cheating stays unnoticed, with all derivations |
//! | [`statistics`] | binomials, the hypergeometric distribution, Wilson's interval |
//!
//! **Layering.** The crate sees numbers and plain networks only: it encrypts nothing, opens no socket,
//! reads no file and no clock. Randomness is always passed in.

#![forbid(unsafe_code)]

pub use crate::canary::{
    BlockCounts, CanarySet, LayoutOptions, LayoutSpec, NetworkCanary, RandomPoints, SegmentValues,
    SlotLayout, SlotRole,
};
pub use crate::detect::{
    BlockObservation, NeuronComparison, UnverifiedReason, Verdict, judge, judge_words,
};
pub use crate::error::{Error, NetworkError, Result};
pub use crate::soundness::{SegmentCheck, SlotCheck, Soundness};
pub use crate::word_check::{
    RowDifference, RowExtent, WordCheck, WordCheckFinding, WordCheckPolicy,
};

pub mod attack;
pub mod canary;
pub mod detect;
mod error;
pub mod soundness;
pub mod statistics;
pub mod word_check;
