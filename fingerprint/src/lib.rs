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
//! | [`audit`](mod@audit) | one audit of a black box |
//! | [`endpoint`] | what a service answers, and the local ones |
//! | [`rule`] | when two answers count as different |
//! | [`experiment`] | missing rates, false positives, queries needed |
//! | [`fingerprint`](mod@fingerprint) | samples with known answers, in a file |
//! | [`sensitivity`] | how far outputs move when weights do, and its exact gradient |
//! | [`generate`](mod@generate) | sensitive samples and baselines |
//! | [`pack`] | canaries with tolerated scores, for clients without weights |
//! | [`maker`] | from a model or plan and natural samples to a fingerprint |
//! | [`sample`] | valid inputs, bags of samples |
//! | [`select`](mod@select) | which samples of a bag to use |
//! | [`single_weight`] | how often a change of one weight escapes, by trial |
//! | [`statistics`] | binomials, the hypergeometric distribution, Wilson's interval |
//!
//! **Layering.** The crate sees numbers and networks only: it encrypts nothing, opens no socket, reads
//! no file and no clock. Randomness is always passed in.

#![forbid(unsafe_code)]

pub use crate::audit::{Audit, AuditError, AuditOutcome, Control, Repetition, audit};
pub use crate::canary::{
    BlockCounts, CanarySet, LayoutOptions, LayoutSpec, NetworkCanary, RandomPoints, SegmentValues,
    SlotLayout, SlotRole,
};
pub use crate::detect::{
    BlockObservation, NeuronComparison, UnverifiedReason, Verdict, judge, judge_words,
};
pub use crate::endpoint::{Answers, Endpoint, EndpointError, ScoreKind};
pub use crate::error::{Error, NetworkError, Result};
pub use crate::fingerprint::{Fingerprint, FingerprintParts};
pub use crate::generate::{
    Constraint, GenerateConfig, GenerateProgress, GenerateSpec, GeneratorKind, NoProgress,
    OptimizerKind, UnfinishedBag, generate, generate_for_integer, resume, resume_for_integer,
};
pub use crate::maker::{Made, Maker, MakerSettings, Subject};
pub use crate::pack::{CanaryPack, MaskedSoundness, MaskedVerdict, Sharpness, judge_masked};
pub use crate::rule::ComparisonRule;
pub use crate::sample::{InputGrid, SampleBag, SampleInfo};
pub use crate::select::{SelectionFeatures, SelectionRule, select};
pub use crate::sensitivity::{LayerSelection, Sensitivity, SensitivityOutputs};
pub use crate::soundness::{SegmentCheck, SlotCheck, Soundness};
pub use crate::word_check::{
    RowDifference, RowExtent, WordCheck, WordCheckFinding, WordCheckPolicy,
};

pub mod attack;
pub mod audit;
pub mod canary;
pub mod detect;
pub mod endpoint;
mod error;
pub mod experiment;
pub mod fingerprint;
pub mod generate;
pub mod maker;
pub mod pack;
pub mod rule;
pub mod sample;
pub mod select;
pub mod sensitivity;
pub mod single_weight;
pub mod soundness;
pub mod statistics;
pub mod word_check;
