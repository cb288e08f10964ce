//! Runs under the trust setting `masked`: the client owns data and keys, and must not learn the model.
//!
//! ```text
//!  MaskedPlan (public part, pack) ─► MaskedSession, one per block
//!      prepare ──► request of stage k ──► server
//!      open    ◄── masked values, token ◄─┘      k = 0, 1, … last
//!      └─► BlockOutcome: scores of the samples, canaries within tolerance or not
//!  judge_masked over all blocks, once, at the end ─► MaskedVerdict
//! ```
//!
//! What differs from [`session`](crate::session):
//!
//! - The client holds the public part of the plan only, so there are no word checks and no random
//!   points. Canaries from a pack that the model's owner prepared ride through the whole network; their
//!   final scores are compared with what the pack tolerates.
//! - Slots stay as they are from round to round, since the server subtracts from each slot the mask it
//!   added. Their assignment is drawn afresh for every block, and nothing is judged before the end.
//! - A request is one stage with all its residues; it carries the tokens of the rounds whose values it
//!   sends.
//!
//! Whatever a reply says, the next request is sent, unless the reply is malformed: what the server
//! sees depends on public counts alone.

mod block;
mod key_file;
mod plan;
mod run;

pub use block::{BlockOutcome, MaskedRound, MaskedSession};
pub use key_file::load_or_create_mask_key;
pub use plan::{DECOYS, MaskedPlan};
pub use run::{MaskedCosts, MaskedOptions, MaskedResult, run};
