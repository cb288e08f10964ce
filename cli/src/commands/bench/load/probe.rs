//! How soon the server answers `/healthz` while it works.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::commands::bench::server_process::ServerProcess;

/// Asks again and again, each time on a new connection.
pub(super) struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(Vec<Duration>, usize)>,
}

/// Times of the answers.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Health {
    /// Questions that were answered.
    pub(super) answers: usize,
    /// Questions that were not.
    pub(super) failures: usize,
    /// Median in milliseconds.
    pub(super) p50_ms: f64,
    /// Time within which 99 of 100 were answered, in milliseconds.
    pub(super) p99_ms: f64,
    /// Longest in milliseconds.
    pub(super) max_ms: f64,
}

impl Probe {
    /// Ask with so much time between two questions.
    pub(super) fn start(admin: SocketAddr, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut times, mut failures) = (Vec::new(), 0);
            while !stopped.load(Ordering::Relaxed) {
                let asked = Instant::now();
                match ServerProcess::ask(admin, "/healthz") {
                    Ok(_) => times.push(asked.elapsed()),
                    Err(_) => failures += 1,
                }
                std::thread::sleep(pause);
            }
            (times, failures)
        });
        Self { stop, thread }
    }

    /// Stop asking.
    pub(super) fn stop(self) -> Health {
        self.stop.store(true, Ordering::Relaxed);
        let (times, failures) = self.thread.join().unwrap_or_default();
        Health::of(times, failures)
    }
}

impl Health {
    fn of(mut times: Vec<Duration>, failures: usize) -> Self {
        times.sort_unstable();
        let at = |percent: usize| {
            let index = (times.len() * percent).div_ceil(100).saturating_sub(1);
            times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        Self { answers: times.len(), failures, p50_ms: at(50), p99_ms: at(99), max_ms: at(100) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_occurred() {
        let times = (1..=200).rev().map(Duration::from_millis).collect();
        let health = Health::of(times, 3);
        assert_eq!((health.p50_ms, health.p99_ms, health.max_ms), (100.0, 198.0, 200.0));
        assert_eq!((health.answers, health.failures), (200, 3));
        assert!(Health::of(Vec::new(), 0).max_ms.abs() < f64::EPSILON);
    }
}
