//! Dry runs: what a circuit costs, without keys.

use core::cell::RefCell;

use super::{
    Arithmetic, Forecast,
    evaluator::lowest_level,
    rules::{Rules, check},
};
use crate::{KeySet, Params, Plaintext, Result, bytes, galois::rotation_element};

/// Operations counted by a [`CostModel`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sums, differences, negations and operations with constants.
    pub additions: u64,
    /// Products and sums with plaintexts.
    pub plaintext_operations: u64,
    /// Products of ciphertexts, before relinearisation.
    pub products: u64,
    /// Relinearisations and rotations.
    pub key_switches: u64,
    /// Moduli dropped, over all ciphertexts.
    pub modulus_switches: u64,
    /// Transforms of N words: what dominates the time.
    pub transforms: u64,
    /// Products of N words.
    pub word_products: u64,
}

/// Runs circuits on forecasts instead of ciphertexts: levels, noise bounds, bytes, operation counts
/// and the keys that are needed.
///
/// The results of [`super::Evaluator`] on the same calls have exactly these levels and bounds.
///
/// # Example: a polynomial
///
/// ```
/// use he_core::leveled::{Arithmetic, Ciphertext, CostModel, Demand, Evaluator};
/// use he_core::{EvaluationKeys, RowEncoder, SecretKey};
/// use rand::{SeedableRng, rngs::StdRng};
///
/// # fn main() -> he_core::Result<()> {
/// let coefficients = [1, 0, 3, 0, 5, 0, 0, -7];
/// let params = Demand { log2_plaintext: 17, depth: 3, width: 8 }.parameters()?;
/// let model = CostModel::new(&params)?;
/// let forecast = model.polynomial(&model.encrypt(), &coefficients)?;
/// assert!(forecast.margin() > 0.0 && model.bytes(&forecast) > 0);
/// assert_eq!(model.counts().products, 6);
///
/// let mut rng = StdRng::from_os_rng();
/// let key = SecretKey::generate(&params, &mut rng);
/// let keys = EvaluationKeys::generate(&key, &model.keys(), &mut rng)?;
/// let encoder = RowEncoder::new(&params)?;
/// let x = encoder.encode(&vec![3; encoder.slot_count()])?;
/// let x = Ciphertext::encrypt(&x, &key, &mut rng)?;
/// let y = Evaluator::new(&keys)?.polynomial(&x, &coefficients)?;
/// assert_eq!(y.forecast(), forecast);
/// let slots = encoder.decode(&y.decrypt(&key)?)?;
/// assert_eq!(slots[0], 1 + 3 * 9 + 5 * 81 - 7 * 2187);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct CostModel {
    params: Params,
    rules: Rules,
    counts: RefCell<Counts>,
    keys: RefCell<KeySet>,
}

impl CostModel {
    /// A model of computations under these parameters.
    ///
    /// # Errors
    /// - [`crate::Error::Form`] without special moduli.
    /// - [`crate::Error::PlaintextModulus`] unless t is at most [`crate::MAX_MODULUS`] and below the
    ///   first modulus.
    pub fn new(params: &Params) -> Result<Self> {
        Ok(Self {
            rules: Rules::new(params)?,
            params: params.clone(),
            counts: RefCell::default(),
            keys: RefCell::default(),
        })
    }

    /// A ciphertext fresh from the key holder.
    #[must_use]
    pub fn encrypt(&self) -> Forecast {
        self.rules.fresh(false)
    }

    /// A ciphertext fresh from somebody with the public key.
    #[must_use]
    pub fn encrypt_public(&self) -> Forecast {
        self.rules.fresh(true)
    }

    /// What has been counted so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    /// The evaluation keys that what has been run so far needs.
    #[must_use]
    pub fn keys(&self) -> KeySet {
        self.keys.borrow().clone()
    }

    /// Bytes of those keys on the wire.
    #[must_use]
    pub fn key_bytes(&self) -> usize {
        let (n, keys) = (self.params.ring_degree(), self.keys.borrow());
        crate::EvaluationKeys::byte_len(&self.params, keys.count(n), keys.elements(n).len())
    }

