//! The operators, by kind.

mod arithmetic;
mod constants;
mod ending;
mod functions;
mod joins;
mod linear;
mod shapes;
mod spatial;
