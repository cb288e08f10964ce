//! Repeating work and taking the median.

use std::time::{Duration, Instant};

use crate::report::figures::median;

/// Fewest repetitions behind a figure, unless one alone takes too long.
const LEAST_RUNS: usize = 3;
/// Work that takes longer than this and than its whole time is not repeated for the sake of
/// [`LEAST_RUNS`].
const LONG: Duration = Duration::from_millis(50);
/// Shortest stretch that is timed: below, the clock itself shows.
const STRETCH: Duration = Duration::from_micros(20);

/// A measured time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Timing {
    /// Median wall time of one run, seconds.
    pub(super) seconds: f64,
    /// Stretches the median was taken of.
    pub(super) runs: usize,
}

/// Repeat `work` for about `seconds`, after one run that warms up; short work is timed in stretches
/// of several runs.
///
/// # Errors
/// The first failure of `work`.
pub(super) fn measure<E>(
    seconds: f64,
    mut work: impl FnMut() -> Result<(), E>,
) -> Result<Timing, E> {
    let started = Instant::now();
    work()?;
    let first = started.elapsed();
    let per_stretch = STRETCH.as_nanos().div_ceil(first.as_nanos().max(1));
    let per_stretch = u32::try_from(per_stretch).unwrap_or(u32::MAX);
    let limit = Duration::from_secs_f64(seconds);
    let started = Instant::now();
    let mut times = Vec::new();
    loop {
        let stretch = Instant::now();
        for _ in 0..per_stretch {
            work()?;
        }
        times.push(stretch.elapsed().as_secs_f64() / f64::from(per_stretch));
        let enough = times.len() >= LEAST_RUNS || first > limit.max(LONG);
        if enough && started.elapsed() >= limit {
            break;
        }
    }
    let runs = times.len();
    Ok(Timing { seconds: median(&mut times), runs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_repeated_and_its_failure_told() {
        let mut runs = 0_u32;
        let timing = measure(1e-3, || {
            runs += 1;
            Ok::<(), ()>(())
        });
        let timing = timing.unwrap();
        assert!(timing.runs >= LEAST_RUNS && runs as usize > timing.runs, "{timing:?} {runs}");
        assert_eq!(measure(1.0, || Err("no")), Err("no"));
    }
}
