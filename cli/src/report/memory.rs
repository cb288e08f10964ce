//! How much memory this process has used.

/// Largest resident set of this process so far in bytes (`VmHWM` of Linux); `None` where the system
/// does not say.
pub(crate) fn peak_bytes() -> Option<u64> {
    parse(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn parse(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_high_water_mark_is_found() {
        let status = "Name:\tx\nVmPeak:\t  9 kB\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(parse(status), Some(2 << 20));
        assert_eq!(parse("VmRSS: 1 kB\n"), None);
        assert_eq!(parse("VmHWM: many kB\n"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_uses_some() {
        assert!(peak_bytes().is_some_and(|bytes| bytes > 1 << 16));
    }
}
