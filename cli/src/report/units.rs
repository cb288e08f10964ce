//! Numbers as people read them.

#![expect(
    clippy::cast_precision_loss,
    reason = "figures for people: three digits are shown of values far below 2^53"
)]

use std::time::Duration;

/// Bytes in decimal units: `512 B`, `13.3 MB`.
pub(crate) fn bytes(n_bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if n_bytes < 1000 {
        return format!("{n_bytes} B");
    }
    let mut value = n_bytes as f64 / 1e3;
    let mut unit = UNITS.iter();
    let mut name = unit.next().copied().unwrap_or_default();
    while value >= 999.5 {
        let Some(larger) = unit.next() else { break };
        value /= 1e3;
        name = larger;
    }
    format!("{} {name}", three_digits(value))
}

/// A time: `840 µs`, `12.5 ms`, `3.21 s`, `2 min 05 s`, `1 h 12 min`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 1e-3 {
        format!("{} µs", time.as_micros())
    } else if seconds < 0.9995 {
        format!("{} ms", three_digits(seconds * 1e3))
    } else if seconds < 59.95 {
        format!("{} s", three_digits(seconds))
    } else {
        let whole = time.as_secs() + u64::from(time.subsec_millis() >= 500);
        match (whole / 3600, whole / 60 % 60, whole % 60) {
            (0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
            (hours, minutes, _) => format!("{hours} h {minutes:02} min"),
        }
    }
}

/// A count with its thousands set apart: `60,000`.
pub(crate) fn count(n: impl TryInto<u64>) -> String {
    let digits = n.try_into().unwrap_or(u64::MAX).to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count with its noun: `1 sample`, `64 samples`.
pub(crate) fn counted(n: impl TryInto<u64>, noun: &str) -> String {
    let n = n.try_into().unwrap_or(u64::MAX);
    format!("{} {noun}{}", count(n), if n == 1 { "" } else { "s" })
}

/// A share of 1 as a percentage with two digits: `98.96 %`.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// `part / whole`; 0 of nothing.
pub(crate) fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn three_digits(value: f64) -> String {
    let decimals = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_three_digits() {
        for (n_bytes, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (13_280_000, "13.3 MB"),
            (999_499_999, "999 MB"),
            (999_500_000, "1.00 GB"),
            (u64::MAX, "18447 PB"),
        ] {
            assert_eq!(bytes(n_bytes), expected);
        }
    }

    #[test]
    fn times_get_coarser_as_they_get_longer() {
        for (micros, expected) in [
            (0, "0 µs"),
            (840, "840 µs"),
            (12_480, "12.5 ms"),
            (999_700, "1.00 s"),
            (3_210_000, "3.21 s"),
            (59_960_000, "1 min 00 s"),
            (125_400_000, "2 min 05 s"),
            (4_320_000_000, "1 h 12 min"),
        ] {
            assert_eq!(duration(Duration::from_micros(micros)), expected);
        }
    }

    #[test]
    fn counts_are_grouped_and_agree_with_their_noun() {
        assert_eq!(count(0_u32), "0");
        assert_eq!(count(999_u32), "999");
        assert_eq!(count(1_234_567_u64), "1,234,567");
        assert_eq!(counted(1_usize, "block"), "1 block");
        assert_eq!(counted(8000_usize, "sample"), "8,000 samples");
        assert_eq!(percent(share(0, 0)), "0.00 %");
        assert_eq!(percent(share(9896, 10_000)), "98.96 %");
    }
}
