//! Parameters: an unchecked specification and its checked, immutable form.

use std::sync::Arc;

use crate::{
    Backend, Error, Result,
    error::Tenths,
    ring::{self, Ring},
    security,
};

/// Smallest ring degree (toy sizes below 1024 need an `insecure_` constructor).
pub(crate) const MIN_RING_DEGREE: usize = 32;
/// Largest ring degree.
pub(crate) const MAX_RING_DEGREE: usize = 32768;
/// Largest number of ciphertext moduli.
pub(crate) const MAX_MODULI: usize = 18;

/// Largest ciphertext modulus: three balanced 16-bit digits hold every residue below it.
///
/// The digit kernels split a residue as `d0 + d1·2^16 + d2·2^32` with `d0, d1` in
/// `[-2^15, 2^15)`; the balancing carry must not overflow the top digit.
pub const MAX_MODULUS: u64 = 0x7FFF_7FFF_7FFF;

/// Smallest plaintext modulus of slots: 64-bit values then reduce without division.
pub(crate) const MIN_SLOT_MODULUS: u64 = 1 << 13;

/// Smallest ciphertext modulus.
const MIN_MODULUS: u64 = 1 << 10;

/// Unchecked description of parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamsSpec {
    /// Ring degree N, a power of two.
    pub ring_degree: usize,
    /// Plaintext modulus t: for [`crate::SlotEncoder`] a prime congruent to 1 modulo 2N, for
    /// [`crate::CoefficientEncoder`] a power of two below 2^100. Always prime to every modulus.
    pub plaintext_modulus: u128,
    /// Ciphertext moduli `q_0, q_1, …`: distinct primes congruent to 1 modulo 2N, at most
    /// [`MAX_MODULUS`]. Modulus switching drops the last one first.
    pub moduli: Vec<u64>,
}

impl ParamsSpec {
    /// Describes parameters whose moduli are the largest suitable primes of the given sizes.
    ///
    /// Equal sizes give distinct primes. Sizes are in bits, at most 47.
    ///
    /// # Errors
    /// - [`Error::RingDegree`] for an unsupported degree.
    /// - [`Error::NoPrime`] when a size has no further prime.
    pub fn with_bits(ring_degree: usize, plaintext_modulus: u128, bits: &[u32]) -> Result<Self> {
        check_ring_degree(ring_degree)?;
        let mut spec = Self { ring_degree, plaintext_modulus, moduli: Vec::new() };
        spec.moduli = spec.further_primes(bits)?;
        Ok(spec)
    }

    /// Finds the largest suitable primes of the given sizes that are not among the moduli yet: for
    /// the special moduli of [`Params::with_special_moduli`].
    ///
    /// # Errors
    /// As [`ParamsSpec::with_bits`].
    pub fn further_primes(&self, bits: &[u32]) -> Result<Vec<u64>> {
        check_ring_degree(self.ring_degree)?;
        let mut primes: Vec<u64> = Vec::with_capacity(bits.len());
        for &b in bits {
            let mut below = 1_u64.checked_shl(b).unwrap_or(u64::MAX).min(MAX_MODULUS + 1);
            let prime = loop {
                let prime = ring::largest_prime(self.ring_degree, b, below)
                    .ok_or(Error::NoPrime { bits: b, progression: 2 * self.ring_degree as u64 })?;
                let taken = self.moduli.contains(&prime) || primes.contains(&prime);
                if !taken && self.plaintext_modulus != u128::from(prime) {
                    break prime;
                }
                below = prime;
            };
            primes.push(prime);
        }
        Ok(primes)
    }

    /// Finds the smallest plaintext modulus for slots: a prime of at least `at_least`, congruent to
    /// 1 modulo 2N.
    ///
    /// # Errors
    /// - [`Error::RingDegree`] for an unsupported degree.
    /// - [`Error::NoPrime`] when there is none up to [`MAX_MODULUS`].
    pub fn smallest_slot_modulus(ring_degree: usize, at_least: u64) -> Result<u64> {
        check_ring_degree(ring_degree)?;
        let step = 2 * ring_degree as u64;
        let wanted = at_least.max(MIN_SLOT_MODULUS);
        let first = (wanted.min(MAX_MODULUS) - 1).div_ceil(step) * step + 1;
        (first..=MAX_MODULUS)
            .step_by(ring_degree * 2)
            .find(|&candidate| ring::is_prime(ring_degree, candidate))
            .filter(|&prime| prime >= wanted)
            .ok_or(Error::NoPrime { bits: u64::BITS - wanted.leading_zeros(), progression: step })
    }
}

