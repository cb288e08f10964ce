//! Which requests are complete and not answered, for the times in reports.

use std::sync::{Arc, Mutex, PoisonError};

use crate::session::Lane;

/// Whether one request is complete and not answered; counted once, whichever side is first.
#[derive(Clone)]
pub(super) struct Awaited {
    lane: Arc<Lane>,
    /// Whether it began, and whether it ended.
    state: Arc<Mutex<(bool, bool)>>,
}

impl Awaited {
    pub(super) fn new(lane: &Arc<Lane>) -> Self {
        Self { lane: Arc::clone(lane), state: Arc::default() }
    }

    pub(super) fn begin(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state == (false, false) {
            self.lane.note_request();
        }
        state.0 = true;
    }

    pub(super) fn end(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state == (true, false) {
            self.lane.note_answer();
        }
        state.1 = true;
    }
}
