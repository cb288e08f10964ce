//! The online phase: one server's evaluation of a batch on shares.

use crate::error::{Error, Result, check_length};
use crate::fixed::{Party, Shares, truncate_share};
use crate::gather::Gather;
use crate::material::{BatchMaterial, Material};
use crate::message::{self, Expected, Kind, Machine};
use crate::model::{LinearShare, OpenedWeights, ServerModel};
use crate::network::Step;

/// One server's evaluation of one batch: a message per linear layer and square.
///
/// With `E = X - U` opened and `F = W - V` open already, the share of `W·X` is
/// `-i·F·E + F·X_i + W_i·E + Z_i` for server `i`; with `e = x - a` opened, that of `x²` is
/// `i·e² + 2e·a_i + (a²)_i`. Truncation is local ([`truncate_share`]).
///
/// # Source
/// Mohassel, Zhang: SecureML (IEEE S&P 2017), sections 3.2, 4.1 and 4.2.
pub struct Inference<'m> {
    model: &'m ServerModel,
    weights: &'m OpenedWeights,
    material: Vec<Material>,
    values: Shares,
    /// The step whose opening is due, or the number of steps.
    step: usize,
}

impl<'m> Inference<'m> {
    /// Starts a batch: the material is used up.
    ///
    /// # Errors
    /// - [`Error::Party`] when the material belongs to the other server.
    /// - [`Error::Length`] when weights, material or inputs do not fit the model and each other.
    pub fn new(
        model: &'m ServerModel,
        weights: &'m OpenedWeights,
        material: BatchMaterial,
        inputs: Shares,
    ) -> Result<Self> {
        weights.check(model.structure())?;
        if material.party != model.party() {
            return Err(Error::Party { what: "the material" });
        }
        check_length("input neurons", model.structure().n_inputs(), inputs.n_rows())?;
        check_length("samples of the inputs", material.n_samples, inputs.n_samples())?;
        check_length("steps with material", model.structure().steps().len(), material.steps.len())?;
        for (step, material) in model.structure().steps().iter().zip(&material.steps) {
            let rows = match material {
                Material::Triple { u: mask, .. } | Material::Square { a: mask, .. } => {
                    mask.n_rows()
                }
                Material::None => step.n_inputs(),
            };
            check_length("neurons of the material", step.n_inputs(), rows)?;
        }
        Ok(Self { model, weights, material: material.steps, values: inputs, step: 0 })
    }

    /// This server's shares of the outputs, for the client.
    ///
    /// # Errors
    /// [`Error::State`] while a message is due.
    pub fn finish(self) -> Result<Shares> {
        if self.step == self.model.structure().steps().len() {
            return Ok(self.values);
        }
        Err(Error::State { needed: "finished", actual: "waiting for a message" })
    }

    /// Runs local steps, then masks what the next interactive step opens; replaces the values by
    /// their masked form where that is all the step needs.
    fn advance(&mut self) -> Vec<Vec<u8>> {
        while let Some(step) = self.model.structure().steps().get(self.step) {
            match step {
                Step::Pool { windows, factor, .. } => {
                    self.values = pool(self.model.party(), &self.values, windows, *factor);
                    self.step += 1;
                }
                Step::Linear(_) | Step::Square { .. } => return vec![self.opening()],
            }
        }
        Vec::new()
    }

    fn mask(&self) -> &[u64] {
        match self.material.get(self.step) {
            Some(Material::Triple { u: mask, .. } | Material::Square { a: mask, .. }) => {
                mask.words()
            }
            Some(Material::None) | None => &[],
        }
    }

    fn opening(&self) -> Vec<u8> {
        let masked = self.values.words().iter().zip(self.mask()).map(|(x, &u)| x.wrapping_sub(u));
        let words: Vec<u64> = masked.collect();
        let mut bytes = message::begin(Kind::Opening, number(self.step), 8 * words.len());
        message::put_words(&mut bytes, &words);
        bytes
    }