/// Checked parameters: ring, moduli, transforms, kernel choice.
///
/// Cheap to clone (shared), compared by digest. Building one precomputes the transforms (about a
/// millisecond at N = 4096): build once and keep it.
#[derive(Clone)]
pub struct Params {
    inner: Arc<Inner>,
}

struct Inner {
    ring_degree: usize,
    plaintext_modulus: u128,
    moduli: Vec<u64>,
    rings: Vec<Ring>,
    special_moduli: Vec<u64>,
    special_rings: Vec<Ring>,
    slot_ring: Option<Ring>,
    log2_modulus: f64,
    log2_special: f64,
    security_bits: u32,
    backend: Backend,
    digest: [u8; 32],
}

impl Params {
    /// Checks a specification, including 128 bits of classical security.
    ///
    /// # Errors
    /// - [`Error::RingDegree`], [`Error::ModulusCount`], [`Error::Modulus`],
    ///   [`Error::PlaintextModulus`] name the value that does not fit.
    /// - [`Error::Insecure`] when the moduli are too large for the ring degree.
    /// - [`Error::Backend`] when the environment variable `HE_BACKEND` names no usable kernel set.
    pub fn new(spec: ParamsSpec) -> Result<Self> {
        Self::with_special_moduli(spec, Vec::new())
    }

