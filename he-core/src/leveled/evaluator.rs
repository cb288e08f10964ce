//! Computation on ciphertexts.

use super::{
    Arithmetic, Ciphertext, Forecast,
    rules::{Rules, check},
};
use crate::{CiphertextBlock, Error, EvaluationKeys, Plaintext, Result, galois::rotation_element};

/// Computes on [`Ciphertext`]s with a server's keys; see [`Arithmetic`].
///
/// One ciphertext at a time, on the calling thread: run several evaluations in parallel to use more
/// cores. Buffers of key switching are kept between calls.
///
/// # Example: a matrix times a vector
///
/// ```
/// use he_core::leveled::{Arithmetic, Ciphertext, CostModel, Demand, Evaluator};
/// use he_core::{EvaluationKeys, Plaintext, PublicKey, RowEncoder, SecretKey};
/// use rand::{SeedableRng, rngs::StdRng};
///
/// /// `Σ_i diagonal_i ∘ rotate(x, i)`: diagonal `i` holds `m[r][r + i]`, indices modulo the size.
/// fn product<A: Arithmetic>(a: &A, m: &[Plaintext], x: &A::Value) -> he_core::Result<A::Value> {
///     let terms = (0..).zip(m).map(|(i, diagonal)| {
///         a.multiply_plain(&a.rotate_rows(x, i)?, diagonal)
///     });
///     a.sum(&terms.collect::<he_core::Result<Vec<_>>>()?)
/// }
///
/// # fn main() -> he_core::Result<()> {
/// let params = Demand { log2_plaintext: 16, depth: 1, width: 4 }.parameters()?;
/// let encoder = RowEncoder::new(&params)?;
/// let (m, x) = ([[1, 2, 3, 4], [5, 6, 7, 8], [-1, 0, 1, 0], [9, 9, 9, 9]], [3, 1, -4, 1]);
/// // Size 4 divides the columns of a row: the vector and the diagonals repeat along it.
/// let repeat = |f: &dyn Fn(usize) -> i64| {
///     let row: Vec<i64> = (0..encoder.columns()).map(|j| f(j % 4)).collect();
///     encoder.encode_row(&row)
/// };
/// let diagonals = (0..4)
///     .map(|i| repeat(&|r| m[r][(r + i) % 4]))
///     .collect::<he_core::Result<Vec<_>>>()?;
///
/// let model = CostModel::new(&params)?;
/// product(&model, &diagonals, &model.encrypt_public())?;
/// let mut rng = StdRng::from_os_rng();
/// let key = SecretKey::generate(&params, &mut rng);
/// let keys = EvaluationKeys::generate(&key, &model.keys(), &mut rng)?;
/// assert_eq!(keys.count(), 3); // rotations by 1, 2 and 3
///
/// let public = PublicKey::generate(&key, &mut rng);
/// let x_encrypted = Ciphertext::encrypt_public(&repeat(&|j| x[j])?, &public, &mut rng)?;
/// let y = product(&Evaluator::new(&keys)?, &diagonals, &x_encrypted)?;
/// let y = encoder.decode(&y.decrypt(&key)?)?;
/// assert_eq!(&y[..4], &[-3, 1, -7, 9]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Evaluator<'k> {
    keys: &'k EvaluationKeys,
    rules: Rules,
}

impl<'k> Evaluator<'k> {
    /// Computes with `keys`.
    ///
    /// # Errors
    /// As [`super::CostModel::new`].
    pub fn new(keys: &'k EvaluationKeys) -> Result<Self> {
        Ok(Self { keys, rules: Rules::new(keys.params())? })
    }

    fn wrap(&self, block: CiphertextBlock, forecast: Forecast) -> Ciphertext {
        debug_assert_eq!(block.n_moduli(), forecast.n_moduli);
        debug_assert_eq!(block.correction(), forecast.correction);
        Ciphertext { block, forecast }
    }

    fn check_params(&self, a: &Ciphertext) -> Result<()> {
        self.keys.params().check_same(a.params())
    }

    fn switched(&self, a: &Ciphertext, n_moduli: usize) -> Result<Ciphertext> {
        if n_moduli == a.n_moduli() {
            return Ok(a.clone());
        }
        let block = a.block.mod_switch_to(n_moduli)?;
        Ok(self.wrap(block, self.rules.switched(&a.forecast, n_moduli)))
    }

    /// Both blocks at one level and with one correction, and what their sum will be.
    fn meet(
        &self,
        operation: &'static str,
        a: &Ciphertext,
        b: &Ciphertext,
    ) -> Result<(CiphertextBlock, CiphertextBlock, Forecast)> {
        self.check_params(a)?;
        self.check_params(b)?;
        let level = a.n_moduli().min(b.n_moduli());
        let forecast = self.rules.sum(
            &self.rules.switched(&a.forecast, level),
            &self.rules.switched(&b.forecast, level),
        );
        let forecast = check(operation, forecast)?;
        let (a, b) = (self.switched(a, level)?, self.switched(b, level)?);
        let (a, b) = a.block.aligned(&b.block)?;
        Ok((a, b, forecast))
    }
}

