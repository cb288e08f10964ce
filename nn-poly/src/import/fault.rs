//! Why a trained network cannot be imported.

use std::fmt;

/// An error of another crate, kept without showing its type.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A node of an ONNX graph, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSite {
    /// The operator, with its domain unless it is the default one.
    pub operator: String,
    /// The node's name, or that of its first output if it has none.
    pub node: String,
    /// Version of the operator set the file was written for.
    pub opset: i64,
}

/// ``Gelu `act1` (opset 20)``.
impl fmt::Display for NodeSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}` (opset {})", self.operator, self.node, self.opset)
    }
}

/// What is wrong with a file of a trained network, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    // ---- What this build does not read -----------------------------------------------------
    /// A file in no format that networks are imported from.
    #[error(
        "neither ONNX (.onnx) nor a description (.toml); weights in .safetensors or .npz files are \
         named by a description"
    )]
    UnknownFormat,
    /// The reader of this format is not part of this build.
    #[error("this build cannot read {format}; build it with the feature `{feature}`")]
    NotBuilt {
        /// Name of the format.
        format: &'static str,
        /// Cargo feature that brings the reader.
        feature: &'static str,
    },
    /// An operator set whose rules are not implemented.
    #[error(
        "the file uses version {version} of operator set `{domain}`, versions {min} to {max} are \
         supported; export with opset_version={max}"
    )]
    UnsupportedOpset {
        /// Name of the set; `ai.onnx` is the default one.
        domain: String,
        /// Version in the file.
        version: i64,
        /// Oldest supported version.
        min: i64,
        /// Newest supported version.
        max: i64,
    },
    /// An operator, or a form of it, that no layer computes.
    #[error("{site} is not supported: {reason}; {advice}")]
    Unsupported {
        /// Where.
        site: NodeSite,
        /// What cannot be expressed.
        reason: &'static str,
        /// What to do.
        advice: &'static str,
    },

    // ---- Malformed files -------------------------------------------------------------------
    /// Bytes that are no ONNX model.
    #[error("not an ONNX model: {cause}")]
    NotOnnx {
        /// The decoder's message.
        cause: Cause,
    },
    /// More nodes, attributes and integers than any supported network has.
    #[error("the file has more than {limit} nodes, attributes and integers")]
    TooManyElements {
        /// The limit.
        limit: usize,
    },
    /// A network that would need more memory than its file justifies.
    #[error(
        "{what} would take the weights beyond {limit} values, the most a file of this size justifies"
    )]
    TooLarge {
        /// The node or array.
        what: String,
        /// Most values.
        limit: usize,
    },
    /// A node that reads what nothing defines.
    #[error(
        "{site} reads `{name}`, which is no input, no initializer and no node's output; was the file \
         cut, or are its weights elsewhere?"
    )]
    MissingValue {
        /// Where.
        site: NodeSite,
        /// The name.
        name: String,
    },
    /// A part of a format that is not read.
    #[error("{what}; {advice}")]
    Unread {
        /// What the file holds.
        what: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// A name that is too long to show, or would control the terminal that shows it.
    #[error("the name `{name}` is longer than 4096 bytes or holds control characters")]
    UnprintableName {
        /// The name (at most 80 characters, without control characters).
        name: String,
    },
    /// A name with two meanings.
    #[error("`{name}` is defined twice")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A node that depends on its own output.
    #[error("{site} depends on its own output: the graph has a cycle")]
    Cycle {
        /// One node of the cycle.
        site: NodeSite,
    },
    /// An attribute that is absent or has a value the operator does not allow.
    #[error("{site}: attribute `{attribute}` must be {requirement}")]
    Attribute {
        /// Where.
        site: NodeSite,
        /// Name of the attribute.
        attribute: &'static str,
        /// What would be accepted.
        requirement: &'static str,
    },
    /// An input of a node that is absent or not what the operator takes.
    #[error("{site}: input {index} must be {requirement}")]
    Input {
        /// Where.
        site: NodeSite,
        /// Position among the inputs, from 0.
        index: usize,
        /// What would be accepted.
        requirement: &'static str,
    },
    /// Axes that do not fit the values they meet.
    #[error("{site}: {what} has axes {actual:?}, expected {expected:?}")]
    Axes {
        /// Where.
        site: NodeSite,
        /// The array.
        what: &'static str,
        /// Axes needed.
        expected: Vec<usize>,
        /// Axes found.
        actual: Vec<usize>,
    },
    /// A graph without exactly one input that is not a constant.
    #[error("the network must have exactly one input, this one has {}", List(names))]
    Inputs {
        /// Their names.
        names: Vec<String>,
    },
    /// An axis without a fixed length.
    #[error(
        "axis {axis} of input `{name}` has no fixed length; only the first axis (the batch) may vary: \
         export without dynamic axes for the others"
    )]
    DynamicShape {
        /// The input.
        name: String,
        /// The axis, from 0.
        axis: usize,
    },
    /// An input that is neither a vector nor an image.
    #[error(
        "input `{name}` has axes {dims:?}; samples must be vectors (batch, n) or images (batch, \
         channels, height, width)"
    )]
    InputRank {
        /// The input.
        name: String,
        /// Its axes; 0 for those without a fixed length.
        dims: Vec<usize>,
    },
    /// No way to tell which output holds the scores.
    #[error("choose the output with the class scores: {}", List(names))]
    Outputs {
        /// Their names.
        names: Vec<String>,
    },
    /// An output chosen by a name it does not have.
    #[error("there is no output `{name}`; the outputs are {}", List(names))]
    UnknownOutput {
        /// The name given.
        name: String,
        /// The names there are.
        names: Vec<String>,
    },
    /// An output that does not depend on the input, or not as class scores do.
    #[error("output `{name}` holds no class scores: {reason}")]
    NotScores {
        /// The output.
        name: String,
        /// Why not.
        reason: &'static str,
    },

    // ---- Arrays ----------------------------------------------------------------------------
    /// An array with an element type that is not read.
    #[error("`{name}` has element type {element_type}, expected {expected}")]
    ElementType {
        /// The array.
        name: String,
        /// The type, as its format writes it.
        element_type: String,
        /// The accepted types.
        expected: &'static str,
    },
    /// Axes that are negative or whose product is absurd.
    #[error("`{name}` has axes {dims:?}, which no file can hold")]
    ArrayAxes {
        /// The array.
        name: String,
        /// The axes.
        dims: Vec<i64>,
    },
    /// An array with more or fewer values than its axes say.
    #[error("`{name}` holds {actual} values, its axes say {expected}")]
    ArrayLength {
        /// The array.
        name: String,
        /// Product of the axes.
        expected: usize,
        /// Values present.
        actual: usize,
    },
    /// A weight that is NaN or infinite.
    #[error("value {position} of `{name}` is {value}; weights must be finite")]
    NonFinite {
        /// The array.
        name: String,
        /// Position in row-major order.
        position: usize,
        /// The value.
        value: f64,
    },
    /// Weights in another file that is not below the folder of this one.
    #[error(
        "`{name}` is stored in `{location}`, which is not in the folder of the importing file; copy \
         it there, files elsewhere are not opened"
    )]
    OutsideFolder {
        /// The array, or what names the file.
        name: String,
        /// The path in the file (at most 200 characters).
        location: String,
    },
    /// Weights in a part of another file that is not there.
    #[error(
        "`{name}` is stored in bytes {offset} to {offset}+{length} of `{location}`, which has \
         {file_bytes}"
    )]
    ExternalRange {
        /// The array.
        name: String,
        /// The other file.
        location: String,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
        /// Size of the other file.
        file_bytes: u64,
    },
    /// External weights of a model that was not read from a file.
    #[error("`{name}` is stored in another file, and there is no folder to look in")]
    NoFolder {
        /// The array.
        name: String,
    },

    // ---- Descriptions and weight files -----------------------------------------------------
    /// A description that is no TOML of the expected form.
    #[error("{cause}")]
    Description {
        /// The parser's message, with line and column.
        cause: Cause,
    },
    /// A weight file that cannot be decoded.
    #[error("damaged weight file: {cause}")]
    WeightFile {
        /// The decoder's message.
        cause: Cause,
    },
    /// An array that a description names and the weight file does not have.
    #[error("layer {layer} needs the array `{name}`; the weight file has {}", List(available))]
    MissingArray {
        /// The layer in the description, from 0.
        layer: usize,
        /// The name.
        name: String,
        /// Some of the names there are.
        available: Vec<String>,
    },
    /// An array whose axes do not fit its layer.
    #[error("layer {layer}: `{name}` has axes {actual:?}, expected {expected}")]
    ArrayShape {
        /// The layer in the description, from 0.
        layer: usize,
        /// The array.
        name: String,
        /// Axes needed, in words.
        expected: &'static str,
        /// Axes found.
        actual: Vec<usize>,
    },
    /// A layer that cannot follow the one before it.
    #[error("layer {layer}: {reason}")]
    Layer {
        /// The layer in the description, from 0.
        layer: usize,
        /// Why not.
        reason: &'static str,
    },

    // ---- Into a model ----------------------------------------------------------------------
    /// An unusable way to scale inputs.
    #[error("input scale: {reason}")]
    InputScale {
        /// What is wrong, and what would be accepted.
        reason: &'static str,
    },
    /// Another number of labels than scores.
    #[error("{n_labels} labels for a network with {n_scores} scores")]
    Labels {
        /// Labels given.
        n_labels: usize,
        /// Scores of the network.
        n_scores: usize,
    },
}

/// Up to eight names in backquotes.
struct List<'a>(&'a [String]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (idx, name) in self.0.iter().take(SHOWN).enumerate() {
            let separator = if idx == 0 { "" } else { ", " };
            write!(f, "{separator}`{}`", super::printable(name, 80))?;
        }
        if self.0.len() > SHOWN { write!(f, " and {} more", self.0.len() - SHOWN) } else { Ok(()) }
    }
}
