//! What this process has used so far, as the system counts it.

use std::fs;

/// Ticks per second of the times in `/proc`: the kernel's `USER_HZ`, 100 on every architecture we
/// build for, whatever its timer.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time of all threads of this process so far, user and system, in seconds; resolution 10 ms.
/// `None` where the system does not say.
pub(crate) fn cpu_seconds() -> Option<f64> {
    parse(&fs::read_to_string("/proc/self/stat").ok()?)
}

/// Fields 14 and 15 of `/proc/PID/stat`, counted after the name, which may hold anything.
fn parse(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<u32>);
    let (user, system) = (times.next()?.ok()?, times.next()?.ok()?);
    Some((f64::from(user) + f64::from(system)) / TICKS_PER_SECOND)
}

/// Make [`super::memory::peak_bytes`] count from here on. Returns whether the system did so.
pub(crate) fn forget_peak_memory() -> bool {
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a) b (c)) R 1 7 7 0 -1 4194304 90 0 0 0 250 50 0 0 20 0 3 0 100 1 1";
        assert_eq!(parse(stat), Some(3.0));
        assert_eq!(parse("7 (a) R 1"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_a_time() {
        assert!(cpu_seconds().is_some());
    }
}
