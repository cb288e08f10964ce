//! Residues modulo the plaintext primes of slots, without branching on secrets.

/// Bits of every prime: the largest of this size that suit the ring.
pub const PRIME_BITS: u32 = 43;

/// Number of primes.
pub const N_PRIMES: usize = 4;

/// Bits of a limb of a blinding integer.
pub const LIMB_BITS: u32 = 42;

/// Bits of a blinding integer: four limbs.
pub const MASK_BITS: u32 = 4 * LIMB_BITS;

/// A blinding integer below `2^168`, four limbs of 42 bits, lowest first.
pub type Limbs = [u64; 4];

/// Reduction modulo one prime of [`PRIME_BITS`] bits (Barrett).
#[derive(Debug, Clone, Copy)]
pub struct Residues {
    modulus: u64,
    /// `floor(2^89/modulus)`: 47 bits.
    quotient: u128,
    /// `2^(42k)` modulo the prime.
    powers: [u64; 4],
    /// `2^127` modulo the prime.
    offset: u64,
}

impl Residues {
    /// Prepares a prime of 43 bits.
    #[must_use]
    pub fn new(modulus: u64) -> Self {
        let power = |bits: u32| {
            let mut power = 1_u64;
            for _ in 0..bits {
                power = (power << 1) % modulus;
            }
            power
        };
        let powers = [0, 1, 2, 3].map(|k| power(LIMB_BITS * k));
        Self { modulus, quotient: (1 << 89) / u128::from(modulus), powers, offset: power(127) }
    }

    /// The prime.
    #[must_use]
    pub const fn modulus(&self) -> u64 {
        self.modulus
    }

    /// `x` modulo the prime, for `x < 2^88`.
    ///
    /// With `q = floor(floor(x/2^42)·floor(2^89/t)/2^47)` the estimate of `x/t` is at most 3 too small.
    #[must_use]
    pub fn reduce(&self, x: u128) -> u64 {
        let estimate = ((x >> 42) * self.quotient) >> 47;
        #[expect(clippy::cast_possible_truncation, reason = "below 4·2^43")]
        let mut rest = (x - estimate * u128::from(self.modulus)) as u64;
        for _ in 0..3 {
            // The difference wraps to a larger number exactly if nothing was to be subtracted.
            rest = rest.min(rest.wrapping_sub(self.modulus));
        }
        rest
    }

    /// `r + 2^127` modulo the prime.
    #[must_use]
    pub fn shifted_mask(&self, limbs: &Limbs) -> u64 {
        let products = limbs.iter().zip(self.powers).map(|(&r, p)| u128::from(r) * u128::from(p));
        self.reduce(products.sum::<u128>() + u128::from(self.offset))
    }
}

/// Joins residues to the integer below the product of the primes, and reduces that modulo `2^64`.
#[derive(Debug, Clone)]
pub struct Composition {
    primes: Vec<Residues>,
    /// `inverses[j][i]`: inverse of prime `i` modulo prime `j`, for `i < j`.
    inverses: Vec<Vec<u64>>,
    /// Products of the first primes modulo `2^64`.
    products: Vec<u64>,
}

impl Composition {
    /// Prepares distinct primes.
    #[must_use]
    pub fn new(primes: &[Residues]) -> Self {
        let inverses = primes.iter().enumerate().map(|(j, modulus)| {
            let earlier = primes.iter().take(j);
            earlier.map(|prime| invert(prime.modulus, modulus)).collect()
        });
        let products = primes.iter().scan(1_u64, |product, prime| {
            Some(core::mem::replace(product, product.wrapping_mul(prime.modulus)))
        });
        Self { primes: primes.to_vec(), inverses: inverses.collect(), products: products.collect() }
    }

    /// The integer with these residues, modulo `2^64`: mixed-radix digits (Garner), one per prime.
    #[must_use]
    pub fn compose(&self, residues: &[u64; N_PRIMES]) -> u64 {
        let mut digits = [0_u64; N_PRIMES];
        let mut sum = 0_u64;
        let primes = self.primes.iter().zip(&self.inverses).zip(&self.products);
        for (n_digits, (((prime, inverses), &product), &residue)) in
            primes.zip(residues).enumerate()
        {
            let mut x = residue;
            for (&digit, &inverse) in digits.iter().take(n_digits).zip(inverses) {
                // Digits belong to other primes of the same size: below 2·modulus.
                let difference = u128::from(x) + 2 * u128::from(prime.modulus) - u128::from(digit);
                x = prime.reduce(difference * u128::from(inverse));
            }
            if let Some(place) = digits.get_mut(n_digits) {
                *place = x;
            }
            sum = sum.wrapping_add(x.wrapping_mul(product));
        }
        sum
    }
}

/// Inverse by Fermat's theorem; primes are public.
fn invert(value: u64, modulus: &Residues) -> u64 {
    let multiply = |a: u64, b: u64| modulus.reduce(u128::from(a) * u128::from(b));
    let (mut power, mut result) = (modulus.reduce(value.into()), 1);
    let mut exponent = modulus.modulus - 2;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = multiply(result, power);
        }
        power = multiply(power, power);
        exponent >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use he_core::ParamsSpec;
    use num_bigint::BigUint;
    use proptest::prelude::*;

    fn primes() -> Vec<Residues> {
        let spec = ParamsSpec { ring_degree: 8192, plaintext_modulus: 2, moduli: Vec::new() };
        let primes = spec.further_primes(&[PRIME_BITS; N_PRIMES]).expect("primes exist");
        primes.into_iter().map(Residues::new).collect()
    }

    fn check(limbs: Limbs) {
        let mut value = BigUint::from(1_u8) << 127;
        for (k, limb) in (0..).zip(limbs) {
            value += BigUint::from(limb) << (LIMB_BITS * k);
        }
        let primes = primes();
        let mut residues = [0; N_PRIMES];
        for (residue, prime) in residues.iter_mut().zip(&primes) {
            *residue = prime.shifted_mask(&limbs);
            assert_eq!(BigUint::from(*residue), &value % prime.modulus());
        }
        let low = value % (BigUint::from(1_u8) << 64);
        assert_eq!(BigUint::from(Composition::new(&primes).compose(&residues)), low);
    }

    #[test]
    fn residues_and_composition_hold_at_the_edges() {
        let top = (1 << LIMB_BITS) - 1;
        for limbs in [[0; 4], [top; 4], [top, 0, 0, 0], [0, 0, 0, top], [1, top, 0, top]] {
            check(limbs);
        }
        for prime in primes() {
            let t = u128::from(prime.modulus());
            for x in [0, 1, t - 1, t, 2 * t - 1, 2 * t, t * t - 1, t * t, (1 << 88) - 1] {
                assert_eq!(u128::from(prime.reduce(x)), x % t);
            }
        }
    }

    proptest! {
        #[test]
        fn residues_and_composition_equal_big_integers(
            limbs in proptest::array::uniform4(0_u64..1 << LIMB_BITS),
        ) {
            check(limbs);
        }

        #[test]
        fn reduction_equals_division(x in 0_u128..1 << 88) {
            for prime in primes() {
                prop_assert_eq!(u128::from(prime.reduce(x)), x % u128::from(prime.modulus()));
            }
        }
    }
}
