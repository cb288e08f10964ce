//! Generators of sensitive samples, and the baselines they are compared with.
//!
//! ```text
//!  start ─► search (argmin) ─► round to the grid ─► polish on the grid ─► score ─► margin ok? ─► bag
//!    ▲                                                                              │ no
//!    └──────────────────────────────── another start ◄─────────────────────────────┘
//! ```
//!
//! | generator | search |
//! |---|---|
//! | `ssf` | `log S` of probabilities and last layer, closed form, double precision |
//! | `ssf-reference` | what the published code maximizes |
//! | `securedl` | `log S` of probabilities and all layers, exact second derivatives |
//! | `boundary-entropy` | entropy of the softmax over the `k` largest scores |
//! | `tie` | `z₁ = … = z_k` by Gauss–Newton steps of least norm |
//! | `non-sensitive`, `random` | none |
//!
//! A `k`-way tie is the point: whichever way tampering moves the scores, the largest of `k` equal
//! scores stays the largest with probability about `1/k`. The objective of `ssf` is largest at a
//! two-way tie, and so finds half of what there is to find.

mod gauss_newton;
mod objective;
mod polish;
mod prepare;
mod projection;
mod run;
mod scoring;
mod search;
mod search_grid;
mod solver;
mod spec;
mod unfinished;

pub use gauss_newton::{Equations, GaussNewtonState, LeastNormGaussNewton};
pub(crate) use prepare::Prepared;
pub use projection::Feasible;
pub use run::{generate, generate_for_integer, resume, resume_for_integer};
pub use solver::{FirstOrderState, Objective, ProjectedAdam, ProjectedGradient, StepSchedule};
pub(crate) use spec::parse_name;
pub use spec::{
    Constraint, GenerateConfig, GenerateProgress, GenerateSpec, GeneratorKind, NoProgress,
    OptimizerKind,
};
pub use unfinished::{
    MAX_UNFINISHED_BAG_BYTES, UNFINISHED_BAG_MAGIC, UNFINISHED_BAG_VERSION, UnfinishedBag,
};
