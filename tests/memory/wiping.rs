//! What is left of secrets in memory that is given back: nothing.
//!
//! Looks at every block of at least 256 bytes while a secret object is dropped. It says nothing about
//! registers, the stack, swap, or copies that the compiler made.

use he_core::{Params, ParamsSpec, SecretKey};
use nn_poly::plan::ActivationSide;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use securedl_tests::batch::seeded_session;
use securedl_tests::models::{TinyModel, client_plan, samples, session_options};

use crate::allocator::{Remains, remains_of};
use crate::turn;

fn is_wiped(remains: Remains, what: &str) {
    assert!(remains.n_clean > 0, "{what}: nothing was given back, the test shows nothing");
    assert_eq!((remains.n_dirty, remains.dirty_bytes), (0, 0), "{what}: {remains:?}");
}

#[test]
fn ordinary_values_are_seen_when_they_are_given_back() {
    let _turn = turn();
    let values = vec![7_u64; 1000];
    let remains = remains_of(|| drop(values));
    assert_eq!((remains.n_clean, remains.n_dirty), (0, 1), "the test can fail");
}

#[test]
fn a_secret_key_leaves_zeros() {
    let _turn = turn();
    let spec = ParamsSpec::with_bits(4096, 65537, &[47, 47]).unwrap();
    let params = Params::new(spec).unwrap();
    let key = SecretKey::generate(&params, &mut ChaCha20Rng::seed_from_u64(1));
    is_wiped(remains_of(|| drop(key)), "a key");
}

#[test]
fn a_batch_leaves_zeros_of_its_keys_and_values() {
    let _turn = turn();
    for side in [ActivationSide::Server, ActivationSide::Client] {
        let plan = TinyModel::dense_quadratic().plan(side, 100);
        let owner = client_plan(&plan, session_options(3, 1));
        let session = seeded_session(&owner, &samples(&plan, 600, 1), 5).unwrap();
        is_wiped(remains_of(|| drop(session)), "a session");
    }
}
