//! Everything that can go wrong, grouped by who is to blame.

/// Errors of `he-core`.
///
/// Variants are grouped by blame: configuration (the caller's parameters), misuse (the caller's
/// call order or shapes), malformed (bytes from outside), unsupported hardware requests.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The ring degree is not a power of two in the supported range.
    #[error("ring degree {actual} is not supported: use a power of two from {min} to {max}")]
    RingDegree {
        /// What was asked for.
        actual: usize,
        /// Smallest supported degree.
        min: usize,
        /// Largest supported degree.
        max: usize,
    },
    /// No modulus was given, or too many.
    #[error("{actual} ciphertext moduli given: use 1 to {max}")]
    ModulusCount {
        /// Number of moduli given.
        actual: usize,
        /// Largest supported number.
        max: usize,
    },
    /// A ciphertext modulus is not usable.
    #[error("ciphertext modulus {modulus} is not usable: {requirement}")]
    Modulus {
        /// The offending modulus.
        modulus: u64,
        /// The requirement it breaks.
        requirement: &'static str,
    },
    /// The plaintext modulus is not usable.
    #[error("plaintext modulus {modulus} is not usable: {requirement}")]
    PlaintextModulus {
        /// The offending modulus.
        modulus: u128,
        /// The requirement it breaks.
        requirement: &'static str,
    },
    /// The total ciphertext modulus is too large for 128-bit security at this ring degree.
    #[error(
        "log2 of the ciphertext modulus is {actual}, but ring degree {ring_degree} allows at most {max} bits for 128-bit security: use a larger ring degree or smaller moduli"
    )]
    Insecure {
        /// The ring degree.
        ring_degree: usize,
        /// log2 of the product of the moduli, in tenths of a bit, rounded up.
        actual: Tenths,
        /// The bound in bits.
        max: u32,
    },
    /// No prime with the wanted number of bits exists in the arithmetic progression.
    #[error("no further prime of {bits} bits is congruent to 1 modulo {progression}")]
    NoPrime {
        /// The wanted size in bits.
        bits: u32,
        /// The step of the progression (2N).
        progression: u64,
    },
    /// Objects of different parameters were combined.
    #[error("objects belong to different parameters: digest {expected} and {actual}")]
    ParamsMismatch {
        /// Short digest of the parameters expected.
        expected: String,
        /// Short digest of the parameters found.
        actual: String,
    },
    /// A count or length does not fit.
    #[error("{what}: expected {expected}, found {actual}")]
    Length {
        /// What was counted.
        what: &'static str,
        /// The number required.
        expected: usize,
        /// The number found.
        actual: usize,
    },
    /// An index lies outside its range.
    #[error("{what} {index} is out of range: there are {count}")]
    Index {
        /// What was indexed.
        what: &'static str,
        /// The offending index.
        index: usize,
        /// The number of valid values.
        count: usize,
    },
    /// A value is outside the range its place allows.
    #[error("{what} {value} is outside [{min}, {max}]")]
    Value {
        /// What the value is.
        what: &'static str,
        /// The offending value.
        value: i128,
        /// Smallest allowed value.
        min: i128,
        /// Largest allowed value.
        max: i128,
    },
    /// A value to encode is outside the range of its place. Which value is not said: it is secret.
    #[error("a {what} to encode is outside [{min}, {max}]")]
    PlaintextRange {
        /// What the value is.
        what: &'static str,
        /// Smallest allowed value.
        min: i64,
        /// Largest allowed value.
        max: i64,
    },
    /// The operation needs a ciphertext of another degree or level.
    #[error(
        "{operation} needs ciphertexts of {requirement}, found degree {degree} with {n_moduli} moduli"
    )]
    Form {
        /// The operation that was attempted.
        operation: &'static str,
        /// What it needs.
        requirement: &'static str,
        /// The degree found (number of polynomials minus one).
        degree: usize,
        /// The number of moduli found.
        n_moduli: usize,
    },
    /// Bytes do not decode.
    #[error("malformed ciphertext bytes: {what}: expected {expected}, found {actual}")]
    Malformed {
        /// What does not fit.
        what: &'static str,
        /// The number required.
        expected: u64,
        /// The number found.
        actual: u64,
    },
    /// A residue is not reduced modulo its prime.
    #[error(
        "malformed ciphertext bytes: ciphertext {ciphertext} has a residue that is not below its modulus {modulus}"
    )]
    Residue {
        /// Index of the ciphertext in its block.
        ciphertext: usize,
        /// The modulus.
        modulus: u64,
    },
    /// The bytes of a key do not decode.
    #[error("malformed key bytes: {what}: expected {expected}, found {actual}")]
    MalformedKey {
        /// What does not fit.
        what: &'static str,
        /// The number required.
        expected: u64,
        /// The number found.
        actual: u64,
    },
    /// A residue of a key is not reduced modulo its prime.
    #[error("malformed key bytes: a residue is not below its modulus {modulus}")]
    KeyResidue {
        /// The modulus.
        modulus: u64,
    },
    /// An operation needs an evaluation key that was not generated.
    #[error("no evaluation key for {key}: ask for it with {request} when keys are generated")]
    MissingKey {
        /// What the key does.
        key: String,
        /// What asks for it.
        request: &'static str,
    },
    /// A computation does not fit its parameters: it would not decrypt correctly.
    #[error(
        "{operation} would not decrypt: its noise bound is {bound} bits of {capacity} with {n_moduli} moduli; use parameters for a greater depth"
    )]
    NoiseBudget {
        /// The operation that was attempted.
        operation: &'static str,
        /// log2 of the bound on the phase, in tenths of a bit.
        bound: Tenths,
        /// log2 of half the modulus, in tenths of a bit.
        capacity: Tenths,
        /// Number of moduli at that point.
        n_moduli: usize,
    },
    /// No parameters meet a demand.
    #[error("no parameters for {demand}: {reason}")]
    NoParameters {
        /// What was asked for.
        demand: String,
        /// What stands in the way.
        reason: &'static str,
    },
    /// The reply of a linear segment is not the linear map of the request.
    #[error(
        "word check failed: {n_columns} of {n_total} columns of the reply differ from the linear map of the request"
    )]
    WordCheckFailed {
        /// Columns (words per ciphertext) in which the check failed.
        n_columns: usize,
        /// All columns.
        n_total: usize,
    },
    /// `HE_BACKEND` names a kernel set that this machine cannot run, or none at all.
    #[error("kernel backend {name:?} is not available here: use one of {available}")]
    Backend {
        /// What was asked for.
        name: String,
        /// The names that work on this machine.
        available: String,
    },
    /// A key was asked to encrypt more ciphertexts than one seed may serve.
    #[error("one seed serves at most {max} ciphertexts: start another block")]
    SeedExhausted {
        /// The limit.
        max: u32,
    },
}

impl Error {
    /// The same error for pieces that start at ciphertext `first` of a whole: indices of malformed
    /// ciphertexts count from the start of the whole.
    #[must_use]
    pub fn offset_by(self, first: usize) -> Self {
        if let Self::Residue { ciphertext, modulus } = self {
            return Self::Residue { ciphertext: first + ciphertext, modulus };
        }
        self
    }
}

/// A number of tenths, displayed with one decimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenths(pub u32);

impl core::fmt::Display for Tenths {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{}", self.0 / 10, self.0 % 10)
    }
}

/// Result of `he-core`.
pub type Result<T> = core::result::Result<T, Error>;
