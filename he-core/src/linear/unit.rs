//! What a bias multiplies.

use std::sync::Arc;

use crate::{Params, Plaintext, Result, ring::Ring, simd};

/// The plaintext that a bias multiplies, in evaluation form.
#[derive(Debug, Clone)]
pub(crate) enum Unit {
    /// The constant polynomial 1: every word is 1, for any parameters.
    One,
    /// Words `[limb][N]` of some parameters.
    Words(Arc<(Params, Vec<u64>)>),
}

impl Unit {
    /// Transforms a plaintext that stands for 1.
    pub(super) fn new(plaintext: &Plaintext) -> Self {
        let params = plaintext.params();
        let mut words = Vec::with_capacity(params.moduli().len() * params.ring_degree());
        for (limb, ring) in params.rings().iter().enumerate() {
            let mut values = plaintext.limb(limb).to_vec();
            ring.forward(&mut values);
            words.append(&mut values);
        }
        Self::Words(Arc::new((params.clone(), words)))
    }

    /// Refuses other parameters than the unit's.
    pub(crate) fn check_params(&self, params: &Params) -> Result<()> {
        match self {
            Self::One => Ok(()),
            Self::Words(words) => words.0.check_same(params),
        }
    }

    /// Adds `bias` times the unit to the words `start, start + 1, …` of a polynomial `c_0`.
    pub(crate) fn add(&self, bias: u64, limb: usize, ring: &Ring, start: usize, words: &mut [u64]) {
        let reducer = ring.reducer();
        match self {
            _ if bias == 0 => {}
            Self::One => simd::vectorize(|| {
                for x in words {
                    *x = reducer.add(*x, bias);
                }
            }),
            Self::Words(unit) => {
                let start = limb * unit.0.ring_degree() + start;
                let unit = unit.1.get(start..start + words.len()).unwrap_or_default();
                let bias = reducer.factor(bias);
                simd::vectorize(|| {
                    for (x, &u) in words.iter_mut().zip(unit) {
                        *x = reducer.add(*x, reducer.multiply(u.cast_signed(), bias));
                    }
                });
            }
        }
    }
}
