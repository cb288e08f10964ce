//! What must not stay in memory: generators and the samples' values.

use std::hint::black_box;

use nn_poly::integer::IntegerMatrix;
use rand::{CryptoRng, RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;

/// A generator whose state is overwritten on drop: from it, every key, error and slot position of a
/// batch could be derived again. Never printed.
pub(crate) struct SecretRng(ChaCha20Rng);

impl SecretRng {
    pub(crate) fn new(rng: ChaCha20Rng) -> Self {
        Self(rng)
    }

    /// A generator of its own, seeded by this one.
    pub(crate) fn fork(&mut self) -> Self {
        Self(ChaCha20Rng::from_rng(&mut self.0))
    }
}

impl RngCore for SecretRng {
    fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }
}

impl CryptoRng for SecretRng {}

impl Drop for SecretRng {
    fn drop(&mut self) {
        self.0 = ChaCha20Rng::from_seed([0; 32]);
        black_box(&self.0);
    }
}

/// The network's inputs, then the refreshed values of every finished stage; overwritten on drop, or
/// once no later stage reads them.
pub(super) struct SecretValues(Vec<IntegerMatrix>);

impl SecretValues {
    pub(super) fn new(inputs: IntegerMatrix) -> Self {
        Self(vec![inputs])
    }

    pub(super) fn push(&mut self, values: IntegerMatrix) {
        self.0.push(values);
    }

    /// The values at a position, while they are kept.
    pub(super) fn get(&self, position: usize) -> Option<&IntegerMatrix> {
        self.0.get(position).filter(|values| !values.is_empty())
    }

    /// Overwrite and free everything at positions for which `is_needed` does not hold.
    pub(super) fn keep(&mut self, is_needed: impl Fn(usize) -> bool) {
        for (position, values) in self.0.iter_mut().enumerate() {
            if !is_needed(position) {
                overwrite(values);
                *values = IntegerMatrix::zeros((0, 0));
            }
        }
    }
}

impl Drop for SecretValues {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(overwrite);
    }
}

fn overwrite(values: &mut IntegerMatrix) {
    values.par_mapv_inplace(|_| 0);
    black_box(&*values);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_nobody_reads_any_more_are_gone() {
        let mut values = SecretValues::new(IntegerMatrix::from_elem((2, 3), 7));
        values.push(IntegerMatrix::from_elem((1, 3), 5));
        values.keep(|position| position == 1);
        assert_eq!(values.get(0), None);
        assert_eq!(values.get(1), Some(&IntegerMatrix::from_elem((1, 3), 5)));
    }

    #[test]
    fn forks_differ_and_are_reproducible() {
        let draw = |seed: u8| {
            let mut rng = SecretRng::new(ChaCha20Rng::from_seed([seed; 32]));
            let (mut a, mut b) = (rng.fork(), rng.fork());
            (a.next_u64(), b.next_u64(), rng.next_u64())
        };
        let (a, b, c) = draw(1);
        assert!(a != b && b != c && a != c);
        assert_eq!((a, b, c), draw(1));
        assert_ne!((a, b, c), draw(2));
    }
}
