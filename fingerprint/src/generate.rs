//! Generators of sensitive samples, and the baselines they are compared with.

mod spec;

pub(crate) use spec::parse_name;
pub use spec::{
    Constraint, GenerateConfig, GenerateProgress, GenerateSpec, GeneratorKind, NoProgress,
    OptimizerKind,
};
