//! Correlated randomness that one batch consumes: matrix triples and square pairs.

use rand::CryptoRng;

use crate::error::{Error, Result};
use crate::fixed::{Party, Shares};
use crate::model::ServerModel;
use crate::network::Step;

/// Correlated randomness of one step.
pub(crate) enum Material {
    /// Shares of a mask `U` of the inputs and of `Z = V·U`.
    Triple { u: Shares, z: Shares },
    /// Shares of a mask `a` and of its square.
    Square { a: Shares, c: Shares },
    /// A local step needs none.
    None,
}

/// One server's correlated randomness for one batch: used once, then gone.
pub struct BatchMaterial {
    pub(crate) party: Party,
    pub(crate) n_samples: usize,
    /// One per step.
    pub(crate) steps: Vec<Material>,
}

impl BatchMaterial {
    /// Draws this server's masks for a batch; products hold its local part `V_i·U_i` or `a_i²` only,
    /// until the offline phase adds the shares of the cross terms.
    pub(crate) fn draw(
        model: &ServerModel,
        n_samples: usize,
        rng: &mut (impl CryptoRng + ?Sized),
    ) -> Result<Self> {
        if n_samples == 0 {
            return Err(Error::Length { what: "samples", expected: 1, actual: 0 });
        }
        let steps =
            model.structure().steps().iter().zip(model.layers()).map(|(step, layer)| {
                match (step, layer) {
                    (Step::Linear(gather), Some(layer)) => {
                        let u = Shares::random(gather.n_inputs(), n_samples, rng);
                        let mut z = Shares::zeros(gather.n_outputs(), n_samples);
                        gather.accumulate(&layer.mask, u.words(), n_samples, z.words_mut());
                        Material::Triple { u, z }
                    }
                    (Step::Square { n_neurons }, _) => {
                        let a = Shares::random(*n_neurons, n_samples, rng);
                        let mut c = a.clone();
                        for c in c.words_mut() {
                            *c = c.wrapping_mul(*c);
                        }
                        Material::Square { a, c }
                    }
                    (Step::Pool { .. } | Step::Linear(_), _) => Material::None,
                }
            });
        Ok(Self { party: model.party(), n_samples, steps: steps.collect() })
    }

    /// Which server it belongs to.
    #[must_use]
    pub fn party(&self) -> Party {
        self.party
    }

    /// Samples of the batch.
    #[must_use]
    pub fn n_samples(&self) -> usize {
        self.n_samples
    }
}

impl core::fmt::Debug for BatchMaterial {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("BatchMaterial")
            .field("party", &self.party)
            .field("n_samples", &self.n_samples)
            .finish_non_exhaustive()
    }
}

/// Makes the material of a batch for both servers at once: the *trusted dealer*, or "client-aided"
/// offline phase.
///
/// # Security
/// The dealer sees every mask: who is it, and sees a server's messages, sees weights and inputs. It
/// must not be either server. Reports must name this mode; the honest offline phase is
/// [`crate::lhe::TripleGeneration`].
///
/// # Errors
/// [`Error::Party`] unless the models are those of servers 0 and 1, [`Error::Length`] when their
/// structures differ or there is no sample.
pub fn deal_trusted(
    models: &[ServerModel; 2],
    n_samples: usize,
    rng: &mut (impl CryptoRng + ?Sized),
) -> Result<[BatchMaterial; 2]> {
    let [first, second] = models;
    if first.party() != Party::First || second.party() != Party::Second {
        return Err(Error::Party { what: "the model" });
    }
    if first.structure() != second.structure() {
        let [expected, actual] = models.each_ref().map(|m| m.structure().steps().len());
        return Err(Error::Length { what: "steps of one structure", expected, actual });
    }
    let mut ours = BatchMaterial::draw(first, n_samples, rng)?;
    let mut theirs = BatchMaterial::draw(second, n_samples, rng)?;
    let materials = ours.steps.iter_mut().zip(&mut theirs.steps);
    for (index, (step, (ours, theirs))) in
        first.structure().steps().iter().zip(materials).enumerate()
    {
        match (ours, theirs) {
            (Material::Triple { u: u0, z: z0 }, Material::Triple { u: u1, z: z1 }) => {
                let (Step::Linear(gather), Some(layer0), Some(layer1)) =
                    (step, first.layer(index), second.layer(index))
                else {
                    continue;
                };
                let mut cross = Shares::zeros(gather.n_outputs(), n_samples);
                gather.accumulate(&layer1.mask, u0.words(), n_samples, cross.words_mut());
                gather.accumulate(&layer0.mask, u1.words(), n_samples, cross.words_mut());
                split_into(&cross, z0, z1, rng);
            }
            (Material::Square { a: a0, c: c0 }, Material::Square { a: a1, c: c1 }) => {
                let mut cross = a0.clone();
                for (x, &y) in cross.words_mut().iter_mut().zip(a1.words()) {
                    *x = x.wrapping_mul(y).wrapping_mul(2);
                }
                split_into(&cross, c0, c1, rng);
            }
            _ => {}
        }
    }
    Ok([ours, theirs])
}

