//! Values of flags.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// `4/4/4`, or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BitsArgument {
    /// No quantization-aware fine-tuning.
    None,
    /// Bits of inputs, weights and activations.
    Of { input: u32, weight: u32, activation: u32 },
}

impl FromStr for BitsArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::None);
        }
        let numbers: Vec<u32> =
            text.split('/').map(str::parse).collect::<Result<_, _>>().map_err(|_| {
                format!("`{text}` is neither `none` nor three numbers such as 4/4/4")
            })?;
        match *numbers.as_slice() {
            [input, weight, activation] => Ok(Self::Of { input, weight, activation }),
            _ => Err(format!("{} numbers; expected input/weight/activation", numbers.len())),
        }
    }
}

/// A file to write, or standard output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OutputPath {
    /// Standard output, written as `-`.
    Stdout,
    /// A file.
    File(PathBuf),
}

impl FromStr for OutputPath {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "-" { Self::Stdout } else { Self::File(PathBuf::from(text)) })
    }
}

impl fmt::Display for OutputPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("standard output"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_three_numbers_or_none() {
        let four = BitsArgument::Of { input: 4, weight: 4, activation: 4 };
        assert_eq!("4/4/4".parse(), Ok(four));
        assert_eq!("none".parse(), Ok(BitsArgument::None));
        for wrong in ["", "4", "4/4", "4/4/4/4", "4/x/4", "-1/4/4", "NONE"] {
            assert!(wrong.parse::<BitsArgument>().is_err(), "{wrong}");
        }
    }
}
