//! What can go wrong, grouped by blame.

use std::sync::Arc;

use crate::generate::GeneratorKind;

/// Result of this crate's fallible functions.
pub type Result<T> = core::result::Result<T, Error>;

/// Every failure of this crate.
///
/// A reply that fails a check is *not* an error: it is a [`Verdict`](crate::Verdict). Errors are
/// settings that cannot work and calls that do not fit together. No variant carries a slot
/// position, a decrypted value or any other secret.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A network, its data or its training: see the error inside.
    #[error(transparent)]
    Network(NetworkError),
    // Config: the caller's settings.
    /// The strength of an attack lies outside its dial.
    #[error("strength is {actual} ({meaning}), allowed are {min} to {max}")]
    StrengthOutOfRange {
        /// What the number means for this attack.
        meaning: &'static str,
        /// The value given.
        actual: f64,
        /// Smallest value accepted.
        min: f64,
        /// Largest value accepted.
        max: f64,
    },
    /// An attack needs something that was not given to it.
    #[error("the attack `{attack}` needs {what}")]
    AttackNeeds {
        /// Name of the attack.
        attack: String,
        /// What it needs, and where it comes from.
        what: &'static str,
    },
    /// A count lies outside what the layout supports.
    #[error("{name} is {actual}, allowed are {min} to {max}")]
    CountOutOfRange {
        /// The setting.
        name: &'static str,
        /// The value given.
        actual: u64,
        /// Smallest value accepted.
        min: u64,
        /// Largest value accepted.
        max: u64,
    },
    /// A pack of canaries of another plan.
    #[error(
        "the pack of canaries is of another plan: use the pack and the public part that came together"
    )]
    OtherPlan,
    /// A pack whose numbers contradict each other.
    #[error("the pack of canaries is damaged: a range of scores is empty or a count impossible")]
    MalformedPack,
    /// Canaries and random points leave no room for a single sample with all its replicas.
    #[error(
        "{n_slots} slots are too few for {network_canaries} network canaries, {random_points} \
         random points and one sample in {replicas} slots: ask for fewer canaries or replicas, \
         or use a larger ring"
    )]
    NoRoomForSamples {
        /// Slots per block.
        n_slots: usize,
        /// Network canaries asked for.
        network_canaries: usize,
        /// Random points asked for (minimum).
        random_points: usize,
        /// Slots per sample.
        replicas: usize,
    },
    /// A block was given no sample, or more samples than it holds.
    #[error("a block holds 1 to {max} samples, {actual} were given: cut the batch into blocks")]
    SamplesPerBlock {
        /// Samples given.
        actual: usize,
        /// Samples that fit, see [`LayoutSpec::samples_per_block`](crate::LayoutSpec).
        max: usize,
    },
    /// More canaries are wanted than there are candidates.
    #[error("{wanted} canaries cannot be drawn from {available} candidates: provide more data")]
    TooFewCandidates {
        /// Canaries wanted.
        wanted: usize,
        /// Candidates available.
        available: usize,
    },
    /// A real-valued setting is not finite or lies outside its range.
    #[error("{name} is {actual}, but must be finite and at least {min}")]
    NumberOutOfRange {
        /// The setting.
        name: &'static str,
        /// The value given.
        actual: f64,
        /// Smallest value accepted.
        min: f64,
    },
    /// The wanted soundness would need more random rows than are supported.
    #[error(
        "{target_bits} bits over {n_checks} checks need more than {max_rows} random rows at \
         {modulus_bits} bits per row: lower the target or use a larger modulus"
    )]
    TooManyRows {
        /// Soundness wanted over all checks.
        target_bits: f64,
        /// Number of checks in the union bound.
        n_checks: u64,
        /// log2 of the smallest modulus.
        modulus_bits: f64,
        /// Largest number of rows.
        max_rows: u32,
    },

    /// A name that stands for nothing.
    #[error("unknown {what} `{actual}`: expected {expected}")]
    UnknownName {
        /// What it should name, such as `generator`.
        what: &'static str,
        /// The name given, cut to 40 characters.
        actual: String,
        /// The names there are.
        expected: &'static str,
    },
    /// A setting is impossible, alone or together with the model.
    #[error("{setting} is {value}, but must be {requirement}")]
    InvalidSetting {
        /// The setting.
        setting: &'static str,
        /// The value given.
        value: f64,
        /// What is accepted.
        requirement: &'static str,
    },
    /// An optimizer for a generator that climbs no objective.
    #[error("an optimizer is for generators that climb an objective, `{generator}` does not")]
    UnusedOptimizer {
        /// The generator.
        generator: GeneratorKind,
    },
    /// A network cannot be differentiated the way a sensitivity needs.
    #[error("the network cannot be used for sensitive samples: {reason}")]
    UnsuitableNetwork {
        /// What is missing.
        reason: &'static str,
    },
    /// No sample with the wanted margin between the two largest scores was found.
    #[error(
        "sample {sample} kept a relative margin of {best:e} after {attempts} attempts, \
         {wanted:e} is wanted: lower the margin or give other starting points"
    )]
    MarginNotReached {
        /// Position of the sample in the bag.
        sample: usize,
        /// Largest relative margin seen.
        best: f64,
        /// Margin asked for.
        wanted: f64,
        /// Attempts made.
        attempts: u32,
    },

    // Misuse: calls that do not fit together.
    /// The watcher of a long work asked for its end.
    #[error("stopped before the end")]
    Stopped,
    /// A slice has another length than the layout or the observation needs.
    #[error("{what} has length {actual}, expected {expected}")]
    LengthMismatch {
        /// Which slice.
        what: &'static str,
        /// Length needed.
        expected: usize,
        /// Length given.
        actual: usize,
    },
    /// An index points past the end.
    #[error("{what} {index} does not exist, there are {len}")]
    IndexOutOfRange {
        /// What the index counts.
        what: &'static str,
        /// The index given.
        index: usize,
        /// Number of things there are.
        len: usize,
    },
    /// The same neuron of a block was compared twice.
    #[error("neuron {neuron} of this block was already compared")]
    ComparedTwice {
        /// The neuron.
        neuron: usize,
    },
    /// A verdict was asked for before every neuron of every block had been compared.
    #[error(
        "block {block} has {compared} of {expected} neurons compared: compare all before judging"
    )]
    IncompleteObservation {
        /// The block.
        block: usize,
        /// Neurons compared so far.
        compared: usize,
        /// Neurons of the segment.
        expected: usize,
    },
    /// A verdict or a soundness figure was asked for without anything to base it on.
    #[error("{what}: nothing was given to judge")]
    NothingToJudge {
        /// What was asked for.
        what: &'static str,
    },
    /// An optimizer failed for a reason of its own; please report.
    #[error("the optimizer failed: {reason}")]
    Optimizer {
        /// The optimizer's message.
        reason: String,
    },
    /// A rule compares what reference or answers do not tell.
    #[error("rule {rule} cannot compare {answers}: choose a coarser rule")]
    RuleNeedsMore {
        /// The rule.
        rule: String,
        /// What there is.
        answers: String,
    },
    /// A sample is said to have another label than the reference gives it.
    #[error("sample {sample} is labeled {label}, but the true scores say {expected}")]
    WrongLabel {
        /// The sample.
        sample: usize,
        /// Its label.
        label: u32,
        /// The class of the largest true score.
        expected: u32,
    },
    /// The two largest true scores of a sample are too close.
    #[error(
        "sample {sample} keeps a relative margin of {actual:e}, {wanted:e} is declared: an honest \
         service could label it otherwise"
    )]
    MarginMissed {
        /// The sample.
        sample: usize,
        /// `(z₁ − z₂)/max|z|`.
        actual: f64,
        /// The margin of the fingerprint.
        wanted: f64,
    },
    /// A rule would take the rounding of floats for another model.
    #[error(
        "rule {rule} is finer than the arithmetic of a float model: honest services differ by about \
         1.5e-6 of the largest score in 32 bits; choose tolerance-1e-5 or decimals-4 at most, or a \
         fingerprint of a plan, whose integers are exact"
    )]
    RuleTooFine {
        /// The rule.
        rule: String,
    },
    /// A rule compares more decimals than the answers have.
    #[error(
        "the answers differ under {rule}, but by no more than their own rounding to {decimals} \
         decimals: choose decimals-{decimals}, or ask the service for more digits"
    )]
    CoarseAnswers {
        /// The rule.
        rule: String,
        /// Decimals of the answers.
        decimals: u32,
    },
    /// A sample is not a value that the endpoint can receive.
    #[error("sample {sample} does not lie on the input grid: round samples before using them")]
    OffGrid {
        /// The sample.
        sample: usize,
    },
    /// A fingerprint is used with a model it does not belong to.
    #[error(
        "the fingerprint is not of this {what} (it is of {}, this is {actual})",
        expected.as_deref().unwrap_or("none")
    )]
    ForeignFingerprint {
        /// `model`, `plan` or `input grid`.
        what: &'static str,
        /// What it belongs to.
        expected: Option<String>,
        /// What it was used with.
        actual: String,
    },
    /// Samples to go on with that were begun otherwise.
    #[error(
        "the unfinished samples belong to another generation: another model, other data or settings"
    )]
    ForeignBag,
    /// Samples to go on with are not what a generator gives.
    #[error("the unfinished samples are malformed: bad {what}: start anew")]
    MalformedBag {
        /// The part.
        what: &'static str,
    },
    /// Too few samples are left of a bag.
    #[error(
        "{left} of {generated} samples are left, {wanted} are wanted: {n_narrow} had too small a \
         margin, {n_unsteady} came out differently on other float stacks; generate more (a larger bag)"
    )]
    TooFewSteady {
        /// Samples left.
        left: usize,
        /// Samples generated.
        generated: usize,
        /// Samples wanted.
        wanted: usize,
        /// Left out because of label or margin.
        n_narrow: usize,
        /// Left out because honest stacks differ.
        n_unsteady: usize,
    },
    /// The parts of a fingerprint file do not fit together.
    #[error("the fingerprint is malformed: bad {what}")]
    MalformedFingerprint {
        /// The part.
        what: &'static str,
    },
    /// A score is NaN or infinite.
    #[error("the scores of sample {sample} are not all finite")]
    AnswerNotFinite {
        /// The sample.
        sample: usize,
    },
    /// A failed word check was localized, but no output row differs.
    #[error(
        "block {block} failed its word check although no output row differs from the recomputed \
         map: the client's memory or its check is faulty"
    )]
    CheckContradiction {
        /// The block.
        block: usize,
    },
}

/// An error of the network below, shared so that it can be copied; equal if the messages are.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct NetworkError(Arc<nn_poly::Error>);

impl NetworkError {
    /// The error itself.
    #[must_use]
    pub fn inner(&self) -> &nn_poly::Error {
        &self.0
    }
}

impl PartialEq for NetworkError {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl From<nn_poly::Error> for NetworkError {
    fn from(error: nn_poly::Error) -> Self {
        Self(Arc::new(error))
    }
}

impl From<nn_poly::Error> for Error {
    fn from(error: nn_poly::Error) -> Self {
        Self::Network(error.into())
    }
}
