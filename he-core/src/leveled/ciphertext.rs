//! One ciphertext with what is known about its noise.

use rand_core::CryptoRng;

use super::rules::{Forecast, Rules};
use crate::{
    BlockEncryptor, CiphertextBlock, Decryptor, Error, Message, Params, Plaintext, PublicKey,
    Result, SecretKey,
};

/// A single ciphertext of degree 1 with a bound on its noise.
#[derive(Debug, Clone)]
pub struct Ciphertext {
    pub(super) block: CiphertextBlock,
    pub(super) forecast: Forecast,
}

impl Ciphertext {
    /// Encrypts under the secret key.
    ///
    /// # Errors
    /// - [`Error::ParamsMismatch`] when the plaintext belongs to other parameters.
    /// - [`Error::Form`] or [`Error::PlaintextModulus`] when the parameters do not allow leveled
    ///   computation: see [`super::CostModel::new`].
    pub fn encrypt(
        plaintext: &Plaintext,
        key: &SecretKey,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Self> {
        let forecast = Rules::new(key.params())?.fresh(false);
        let plaintexts = core::slice::from_ref(plaintext);
        let block = BlockEncryptor::new(key, rng).encrypt_next(plaintexts)?;
        Ok(Self { block, forecast })
    }

    /// Encrypts under a public key.
    ///
    /// # Errors
    /// As [`Ciphertext::encrypt`].
    pub fn encrypt_public(
        plaintext: &Plaintext,
        key: &PublicKey,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Self> {
        let forecast = Rules::new(key.params())?.fresh(true);
        let block = key.encrypt(core::slice::from_ref(plaintext), rng)?;
        Ok(Self { block, forecast })
    }

    /// Takes one fresh ciphertext of a block, as it came over the wire.
    ///
    /// `public` says whether it may have been made with a public key. Whoever computes trusts the
    /// sender that it is fresh; a sender who lies spoils its own results.
    ///
    /// # Errors
    /// - [`Error::Index`] when there is no such ciphertext.
    /// - [`Error::Form`] unless its degree is 1 and no modulus has been dropped; otherwise as
    ///   [`Ciphertext::encrypt`].
    pub fn from_fresh(block: &CiphertextBlock, index: usize, public: bool) -> Result<Self> {
        let forecast = Rules::new(block.params())?.fresh(public);
        if block.n_moduli() != forecast.n_moduli {
            return Err(Error::Form {
                operation: "a fresh ciphertext",
                requirement: "degree 1 and all moduli",
                degree: block.degree(),
                n_moduli: block.n_moduli(),
            });
        }
        block.check_fresh("a fresh ciphertext")?;
        Ok(Self { block: block.select(&[index])?, forecast })
    }

    /// Decrypts; encoders turn the message into integers.
    ///
    /// # Errors
    /// [`Error::ParamsMismatch`] when the key belongs to other parameters.
    ///
    /// # Security
    /// As [`Decryptor::decrypt`].
    pub fn decrypt(&self, key: &SecretKey) -> Result<Message> {
        Decryptor::new(key).decrypt(&self.block, 0)
    }

    /// The ciphertext as a block of one: to write it, or for block operations.
    #[must_use]
    pub fn block(&self) -> &CiphertextBlock {
        &self.block
    }

    /// The parameters.
    #[must_use]
    pub fn params(&self) -> &Params {
        self.block.params()
    }

    /// Number of moduli left.
    #[must_use]
    pub fn n_moduli(&self) -> usize {
        self.forecast.n_moduli
    }

    /// Bits left for further operations, see [`Forecast::margin`].
    #[must_use]
    pub fn margin(&self) -> f64 {
        self.forecast.margin()
    }

    /// Level, noise and correction.
    #[must_use]
    pub fn forecast(&self) -> Forecast {
        self.forecast
    }
}
