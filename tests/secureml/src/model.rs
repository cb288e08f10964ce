//! What a server holds of a model: shares of weights, and its halves of the masks.

use std::sync::Arc;

use rand::CryptoRng;
use zeroize::Zeroizing;

use crate::error::{Error, Result, check_length};
use crate::fixed::{Party, random_words};
use crate::message::{self, Expected, Kind, Machine};
use crate::network::{Network, Step, Structure, Weights};

/// Shares of the weights of one linear layer, and this server's half of their mask.
pub(crate) struct LinearShare {
    pub(crate) matrix: Zeroizing<Vec<u64>>,
    pub(crate) bias: Zeroizing<Vec<u64>>,
    /// `V_i`, as long as `matrix`.
    pub(crate) mask: Zeroizing<Vec<u64>>,
}

/// One server's shares of a model and of the masks of its weights.
///
/// The masks are drawn once: `W - V` is opened once per model, and every batch uses the same `V`
/// with a fresh mask of its inputs.
pub struct ServerModel {
    party: Party,
    structure: Arc<Structure>,
    /// One per step.
    layers: Vec<Option<LinearShare>>,
}

/// Splits a model for the two servers and draws the masks of its weights.
///
/// Each server gets masks of its own randomness; in a deployment it would draw them itself.
pub fn share_model(network: &Network, rng: &mut (impl CryptoRng + ?Sized)) -> [ServerModel; 2] {
    let mut split = |words: &[u64]| {
        let first = random_words(words.len(), rng);
        let second = words.iter().zip(first.iter()).map(|(x, &r)| x.wrapping_sub(r)).collect();
        [first, Zeroizing::new(second)]
    };
    let mut halves = [Vec::new(), Vec::new()];
    for weights in network.weights() {
        let shared = weights.as_ref().map(|Weights { matrix, bias }| {
            let [matrices, biases] = [split(matrix), split(bias)];
            (matrices, biases)
        });
        let (first, second) = match shared {
            None => (None, None),
            Some(([m0, m1], [b0, b1])) => (Some((m0, b0)), Some((m1, b1))),
        };
        for (half, share) in halves.iter_mut().zip([first, second]) {
            half.push(share);
        }
    }
    let [first, second] = halves;
    [(Party::First, first), (Party::Second, second)].map(|(party, shares)| {
        let layers = shares.into_iter().map(|share| {
            let (matrix, bias) = share?;
            let mask = random_words(matrix.len(), rng);
            Some(LinearShare { matrix, bias, mask })
        });
        ServerModel { party, structure: Arc::clone(network.structure()), layers: layers.collect() }
    })
}

impl ServerModel {
    /// Which server this is.
    #[must_use]
    pub fn party(&self) -> Party {
        self.party
    }

    /// The public part of the model.
    #[must_use]
    pub fn structure(&self) -> &Arc<Structure> {
        &self.structure
    }

    pub(crate) fn layers(&self) -> &[Option<LinearShare>] {
        &self.layers
    }

    pub(crate) fn layer(&self, step: usize) -> Option<&LinearShare> {
        self.layers.get(step).and_then(Option::as_ref)
    }

    fn opening(&self) -> impl Iterator<Item = u64> {
        let shares = self.layers.iter().flatten();
        shares.flat_map(|l| l.matrix.iter().zip(l.mask.iter()).map(|(w, &v)| w.wrapping_sub(v)))
    }
}

impl core::fmt::Debug for ServerModel {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ServerModel")
            .field("party", &self.party)
            .field("structure", &self.structure)
            .finish_non_exhaustive()
    }
}

/// `F = W - V` of every linear layer: public to both servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedWeights {
    /// One per step, empty for steps without weights.
    matrices: Vec<Vec<u64>>,
}

impl OpenedWeights {
    pub(crate) fn layer(&self, step: usize) -> &[u64] {
        self.matrices.get(step).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether these can be weights of that structure.
    pub(crate) fn check(&self, structure: &Structure) -> Result<()> {
        check_length("opened layers", structure.steps().len(), self.matrices.len())?;
        for (step, matrix) in structure.steps().iter().zip(&self.matrices) {
            let expected = match step {
                Step::Linear(gather) => gather.n_weights(),
                Step::Square { .. } | Step::Pool { .. } => 0,
            };
            check_length("opened weights", expected, matrix.len())?;
        }
        Ok(())
    }
}

/// Opens `F = W - V` of every linear layer, once per model. One message each way, one round.
#[derive(Debug)]
pub struct WeightOpening<'m> {
    model: &'m ServerModel,
    opened: Option<OpenedWeights>,
}

impl<'m> WeightOpening<'m> {
    /// Starts the exchange.
    #[must_use]
    pub fn new(model: &'m ServerModel) -> Self {
        Self { model, opened: None }
    }

    /// The opened weights.
    ///
    /// # Errors
    /// [`Error::State`] before the peer's message came.
    pub fn finish(self) -> Result<OpenedWeights> {
        self.opened.ok_or(Error::State { needed: "finished", actual: "waiting for a message" })
    }
}

impl Machine for WeightOpening<'_> {
    fn begin(&mut self) -> Result<Vec<Vec<u8>>> {
        let mut bytes =
            message::begin(Kind::WeightOpening, 0, 8 * self.model.structure.n_weights());
        let words: Vec<u64> = self.model.opening().collect();
        message::put_words(&mut bytes, &words);
        Ok(vec![bytes])
    }

    fn expected(&self) -> Option<Expected> {
        let payload_bytes = 8 * self.model.structure.n_weights();
        let due = Expected { kind: Kind::WeightOpening, step: 0, payload_bytes };
        self.opened.is_none().then_some(due)
    }

    fn receive(&mut self, message: &[u8]) -> Result<Vec<Vec<u8>>> {
        let expected = self.expected();
        let expected =
            expected.ok_or(Error::State { needed: "waiting for a message", actual: "finished" })?;
        let theirs = message::words(expected.open(message)?);
        let mut sums = self.model.opening().zip(theirs).map(|(x, y)| x.wrapping_add(y));
        let lengths = self.model.layers.iter().map(|l| l.as_ref().map_or(0, |l| l.matrix.len()));
        let matrices = lengths.map(|len| sums.by_ref().take(len).collect()).collect();
        self.opened = Some(OpenedWeights { matrices });
        Ok(Vec::new())
    }
}