    /// Shares of the step's outputs from the opened `E` or `e`.
    fn evaluate(&mut self, opened: &[u64]) -> Result<Shares> {
        let broken =
            || Error::State { needed: "given material of this step", actual: "without it" };
        let party = self.model.party();
        let material = self.material.get_mut(self.step).ok_or_else(broken)?;
        let step = self.model.structure().steps().get(self.step);
        match (core::mem::replace(material, Material::None), step) {
            (Material::Triple { z, .. }, Some(Step::Linear(gather))) => {
                let share = self.model.layer(self.step).ok_or_else(broken)?;
                let f = self.weights.layer(self.step);
                Ok(linear(party, gather, share, f, opened, &mut self.values, z))
            }
            (Material::Square { a, c }, Some(Step::Square { .. })) => {
                Ok(square(party, opened, &a, c))
            }
            _ => Err(broken()),
        }
    }
}

impl Machine for Inference<'_> {
    fn begin(&mut self) -> Result<Vec<Vec<u8>>> {
        Ok(self.advance())
    }

    fn expected(&self) -> Option<Expected> {
        (self.step < self.model.structure().steps().len()).then(|| Expected {
            kind: Kind::Opening,
            step: number(self.step),
            payload_bytes: 8 * self.values.words().len(),
        })
    }

    fn receive(&mut self, message: &[u8]) -> Result<Vec<Vec<u8>>> {
        let expected = self.expected();
        let expected =
            expected.ok_or(Error::State { needed: "waiting for a message", actual: "finished" })?;
        let theirs = message::words(expected.open(message)?);
        let masked = self.values.words().iter().zip(self.mask());
        let opened: Vec<u64> =
            masked.zip(theirs).map(|((x, &u), y)| x.wrapping_sub(u).wrapping_add(y)).collect();
        self.values = self.evaluate(&opened)?;
        self.step += 1;
        Ok(self.advance())
    }
}

impl core::fmt::Debug for Inference<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Inference")
            .field("party", &self.model.party())
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}

fn number(step: usize) -> u32 {
    u32::try_from(step).unwrap_or(u32::MAX)
}

/// `F·(X_i - i·E) + W_i·E + Z_i + b_i`, truncated; `values` are used up.
fn linear(
    party: Party,
    gather: &Gather,
    share: &LinearShare,
    f: &[u64],
    e: &[u64],
    values: &mut Shares,
    mut z: Shares,
) -> Shares {
    let n_samples = z.n_samples();
    if party == Party::Second {
        for (x, &e) in values.words_mut().iter_mut().zip(e) {
            *x = x.wrapping_sub(e);
        }
    }
    gather.accumulate(f, values.words(), n_samples, z.words_mut());
    gather.accumulate(&share.matrix, e, n_samples, z.words_mut());
    let biases = share.bias.iter().cycle();
    for (row, &bias) in z.words_mut().chunks_exact_mut(n_samples).zip(biases) {
        for x in row {
            *x = truncate_share(party, x.wrapping_add(bias));
        }
    }
    z
}

/// `i·e² + 2e·a_i + (a²)_i`, truncated.
fn square(party: Party, opened: &[u64], a: &Shares, mut c: Shares) -> Shares {
    for ((c, &a), &e) in c.words_mut().iter_mut().zip(a.words()).zip(opened) {
        let twice = e.wrapping_mul(a).wrapping_mul(2);
        let own = match party {
            Party::First => 0,
            Party::Second => e.wrapping_mul(e),
        };
        *c = truncate_share(party, c.wrapping_add(twice).wrapping_add(own));
    }
    c
}

/// Sums of rows, times a public constant and truncated if there is one.
fn pool(party: Party, values: &Shares, windows: &[Vec<u32>], factor: Option<u64>) -> Shares {
    let n_samples = values.n_samples();
    let mut out = Shares::zeros(windows.len(), n_samples);
    for (window, out) in windows.iter().zip(out.words_mut().chunks_exact_mut(n_samples)) {
        for &input in window {
            let row = values.part(input as usize, &(0..n_samples));
            for (y, &x) in out.iter_mut().zip(row) {
                *y = y.wrapping_add(x);
            }
        }
        if let Some(factor) = factor {
            for y in out {
                *y = truncate_share(party, y.wrapping_mul(factor));
            }
        }
    }
    out
}
