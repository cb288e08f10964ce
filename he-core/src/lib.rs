//! Exact SIMD homomorphic arithmetic for outsourced neural-network inference.
//!
//! `he-core` implements the BGV scheme (Brakerski, Gentry, Vaikuntanathan 2012) over
//! `R = Z[X]/(X^N + 1)` in the form that layered inference needs: many ciphertexts in one contiguous
//! block, integer matrices applied to all of them at once, products of any degree, modulus switches,
//! and a random linear check of every word a server returns. For other circuits there are public keys,
//! relinearisation, rotations of slots, and leveled computation with a cost model. Results are exact integers modulo the
//! plaintext modulus, bit for bit the same on every machine and for every kernel.
//!
//! ```text
//!  integers ──encoding──► Plaintext ──encryption──► CiphertextBlock ──bytes──► wire
//!                                                        │
//!                             linear (W·X + b) · evaluator (square, sums, switch)
//!                                                        │
//!  integers ◄──encoding── Message   ◄──encryption── CiphertextBlock ◄──bytes── wire
//! ```
//!
//! # Layers
//!
//! [`Params`] (checked, immutable) is the context of everything. [`SlotEncoder`] and
//! [`CoefficientEncoder`] turn integers into plaintexts; [`BlockEncryptor`] and [`Decryptor`] hold
//! key operations; [`LinearMap`] and the methods of [`CiphertextBlock`] are the evaluator;
//! [`WordCheck`] verifies a linear reply before anything is decrypted; [`bytes`] is the only wire
//! format; [`noise`] predicts whether a computation decrypts correctly. [`PublicKey`] and
//! [`EvaluationKeys`] are made from a secret key; [`leveled`] looks after levels and noise.
//!
//! # Security
//!
//! [`Params::new`] refuses parameters below 128 bits of classical security (see [`security`]).
//! Whoever holds the [`SecretKey`] encrypts and decrypts, whoever holds a [`PublicKey`] encrypts.
//! Ciphertexts hide the plaintexts (IND-CPA under ring-LWE, AES-128 and BLAKE3 as pseudorandom
//! functions; with [`EvaluationKeys`] published, also under circular security). What they
//! do not give:
//!
//! - *Integrity.* [`WordCheck`] and the canaries of the layers above give it. Check a reply before
//!   decrypting it, and let nothing the other side sees depend on what was decrypted: a server that
//!   learns which altered ciphertexts still decrypt learns the key bit by bit.
//! - *Secrecy of the model.* Every polynomial of a reply depends on the weights; whoever holds the key can
//!   learn more of them than the results say, unless the reply is rerandomized
//!   ([`CiphertextBlock::rerandomize`]).
//!
//! Code that touches keys, plaintexts, errors or check rows has no branch, division or memory address
//! that depends on them; rejection sampling branches on discarded draws only. This is a property of
//! the source, not checked on the machine code.
//!
//! # Example
//!
//! ```
//! use he_core::{BlockEncryptor, Decryptor, LinearMap, Params, ParamsSpec, SecretKey, SlotEncoder};
//! use rand::{SeedableRng, rngs::StdRng};
//!
//! # fn main() -> Result<(), he_core::Error> {
//! // One prime of 47 bits at N = 2048 (128-bit secure), slots modulo 65537.
//! let params = Params::new(ParamsSpec::with_bits(2048, 65537, &[47])?)?;
//! let encoder = SlotEncoder::new(&params)?;
//! let mut rng = StdRng::from_os_rng();
//! let key = SecretKey::generate(&params, &mut rng);
//!
//! // Two ciphertexts; every slot holds another sample.
//! let x = encoder.encode(&vec![3; 2048])?;
//! let y = encoder.encode(&(0..2048).collect::<Vec<i64>>())?;
//! let block = BlockEncryptor::new(&key, &mut rng).encrypt_next(&[x, y])?;
//!
//! // 2x - 5y + 7 in every slot.
//! let map = LinearMap::dense(1, 2, &[2, -5], &[7])?;
//! let reply = map.apply(&block)?;
//! let message = Decryptor::new(&key).decrypt(&reply, 0)?;
//! let slots = encoder.decode(&message)?;
//! assert_eq!(slots[10], 2 * 3 - 5 * 10 + 7);
//! # Ok(())
//! # }
//! ```

#![deny(unsafe_code)]

pub mod bytes;
pub mod leveled;
pub mod noise;
pub mod security;

#[cfg(feature = "ceilings")]
#[doc(hidden)]
pub mod ceilings;
#[cfg(feature = "hazmat")]
pub mod hazmat;

mod block;
mod correction;
mod decryption;
mod encoding;
mod encryption;
mod error;
mod evaluator;
mod galois;
mod key_switching;
mod keys;
mod linear;
mod params;
mod request;
mod ring;
mod sampling;
mod scratch;
mod simd;
mod transform;
mod word_check;

pub use block::{CiphertextBlock, Storage};
pub use decryption::{Decryptor, Message};
pub use encoding::{CoefficientEncoder, Encoder, Plaintext, RowEncoder, SlotEncoder};
pub use encryption::BlockEncryptor;
pub use error::{Error, Result};
pub use evaluator::Quadratic;
pub use keys::{EvaluationKeys, KeySet, PublicKey, SecretKey};
pub use linear::{Group, LinearMap, PADDING, Placement, PooledQuadratic, Wanted};
pub use params::{MAX_MODULUS, Params, ParamsSpec};
pub use request::RequestDecoder;
pub use sampling::PublicSeed;
pub use simd::Backend;
pub use word_check::WordCheck;

/// The example of the crate's README runs as a documentation test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
