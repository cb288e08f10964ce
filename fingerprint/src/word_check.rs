//! How many random rows check a whole reply, and what a failed check points at.
//!
//! A linear segment answers `Y = W·X + b` over `Z_q`, one column per ciphertext word. The client
//! draws secret uniform rows `r`, and accepts only if `rᵀY = (rᵀW)·X + rᵀb` in every column and for
//! every row (Freivalds' check; the arithmetic is he-core's). This module decides *how many* rows,
//! and carries the finding of a failed check to [`judge_words`](crate::judge_words). The
//! derivation is in [`soundness`](crate::soundness).

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Most random rows of one check.
pub const MAX_ROWS: u32 = 64;

/// Soundness aimed at by default for a whole run, in bits: the usual statistical level `2^-40`.
pub const DEFAULT_TARGET_BITS: f64 = 40.0;

/// How sure a run wants to be that no altered word of any reply passes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WordCheckPolicy {
    target_bits: f64,
}

impl Default for WordCheckPolicy {
    /// [`DEFAULT_TARGET_BITS`]: two rows suffice for 25-bit moduli and up to 1,024 checks.
    fn default() -> Self {
        Self { target_bits: DEFAULT_TARGET_BITS }
    }
}

impl WordCheckPolicy {
    /// Aims at a miss probability of at most `2^-target_bits` over all checks of a run.
    ///
    /// # Errors
    /// [`Error::NumberOutOfRange`] if the target is not finite or below one bit.
    pub fn new(target_bits: f64) -> Result<Self> {
        check_number("the wanted soundness in bits", target_bits, 1.0)?;
        Ok(Self { target_bits })
    }

    /// Soundness aimed at, in bits.
    pub fn target_bits(&self) -> f64 {
        self.target_bits
    }

    /// The fewest rows that reach the target over `n_checks` checks (blocks × linear segments).
    ///
    /// `log2_moduli` holds log2 of each limb's prime. A word is altered in at least one limb, so
    /// the smallest limb decides; a bound for all checks together subtracts `log2 n_checks`.
    /// Example: one 30-bit limb, 12 checks, target 40: `2·30 − 3.6 = 56.4 ≥ 40`, two rows.
    ///
    /// # Errors
    /// - [`Error::NothingToJudge`]: no limbs.
    /// - [`Error::NumberOutOfRange`]: a limb has less than one bit or is not a number.
    /// - [`Error::TooManyRows`]: more than [`MAX_ROWS`] rows would be needed.
    pub fn choose(&self, log2_moduli: &[f64], n_checks: u64) -> Result<WordCheck> {
        let one_row = WordCheck::new(1, log2_moduli)?;
        (1..=MAX_ROWS)
            .map(|rows| WordCheck { rows, ..one_row })
            .find(|check| check.run_bits(n_checks) >= self.target_bits)
            .ok_or(Error::TooManyRows {
                target_bits: self.target_bits,
                n_checks,
                modulus_bits: one_row.modulus_bits,
                max_rows: MAX_ROWS,
            })
    }
}

/// A random linear check of whole replies: rows and modulus.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct WordCheck {
    rows: u32,
    modulus_bits: f64,
}

impl WordCheck {
    /// Describes a check with `rows` random rows per limb over limbs of these sizes (log2).
    ///
    /// # Errors
    /// - [`Error::CountOutOfRange`]: no rows, or more than [`MAX_ROWS`].
    /// - [`Error::NothingToJudge`]: no limbs.
    /// - [`Error::NumberOutOfRange`]: a limb has less than one bit or is not a number.
    pub fn new(rows: u32, log2_moduli: &[f64]) -> Result<Self> {
        if rows == 0 || rows > MAX_ROWS {
            return Err(Error::CountOutOfRange {
                name: "the number of random rows",
                actual: u64::from(rows),
                min: 1,
                max: u64::from(MAX_ROWS),
            });
        }
        if log2_moduli.is_empty() {
            return Err(Error::NothingToJudge { what: "a word check without moduli" });
        }
        for &bits in log2_moduli {
            check_number("log2 of a modulus", bits, 1.0)?;
        }
        let modulus_bits = log2_moduli.iter().copied().fold(f64::INFINITY, f64::min);
        Ok(Self { rows, modulus_bits })
    }

    /// Random rows per limb.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// `−log2` of the probability that a block with at least one altered word passes:
    /// `rows · log2 q` with the smallest modulus `q`.
    pub fn reply_word_bits(&self) -> f64 {
        f64::from(self.rows) * self.modulus_bits
    }

    /// `−log2` of a bound on the probability that *any* of `n_checks` altered blocks passes.
    ///
    /// Union bound; `n_checks = 0` counts as one. (A run that stops at the first failed check has
    /// [`Self::reply_word_bits`] without this loss; the policy is sized with it all the same.)
    #[expect(clippy::cast_precision_loss, reason = "a logarithm needs no exact count")]
    pub fn run_bits(&self, n_checks: u64) -> f64 {
        self.reply_word_bits() - (n_checks.max(1) as f64).log2()
    }
}

