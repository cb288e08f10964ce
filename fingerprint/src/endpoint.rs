//! Services under audit, seen only through their answers.
//!
//! ```text
//!  Fingerprint ─ inputs ─► Endpoint::query ─► Answers ─ ComparisonRule ─► same or different
//!                             ▲
//!        LocalEndpoint, IntegerEndpoint (here); HTTP and encrypted ones in `protocol`
//! ```
//! An endpoint is whatever maps inputs to [`Answers`]: a network in this process, a third party's
//! service, or a server that sees ciphertexts only. That it fails to answer says nothing about the
//! model behind it, so failures are [`EndpointError`]s and never verdicts.

use core::fmt;
use core::time::Duration;

use ndarray::{Array2, Axis};
use nn_poly::Predictor;
use nn_poly::integer::IntegerNetwork;

pub(crate) use self::answers::decimal_unit;
pub use self::answers::{Answers, MAX_INFERRED_DECIMALS, ScoreKind};
use crate::error::{NetworkError, Result};
use crate::sample::InputGrid;

mod answers;

/// The cause of a failure, as reported by another library.
pub type Cause = Box<dyn core::error::Error + Send + Sync>;

/// A service that classifies inputs.
pub trait Endpoint {
    /// Number of classes.
    fn n_classes(&self) -> usize;

    /// Number of features of one input.
    fn n_features(&self) -> usize;

    /// The inputs it can receive, if they are not arbitrary numbers.
    fn grid(&self) -> Option<&InputGrid>;

    /// Ask for the answers to `inputs`, `(samples, n_features)`, in preprocessed units and on the
    /// grid. The answers come in the same order.
    ///
    /// # Errors
    /// [`EndpointError`]: the service did not answer, or not in a form that can be used. Nothing of
    /// that is evidence about the model.
    fn query(&mut self, inputs: &Array2<f32>) -> core::result::Result<Answers, EndpointError>;
}

impl fmt::Debug for dyn Endpoint + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("n_classes", &self.n_classes())
            .field("n_features", &self.n_features())
            .finish_non_exhaustive()
    }
}

/// Why an endpoint gave no usable answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    // Config: the caller's settings.
    /// Inputs of another width.
    #[error("inputs have {actual} features, the endpoint takes {expected}")]
    InputWidth {
        /// Features the endpoint takes.
        expected: usize,
        /// Features given.
        actual: usize,
    },
    /// The description of the service is not usable.
    #[error("{setting} {problem}")]
    Setting {
        /// The setting, such as `the request template`.
        setting: &'static str,
        /// What is wrong with it.
        problem: String,
    },

    // Resource: try again later.
    /// Nobody answers at the address.
    #[error("the endpoint cannot be reached: {cause}")]
    Unreachable {
        /// As the network says it.
        cause: Cause,
    },
    /// Somebody answers, but TLS does not accept them: most often their certificate.
    #[error("the endpoint's TLS is not trusted: {cause}")]
    Untrusted {
        /// As the TLS library says it.
        cause: Cause,
    },
    /// The answer took too long.
    #[error("the endpoint did not answer within {} s", limit.as_secs_f64())]
    TimedOut {
        /// The time allowed for one request.
        limit: Duration,
    },
    /// The endpoint asks to come back later, again and again.
    #[error("the endpoint limits requests (status {status}): gave up after {attempts} attempts")]
    RateLimited {
        /// 429 or 503.
        status: u16,
        /// Attempts made.
        attempts: u32,
    },

    // Peer: it answers, but not with predictions.
    /// The endpoint refuses the request.
    #[error("the endpoint refuses the request with status {status}: {excerpt}")]
    Refused {
        /// The status.
        status: u16,
        /// The start of the reply.
        excerpt: String,
    },
    /// The reply is not what the description of the service says.
    #[error("the endpoint's reply is malformed: {problem}")]
    Malformed {
        /// What is wrong with it.
        problem: String,
    },
    /// An encrypted run ended in a verdict against the server before there were answers.
    #[error("the server was caught cheating: {verdict}")]
    Rejected {
        /// What was found.
        verdict: crate::Verdict,
    },

    /// The network in this process refused the inputs.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Another failure below, such as a lost connection.
    #[error(transparent)]
    Other(Cause),
}

/// A network in this process.
///
/// Inputs are preprocessed already, so the predictor is a [`Network`](nn_poly::Network), not a model.
pub struct LocalEndpoint<'a> {
    predictor: &'a dyn Predictor,
    grid: Option<InputGrid>,
}

