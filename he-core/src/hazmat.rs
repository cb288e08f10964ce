//! Raw access to phases, for measuring noise: never needed to use the crate.

use crate::{CiphertextBlock, Decryptor, Result, SecretKey};

/// log2 of the largest coefficient and of the root mean square of the phase `m + t·e` of one
/// ciphertext over at most two moduli.
///
/// # Errors
/// As [`Decryptor::decrypt`].
///
/// # Security
/// The result depends on the key and the message: measure, do not publish.
pub fn measure_phase(key: &SecretKey, block: &CiphertextBlock, index: usize) -> Result<(f64, f64)> {
    let message = Decryptor::new(key).decrypt(block, index)?;
    let phase = message.phase();
    #[expect(clippy::cast_precision_loss, reason = "a measurement")]
    let values: Vec<f64> = (0..phase.len()).map(|i| phase.coefficient(i) as f64).collect();
    let largest = values.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
    #[expect(clippy::cast_precision_loss, reason = "at most 32768 coefficients")]
    let mean_square = values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64;
    Ok((largest.log2(), mean_square.sqrt().log2()))
}