/// What the word check of one block found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WordCheckFinding {
    /// Every column agreed.
    Passed,
    /// Some column disagreed, and the client did not look where the cause lies.
    Failed,
    /// Some column disagreed, and the client recomputed the whole linear map (public weights,
    /// the ciphertexts it sent: no secret is involved) and compared the reply word by word.
    FailedAt {
        /// The output rows that differ, each once.
        rows: Vec<RowDifference>,
    },
}

/// One output row of a reply that differs from the recomputed map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RowDifference {
    /// The output row (neuron).
    pub row: u32,
    /// How much of the row differs.
    pub extent: RowExtent,
}

/// How much of an output row differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RowExtent {
    /// Every polynomial, in every limb, throughout: what another weight does.
    Everywhere,
    /// The constant polynomial `c0` throughout and no word of the others: what another bias does
    /// (a bias is added to `c0` alone).
    ConstantPolynomial,
    /// Anything else.
    Scattered,
}

impl RowExtent {
    /// Sums up a row from the number of differing words in each of its polynomials.
    ///
    /// `differing` holds one count per polynomial, `c0` first; `words` is the number of words of
    /// one polynomial over all limbs. `None` if nothing differs.
    ///
    /// A word of a modified row keeps its value by chance with probability `1/q` (4,096 words at
    /// 25 bits: one row in 8,192 has such a word), so a polynomial counts as differing throughout
    /// when at most one word in 64 agrees. This decides only what a failure is called.
    pub fn from_counts(differing: &[usize], words: usize) -> Option<Self> {
        let throughout = |&count: &usize| count > 0 && words.saturating_sub(count) <= words / 64;
        let nowhere = |&count: &usize| count == 0;
        let (constant, others) = differing.split_first()?;
        if differing.iter().all(nowhere) {
            None
        } else if differing.iter().all(throughout) {
            Some(Self::Everywhere)
        } else if throughout(constant) && others.iter().all(nowhere) {
            Some(Self::ConstantPolynomial)
        } else {
            Some(Self::Scattered)
        }
    }
}

pub(crate) fn check_number(name: &'static str, actual: f64, min: f64) -> Result<()> {
    if actual.is_finite() && actual >= min {
        Ok(())
    } else {
        Err(Error::NumberOutOfRange { name, actual, min })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::{RowExtent, WordCheck, WordCheckPolicy};
    use crate::error::Error;

    #[test]
    fn two_rows_serve_the_moduli_in_use() {
        let policy = WordCheckPolicy::default();
        for bits in [25.0, 28.0, 30.0] {
            assert_eq!(policy.choose(&[bits], 1_000).unwrap().rows(), 2, "{bits} bits");
        }
        assert_eq!(policy.choose(&[47.0], 1).unwrap().rows(), 1);
        assert_eq!(policy.choose(&[20.0], 1).unwrap().rows(), 2);
        assert_eq!(policy.choose(&[20.0], 2).unwrap().rows(), 3);
    }

    #[test]
    fn the_smallest_limb_decides() {
        let check = WordCheck::new(2, &[47.0, 29.5, 46.0]).unwrap();
        assert_eq!(check.reply_word_bits(), 59.0);
        assert_eq!(check.run_bits(1 << 9), 50.0);
        assert_eq!(check.run_bits(0), 59.0);
    }

    #[test]
    fn impossible_settings_are_refused() {
        assert!(matches!(WordCheck::new(0, &[30.0]), Err(Error::CountOutOfRange { .. })));
        assert!(matches!(WordCheck::new(65, &[30.0]), Err(Error::CountOutOfRange { .. })));
        assert!(matches!(WordCheck::new(1, &[]), Err(Error::NothingToJudge { .. })));
        for bits in [f64::NAN, f64::INFINITY, 0.5] {
            let refused = WordCheck::new(1, &[30.0, bits]);
            assert!(matches!(refused, Err(Error::NumberOutOfRange { .. })), "{bits}");
            assert!(bits == 0.5 || WordCheckPolicy::new(bits).is_err());
        }
        let too_much = WordCheckPolicy::new(200.0).unwrap().choose(&[3.0], 1);
        assert!(matches!(too_much, Err(Error::TooManyRows { .. })));
    }

    #[test]
    fn extents_tell_weight_bias_and_noise_apart() {
        assert_eq!(RowExtent::from_counts(&[0, 0], 8), None);
        assert_eq!(RowExtent::from_counts(&[8, 8], 8), Some(RowExtent::Everywhere));
        assert_eq!(RowExtent::from_counts(&[8, 0], 8), Some(RowExtent::ConstantPolynomial));
        for scattered in [[8, 7], [0, 8], [1, 0], [7, 0], [0, 1]] {
            assert_eq!(RowExtent::from_counts(&scattered, 8), Some(RowExtent::Scattered));
        }
        assert_eq!(RowExtent::from_counts(&[], 8), None);
        assert_eq!(RowExtent::from_counts(&[2_048, 2_040], 2_048), Some(RowExtent::Everywhere));
        assert_eq!(RowExtent::from_counts(&[2_048, 1_024], 2_048), Some(RowExtent::Scattered));
    }
}