impl<'a> LocalEndpoint<'a> {
    /// Ask `predictor`, which takes inputs on `grid` or, without one, any numbers.
    ///
    /// # Errors
    /// - [`Error::LengthMismatch`](crate::Error::LengthMismatch) if the grid is for another number of
    ///   features.
    pub fn new(predictor: &'a dyn Predictor, grid: Option<InputGrid>) -> Result<Self> {
        if let Some(grid) = &grid {
            grid.check(predictor.input_shape().len())?;
        }
        Ok(Self { predictor, grid })
    }
}

impl fmt::Debug for LocalEndpoint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalEndpoint")
            .field("n_classes", &self.predictor.n_classes())
            .field("grid", &self.grid)
            .finish_non_exhaustive()
    }
}

impl Endpoint for LocalEndpoint<'_> {
    fn n_classes(&self) -> usize {
        self.predictor.n_classes()
    }

    fn n_features(&self) -> usize {
        self.predictor.input_shape().len()
    }

    fn grid(&self) -> Option<&InputGrid> {
        self.grid.as_ref()
    }

    fn query(&mut self, inputs: &Array2<f32>) -> core::result::Result<Answers, EndpointError> {
        check_width(inputs, self.n_features())?;
        let values = self.predictor.scores(inputs).map_err(NetworkError::from)?;
        Ok(Answers::Scores { values, kind: ScoreKind::Logits })
    }
}

/// An exact integer network in this process: what an encrypted run of it answers, bit for bit.
#[derive(Debug)]
pub struct IntegerEndpoint<'a> {
    network: &'a IntegerNetwork,
    grid: InputGrid,
}

impl<'a> IntegerEndpoint<'a> {
    /// Ask `network` on its own input grid.
    ///
    /// # Errors
    /// - [`Error::Network`](crate::Error::Network) if that grid is invalid (not for checked networks).
    pub fn new(network: &'a IntegerNetwork) -> Result<Self> {
        Ok(Self { network, grid: InputGrid::of_integer(network.input())? })
    }
}

impl Endpoint for IntegerEndpoint<'_> {
    fn n_classes(&self) -> usize {
        self.network.n_scores()
    }

    fn n_features(&self) -> usize {
        self.network.n_inputs()
    }

    fn grid(&self) -> Option<&InputGrid> {
        Some(&self.grid)
    }

    fn query(&mut self, inputs: &Array2<f32>) -> core::result::Result<Answers, EndpointError> {
        check_width(inputs, self.n_features())?;
        let integers = self.network.input().quantize(inputs.view()).map_err(NetworkError::from)?;
        let evaluation = self.network.evaluate(&integers).map_err(NetworkError::from)?;
        let mut scores = Array2::zeros((inputs.nrows(), self.n_classes()));
        for (mut row, column) in
            scores.rows_mut().into_iter().zip(evaluation.scores.axis_iter(Axis(1)))
        {
            row.assign(&column);
        }
        Ok(Answers::Integers(scores))
    }
}

/// Refuse inputs of another width.
///
/// # Errors
/// [`EndpointError::InputWidth`].
pub fn check_width(
    inputs: &Array2<f32>,
    expected: usize,
) -> core::result::Result<(), EndpointError> {
    let actual = inputs.ncols();
    if actual == expected { Ok(()) } else { Err(EndpointError::InputWidth { expected, actual }) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use ndarray::array;
    use nn_poly::integer::{
        ActivationKind, InputGrid as IntegerGrid, LinearGeometry, Quadratic, StageStructure,
        StageWeights, ValueRef,
    };

    use super::*;

    fn network() -> IntegerNetwork {
        let structure = StageStructure {
            sources: vec![ValueRef::Input],
            linear: LinearGeometry::Dense { n_in: 2, n_out: 2 },
            activation: ActivationKind::Quadratic,
            pool: None,
            refresh: None,
            chain: None,
        };
        let weights = StageWeights {
            weights: vec![3, -2, 1, 1],
            bias: vec![1, 0],
            quadratic: Some(Quadratic::square()),
            chain: Vec::new(),
        };
        let grid = IntegerGrid { bits: 4, signed: false, step: 1.0 / 15.0 };
        IntegerNetwork::new(grid, 2, vec![structure], vec![weights]).unwrap()
    }

    #[test]
    fn integer_answers_are_rows_of_exact_scores() {
        let network = network();
        let mut endpoint = IntegerEndpoint::new(&network).unwrap();
        let grid = endpoint.grid().unwrap().clone();
        let inputs = grid.values(array![[1_u32, 15], [0, 2]].view());
        let answers = endpoint.query(&inputs).unwrap();
        assert_eq!(answers, Answers::Integers(array![[676, 256], [9, 4]]));
        let error = endpoint.query(&Array2::zeros((1, 3))).unwrap_err();
        assert!(matches!(error, EndpointError::InputWidth { expected: 2, actual: 3 }));
    }
}