    /// Checks a specification with special moduli, which evaluation keys and public-key encryption
    /// use: see [`crate::EvaluationKeys`]. They count in the security bound like the others.
    ///
    /// Key switching cuts a ciphertext into digits of as many moduli as there are special ones, and
    /// its noise is small when their product exceeds that of every digit.
    ///
    /// # Errors
    /// As [`Params::new`]; the special moduli must be suitable primes too, distinct from the others.
    ///
    /// # Example
    ///
    /// ```
    /// use he_core::{Params, ParamsSpec};
    ///
    /// # fn main() -> Result<(), he_core::Error> {
    /// let spec = ParamsSpec::with_bits(8192, 65537, &[41, 41, 41, 41])?;
    /// let special = spec.further_primes(&[47])?;
    /// let params = Params::with_special_moduli(spec, special)?;
    /// assert!(params.log2_modulus() + params.log2_special_modulus() < 214.0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_special_moduli(spec: ParamsSpec, special: Vec<u64>) -> Result<Self> {
        let params = Self::build(spec, special, security::SECURITY_BITS)?;
        let inner = &params.inner;
        let max = security::max_log2_modulus(inner.ring_degree).unwrap_or(0);
        let actual = inner.log2_modulus + inner.log2_special;
        if actual > f64::from(max) {
            return Err(Error::Insecure {
                ring_degree: inner.ring_degree,
                actual: tenths_rounded_up(actual),
                max,
            });
        }
        Ok(params)
    }

    /// Checks a specification but not its security: for tests, examples and teaching only.
    ///
    /// Toy rings (N from 32) encrypt nothing: an attacker solves them in seconds.
    ///
    /// # Errors
    /// As [`Params::new`], without [`Error::Insecure`].
    pub fn insecure_new(spec: ParamsSpec) -> Result<Self> {
        Self::build(spec, Vec::new(), 0)
    }

    /// As [`Params::with_special_moduli`], without the check of security: for tests, examples and
    /// teaching only.
    ///
    /// # Errors
    /// As [`Params::with_special_moduli`], without [`Error::Insecure`].
    pub fn insecure_with_special_moduli(spec: ParamsSpec, special: Vec<u64>) -> Result<Self> {
        Self::build(spec, special, 0)
    }

    fn build(spec: ParamsSpec, special_moduli: Vec<u64>, security_bits: u32) -> Result<Self> {
        let ParamsSpec { ring_degree, plaintext_modulus, moduli } = spec;
        check_ring_degree(ring_degree)?;
        let count = moduli.len().saturating_add(special_moduli.len());
        if moduli.is_empty() || count > MAX_MODULI {
            return Err(Error::ModulusCount { actual: count, max: MAX_MODULI });
        }
        let all: Vec<u64> = moduli.iter().chain(&special_moduli).copied().collect();
        let mut rings = build_rings(ring_degree, &all)?;
        check_plaintext_modulus(plaintext_modulus, &rings)?;
        let special_rings = rings.split_off(moduli.len());
        let slot_ring =
            u64::try_from(plaintext_modulus).ok().and_then(|t| Ring::new(ring_degree, t));
        let digest =
            digest(ring_degree, plaintext_modulus, &rings, &special_rings, slot_ring.as_ref());
        let inner = Inner {
            ring_degree,
            plaintext_modulus,
            log2_modulus: log2_product(&moduli),
            log2_special: log2_product(&special_moduli),
            moduli,
            rings,
            special_moduli,
            special_rings,
            slot_ring,
            security_bits,
            backend: Backend::detect()?,
            digest,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The same parameters with another kernel set: results are identical, speed differs.
    ///
    /// # Errors
    /// [`Error::Backend`] when this machine cannot run it.
    pub fn with_backend(&self, backend: Backend) -> Result<Self> {
        backend.check_available()?;
        let inner = &*self.inner;
        Ok(Self {
            inner: Arc::new(Inner {
                ring_degree: inner.ring_degree,
                plaintext_modulus: inner.plaintext_modulus,
                moduli: inner.moduli.clone(),
                rings: inner.rings.clone(),
                special_moduli: inner.special_moduli.clone(),
                special_rings: inner.special_rings.clone(),
                slot_ring: inner.slot_ring.clone(),
                log2_modulus: inner.log2_modulus,
                log2_special: inner.log2_special,
                security_bits: inner.security_bits,
                backend,
                digest: inner.digest,
            }),
        })
    }

    /// Ring degree N.
    #[must_use]
    pub fn ring_degree(&self) -> usize {
        self.inner.ring_degree
    }

    /// Plaintext modulus t.
    #[must_use]
    pub fn plaintext_modulus(&self) -> u128 {
        self.inner.plaintext_modulus
    }

    /// Ciphertext moduli, the one dropped first last.
    #[must_use]
    pub fn moduli(&self) -> &[u64] {
        &self.inner.moduli
    }

    /// Special moduli, which no ciphertext is over; empty without evaluation keys.
    #[must_use]
    pub fn special_moduli(&self) -> &[u64] {
        &self.inner.special_moduli
    }

    /// log2 of the product of the special moduli; 0 when there is none.
    #[must_use]
    pub fn log2_special_modulus(&self) -> f64 {
        self.inner.log2_special
    }

    /// log2 of the product of all ciphertext moduli, without the special ones.
    #[must_use]
    pub fn log2_modulus(&self) -> f64 {
        self.inner.log2_modulus
    }

    /// Guaranteed security in bits: 128, or 0 for parameters built with an `insecure_` constructor.
    #[must_use]
    pub fn security_bits(&self) -> u32 {
        self.inner.security_bits
    }

    /// Kernel set in use. Local policy: never on the wire, not part of equality.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.inner.backend
    }

    /// BLAKE3 digest of ring degree, moduli and evaluation order.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.inner.digest
    }

    pub(crate) fn rings(&self) -> &[Ring] {
        &self.inner.rings
    }

    pub(crate) fn special_rings(&self) -> &[Ring] {
        &self.inner.special_rings
    }

    /// The rings of the ciphertext moduli, then those of the special ones: the limbs of keys.
    pub(crate) fn key_rings(&self) -> impl Iterator<Item = &Ring> {
        self.inner.rings.iter().chain(&self.inner.special_rings)
    }

    /// Number of [`Params::key_rings`].
    pub(crate) fn n_key_rings(&self) -> usize {
        self.inner.rings.len() + self.inner.special_rings.len()
    }

    /// `t` modulo a ciphertext or special modulus.
    pub(crate) fn plaintext_residue(&self, ring: &Ring) -> u64 {
        u64::try_from(self.plaintext_modulus() % u128::from(ring.value())).unwrap_or_default()
    }

    pub(crate) fn slot_ring(&self) -> Option<&Ring> {
        self.inner.slot_ring.as_ref()
    }

    pub(crate) fn check_same(&self, other: &Self) -> Result<()> {
        if self == other {
            return Ok(());
        }
        Err(Error::ParamsMismatch {
            expected: short_hex(&self.digest()),
            actual: short_hex(&other.digest()),
        })
    }
}

