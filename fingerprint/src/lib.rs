#![doc = include_str!("../README.md")]
//!
//! # Modules
//! | module | content |
//! |---|---|
//! | [`canary`] | secret slot layouts, network canaries, random points |
//! | [`word_check`] | how many random rows check a whole reply; what a failed check points at |
//! | [`detect`] | comparisons and findings to a [`Verdict`] |
//! | [`soundness`] | how likely cheating stays unnoticed, with all derivations |
//! | [`sensitivity`] | how far outputs move when weights do, and its exact gradient |
//! | [`generate`](mod@generate) | sensitive samples and baselines |
//! | [`sample`] | valid inputs, bags of samples |
//! | [`select`](mod@select) | which samples of a bag to use |
//! | [`statistics`] | binomials, the hypergeometric distribution, Wilson's interval |
//!
//! **Layering.** The crate sees numbers and networks only: it encrypts nothing, opens no socket, reads
//! no file and no clock. Randomness is always passed in.

#![forbid(unsafe_code)]

pub use crate::canary::{
    BlockCounts, CanarySet, LayoutOptions, LayoutSpec, NetworkCanary, RandomPoints, SegmentValues,
    SlotLayout, SlotRole,
};
pub use crate::detect::{
    BlockObservation, NeuronComparison, UnverifiedReason, Verdict, judge, judge_words,
};
pub use crate::error::{Error, NetworkError, Result};
pub use crate::generate::{
    Constraint, GenerateConfig, GenerateProgress, GenerateSpec, GeneratorKind, NoProgress,
    OptimizerKind, generate, generate_for_integer, resume,
};
pub use crate::sample::{InputGrid, SampleBag, SampleInfo};
pub use crate::select::{SelectionFeatures, SelectionRule, select};
pub use crate::sensitivity::{LayerSelection, Sensitivity, SensitivityOutputs};
pub use crate::soundness::{SegmentCheck, SlotCheck, Soundness};
pub use crate::word_check::{
    RowDifference, RowExtent, WordCheck, WordCheckFinding, WordCheckPolicy,
};

pub mod canary;
pub mod detect;
mod error;
pub mod generate;
pub mod sample;
pub mod select;
pub mod sensitivity;
pub mod soundness;
pub mod statistics;
pub mod word_check;
