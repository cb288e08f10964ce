//! What a plan is chosen for: objective, link, limits.

use std::str::FromStr;

use clap::{Args, ValueEnum};

/// What a plan is chosen for.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Choice of the plan")]
pub(crate) struct PlanningArguments {
    /// What is to be small [default: time].
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) objective: Option<ObjectiveName>,
    /// Speed of the link in each direction, such as 1Gbps or 50Mbps; `local`: client and server on
    /// this machine [default: 1Gbps].
    #[arg(long, value_name = "RATE")]
    pub(crate) link: Option<LinkArgument>,
    /// Round trip of the link, such as 20ms; no matter with `--link local` [default: 1ms].
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub(crate) latency: Option<f64>,
    /// Memory that client and server may each take, such as 4GiB or 500MB.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub(crate) memory: Option<u64>,
    /// Rounds that one batch may take. With a refresh after every activation a network takes one per
    /// layer with an activation, and one for the last; for fewer, layers are joined without a refresh
    /// (polynomial activations only), which takes larger parameters. 0 or 1: one upload and one download.
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(0..=1 << 16))]
    pub(crate) rounds: Option<u32>,
    /// Whether the server of joined layers gets a relinearization key, with which ciphertexts stay small
    /// between squares; without one they grow. `auto`: whichever serves the objective [default: auto].
    #[arg(long, value_enum, value_name = "WHEN")]
    pub(crate) relinearize: Option<RelinearizeName>,
    /// Rest on proven ranges only: no input whatever can leave them.
    #[arg(long)]
    pub(crate) proven: bool,
    /// Also rest on calibrated ranges where there are parameters for proven ones, if that is better.
    #[arg(long, conflicts_with = "proven")]
    pub(crate) calibrated: bool,
    /// Cores of the server, each as fast as one here [default: as many as here].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    pub(crate) server_cores: Option<u32>,
    /// Do not measure this machine (about two seconds): compare by stored rates.
    #[arg(long)]
    pub(crate) no_self_test: bool,
}

/// Names of objectives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ObjectiveName {
    /// Seconds of a run over the link.
    Time,
    /// Bytes in both directions.
    Bytes,
    /// Round trips.
    Rounds,
}

/// Names of what becomes of ciphertexts between the squares of joined layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RelinearizeName {
    /// Whichever serves the objective.
    Auto,
    /// They grow, and the server gets no key.
    Never,
    /// They are relinearized.
    Always,
}

/// What lies between client and server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum LinkArgument {
    /// Both are on this machine.
    Local,
    /// Bits per second.
    Rate(f64),
}

impl FromStr for LinkArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const UNITS: [(&str, f64); 10] = [
            ("bps", 1.0),
            ("kbps", 1e3),
            ("Mbps", 1e6),
            ("Gbps", 1e9),
            ("Tbps", 1e12),
            ("bit/s", 1.0),
            ("kbit/s", 1e3),
            ("Mbit/s", 1e6),
            ("Gbit/s", 1e9),
            ("Tbit/s", 1e12),
        ];
        if text == "local" {
            return Ok(Self::Local);
        }
        if text.contains('B') {
            return Err("rates are in bits, with a small b: 1 GB/s is 8Gbps".into());
        }
        let rate = quantity(text, &UNITS, "bits per second, such as 1Gbps or 50Mbps, or `local`")?;
        if rate > 0.0 { Ok(Self::Rate(rate)) } else { Err("a link of no speed".into()) }
    }
}

/// A time in seconds.
fn seconds(text: &str) -> Result<f64, String> {
    const UNITS: [(&str, f64); 4] = [("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("\u{b5}s", 1e-6)];
    quantity(text, &UNITS, "a time, such as 20ms or 0.5s")
}

/// A number of bytes.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positive and below 2^60, checked"
)]
fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 9] = [
        ("B", 1.0),
        ("kB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("TB", 1e12),
        ("KiB", 1024.0),
        ("MiB", 1_048_576.0),
        ("GiB", 1_073_741_824.0),
        ("TiB", 1_099_511_627_776.0),
    ];
    let bytes = quantity(text, &UNITS, "a size, such as 4GiB or 500MB")?;
    if (1.0..1e18).contains(&bytes) {
        return Ok(bytes as u64);
    }
    Err("not between one byte and 10^18".into())
}

/// A number with one of these units, perhaps with a space between.
fn quantity(text: &str, units: &[(&str, f64)], wanted: &str) -> Result<f64, String> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start();
    let number: f64 = number.parse().map_err(|_| format!("`{text}` is not {wanted}"))?;
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        let names: Vec<&str> = units.iter().map(|&(name, _)| name).collect();
        let what = if unit.is_empty() {
            "has no unit".to_owned()
        } else {
            format!("has the unit `{unit}`")
        };
        return Err(format!("`{text}` {what}: write {wanted} (units: {})", names.join(", ")));
    };
    let value = number * factor;
    if value.is_finite() { Ok(value) } else { Err(format!("`{text}` is too large")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_sizes_and_times_have_units() {
        for (text, rate) in [
            ("1Gbps", 1e9),
            ("50Mbps", 5e7),
            ("2.5 Gbps", 2.5e9),
            ("56kbps", 56e3),
            ("9600bps", 9600.0),
            ("100Mbit/s", 1e8),
            ("300 bit/s", 300.0),
        ] {
            assert_eq!(text.parse(), Ok(LinkArgument::Rate(rate)), "{text}");
        }
        assert_eq!("local".parse(), Ok(LinkArgument::Local));
        for (text, size) in [
            ("4GiB", 4 << 30),
            ("500MB", 500_000_000),
            ("1B", 1),
            ("0.5KiB", 512),
            ("1.5 GB", 1_500_000_000),
        ] {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for (text, time) in [("1ms", 1e-3), ("0s", 0.0), ("0.25s", 0.25)] {
            assert_eq!(seconds(text), Ok(time), "{text}");
        }
        assert!((seconds("80us").unwrap() - 8e-5).abs() < 1e-12);
    }

    #[test]
    fn what_is_no_rate_size_or_time_is_refused_with_a_reason() {
        for (text, reason) in [
            ("1GBps", "bits"),
            ("100MB/s", "bits"),
            ("1000", "no unit"),
            ("1Xbps", "unit `Xbps`"),
            ("1gbps", "unit `gbps`"),
            ("Local", "`local`"),
            ("fast", "such as"),
            ("0Mbps", "no speed"),
            ("-1Gbps", "such as"),
            ("1e9bps", "unit"),
            ("nanbps", "such as"),
            ("", "such as"),
            ("1..5Gbps", "such as"),
        ] {
            let error = text.parse::<LinkArgument>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        for text in ["4", "4G", "0B", "0.4B", "GiB", "-4GiB", "99999999999TB", "4gib", "4Gb"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        for text in ["5", "5min", "-1ms", "ms", "1 s s"] {
            assert!(seconds(text).is_err(), "{text}");
        }
        let digits = format!("{}s", "9".repeat(400));
        assert!(seconds(&digits).unwrap_err().contains("too large"));
    }
}
