//! Neural-network inference by two servers on additive shares: the SecureML baseline.
//!
//! Mohassel and Zhang's protocol (IEEE S&P 2017) for networks with square activations, as a
//! comparison for `securedl`'s encrypted inference. It is measured, not offered: the command line depends
//! on this crate only in builds with its feature `secureml`, for `securedl paper table3`.
//!
//! ```text
//!  client ──shares of inputs──► server 0 ◄═══ openings ═══► server 1 ◄──shares of inputs── client
//!                                  ▲   offline: triples by LHE   ▲
//!  owner ───shares of weights──────┴─────────────────────────────┘
//! ```
//!
//! Numbers are fixed point with [`FRACTION_BITS`] in `Z_2^64`, two's complement. A linear layer takes
//! one opening of its masked inputs (weights are opened, masked, once per model), a square one
//! opening; truncation and pools are local. Data are row = neuron, column = sample.
//!
//! | Phase | Type | What crosses |
//! |---|---|---|
//! | once per model | [`WeightOpening`] | 16 bytes per weight |
//! | offline, per batch | [`lhe::TripleGeneration`] (honest) or [`deal_trusted`] (trusted dealer) | ciphertexts, or nothing between servers |
//! | online, per batch | [`Inference`] | 16 bytes per value that enters a linear layer or square |
//!
//! The machines do no I/O ([`Machine`]); [`drive`] runs them over a [`Channel`] and counts bytes,
//! messages and rounds; [`drive_pair`] runs both in one process and takes the time.
//!
//! # Security
//! As in the paper: the servers follow the protocol and do not collude; then neither learns weights,
//! inputs or outputs. A server that deviates is not noticed: there is no integrity of any kind. The
//! structure of the network and the number of samples are public.
//!
//! # Example
//!
//! ```
//! use ndarray::array;
//! use rand::{SeedableRng, rngs::StdRng};
//! use secureml::{
//!     Inference, Network, Pipe, WeightOpening, deal_trusted, drive_pair, reconstruct,
//!     share_inputs, share_model,
//! };
//!
//! # fn main() -> Result<(), secureml::Error> {
//! let mut rng = StdRng::from_os_rng();
//! let weights = array![[0.5, -1.0], [2.0, 0.25]];
//! let network = Network::new(2)?.dense(weights.view(), &[0.0, 1.0])?.square()?;
//! let models = share_model(&network, &mut rng);
//! let materials = deal_trusted(&models, 1, &mut rng)?;
//! let inputs = share_inputs(array![[3.0], [1.0]].view(), &mut rng)?;
//!
//! let [model0, model1] = &models;
//! let mut openings = [WeightOpening::new(model0), WeightOpening::new(model1)];
//! drive_pair(openings.each_mut(), Pipe::pair())?;
//! let [weights0, weights1] = openings.map(WeightOpening::finish);
//! let (weights0, weights1) = (weights0?, weights1?);
//!
//! let ([material0, material1], [inputs0, inputs1]) = (materials, inputs);
//! let mut servers = [
//!     Inference::new(model0, &weights0, material0, inputs0)?,
//!     Inference::new(model1, &weights1, material1, inputs1)?,
//! ];
//! let phase = drive_pair(servers.each_mut(), Pipe::pair())?;
//! assert_eq!(phase.payload_bytes(), network.structure().online_bytes(1));
//!
//! let [first, second] = servers.map(Inference::finish);
//! let (first, second) = (first?, second?);
//! let scores = reconstruct(&first, &second)?;
//! assert!((scores[[0, 0]] - 0.25).abs() < 0.01 && (scores[[1, 0]] - 52.5625).abs() < 0.01);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

pub mod lhe;

mod channel;
mod error;
mod fixed;
mod gather;
mod material;
mod message;
mod model;
mod network;
mod online;
mod plain;

pub use channel::{Channel, Phase, Pipe, TcpChannel, Traffic, drive, drive_pair};
pub use error::{Error, Result};
pub use fixed::{
    FRACTION_BITS, MAX_MAGNITUDE, Party, Shares, decode, encode, reconstruct, reconstruct_words,
    share_inputs, truncate_share,
};
pub use gather::{Convolution, Gather};
pub use material::{BatchMaterial, deal_trusted};
pub use message::{Expected, HEADER_BYTES, Kind, Machine};
pub use model::{OpenedWeights, ServerModel, WeightOpening, share_model};
pub use network::{Network, Step, Structure};
pub use online::Inference;
pub use plain::PlainResult;
