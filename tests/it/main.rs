//! End-to-end tests.
mod layering;
