//! Evaluation keys: what a server needs to relinearise and to rotate slots.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::{SecretKey, SwitchingKey};
use crate::{
    Error, Params, Result,
    galois::{describe, permutation, permute, rotation_element, swap_element},
    key_switching::Scratch,
    scratch::Pool,
};

/// Which evaluation keys a computation needs: exactly these are generated.
///
/// # Example
///
/// ```
/// use he_core::KeySet;
///
/// // Products, rotations by one column to the left and to the right.
/// let keys = KeySet::new().with_relinearization().with_rotation(1).with_rotation(-1);
/// assert_eq!(keys.count(8192), 3);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySet {
    relinearization: bool,
    rotations: BTreeSet<i64>,
    swap: bool,
    slot_sum: bool,
}

impl KeySet {
    /// No key.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the key that brings products back to degree 1.
    #[must_use]
    pub fn with_relinearization(mut self) -> Self {
        self.relinearization = true;
        self
    }

    /// Adds the key that rotates both rows by `steps` columns to the left (negative: to the right).
    #[must_use]
    pub fn with_rotation(mut self, steps: i64) -> Self {
        self.rotations.insert(steps);
        self
    }

    /// Adds the key that swaps the two rows.
    #[must_use]
    pub fn with_row_swap(mut self) -> Self {
        self.swap = true;
        self
    }

    /// Adds the `log2 N` keys of a sum over all slots: rotations by powers of two and the swap.
    #[must_use]
    pub fn with_slot_sum(mut self) -> Self {
        self.slot_sum = true;
        self
    }

    /// Everything of both sets.
    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        self.relinearization |= other.relinearization;
        self.rotations.extend(&other.rotations);
        self.swap |= other.swap;
        self.slot_sum |= other.slot_sum;
        self
    }

    /// Number of key-switching keys at a ring degree.
    #[must_use]
    pub fn count(&self, ring_degree: usize) -> usize {
        usize::from(self.relinearization) + self.elements(ring_degree).len()
    }

    /// Exponents of the automorphisms; the identity needs no key.
    pub(crate) fn elements(&self, ring_degree: usize) -> BTreeSet<u32> {
        let mut elements: BTreeSet<u32> =
            self.rotations.iter().map(|&steps| rotation_element(ring_degree, steps)).collect();
        if self.swap || self.slot_sum {
            elements.insert(swap_element(ring_degree));
        }
        if self.slot_sum {
            elements.extend(slot_sum_steps(ring_degree).map(|s| rotation_element(ring_degree, s)));
        }
        elements.remove(&1);
        elements
    }
}

/// Rotations of a sum over all slots of a row.
pub(crate) fn slot_sum_steps(ring_degree: usize) -> impl Iterator<Item = i64> {
    (0..(ring_degree / 2).trailing_zeros()).map(|log2| 1 << log2)
}

/// Relinearisation and Galois keys, for whoever computes on ciphertexts: public, seeded.
///
/// Made by the key holder, sent as [`EvaluationKeys::to_bytes`]. Each key takes
/// `16·N·digits·(moduli + special moduli)` bytes of memory and a little over a third of it on the
/// wire.
pub struct EvaluationKeys {
    pub(super) params: Params,
    pub(super) relinearization: Option<SwitchingKey>,
    pub(super) galois: BTreeMap<u32, GaloisKey>,
    pub(crate) scratch: Pool<Scratch>,
    /// Buffers for the polynomials that products add.
    pub(crate) products: Pool<Vec<u64>>,
}

/// The key of one automorphism.
pub(crate) struct GaloisKey {
    pub(crate) key: SwitchingKey,
    /// Where each evaluation point comes from.
    pub(crate) permutation: Vec<u32>,
}

impl EvaluationKeys {
    /// Draws the keys of a set.
    ///
    /// Cost per key: one expansion and one transform per digit and modulus.
    ///
    /// # Errors
    /// [`Error::Form`] when the parameters have no special modulus.
    ///
    /// # Security
    /// The keys encrypt functions of the secret key under itself: beside ring-LWE this assumes
    /// circular security, as every scheme with relinearisation does.
    pub fn generate(
        key: &SecretKey,
        set: &KeySet,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Self> {
        let params = key.params();
        check_special(params)?;
        let n = params.ring_degree();
        let relinearization = set.relinearization.then(|| {
            let square = |limb: usize| {
                let secret = key.secret(limb);
                let mut out = Zeroizing::new(vec![0; n]);
                if let Some(ring) = params.key_rings().nth(limb) {
                    ring.multiply_accumulate(&mut out, secret, secret);
                }
                out
            };
            SwitchingKey::generate(key, &square, rng)
        });
        let mut galois = BTreeMap::new();
        for g in set.elements(n) {
            let permutation = permutation(n, g);
            let rotated = |limb: usize| {
                let mut out = Zeroizing::new(vec![0; n]);
                permute(&permutation, key.secret(limb), &mut out);
                out
            };
            let key = SwitchingKey::generate(key, &rotated, rng);
            galois.insert(g, GaloisKey { key, permutation });
        }
        Ok(Self {
            params: params.clone(),
            relinearization,
            galois,
            scratch: Pool::new(),
            products: Pool::new(),
        })
    }

    /// The parameters the keys belong to.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Number of key-switching keys.
    #[must_use]
    pub fn count(&self) -> usize {
        usize::from(self.relinearization.is_some()) + self.galois.len()
    }

    /// The relinearisation key.
    pub(crate) fn relinearization(&self) -> Result<&SwitchingKey> {
        self.relinearization.as_ref().ok_or_else(|| Error::MissingKey {
            key: "relinearisation".to_owned(),
            request: "KeySet::with_relinearization",
        })
    }

    /// The key of an automorphism.
    pub(crate) fn galois(&self, g: u32) -> Result<&GaloisKey> {
        self.galois.get(&g).ok_or_else(|| Error::MissingKey {
            key: describe(&self.params, g),
            request: "KeySet::with_rotation, with_row_swap or with_slot_sum",
        })
    }
}

/// Evaluation keys need special moduli.
pub(crate) fn check_special(params: &Params) -> Result<()> {
    if params.special_moduli().is_empty() {
        return Err(Error::Form {
            operation: "an evaluation key",
            requirement: "parameters with special moduli: see Params::with_special_moduli",
            degree: 1,
            n_moduli: params.moduli().len(),
        });
    }
    Ok(())
}

impl fmt::Debug for EvaluationKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EvaluationKeys")
            .field("params", &self.params)
            .field("relinearization", &self.relinearization.is_some())
            .field("automorphisms", &self.galois.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
