//! Errors of encrypted evaluation.

/// What can go wrong between integers and ciphertexts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The arithmetic below refused.
    #[error(transparent)]
    Arithmetic(#[from] he_core::Error),
    /// No parameters of 128-bit security hold what the segment needs.
    #[error(
        "no 128-bit secure parameters fit this segment: values take {value_bits} bits and the largest weight row has norm {l2:.0}; {advice}"
    )]
    NoParameters {
        /// Bits of the window the values need.
        value_bits: u32,
        /// Largest `‖w‖₂` of a row.
        l2: f64,
        /// What to change.
        advice: &'static str,
    },
    /// The plan was made by a build with another order of evaluation points.
    #[error(
        "segment {segment}: the plan's ring parameters have another digest here: compile the plan with this version, or use the version that made it"
    )]
    OtherArithmetic {
        /// Position in the plan.
        segment: usize,
    },
    /// A segment of a plan contradicts itself.
    #[error(
        "segment {segment}: {what} is {actual}, expected {expected}: the plan is damaged or was made by another version"
    )]
    Inconsistent {
        /// Position in the plan.
        segment: usize,
        /// What does not fit.
        what: &'static str,
        /// The value required.
        expected: u128,
        /// The value found.
        actual: u128,
    },
    /// A request of a masked plan names masks that this server did not use.
    #[error(
        "the token for stage {stage} is none of this server's for this plan: it is damaged, of another round or plan, or of a server with another mask key"
    )]
    MaskToken {
        /// The stage whose masks it should name.
        stage: u32,
    },
    /// A reply of a masked plan whose token names another request.
    #[error("the reply to stage {stage} answers another request")]
    OtherRequest {
        /// The stage.
        stage: u32,
    },
    /// A request or reply ended early, or is too long.
    #[error("{what}: expected {expected} bytes, received {actual}")]
    ByteCount {
        /// Which stream.
        what: &'static str,
        /// The number required.
        expected: u64,
        /// The number found.
        actual: u64,
    },
}

/// Result of encrypted evaluation.
pub type Result<T> = core::result::Result<T, Error>;
