//! Flags of the commands about polynomial activations.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use nn_poly::approximate::{Function, Method};

use super::{OutputPath, ReadingArguments, TrainedModelArguments, TrainingRunArguments};

/// Fit polynomials to an activation, and tell how good they are inside and outside the interval.
///
/// Twelve methods, and one more, `observed`, with a model and data: least squares on the values that
/// reach each activation of the model.
#[derive(Debug, Args)]
#[command(after_help = "\
Methods: legendre, chebyshev, cryptodl, cryptodl8 (least squares under a measure); the same after
`derivative-` (fit the derivative, integrate); interpolation, minimax, bernstein, taylor, observed.

Examples:
  securedl approximate --function relu --degree 2 --interval 4
  securedl approximate --function gelu --degree 6 --interval=-8,4 --method minimax --svg gelu.svg
  securedl approximate --function relu --interval auto --model relu.model --data mnist --json -
  securedl approximate --function sampled --table f.csv --interval 0,10")]
pub(crate) struct ApproximateArguments {
    /// relu, leaky-relu, leaky-relu:SLOPE, sigmoid, tanh, softplus, gelu, gelu-tanh, silu, abs, or
    /// `sampled` (a table, with --table).
    #[arg(long, value_name = "NAME", default_value = "relu")]
    pub(crate) function: FunctionArgument,
    /// Table of the function: lines `x,y`, joined by straight lines.
    #[arg(long, value_name = "FILE")]
    pub(crate) table: Option<PathBuf>,
    /// Degree of the polynomials.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub(crate) degree: u8,
    /// `L` for [-L, L], `A,B` for [A, B], or `auto`: what reaches each activation of the model
    /// [default: auto with a model, else 4].
    #[arg(long, value_name = "I", allow_hyphen_values = true)]
    pub(crate) interval: Option<IntervalArgument>,
    /// One method, or `all`.
    #[arg(long, value_name = "NAME", default_value = "all")]
    pub(crate) method: MethodArgument,
    /// Model whose pre-activations are observed.
    #[arg(long, value_name = "MODEL", requires = "data")]
    pub(crate) model: Option<PathBuf>,
    /// Data to observe them on: the training part of a path, or of a name in $SECUREDL_DATA.
    #[arg(long, value_name = "PATH", requires = "model")]
    pub(crate) data: Option<String>,
    #[command(flatten)]
    pub(crate) reading: ReadingArguments,
    /// Share of the observed values that an automatic interval holds.
    #[arg(long, value_name = "SHARE", default_value_t = 0.999)]
    pub(crate) coverage: f64,
    /// Draw functions and errors.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Write everything as JSON (without FILE: to standard output).
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    pub(crate) json: Option<OutputPath>,
}

/// Make the activations of a trained network polynomials, so that a server can evaluate them.
///
/// Each ReLU, GELU and the like is replaced by a polynomial fitted to the values that reach it. Training
/// moves the network over gradually, with learnable coefficients and a loss that keeps values inside
/// the fitted intervals; quantization-aware fine-tuning follows.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  securedl polynomialize relu.model --data mnist --out poly.model
  securedl polynomialize relu.model --data mnist --degree 2 --fit minimax --coverage 1 \\
                         --epochs 6 --bits 5/5/6 --out poly.model
  securedl polynomialize relu.model --data mnist --function gelu --out poly.model")]
pub(crate) struct PolynomializeArguments {
    #[command(flatten)]
    pub(crate) trained: TrainedModelArguments,
    /// Degree of the polynomials; integer networks evaluate 1 and 2.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub(crate) degree: u8,
    /// What the polynomials are fitted to, by the names of `securedl approximate` [default: what each
    /// replaces].
    #[arg(long, value_name = "NAME")]
    pub(crate) function: Option<Function>,
    /// Which polynomials to start from: `observed`, or a method of `securedl approximate`.
    #[arg(long, value_name = "METHOD", default_value = "observed")]
    pub(crate) fit: MethodArgument,
    /// Share of the observed values that each layer's interval holds.
    #[arg(long, value_name = "SHARE", default_value_t = 0.999)]
    pub(crate) coverage: f64,
    /// Do not limit values after the activations to what the functions give in the interval.
    #[arg(long)]
    pub(crate) no_clamp: bool,
    /// Passes over the training data, before fine-tuning [default: as many as training takes].
    #[arg(long, value_name = "E", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) epochs: Option<u32>,
    /// Passes over the training data with quantizers, after that [default: as many as training takes].
    #[arg(long, value_name = "E", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) fine_tune_epochs: Option<u32>,
    /// Peak learning rate.
    #[arg(long, value_name = "RATE", default_value_t = 2e-3)]
    pub(crate) learning_rate: f64,
    /// Share of the steps over which the functions fade out.
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    pub(crate) ramp: f64,
    /// Weight of the loss for values outside the intervals.
    #[arg(long, value_name = "W", default_value_t = 0.1)]
    pub(crate) range_weight: f64,
    #[command(flatten)]
    pub(crate) run: TrainingRunArguments,
}

/// A function by name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum FunctionArgument {
    /// A known one.
    Named(Function),
    /// The table of `--table`.
    Sampled,
}

impl FromStr for FunctionArgument {
    type Err = nn_poly::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "sampled" { Ok(Self::Sampled) } else { text.parse().map(Self::Named) }
    }
}

/// Methods of approximation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MethodArgument {
    /// Every one.
    All,
    /// Least squares on observed values.
    Observed,
    /// One that needs no values.
    Of(Method),
}

impl FromStr for MethodArgument {
    type Err = nn_poly::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => Ok(Self::All),
            Method::OBSERVED => Ok(Self::Observed),
            name => name.parse().map(Self::Of),
        }
    }
}

/// Where to approximate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum IntervalArgument {
    /// Where values were observed.
    Auto,
    /// From the first to the second.
    Of(f64, f64),
}

impl FromStr for IntervalArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let numbers: Vec<f64> = text
            .split(',')
            .map(|number| number.trim().parse())
            .collect::<Result<_, _>>()
            .map_err(|_| {
                format!("`{text}` is neither `auto`, nor a number such as 4, nor two such as -2,6")
            })?;
        match *numbers.as_slice() {
            [l] => Ok(Self::Of(-l, l)),
            [low, high] => Ok(Self::Of(low, high)),
            _ => Err(format!("{} numbers; expected L, or A,B", numbers.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_auto_one_number_or_two() {
        assert_eq!("auto".parse(), Ok(IntervalArgument::Auto));
        assert_eq!("4".parse(), Ok(IntervalArgument::Of(-4.0, 4.0)));
        assert_eq!("-2, 6.5".parse(), Ok(IntervalArgument::Of(-2.0, 6.5)));
        for wrong in ["", "x", "1,2,3", "1,", "AUTO"] {
            assert!(wrong.parse::<IntervalArgument>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn methods_and_functions_are_read_by_name() {
        assert_eq!("all".parse::<MethodArgument>().unwrap(), MethodArgument::All);
        assert_eq!("observed".parse::<MethodArgument>().unwrap(), MethodArgument::Observed);
        let minimax = MethodArgument::Of(Method::Minimax);
        assert_eq!("minimax".parse::<MethodArgument>().unwrap(), minimax);
        assert!("remez".parse::<MethodArgument>().is_err());
        assert_eq!("sampled".parse::<FunctionArgument>().unwrap(), FunctionArgument::Sampled);
        assert!("sin".parse::<FunctionArgument>().is_err());
    }
}
