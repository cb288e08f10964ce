//! Stages of masked plans under encryption: the client holds the key and must not learn the model.
//!
//! ```text
//!  client                                                    server
//!  MaskedStage::encrypt ─ tokens, public keys, residues ───► MaskedReceiver (hash of all bytes)
//!                                                             │ MaskedEvaluator, residue by residue:
//!                                                             │   subtract the masks the tokens name
//!                                                             │   linear map, square, pool
//!                                                             │   switch, add masks, rerandomize
//!  MaskedStage::open ◄──────────── residues, token ──────────┘
//!    └ put together, scaled: what the next stage is sent
//! ```
//!
//! All residues of a stage travel in one request, so one hash names all of them and they share one
//! integer mask.
//!
//! ```text
//! request = token 64 (one per earlier stage that is read) ‖ residue 0 ‖ residue 1 ‖ …
//! residue = seed 32 (not of the first, whose seed is announced) ‖ public key ‖ packed c_0
//! reply   = packed residues, one after the other ‖ token 64
//! token   = request hash 32 ‖ MAC 32
//! ```

mod client;
mod key;
mod server;

pub use client::{MaskedBlock, MaskedOpening, MaskedStage, StageKeys};
pub use key::{BlockMasks, MASK_KEY_BYTES, MaskKey, MaskToken, RequestHash, RequestHasher};
pub use server::{MaskedEvaluator, MaskedReceiver, MaskedRequest};