impl PartialEq for Params {
    fn eq(&self, other: &Self) -> bool {
        self.inner.digest == other.inner.digest
    }
}

impl Eq for Params {}

impl core::fmt::Debug for Params {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Params")
            .field("ring_degree", &self.ring_degree())
            .field("plaintext_modulus", &self.plaintext_modulus())
            .field("moduli", &self.moduli())
            .field("special_moduli", &self.special_moduli())
            .field("security_bits", &self.security_bits())
            .field("backend", &self.backend())
            .finish_non_exhaustive()
    }
}

fn check_ring_degree(ring_degree: usize) -> Result<()> {
    if ring_degree.is_power_of_two() && (MIN_RING_DEGREE..=MAX_RING_DEGREE).contains(&ring_degree) {
        return Ok(());
    }
    Err(Error::RingDegree { actual: ring_degree, min: MIN_RING_DEGREE, max: MAX_RING_DEGREE })
}

fn check_plaintext_modulus(t: u128, rings: &[Ring]) -> Result<()> {
    let requirement = if t < 2 {
        "it must be at least 2"
    } else if t >> 100 != 0 {
        "it must be below 2^100"
    } else if t >> 64 != 0 && !t.is_power_of_two() {
        "it must be below 2^64 or a power of two"
    } else if rings.iter().any(|r| t.is_multiple_of(u128::from(r.value()))) {
        "it must not be divisible by a ciphertext modulus"
    } else {
        return Ok(());
    };
    Err(Error::PlaintextModulus { modulus: t, requirement })
}

fn build_rings(ring_degree: usize, moduli: &[u64]) -> Result<Vec<Ring>> {
    let mut rings: Vec<Ring> = Vec::with_capacity(moduli.len());
    for &modulus in moduli {
        if !(MIN_MODULUS..=MAX_MODULUS).contains(&modulus) {
            return Err(Error::Modulus {
                modulus,
                requirement: "it must lie between 2^10 and 0x7FFF7FFF7FFF",
            });
        }
        if rings.iter().any(|r| r.value() == modulus) {
            return Err(Error::Modulus { modulus, requirement: "the moduli must be distinct" });
        }
        rings.push(Ring::new(ring_degree, modulus).ok_or(Error::Modulus {
            modulus,
            requirement: "it must be a prime congruent to 1 modulo 2N",
        })?);
    }
    Ok(rings)
}

#[expect(clippy::cast_precision_loss, reason = "moduli are below 2^47")]
fn log2_product(moduli: &[u64]) -> f64 {
    moduli.iter().map(|&q| (q as f64).log2()).sum()
}

fn digest(
    degree: usize,
    t: u128,
    rings: &[Ring],
    special: &[Ring],
    slot_ring: Option<&Ring>,
) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("securedl he-core parameters v1");
    hasher.update(&(degree as u64).to_le_bytes());
    hasher.update(&t.to_le_bytes());
    hasher.update(&slot_ring.map_or(0, Ring::psi).to_le_bytes());
    // Parameters without special moduli end after their rings, as they always did; a list of special
    // moduli can not be mistaken for rings, which are counted.
    for rings in [rings, special].into_iter().filter(|rings| !rings.is_empty()) {
        hasher.update(&(rings.len() as u64).to_le_bytes());
        for ring in rings {
            hasher.update(&ring.value().to_le_bytes());
            hasher.update(&ring.psi().to_le_bytes());
        }
    }
    *hasher.finalize().as_bytes()
}

