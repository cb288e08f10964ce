//! The one error type of this crate, grouped by who can put it right.

mod telling;

use std::path::PathBuf;

pub use telling::{causes, harmless};

use crate::tensor::Shape;

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// An error of another crate, kept without showing its type.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// What went wrong, with the values that differ and what to do.
///
/// Variants are grouped by blame: the caller's specification, the order or kind of calls, malformed
/// files, resources of the machine. A message is complete on its own: it ends with its cause, which is
/// therefore not offered again through [`std::error::Error::source`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Encryption parameters or ciphertexts: see the error inside.
    #[error(transparent)]
    Encrypted(#[from] crate::encrypted::Error),
    /// A network trained elsewhere: see the error inside.
    #[error(transparent)]
    Import(Box<crate::import::ImportError>),
    // ---- Config: the caller's specification ------------------------------------------------
    /// A shape with no or too many axes, an empty axis, or too many values.
    #[error("invalid shape {dims:?}: {reason}")]
    InvalidShape {
        /// The axes as given.
        dims: Vec<usize>,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// A layer that cannot follow the layer before it.
    #[error("layer {layer_idx} ({layer}) does not accept inputs of shape {input}: {reason}")]
    IncompatibleLayer {
        /// Position of the layer in the network, from 0.
        layer_idx: usize,
        /// Kind of layer.
        layer: &'static str,
        /// Shape of the values that reach it.
        input: Shape,
        /// Which rule is broken.
        reason: &'static str,
    },
    /// A layer that cannot join the values it reads.
    #[error("layer {layer_idx} ({layer}) cannot join {first} and {other}: {reason}")]
    IncompatibleInputs {
        /// Position of the layer in the network, from 0.
        layer_idx: usize,
        /// Kind of layer.
        layer: &'static str,
        /// Shape of one value it reads.
        first: Shape,
        /// Shape of another value it reads.
        other: Shape,
        /// Which rule is broken.
        reason: &'static str,
    },
    /// A parameter array of the wrong shape.
    #[error("layer {layer_idx} ({layer}): {field} has shape {actual:?}, expected {expected:?}")]
    ParameterShape {
        /// Position of the layer in the network, from 0.
        layer_idx: usize,
        /// Kind of layer.
        layer: &'static str,
        /// Name of the parameter.
        field: &'static str,
        /// Shape the layer needs.
        expected: Vec<usize>,
        /// Shape found.
        actual: Vec<usize>,
    },
    /// A parameter outside its allowed range (NaN and infinity always are).
    #[error(
        "layer {layer_idx} ({layer}): {field}[{position}] is {value}, it must be {requirement}"
    )]
    ParameterValue {
        /// Position of the layer in the network, from 0.
        layer_idx: usize,
        /// Kind of layer.
        layer: &'static str,
        /// Name of the parameter.
        field: &'static str,
        /// Position in row-major order.
        position: usize,
        /// The offending value.
        value: f64,
        /// What would be accepted.
        requirement: &'static str,
    },
    /// A setting outside its allowed range.
    #[error("{setting} is {value}, it must be {requirement}")]
    InvalidSetting {
        /// Name of the setting.
        setting: &'static str,
        /// The value given.
        value: f64,
        /// What would be accepted.
        requirement: &'static str,
    },
    /// A word that names nothing.
    #[error("unknown {what} `{actual}`, expected {expected}")]
    UnknownName {
        /// What the word should name.
        what: &'static str,
        /// The word given.
        actual: String,
        /// The accepted words.
        expected: &'static str,
    },
    /// A function that a method of approximation cannot deal with.
    #[error("{method} cannot approximate {function}: {reason}")]
    CannotApproximate {
        /// Name of the function.
        function: String,
        /// Name of the method.
        method: String,
        /// Why not.
        reason: &'static str,
    },
    /// A network without the activation that is to be replaced.
    #[error("the network has no {what}: there is nothing to replace")]
    NoActivation {
        /// Which activation.
        what: &'static str,
    },
    /// No choice of bits is accurate enough.
    #[error(
        "no bits within the limits lose at most {target_drop} points of accuracy{}",
        closest_bits(closest.as_ref())
    )]
    NoBits {
        /// Points that may be lost.
        target_drop: f64,
        /// The most accurate bits tried, and the points they lose.
        closest: Option<(crate::model::Bits, f64)>,
    },
    /// A network without a form the operation needs.
    #[error("layer {layer_idx} ({layer}) cannot be folded: {reason}")]
    CannotFold {
        /// Position of the layer in the network, from 0.
        layer_idx: usize,
        /// Kind of layer.
        layer: &'static str,
        /// Why not.
        reason: &'static str,
    },

    /// A whole number outside what its place allows; `min == max` where only one value fits.
    #[error("{subject} {index}: {field} is {actual}, it must be {}", Bounds(*min, *max))]
    OutOfRange {
        /// Kind of thing: `stage`, `segment`, `input`, …
        subject: &'static str,
        /// Which one, from 0.
        index: usize,
        /// Which of its numbers.
        field: &'static str,
        /// The number found.
        actual: i128,
        /// Smallest accepted.
        min: i128,
        /// Largest accepted.
        max: i128,
    },
    /// An integer network whose sums could leave the range of exact 64-bit arithmetic.
    #[error(
        "stage {stage}: the {step} could reach {magnitude}, beyond 2^62; use fewer bits or smaller \
         coefficients"
    )]
    Accumulator {
        /// The stage, from 0.
        stage: usize,
        /// Where in the stage.
        step: &'static str,
        /// What the proof cannot exclude.
        magnitude: i128,
    },
    /// A value of a chain could grow beyond 128-bit arithmetic.
    #[error(
        "stage {stage}: the {step} could reach {magnitude}, beyond 2^120; use fewer bits, or a refresh \
         in between (more rounds)"
    )]
    ChainTooWide {
        /// The stage, from 0.
        stage: usize,
        /// Where in the stage.
        step: &'static str,
        /// What the proof cannot exclude; saturates.
        magnitude: i128,
    },
    /// A polynomial evaluation of something that is not a polynomial.
    #[error("stage {stage} applies {step}, which is not a polynomial; stop at its linear outputs")]
    NotPolynomial {
        /// The stage, from 0.
        stage: usize,
        /// What it applies.
        step: crate::integer::NonPolynomial,
    },

    /// A plan whose server would have to evaluate something that is no polynomial.
    #[error(
        "stage {stage} applies {step}, which a server cannot evaluate on encrypted values; leave it to \
         the client (`--activation client`), or {}",
        step.advice()
    )]
    NotAtServer {
        /// The stage, from 0.
        stage: usize,
        /// What it applies.
        step: crate::integer::NonPolynomial,
    },
    /// A stage that cannot be refreshed by a client that must not learn its values.
    #[error("stage {stage} cannot be evaluated with the trust setting masked: {reason}")]
    NotMaskable {
        /// The stage, from 0.
        stage: usize,
        /// Why, and what to do.
        reason: &'static str,
    },
    /// A plan of one trust setting where one of the other is needed.
    #[error(
        "the plan's trust setting is {actual}, and {action} needs one whose setting is {expected}"
    )]
    TrustSetting {
        /// What was asked for.
        action: &'static str,
        /// The setting needed.
        expected: crate::plan::Trust,
        /// The plan's setting.
        actual: crate::plan::Trust,
    },
    /// No encryption parameters for a segment.
    #[error("segment {segment} has no parameters with {evidence} ranges: {cause}")]
    NoSegmentParameters {
        /// The segment, from 0.
        segment: usize,
        /// Which ranges were tried last.
        evidence: crate::plan::Evidence,
        /// Why none fit.
        cause: Cause,
    },
    /// A network that takes so few rounds does not exist in numbers that can be computed with.
    #[error("in {rounds} round{} the numbers need more than 120 bits", if *rounds == 1 { "" } else { "s" })]
    TooFewRounds {
        /// The rounds it should take.
        rounds: usize,
    },
    /// Networks whose joined stages end where no side that may evaluate the activations needs them to.
    #[error(
        "the network's joined stages do not end where {} needs them to: join them for the side that does, \
         or leave them apart (more rounds)",
        match settled {
            Some(side) => format!("a {side} that evaluates the activations"),
            None => "either side".to_owned(),
        }
    )]
    NoSuitableSide {
        /// The side that was settled, if one was.
        settled: Option<crate::plan::ActivationSide>,
    },
    /// More rounds are needed than are allowed.
    #[error(
        "the network takes {needed} round{}, and {allowed} {} allowed: allow {needed}; only stages with \
         polynomial activations can be joined to take fewer",
        if *needed == 1 { "" } else { "s" },
        if *allowed == 1 { "is" } else { "are" }
    )]
    RoundLimit {
        /// Stages of the network.
        needed: u32,
        /// Rounds allowed.
        allowed: u32,
    },
    /// More memory is needed than is allowed.
    #[error(
        "no plan keeps within {allowed} bytes of memory at each side: the least needs {needed}, with \
         the smallest blocks and batches"
    )]
    MemoryLimit {
        /// Bytes of the plan that takes least.
        needed: u64,
        /// Bytes allowed.
        allowed: u64,
    },
    /// A plan whose noise may exceed what its ring holds.
    #[error(
        "segment {segment}: the noise margin is {margin_bits:.2} bits, it must not be negative"
    )]
    NoiseMargin {
        /// The segment, from 0.
        segment: usize,
        /// Capacity minus bound, log2.
        margin_bits: f64,
    },
    /// A plan that calls a range proven which its weights do not prove.
    #[error(
        "segment {segment} claims the proven range {claimed_low}..={claimed_high}, but its weights only \
         prove {low}..={high}; compile the plan again"
    )]
    RangeNotProven {
        /// The segment, from 0.
        segment: usize,
        /// Low end in the plan.
        claimed_low: i64,
        /// High end in the plan.
        claimed_high: i64,
        /// Low end proven.
        low: i64,
        /// High end proven.
        high: i64,
    },

    /// A network without an integer form.
    #[error("layer {layer_idx} ({layer}) of the folded network has no integer form: {reason}")]
    CannotQuantize {
        /// Position of the layer after folding, from 0.
        layer_idx: usize,
        /// Kind of layer.
        layer: &'static str,
        /// Why not.
        reason: &'static str,
    },

    // ---- Misuse: wrong call or wrong argument ----------------------------------------------
    /// Values of another shape than the receiver needs.
    #[error("{what} has shape {actual:?}, expected {expected:?}")]
    ShapeMismatch {
        /// What was passed.
        what: &'static str,
        /// Shape needed.
        expected: Vec<usize>,
        /// Shape given.
        actual: Vec<usize>,
    },
    /// An operation that needs at least one sample got none.
    #[error("{what} holds no samples")]
    NoSamples {
        /// What was empty.
        what: &'static str,
    },
    /// Something that should name trainable parameters names none.
    #[error("{what} has no trainable parameters")]
    NoParameters {
        /// What was looked at.
        what: &'static str,
    },
    /// An input value that is NaN or infinite.
    #[error("{what}: sample {sample_idx}, feature {feature_idx} is {value}, it must be finite")]
    NonFiniteInput {
        /// What was passed.
        what: &'static str,
        /// Row, from 0.
        sample_idx: usize,
        /// Column, from 0.
        feature_idx: usize,
        /// The offending value.
        value: f64,
    },
    /// The data carry no labels, but the operation needs them.
    #[error("{source_name} has no labels; training and accuracy need labeled data")]
    MissingLabels {
        /// Where the data came from.
        source_name: String,
    },
    /// Training left the range of finite numbers.
    #[error(
        "training diverged at epoch {epoch}, batch {batch}: loss is {loss}, gradient norm \
         {gradient_norm} (learning rate {learning_rate:.3e}); lower the learning rate or check the \
         data for outliers"
    )]
    Diverged {
        /// Epoch, from 1.
        epoch: usize,
        /// Mini-batch in the epoch, from 1.
        batch: usize,
        /// The loss found.
        loss: f64,
        /// The norm of all gradients together.
        gradient_norm: f64,
        /// Learning rate of that step.
        learning_rate: f64,
    },
    /// A checkpoint of another training run.
    #[error("the checkpoint belongs to another run: {field} differs")]
    CheckpointMismatch {
        /// Which part differs.
        field: &'static str,
    },

    /// An output of a segment that came twice.
    #[error("output {output_idx} came twice")]
    RepeatedOutput {
        /// Which one, from 0.
        output_idx: usize,
    },
    /// A refresh finished before all outputs had come.
    #[error("{n_missing} outputs are missing")]
    MissingOutputs {
        /// How many.
        n_missing: usize,
    },
    /// A value no decryption under the plan's window yields.
    #[error("output {output_idx} holds a value outside the window of its segment")]
    OutsideDomain {
        /// Which output, from 0.
        output_idx: usize,
    },

    // ---- Malformed: bytes and files --------------------------------------------------------
    /// Another kind of file.
    #[error(
        "not the expected kind of file: it starts with \"{}\", expected \"{}\"",
        actual.escape_ascii(), expected.escape_ascii()
    )]
    WrongMagic {
        /// The first bytes of the expected kind.
        expected: [u8; 8],
        /// The first bytes found.
        actual: [u8; 8],
    },
    /// A file written by another format version.
    #[error(
        "the file has format version {actual}, this build reads version {supported}; \
         create it again with this build"
    )]
    UnsupportedVersion {
        /// The version this build reads.
        supported: u32,
        /// The version found.
        actual: u32,
    },
    /// Fewer bytes than announced.
    #[error("{what} is truncated: {actual} bytes, expected at least {expected}")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Bytes needed.
        expected: u64,
        /// Bytes present.
        actual: u64,
    },
    /// More bytes than announced.
    #[error("{what} is followed by {n_bytes} unexpected bytes")]
    TrailingBytes {
        /// What was being read.
        what: &'static str,
        /// Surplus.
        n_bytes: usize,
    },
    /// The content does not match its digest.
    #[error("{what} is damaged: its digest does not match its content; copy or create it again")]
    DigestMismatch {
        /// What was being read.
        what: &'static str,
    },
    /// The payload of an artifact is not what its header says.
    #[error("the content of the file is invalid: {cause}")]
    Decode {
        /// The decoder's or the checked constructor's message.
        cause: Cause,
    },
    /// A value without an encoding.
    #[error("the value cannot be encoded: {cause}")]
    Encode {
        /// The encoder's message.
        cause: Cause,
    },
    /// Anything beyond a stated limit.
    #[error("{what} is too large: {actual}, limit {limit}")]
    TooLarge {
        /// What was being read.
        what: &'static str,
        /// Size found (bytes, rows or values, as `what` says).
        actual: u64,
        /// Largest accepted size.
        limit: u64,
    },
    /// A header field of a data file with a value that is not supported.
    #[error("{field} is {actual}, expected {expected}")]
    UnexpectedHeader {
        /// Name of the field.
        field: &'static str,
        /// Value needed.
        expected: String,
        /// Value found (at most 40 characters).
        actual: String,
    },
    /// A cell of a table that is not a finite number.
    #[error("line {line}, column `{column}`: `{value}` is not a finite number")]
    InvalidCell {
        /// Line, from 1 (the header is line 1).
        line: u64,
        /// Name of the column (at most 40 characters).
        column: String,
        /// Text found (at most 40 characters).
        value: String,
    },
    /// A label that is not a class.
    #[error("label {position} is `{value}`, expected a whole number from 0 to {max}")]
    InvalidLabel {
        /// Position among the labels, from 0.
        position: usize,
        /// Text found (at most 40 characters).
        value: String,
        /// The largest label accepted.
        max: u32,
    },
    /// A class of the data, known by its name, that a model does not have.
    #[error("class `{name}` of the data is none of the model's classes: {known}")]
    UnknownClass {
        /// The class (at most 40 characters).
        name: String,
        /// The first classes of the model.
        known: String,
    },
    /// Images of different sizes in one data set.
    #[error(
        "the image has {} by {} pixels, others of this data set {} by {}; bring all to one size first",
        actual.0, actual.1, expected.0, expected.1
    )]
    ImageSize {
        /// Height and width of the first image.
        expected: (usize, usize),
        /// Height and width of this one.
        actual: (usize, usize),
    },
    /// An image in a form that is not read.
    #[error("the image {reason}")]
    UnsupportedImage {
        /// What it has that is not read, and what to do.
        reason: &'static str,
    },
    /// A table whose header or rows do not fit together.
    #[error("line {line}: {reason}")]
    InvalidTable {
        /// Line, from 1.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// Two parts of one data set that do not fit together.
    #[error("{what} is {actual}, but its companion file says {expected}")]
    InconsistentParts {
        /// What was compared.
        what: &'static str,
        /// Value of the companion.
        expected: usize,
        /// Value found.
        actual: usize,
    },
    /// A file that was to be unpacked is not valid gzip.
    #[error("damaged gzip data: {cause}")]
    InvalidGzip {
        /// The decompressor's message.
        cause: std::io::Error,
    },
    /// Something is wrong with one data file.
    #[error("{path}: {error}", path = shown(.path))]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: Box<Error>,
    },
    /// A file or folder in none of the supported formats.
    #[error("{path}: {reason}", path = shown(.path))]
    UnknownFormat {
        /// The file or folder.
        path: PathBuf,
        /// What was looked for.
        reason: &'static str,
    },

    // ---- Resource: the machine -------------------------------------------------------------
    /// The operating system refused.
    #[error("cannot {action} {path}: {cause}", path = shown(.path))]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's message.
        cause: std::io::Error,
    },
    /// A data set that is not there.
    #[error("no data at `{argument}`; looked at {tried}; give a path or set SECUREDL_DATA")]
    DataNotFound {
        /// The name given.
        argument: String,
        /// The places that were tried.
        tried: String,
    },
}

impl From<crate::import::ImportError> for Error {
    fn from(error: crate::import::ImportError) -> Self {
        Self::Import(Box::new(error))
    }
}

impl Error {
    /// Add the file name to an error of a reader that saw only bytes.
    #[must_use]
    pub fn in_file(self, path: &std::path::Path) -> Self {
        Self::InFile { path: path.to_path_buf(), error: Box::new(self) }
    }
}

/// A path without characters that control a terminal: files may name other files.
fn shown(path: &std::path::Path) -> String {
    let text = path.display().to_string();
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// `; the closest, 8/8/8, lose 0.42`, or nothing.
fn closest_bits(closest: Option<&(crate::model::Bits, f64)>) -> String {
    closest
        .map_or_else(String::new, |(bits, lost)| format!("; the closest, {bits}, lose {lost:.2}"))
}

/// `5`, or `between 1 and 9`.
struct Bounds(i128, i128);

impl std::fmt::Display for Bounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 == self.1 {
            write!(f, "{}", self.0)
        } else {
            write!(f, "between {} and {}", self.0, self.1)
        }
    }
}
