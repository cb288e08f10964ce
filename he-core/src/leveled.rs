//! Leveled computation on single ciphertexts: levels, noise and corrections are looked after.
//!
//! [`Arithmetic`] is what a circuit is written in. [`Evaluator`] computes it on [`Ciphertext`]s;
//! [`CostModel`] runs the same calls without keys and says what they cost: levels, noise bounds,
//! bytes, operations, and the keys they need. Both follow the same rules, so that a circuit the model
//! accepts is one that decrypts.
//!
//! # Rules
//!
//! - Every value carries a bound on its phase ([`crate::noise`]). An operation whose result would not
//!   decrypt is refused ([`crate::Error::NoiseBudget`]).
//! - Before a product, operands are switched to the number of moduli at which the result has the most
//!   room, `log2 (Q/2)` minus the bound; fewer moduli win a tie, since they cost less.
//! - Before a sum, the operand with more moduli is switched down. Plaintext factors that differ
//!   ([`CiphertextBlock::correction`]) are brought together with small integers.
//! - A value that a swap of rows went into may contain its own image under `X → X^-1`; its products
//!   get the larger bound of [`crate::noise::Phase::conjugate_product`].
//!
//! # Example: a dot product
//!
//! ```
//! use he_core::leveled::{Arithmetic, Ciphertext, CostModel, Demand, Evaluator};
//! use he_core::{EvaluationKeys, RowEncoder, SecretKey};
//! use rand::{SeedableRng, rngs::StdRng};
//!
//! /// Σ x_i·y_i over all slots, in every slot.
//! fn dot<A: Arithmetic>(a: &A, x: &A::Value, y: &A::Value) -> he_core::Result<A::Value> {
//!     a.sum_slots(&a.multiply(x, y)?)
//! }
//!
//! # fn main() -> Result<(), he_core::Error> {
//! let params = Demand { log2_plaintext: 17, depth: 1, width: 4096 }.parameters()?;
//! // What will it cost, and which keys does it need?
//! let model = CostModel::new(&params)?;
//! let forecast = dot(&model, &model.encrypt(), &model.encrypt())?;
//! assert!(forecast.margin() > 0.0);
//!
//! let mut rng = StdRng::from_os_rng();
//! let key = SecretKey::generate(&params, &mut rng);
//! let keys = EvaluationKeys::generate(&key, &model.keys(), &mut rng)?;
//! let encoder = RowEncoder::new(&params)?;
//! let x: Vec<i64> = (0..encoder.slot_count() as i64).map(|i| i % 7 - 3).collect();
//! let y: Vec<i64> = (0..encoder.slot_count() as i64).map(|i| i % 5 - 2).collect();
//! let encrypt = |v: &[i64], rng: &mut StdRng| {
//!     Ciphertext::encrypt(&encoder.encode(v)?, &key, rng)
//! };
//! let (cx, cy) = (encrypt(&x, &mut rng)?, encrypt(&y, &mut rng)?);
//! let result = dot(&Evaluator::new(&keys)?, &cx, &cy)?;
//! assert_eq!(result.n_moduli(), forecast.n_moduli());
//!
//! let slots = encoder.decode(&result.decrypt(&key)?)?;
//! assert_eq!(slots[0], x.iter().zip(&y).map(|(x, y)| x * y).sum::<i64>());
//! # Ok(())
//! # }
//! ```

mod ciphertext;
mod demand;
mod evaluator;
mod model;
mod rules;

use crate::{Error, Plaintext, Result};

pub use ciphertext::Ciphertext;
pub use demand::Demand;
pub use evaluator::Evaluator;
pub use model::{CostModel, Counts};
pub use rules::Forecast;

#[cfg(doc)]
use crate::CiphertextBlock;

/// Operations of leveled computation, on ciphertexts or on forecasts of them.
///
/// Values are slots modulo t (or polynomials modulo t, for coefficients). Every operation fails with
/// [`Error::NoiseBudget`] when its result would not decrypt, and with [`Error::ParamsMismatch`] when
/// operands belong to other parameters.
pub trait Arithmetic {
    /// What is computed on.
    type Value: Clone;

    /// `a + b`.
    ///
    /// # Errors
    /// See [`Arithmetic`].
    fn add(&self, a: &Self::Value, b: &Self::Value) -> Result<Self::Value>;

    /// `a - b`.
    ///
    /// # Errors
    /// See [`Arithmetic`].
    fn subtract(&self, a: &Self::Value, b: &Self::Value) -> Result<Self::Value>;

    /// `-a`.
    ///
    /// # Errors
    /// See [`Arithmetic`].
    fn negate(&self, a: &Self::Value) -> Result<Self::Value>;