fn tenths_rounded_up(bits: f64) -> Tenths {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a bit count below 1000"
    )]
    Tenths((bits * 10.0).ceil() as u32)
}

fn short_hex(digest: &[u8; 32]) -> String {
    digest.iter().take(6).map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    #[test]
    fn secure_parameters_report_128_bits() {
        let params = Params::new(ParamsSpec::with_bits(4096, 65537, &[46, 47]).unwrap()).unwrap();
        assert_eq!(params.security_bits(), 128);
        assert!(params.log2_modulus() < 94.0);
    }

    #[test]
    fn too_large_moduli_are_refused_and_named() {
        let spec = ParamsSpec::with_bits(2048, 65537, &[30, 30]).unwrap();
        let error = Params::new(spec.clone()).unwrap_err();
        assert!(matches!(error, Error::Insecure { ring_degree: 2048, max: 53, .. }));
        assert!(error.to_string().contains("60.0"), "{error}");
        assert_eq!(Params::insecure_new(spec).unwrap().security_bits(), 0);
    }

    #[test]
    fn each_bad_value_has_its_error() {
        let good = ParamsSpec::with_bits(2048, 65537, &[30]).unwrap();
        let check = |spec: ParamsSpec, wanted: &str| {
            let message = Params::new(spec).unwrap_err().to_string();
            assert!(message.contains(wanted), "{message}");
        };
        check(ParamsSpec { ring_degree: 3000, ..good.clone() }, "ring degree 3000");
        check(ParamsSpec { moduli: vec![], ..good.clone() }, "0 ciphertext moduli");
        check(ParamsSpec { moduli: vec![good.moduli[0]; 2], ..good.clone() }, "distinct");
        check(ParamsSpec { moduli: vec![1 << 48], ..good.clone() }, "0x7FFF7FFF7FFF");
        check(ParamsSpec { moduli: vec![(1 << 30) + 1], ..good.clone() }, "prime congruent");
        check(ParamsSpec { plaintext_modulus: 1, ..good.clone() }, "at least 2");
        let q = u128::from(good.moduli[0]);
        check(ParamsSpec { plaintext_modulus: 3 * q, ..good }, "divisible");
    }

    #[test]
    fn special_moduli_count_in_the_security_bound() {
        let spec = ParamsSpec::with_bits(4096, 65537, &[36, 36]).unwrap();
        assert_eq!(Params::new(spec.clone()).unwrap().special_moduli(), &[]);
        let special = spec.further_primes(&[36]).unwrap();
        let error = Params::with_special_moduli(spec.clone(), special.clone()).unwrap_err();
        assert!(matches!(error, Error::Insecure { ring_degree: 4096, max: 106, .. }));
        let small = spec.further_primes(&[33]).unwrap();
        let params = Params::with_special_moduli(spec.clone(), small).unwrap();
        assert!((33.9 - params.log2_special_modulus()).abs() < 1.0);
        assert_ne!(params, Params::new(spec.clone()).unwrap());
        let insecure = Params::insecure_with_special_moduli(spec.clone(), special);
        assert_eq!(insecure.unwrap().special_moduli().len(), 1);
        let twice = vec![spec.moduli[0]];
        let error = Params::with_special_moduli(spec.clone(), twice).unwrap_err();
        assert!(matches!(error, Error::Modulus { .. }), "{error}");
        let many = spec.further_primes(&[30; 17]).unwrap();
        let error = Params::insecure_with_special_moduli(spec, many).unwrap_err();
        assert!(matches!(error, Error::ModulusCount { actual: 19, max: 18 }));
    }

    #[test]
    fn digests_identify_parameters_not_kernels() {
        let a = Params::new(ParamsSpec::with_bits(2048, 65537, &[30]).unwrap()).unwrap();
        let b = a.with_backend(Backend::Scalar).unwrap();
        let c = Params::new(ParamsSpec::with_bits(2048, 40961, &[30]).unwrap()).unwrap();
        assert_eq!(a, b);
        assert_ne!(a, c);
    }
}