    /// Bytes of a value on the wire.
    #[must_use]
    pub fn bytes(&self, value: &Forecast) -> usize {
        bytes::reply_bytes(&self.params, 1, value.n_moduli)
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.borrow_mut());
    }

    fn need(&self, key: impl FnOnce(KeySet) -> KeySet) {
        self.keys.replace_with(|keys| key(core::mem::take(keys)));
    }

    /// Counts the switches of one ciphertext of degree 1.
    fn count_switches(&self, from: usize, to: usize) {
        // Dropping one of `n` moduli: one inverse and `n - 1` forward transforms per polynomial.
        for n in (to + 1..=from).map(|n| n as u64) {
            self.count(|c| {
                c.modulus_switches += 1;
                c.transforms += 2 * n;
                c.word_products += 4 * n;
            });
        }
    }

    fn count_key_switch(&self, n_moduli: usize) {
        let (l, k) = (n_moduli as u64, self.params.special_moduli().len() as u64);
        let digits = l.div_ceil(k.max(1));
        self.count(|c| {
            c.key_switches += 1;
            // Digits to coefficients, digits to every ring but their own, and the division.
            c.transforms += l + digits * (l + k) - l + 2 * k + k * k.saturating_sub(1) + 2 * l;
            c.word_products += 2 * digits * (l + k) + 2 * (l + k);
        });
    }

    fn rotate(&self, a: &Forecast, swap: bool, operation: &'static str) -> Result<Forecast> {
        let rotated = check(operation, self.rules.rotated(a, swap))?;
        self.count_key_switch(a.n_moduli);
        Ok(rotated)
    }

    fn sum(&self, a: &Forecast, b: &Forecast, operation: &'static str) -> Result<Forecast> {
        let level = a.n_moduli.min(b.n_moduli);
        let at = |x: &Forecast| {
            self.count_switches(x.n_moduli, level);
            self.rules.switched(x, level)
        };
        self.count(|c| c.additions += 1);
        check(operation, self.rules.sum(&at(a), &at(b)))
    }
}

impl Arithmetic for CostModel {
    type Value = Forecast;

    fn add(&self, a: &Forecast, b: &Forecast) -> Result<Forecast> {
        self.sum(a, b, "a sum")
    }

    fn subtract(&self, a: &Forecast, b: &Forecast) -> Result<Forecast> {
        self.sum(a, b, "a difference")
    }

    fn negate(&self, a: &Forecast) -> Result<Forecast> {
        self.count(|c| c.additions += 1);
        Ok(*a)
    }

    fn add_plain(&self, a: &Forecast, b: &Plaintext) -> Result<Forecast> {
        self.params.check_same(b.params())?;
        self.count(|c| {
            c.plaintext_operations += 1;
            c.transforms += a.n_moduli as u64;
        });
        check("a sum with a plaintext", self.rules.plain_sum(a))
    }

    fn multiply_plain(&self, a: &Forecast, b: &Plaintext) -> Result<Forecast> {
        self.params.check_same(b.params())?;
        let product = |level| self.rules.plain_product(&self.rules.switched(a, level));
        let operation = "a product with a plaintext";
        let (level, result) = self.rules.best_level(operation, a.n_moduli, product)?;
        self.count_switches(a.n_moduli, level);
        self.count(|c| {
            c.plaintext_operations += 1;
            c.transforms += level as u64;
            c.word_products += 2 * level as u64;
        });
        Ok(result)
    }

    fn add_constant(&self, a: &Forecast, _: i64) -> Result<Forecast> {
        self.count(|c| c.additions += 1);
        check("a sum with a constant", self.rules.plain_sum(a))
    }

    fn multiply_constant(&self, a: &Forecast, b: i64) -> Result<Forecast> {
        self.count(|c| c.additions += 1);
        let product = self.rules.constant_product(a, self.rules.constant(b));
        check("a product with a constant", product)
    }

    fn inner_product(&self, a: &[Forecast], b: &[Forecast]) -> Result<Forecast> {
        let from = lowest_level(a, b)?;
        let product = |level| self.rules.inner_product(a, b, level);
        let (level, result) = self.rules.best_level("a product", from, product)?;
        for factor in a.iter().chain(b) {
            self.count_switches(factor.n_moduli, level);
        }
        self.count(|c| {
            c.products += a.len() as u64;
            c.additions += a.len() as u64 - 1;
            c.word_products += 4 * (a.len() * level) as u64;
        });
        self.count_key_switch(level);
        self.need(KeySet::with_relinearization);
        Ok(result)
    }

    fn rotate_rows(&self, a: &Forecast, steps: i64) -> Result<Forecast> {
        if rotation_element(self.params.ring_degree(), steps) == 1 {
            return Ok(*a);
        }
        self.need(|keys| keys.with_rotation(steps));
        self.rotate(a, false, "a rotation")
    }

    fn swap_rows(&self, a: &Forecast) -> Result<Forecast> {
        self.need(KeySet::with_row_swap);
        self.rotate(a, true, "a swap of rows")
    }

    fn sum_slots(&self, a: &Forecast) -> Result<Forecast> {
        let sum = self.rules.slot_sum(a)?;
        for _ in 0..self.params.ring_degree().trailing_zeros() {
            self.count_key_switch(a.n_moduli);
            self.count(|c| c.additions += 1);
        }
        self.need(KeySet::with_slot_sum);
        Ok(sum)
    }

    fn compress(&self, a: &Forecast) -> Result<Forecast> {
        let compressed = self.rules.compressed(a);
        self.count_switches(a.n_moduli, compressed.n_moduli);
        Ok(compressed)
    }
}
