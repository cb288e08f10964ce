//! Values of a configuration file: sizes, times, counts, addresses, paths.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Value;

use super::Settings;

/// Sizes, largest unit first.
const SIZES: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Times in milliseconds, largest unit first.
const TIMES: [(&str, u64); 4] = [("h", 3_600_000), ("min", 60_000), ("s", 1000), ("ms", 1)];

/// What kind of value an option takes, and where it goes.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Count {
        field: fn(&mut Settings) -> &mut usize,
        min: usize,
        max: usize,
    },
    Size {
        field: fn(&mut Settings) -> &mut u64,
        min: u64,
        max: u64,
    },
    Time {
        field: fn(&mut Settings) -> &mut Duration,
        min: Duration,
        max: Duration,
    },
    Flag {
        field: fn(&mut Settings) -> &mut bool,
    },
    Address {
        field: fn(&mut Settings) -> &mut SocketAddr,
    },
    /// Empty = none.
    OptionalAddress {
        field: fn(&mut Settings) -> &mut Option<SocketAddr>,
    },
    Path {
        field: fn(&mut Settings) -> &mut PathBuf,
    },
    /// Empty = none.
    OptionalPath {
        field: fn(&mut Settings) -> &mut Option<PathBuf>,
    },
    Paths {
        field: fn(&mut Settings) -> &mut Vec<PathBuf>,
    },
    Choice {
        field: fn(&mut Settings) -> &mut &'static str,
        among: &'static [&'static str],
    },
    Text {
        field: fn(&mut Settings) -> &mut String,
    },
}

impl Kind {
    /// What may stand there, in words.
    pub(super) fn allowed(self) -> String {
        match self {
            Self::Count { min, max, .. } => format!("a number from {min} to {max}"),
            Self::Size { min, max, .. } => {
                format!("a size from {} to {}", quoted(min, &SIZES), quoted(max, &SIZES))
            }
            Self::Time { min, max, .. } => {
                format!("a time from {} to {}", time_text(min), time_text(max))
            }
            Self::Flag { .. } => "true or false".to_owned(),
            Self::Address { .. } => "an address and port such as \"0.0.0.0:7443\"".to_owned(),
            Self::OptionalAddress { .. } => {
                "an address and port such as \"127.0.0.1:9464\", or \"\" for none".to_owned()
            }
            Self::Path { .. } => "a path".to_owned(),
            Self::OptionalPath { .. } => "a path, or \"\" for none".to_owned(),
            Self::Paths { .. } => "a list of paths".to_owned(),
            Self::Choice { among, .. } => {
                let names: Vec<String> = among.iter().map(|name| format!("\"{name}\"")).collect();
                names.join(" or ")
            }
            Self::Text { .. } => "text".to_owned(),
        }
    }

    /// Put a value where it belongs; paths are relative to `folder`. `None`: it is not allowed.
    pub(super) fn read(self, settings: &mut Settings, value: &Value, folder: &Path) -> Option<()> {
        match self {
            Self::Count { field, min, max } => {
                let count = usize::try_from(value.as_integer()?).ok()?;
                *field(settings) = Some(count).filter(|count| (min..=max).contains(count))?;
            }
            Self::Size { field, min, max } => {
                let size = match value {
                    Value::Integer(bytes) => u64::try_from(*bytes).ok()?,
                    Value::String(text) => parsed(text, &SIZES)?,
                    Value::Float(_)
                    | Value::Boolean(_)
                    | Value::Datetime(_)
                    | Value::Array(_)
                    | Value::Table(_) => return None,
                };
                *field(settings) = Some(size).filter(|size| (min..=max).contains(size))?;
            }
            Self::Time { field, min, max } => {
                let time = Duration::from_millis(parsed(value.as_str()?, &TIMES)?);
                *field(settings) = Some(time).filter(|time| (min..=max).contains(time))?;
            }
            Self::Flag { field } => *field(settings) = value.as_bool()?,
            Self::Address { field } => *field(settings) = value.as_str()?.parse().ok()?,
            Self::OptionalAddress { field } => {
                *field(settings) = match value.as_str()? {
                    "" => None,
                    text => Some(text.parse().ok()?),
                };
            }
            Self::Path { field } => {
                let path = value.as_str().filter(|path| !path.is_empty())?;
                *field(settings) = folder.join(path);
            }
            Self::OptionalPath { field } => {
                let path = value.as_str()?;
                *field(settings) = (!path.is_empty()).then(|| folder.join(path));
            }
            Self::Paths { field } => {
                let path = |value: &Value| value.as_str().map(|path| folder.join(path));
                *field(settings) = value.as_array()?.iter().map(path).collect::<Option<_>>()?;
            }
            Self::Choice { field, among } => {
                let text = value.as_str()?;
                *field(settings) = among.iter().find(|name| **name == text)?;
            }
            Self::Text { field } => value.as_str()?.clone_into(field(settings)),
        }
        Some(())
    }

    /// The present value as it stands in a file.
    pub(super) fn show(self, settings: &Settings) -> String {
        let mut settings = settings.clone();
        let settings = &mut settings;
        let text = |text: &str| Value::from(text).to_string();
        let path = |path: &Path| text(&path.to_string_lossy());
        match self {
            Self::Count { field, .. } => field(settings).to_string(),
            Self::Size { field, .. } => quoted(*field(settings), &SIZES),
            Self::Time { field, .. } => time_text(*field(settings)),
            Self::Flag { field } => field(settings).to_string(),
            Self::Address { field } => text(&field(settings).to_string()),
            Self::OptionalAddress { field } => {
                text(&field(settings).map(|address| address.to_string()).unwrap_or_default())
            }
            Self::Path { field } => path(field(settings)),
            Self::OptionalPath { field } => {
                field(settings).as_deref().map_or_else(|| text(""), path)
            }
            Self::Paths { field } => {
                let paths: Vec<String> = field(settings).iter().map(|one| path(one)).collect();
                format!("[{}]", paths.join(", "))
            }
            Self::Choice { field, .. } => text(field(settings)),
            Self::Text { field } => text(field(settings)),
        }
    }
}

/// A size as the file takes it, in bytes.
pub(in crate::commands::serve) fn size(text: &str) -> Option<u64> {
    parsed(text, &SIZES)
}

/// A whole number with a unit, in the smallest one.
fn parsed(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let unit = unit.trim_start();
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// A number in the largest unit that fits.
fn quoted(amount: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, factor): &&(&str, u64)| amount != 0 && amount.is_multiple_of(*factor);
    let (unit, factor) = units.iter().find(fits).or(units.last()).copied().unwrap_or(("", 1));
    format!("\"{}{unit}\"", amount / factor)
}

fn time_text(time: Duration) -> String {
    quoted(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), &TIMES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_are_read_exactly_and_written_back() {
        for (text, size) in [("1B", 1), ("3 KiB", 3 << 10), ("4GiB", 4 << 30), ("1025B", 1025)] {
            assert_eq!(parsed(text, &SIZES), Some(size), "{text}");
            let written = quoted(size, &SIZES);
            assert_eq!(parsed(written.trim_matches('"'), &SIZES), Some(size), "{written}");
        }
        assert_eq!(quoted(1536, &SIZES), "\"1536B\"");
        assert_eq!(quoted(90_000, &TIMES), "\"90s\"");
        assert_eq!(quoted(0, &TIMES), "\"0ms\"");
        for wrong in ["", "4", "GiB", "4 gb", "-1B", "1.5GiB", "99999999999TiB", "4GiB4", "٤GiB"] {
            assert_eq!(parsed(wrong, &SIZES), None, "{wrong}");
        }
    }
}