impl Arithmetic for Evaluator<'_> {
    type Value = Ciphertext;

    fn add(&self, a: &Ciphertext, b: &Ciphertext) -> Result<Ciphertext> {
        let (mut sum, b, forecast) = self.meet("a sum", a, b)?;
        sum.add_assign(&b)?;
        Ok(self.wrap(sum, forecast))
    }

    fn subtract(&self, a: &Ciphertext, b: &Ciphertext) -> Result<Ciphertext> {
        let (mut difference, b, forecast) = self.meet("a difference", a, b)?;
        difference.subtract_assign(&b)?;
        Ok(self.wrap(difference, forecast))
    }

    fn negate(&self, a: &Ciphertext) -> Result<Ciphertext> {
        self.check_params(a)?;
        let mut out = a.clone();
        out.block.negate();
        Ok(out)
    }

    fn add_plain(&self, a: &Ciphertext, b: &Plaintext) -> Result<Ciphertext> {
        self.check_params(a)?;
        let forecast = check("a sum with a plaintext", self.rules.plain_sum(&a.forecast))?;
        let mut block = a.block.clone();
        block.add_plaintext(b)?;
        Ok(self.wrap(block, forecast))
    }

    fn multiply_plain(&self, a: &Ciphertext, b: &Plaintext) -> Result<Ciphertext> {
        self.check_params(a)?;
        let rules = &self.rules;
        let product = |level| rules.plain_product(&rules.switched(&a.forecast, level));
        let operation = "a product with a plaintext";
        let (level, forecast) = rules.best_level(operation, a.n_moduli(), product)?;
        let mut block = self.switched(a, level)?.block;
        block.multiply_plaintext(b)?;
        Ok(self.wrap(block, forecast))
    }

    fn add_constant(&self, a: &Ciphertext, b: i64) -> Result<Ciphertext> {
        self.check_params(a)?;
        let forecast = check("a sum with a constant", self.rules.plain_sum(&a.forecast))?;
        let mut block = a.block.clone();
        block.add_constants(&[self.rules.constant(b)])?;
        Ok(self.wrap(block, forecast))
    }

    fn multiply_constant(&self, a: &Ciphertext, b: i64) -> Result<Ciphertext> {
        self.check_params(a)?;
        let b = self.rules.constant(b);
        let product = self.rules.constant_product(&a.forecast, b);
        let forecast = check("a product with a constant", product)?;
        let mut block = a.block.clone();
        block.scale(b);
        Ok(self.wrap(block, forecast))
    }

    fn inner_product(&self, a: &[Ciphertext], b: &[Ciphertext]) -> Result<Ciphertext> {
        let (x, y) = (forecasts(a), forecasts(b));
        let from = lowest_level(&x, &y)?;
        for factor in a.iter().chain(b) {
            self.check_params(factor)?;
        }
        let product = |level| self.rules.inner_product(&x, &y, level);
        let (level, forecast) = self.rules.best_level("a product", from, product)?;
        let at = |c: &Ciphertext| self.switched(c, level);
        if let ([a], [b]) = (a, b) {
            let (a, b) = (at(a)?, at(b)?);
            let block = a.block.multiply_relinearized(&b.block, self.keys)?;
            return Ok(self.wrap(block, forecast));
        }
        let mut sum: Option<CiphertextBlock> = None;
        for (a, b) in a.iter().zip(b) {
            let product = at(a)?.block.multiply(&at(b)?.block)?;
            sum = Some(match sum {
                None => product,
                Some(sum) => {
                    let (mut sum, product) = sum.aligned(&product)?;
                    sum.add_assign(&product)?;
                    sum
                }
            });
        }
        let Some(sum) = sum else { return Err(no_pairs(0, 0)) };
        Ok(self.wrap(sum.relinearize(self.keys)?, forecast))
    }

    fn rotate_rows(&self, a: &Ciphertext, steps: i64) -> Result<Ciphertext> {
        self.check_params(a)?;
        if rotation_element(a.params().ring_degree(), steps) == 1 {
            return Ok(a.clone());
        }
        let forecast = check("a rotation", self.rules.rotated(&a.forecast, false))?;
        Ok(self.wrap(a.block.rotate_rows(steps, self.keys)?, forecast))
    }

    fn swap_rows(&self, a: &Ciphertext) -> Result<Ciphertext> {
        self.check_params(a)?;
        let forecast = check("a swap of rows", self.rules.rotated(&a.forecast, true))?;
        Ok(self.wrap(a.block.swap_rows(self.keys)?, forecast))
    }

    fn sum_slots(&self, a: &Ciphertext) -> Result<Ciphertext> {
        self.check_params(a)?;
        let forecast = self.rules.slot_sum(&a.forecast)?;
        Ok(self.wrap(a.block.sum_slots(self.keys)?, forecast))
    }

    fn compress(&self, a: &Ciphertext) -> Result<Ciphertext> {
        self.check_params(a)?;
        self.switched(a, self.rules.compressed(&a.forecast).n_moduli)
    }
}

fn forecasts(values: &[Ciphertext]) -> Vec<Forecast> {
    values.iter().map(|c| c.forecast).collect()
}

/// The lowest level of all factors.
pub(super) fn lowest_level(a: &[Forecast], b: &[Forecast]) -> Result<usize> {
    if a.len() != b.len() {
        return Err(no_pairs(a.len(), b.len()));
    }
    a.iter().chain(b).map(|f| f.n_moduli).min().ok_or_else(|| no_pairs(1, 0))
}

fn no_pairs(expected: usize, actual: usize) -> Error {
    Error::Length { what: "factors of an inner product", expected: expected.max(1), actual }
}
