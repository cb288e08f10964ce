//! A server that follows the protocol, signs its replies, and alters one word of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use protocol::server::service::PlanHost;

use crate::pipeline::altering::{AlteredHost, AlteredSegment, change, ciphertext_bytes};

/// What is done to the replies of an honest host.
pub(super) struct Tampering {
    /// Which ciphertext, modulo their number.
    at: u32,
    happened: Arc<AtomicBool>,
}

impl Tampering {
    /// Alter the lowest bit of the first word of ciphertext number `at`, modulo their number.
    pub(super) fn new(at: u32) -> Self {
        Self { at, happened: Arc::default() }
    }

    /// The host whose replies are altered.
    pub(super) fn host(&self, honest: Arc<dyn PlanHost>) -> Arc<dyn PlanHost> {
        let (at, happened) = (self.at, Arc::clone(&self.happened));
        AlteredHost::new(honest, move |_, _, honest| {
            let ciphertext = u64::from(at % honest.n_outputs().max(1));
            let position = ciphertext * ciphertext_bytes(&*honest);
            let happened = Arc::clone(&happened);
            let alter = move |start: u64, piece: &mut [u8]| {
                if change(start, piece, position..position + 1, |byte| *byte ^= 1) > 0 {
                    happened.store(true, Ordering::Relaxed);
                }
            };
            Ok(AlteredSegment::new(honest, Arc::new(alter)))
        })
    }

    /// Whether it was done.
    pub(super) fn happened(&self) -> bool {
        self.happened.load(Ordering::Relaxed)
    }
}
