//! When the patience with a peer ends.

use std::time::Duration;

use tokio::time::Instant;

use super::INTERNAL_LIMIT;
use crate::limits::ServerTimeouts;
use crate::server::event::Phase;

/// The times of one connection. What the peer is waiting for does not count against it.
pub(super) struct Clock {
    timeouts: ServerTimeouts,
    entered: Instant,
    last_frame: Instant,
    pub(super) next_progress: Instant,
    /// Since when the server takes nothing of the upload.
    held: Option<Instant>,
    request: Option<Request>,
}

/// The times of one admitted request.
struct Request {
    admitted: Instant,
    /// When its evaluation began.
    evaluating: Option<Instant>,
    /// Since when something waits to be sent, and for how long something did before.
    unsent_since: Option<Instant>,
    unsent: Duration,
    sent_bytes: u64,
}

impl Clock {
    pub(super) fn new(timeouts: &ServerTimeouts) -> Self {
        let now = Instant::now();
        Self {
            timeouts: timeouts.clone(),
            entered: now,
            last_frame: now,
            next_progress: now + timeouts.progress,
            held: None,
            request: None,
        }
    }

    /// A new phase begins.
    pub(super) fn enter(&mut self, phase: Phase) {
        let now = Instant::now();
        self.entered = now;
        self.last_frame = now;
        self.next_progress = now + self.timeouts.progress;
        match phase {
            Phase::Receiving { .. } => {
                self.held = None;
                self.request = Some(Request {
                    admitted: now,
                    evaluating: None,
                    unsent_since: None,
                    unsent: Duration::ZERO,
                    sent_bytes: 0,
                });
            }
            Phase::Evaluating => {}
            Phase::Greeting
            | Phase::Entering
            | Phase::Idle
            | Phase::Answering
            | Phase::Admitting
            | Phase::Stopping
            | Phase::Closed => self.request = None,
        }
    }

    pub(super) fn note_frame(&mut self) {
        self.last_frame = Instant::now();
    }

    /// The server takes nothing of the upload until [`Self::release`].
    pub(super) fn hold(&mut self) {
        self.held.get_or_insert_with(Instant::now);
    }

    /// The server takes the next bytes: its own delay is forgotten.
    pub(super) fn release(&mut self) {
        if let Some(since) = self.held.take() {
            let delay = since.elapsed();
            self.entered += delay;
            self.last_frame += delay;
        }
    }

    /// The evaluation begins.
    pub(super) fn begin_evaluation(&mut self) {
        if let Some(request) = &mut self.request {
            request.evaluating.get_or_insert_with(Instant::now);
        }
    }

    /// Payload bytes were queued for the client.
    pub(super) fn note_sent(&mut self, n_bytes: usize) {
        if let Some(request) = &mut self.request {
            request.sent_bytes = request.sent_bytes.saturating_add(n_bytes as u64);
        }
    }

    /// Whether anything waits to be sent.
    pub(super) fn note_unsent(&mut self, waits: bool) {
        let Some(request) = &mut self.request else { return };
        if waits {
            request.unsent_since.get_or_insert_with(Instant::now);
        } else if let Some(since) = request.unsent_since.take() {
            request.unsent += since.elapsed();
        }
    }

    pub(super) fn progress_sent(&mut self) {
        self.next_progress = Instant::now() + self.timeouts.progress;
    }

    pub(super) fn deadline(&self, phase: Phase) -> Instant {
        let timeouts = &self.timeouts;
        match phase {
            Phase::Greeting | Phase::Entering => self.entered + timeouts.handshake,
            Phase::Idle => self.entered + timeouts.idle,
            Phase::Receiving { payload_bytes } => {
                let whole = self.request_deadline();
                if self.held.is_some() {
                    return whole;
                }
                let upload = self.entered + timeouts.upload(payload_bytes);
                whole.min(upload).min(self.last_frame + timeouts.stall)
            }
            Phase::Evaluating => self.evaluation_deadline(),
            Phase::Admitting => self.entered + INTERNAL_LIMIT + timeouts.admission,
            Phase::Answering | Phase::Stopping | Phase::Closed => self.entered + INTERNAL_LIMIT,
        }
    }

    fn request_deadline(&self) -> Instant {
        let admitted = self.request.as_ref().map_or(self.entered, |request| request.admitted);
        admitted + self.timeouts.request
    }

    fn evaluation_deadline(&self) -> Instant {
        let timeouts = &self.timeouts;
        let mut deadline = self.request_deadline();
        if let Some(request) = &self.request {
            if let Some(began) = request.evaluating {
                deadline = deadline.min(began + timeouts.evaluation);
            }
            if let Some(since) = request.unsent_since {
                let allowed = timeouts.download(request.sent_bytes);
                deadline = deadline.min(since + allowed.saturating_sub(request.unsent));
            }
        }
        deadline
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, pause};

    use super::*;

    const RECEIVING: Phase = Phase::Receiving { payload_bytes: 1000 };

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn clock() -> Clock {
        Clock::new(&ServerTimeouts {
            stall: seconds(10),
            min_upload_bytes_per_second: 100,
            min_download_bytes_per_second: 100,
            evaluation: seconds(50),
            request: seconds(100),
            ..ServerTimeouts::default()
        })
    }

    /// Seconds until patience with this phase ends.
    fn left(clock: &Clock, phase: Phase) -> u64 {
        clock.deadline(phase).saturating_duration_since(Instant::now()).as_secs()
    }

    #[tokio::test]
    async fn what_the_server_delays_does_not_count_against_the_client() {
        pause();
        let mut clock = clock();
        clock.enter(RECEIVING);
        advance(seconds(4)).await;
        assert_eq!(left(&clock, RECEIVING), 6);
        clock.hold();
        advance(seconds(30)).await;
        clock.hold();
        assert_eq!(left(&clock, RECEIVING), 66, "only the whole request's time runs");
        clock.release();
        assert_eq!(left(&clock, RECEIVING), 6, "as before the delay");
        clock.note_frame();
        assert_eq!(left(&clock, RECEIVING), 10);
        advance(seconds(9)).await;
        clock.note_frame();
        // 10 s of grace and 10 s for the bytes, of which 13 s have passed.
        assert_eq!(left(&clock, RECEIVING), 7, "frames do not extend the whole upload");
    }

    #[tokio::test]
    async fn waiting_for_the_processors_is_no_evaluation() {
        pause();
        let mut clock = clock();
        clock.enter(RECEIVING);
        clock.enter(Phase::Evaluating);
        advance(seconds(45)).await;
        assert_eq!(left(&clock, Phase::Evaluating), 55);
        clock.begin_evaluation();
        assert_eq!(left(&clock, Phase::Evaluating), 50);
        advance(seconds(30)).await;
        assert_eq!(left(&clock, Phase::Evaluating), 20);
    }

    #[tokio::test]
    async fn a_reply_that_is_taken_slowly_ends_by_its_average() {
        pause();
        let mut clock = clock();
        clock.enter(RECEIVING);
        clock.enter(Phase::Evaluating);
        clock.begin_evaluation();
        clock.note_sent(500);
        clock.note_unsent(true);
        advance(seconds(3)).await;
        clock.note_unsent(true);
        assert_eq!(left(&clock, Phase::Evaluating), 12, "10 s of grace and 5 s for the bytes");
        clock.note_unsent(false);
        advance(seconds(20)).await;
        assert_eq!(left(&clock, Phase::Evaluating), 27, "the evaluation's own time");
        clock.note_unsent(true);
        assert_eq!(left(&clock, Phase::Evaluating), 12);
    }
}