/// Adds random shares of a product to the two servers' local parts.
fn split_into(
    product: &Shares,
    first: &mut Shares,
    second: &mut Shares,
    rng: &mut (impl CryptoRng + ?Sized),
) {
    let mask = Shares::random(product.n_rows(), product.n_samples(), rng);
    first.add_assign(&mask);
    let rest = product.words().iter().zip(mask.words()).map(|(x, &r)| x.wrapping_sub(r));
    for (x, y) in second.words_mut().iter_mut().zip(rest) {
        *x = x.wrapping_add(y);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::fixed::reconstruct_words;
    use crate::lhe::TripleGeneration;
    use crate::{Convolution, Network, Pipe, drive_pair, share_model};
    use ndarray::Array2;
    use rand::{SeedableRng, rngs::StdRng};

    fn network() -> Network {
        let shape =
            Convolution { input: [4, 3, 2], kernel: [3, 2], stride: [2, 1], padding: [1, 0] };
        let convolution = Array2::from_elem((2, 12), 0.25);
        let n_outputs = 2 * 2 * 2;
        let dense = Array2::from_elem((3, n_outputs), -0.5);
        let network = Network::new(24).unwrap();
        let network = network.convolution(&shape, convolution.view(), &[0.0, 1.0]).unwrap();
        network.square().unwrap().dense(dense.view(), &[0.0; 3]).unwrap()
    }

    /// Every triple and pair is what it claims to be, exactly.
    fn check(models: &[ServerModel; 2], materials: &[BatchMaterial; 2]) {
        let [first, second] = models;
        let [m0, m1] = materials;
        let mut n_checked = 0;
        for (index, (a, b)) in m0.steps.iter().zip(&m1.steps).enumerate() {
            match (a, b, first.structure().steps().get(index)) {
                (
                    Material::Triple { u: u0, z: z0 },
                    Material::Triple { u: u1, z: z1 },
                    Some(Step::Linear(gather)),
                ) => {
                    let masks = [first, second].map(|m| &m.layer(index).unwrap().mask);
                    let [v0, v1] = masks.map(|v| v.iter());
                    let v: Vec<u64> = v0.zip(v1).map(|(x, &y)| x.wrapping_add(y)).collect();
                    let u = reconstruct_words(u0, u1).unwrap();
                    let mut product = Shares::zeros(z0.n_rows(), z0.n_samples());
                    gather.accumulate(&v, &u, z0.n_samples(), product.words_mut());
                    assert_eq!(product.words(), reconstruct_words(z0, z1).unwrap());
                    n_checked += 1;
                }
                (Material::Square { a: a0, c: c0 }, Material::Square { a: a1, c: c1 }, _) => {
                    let a = reconstruct_words(a0, a1).unwrap();
                    let squares: Vec<u64> = a.iter().map(|x| x.wrapping_mul(*x)).collect();
                    assert_eq!(squares, reconstruct_words(c0, c1).unwrap());
                    n_checked += 1;
                }
                _ => {}
            }
        }
        assert_eq!(n_checked, 3);
    }

    #[test]
    fn dealt_triples_and_pairs_are_correct() {
        for seed in 0..8 {
            let mut rng = StdRng::seed_from_u64(seed);
            let models = share_model(&network(), &mut rng);
            check(&models, &deal_trusted(&models, 5, &mut rng).unwrap());
        }
    }

    /// Also for more samples than a ciphertext holds.
    #[test]
    fn encrypted_triples_and_pairs_are_correct_and_cost_what_the_formula_says() {
        for n_samples in [3, crate::lhe::RING_DEGREE + 1] {
            let mut rng = StdRng::seed_from_u64(1);
            let models = share_model(&network(), &mut rng);
            let mut machines =
                models.each_ref().map(|m| TripleGeneration::new(m, n_samples, &mut rng).unwrap());
            let phase = drive_pair(machines.each_mut(), Pipe::pair()).unwrap();
            let structure = models[0].structure();
            let expected = TripleGeneration::total_bytes(structure, n_samples).unwrap();
            assert_eq!(phase.payload_bytes(), expected);
            check(&models, &machines.map(|m| m.finish().unwrap()));
        }
    }

    #[test]
    fn mixed_up_models_are_refused() {
        let mut rng = StdRng::seed_from_u64(2);
        let [first, second] = share_model(&network(), &mut rng);
        assert!(matches!(deal_trusted(&[second, first], 1, &mut rng), Err(Error::Party { .. })));
        let models = share_model(&network(), &mut rng);
        assert!(matches!(deal_trusted(&models, 0, &mut rng), Err(Error::Length { .. })));
    }
}
