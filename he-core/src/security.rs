//! Bound on the ciphertext modulus per ring degree for 128 bits of classical security.
//!
//! # Source
//!
//! J.-P. Bossuat, R. Cammarota, I. Chillotti et al., "Security Guidelines for Implementing
//! Homomorphic Encryption" (IACR Communications in Cryptology 1(4), 2024; eprint 2024/463),
//! uniform ternary secret, error deviation 3.19, classical 128 bits: 26, 53, 106, 214, 430, 868 bits
//! for N = 1024 … 32768. The earlier HomomorphicEncryption.org standard (Albrecht et al. 2018)
//! allows 27, 54, 109, 218, 438, 881; the stricter of the two is used. The bound does not depend on
//! the number of ciphertexts published under a key.

/// Security level in bits that [`crate::Params::new`] guarantees.
pub const SECURITY_BITS: u32 = 128;

/// Error deviation σ of a fresh ciphertext: centred binomial with η = 21, `σ = sqrt(21/2) = 3.24`.
///
/// η = 20 would give 3.16, below the 3.19 that the tables assume.
pub const ERROR_DEVIATION: f64 = 3.240_370_349_203_93;

/// Largest possible magnitude of one error coefficient (η).
pub const ERROR_BOUND: i64 = 21;

/// Returns the largest allowed log2 of the total ciphertext modulus (including any special moduli)
/// at 128 bits of security, or `None` for a ring degree outside the table.
///
/// # Example
///
/// ```
/// assert_eq!(he_core::security::max_log2_modulus(4096), Some(106));
/// ```
#[must_use]
pub const fn max_log2_modulus(ring_degree: usize) -> Option<u32> {
    match ring_degree {
        1024 => Some(26),
        2048 => Some(53),
        4096 => Some(106),
        8192 => Some(214),
        16384 => Some(430),
        32768 => Some(868),
        _ => None,
    }
}