    /// `a + b`, slot by slot.
    ///
    /// # Errors
    /// See [`Arithmetic`].
    fn add_plain(&self, a: &Self::Value, b: &Plaintext) -> Result<Self::Value>;

    /// `a·b`, slot by slot. Noise: up to `t/2·sqrt(N)` times that of `a`.
    ///
    /// # Errors
    /// See [`Arithmetic`].
    fn multiply_plain(&self, a: &Self::Value, b: &Plaintext) -> Result<Self::Value>;

    /// `a + b` in every slot.
    ///
    /// # Errors
    /// See [`Arithmetic`].
    fn add_constant(&self, a: &Self::Value, b: i64) -> Result<Self::Value>;

    /// `a·b` in every slot; `b` is reduced modulo t and centred first. Noise: times its magnitude.
    ///
    /// # Errors
    /// See [`Arithmetic`].
    fn multiply_constant(&self, a: &Self::Value, b: i64) -> Result<Self::Value>;

    /// `Σ a_i·b_i`, slot by slot, relinearised once.
    ///
    /// # Errors
    /// See [`Arithmetic`]; also [`Error::MissingKey`] without a relinearisation key, and
    /// [`Error::Length`] unless there are equally many, at least one.
    fn inner_product(&self, a: &[Self::Value], b: &[Self::Value]) -> Result<Self::Value>;

    /// Rotates both rows by `steps` columns to the left.
    ///
    /// # Errors
    /// See [`Arithmetic`]; also [`Error::MissingKey`], naming the rotation.
    fn rotate_rows(&self, a: &Self::Value, steps: i64) -> Result<Self::Value>;

    /// Swaps the rows.
    ///
    /// # Errors
    /// See [`Arithmetic`]; also [`Error::MissingKey`].
    fn swap_rows(&self, a: &Self::Value) -> Result<Self::Value>;

    /// The sum over all slots, in every slot.
    ///
    /// # Errors
    /// See [`Arithmetic`]; also [`Error::MissingKey`].
    fn sum_slots(&self, a: &Self::Value) -> Result<Self::Value>;

    /// Drops every modulus that is not needed for decryption: what to do before sending.
    ///
    /// # Errors
    /// See [`Arithmetic`].
    fn compress(&self, a: &Self::Value) -> Result<Self::Value>;

    /// `a·b`, slot by slot, relinearised.
    ///
    /// # Errors
    /// As [`Arithmetic::inner_product`].
    fn multiply(&self, a: &Self::Value, b: &Self::Value) -> Result<Self::Value> {
        self.inner_product(core::slice::from_ref(a), core::slice::from_ref(b))
    }

    /// `a²`, slot by slot, relinearised.
    ///
    /// # Errors
    /// As [`Arithmetic::inner_product`].
    fn square(&self, a: &Self::Value) -> Result<Self::Value> {
        self.multiply(a, a)
    }

    /// The sum of several values, added as a balanced tree.
    ///
    /// # Errors
    /// See [`Arithmetic`]; [`Error::Length`] when there is none.
    fn sum(&self, values: &[Self::Value]) -> Result<Self::Value> {
        match values {
            [] => Err(Error::Length { what: "values to add", expected: 1, actual: 0 }),
            [value] => Ok(value.clone()),
            _ => {
                let (a, b) = values.split_at(values.len() / 2);
                self.add(&self.sum(a)?, &self.sum(b)?)
            }
        }
    }

    /// `Σ_i coefficients[i]·x^i`, slot by slot, in `ceil(log2 degree)` levels of products.
    ///
    /// `x^i` is the product of the two powers of about half of `i`: `degree - 1` products in all.
    ///
    /// # Errors
    /// As [`Arithmetic::inner_product`]; [`Error::Length`] unless the degree is at least 1.
    fn polynomial(&self, x: &Self::Value, coefficients: &[i64]) -> Result<Self::Value> {
        let [constant, rest @ ..] = coefficients else {
            return Err(Error::Length { what: "coefficients", expected: 2, actual: 0 });
        };
        if rest.is_empty() {
            return Err(Error::Length { what: "coefficients", expected: 2, actual: 1 });
        }
        let used = rest.iter().rposition(|&c| c != 0).map_or(1, |last| last + 1);
        let mut powers: Vec<Self::Value> = vec![x.clone()];
        for i in 2..=used {
            let (low, high) = (powers.get(i / 2 - 1), powers.get(i.div_ceil(2) - 1));
            if let (Some(low), Some(high)) = (low, high) {
                powers.push(self.multiply(low, high)?);
            }
        }
        let mut terms = Vec::with_capacity(used);
        for (power, &c) in powers.iter().zip(rest) {
            if c != 0 || terms.is_empty() && used == 1 {
                terms.push(self.multiply_constant(power, c)?);
            }
        }
        self.add_constant(&self.sum(&terms)?, *constant)
    }
}
