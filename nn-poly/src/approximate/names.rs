//! Names of functions and methods, as the command line writes them.

use std::fmt;
use std::str::FromStr;

use super::{Function, Measure, Method};
use crate::error::{Error, Result};

impl Function {
    /// Slope of `leaky-relu` without a number.
    const DEFAULT_SLOPE: f64 = 0.01;

    /// The functions with a name of their own.
    pub const NAMED: [Self; 9] = [
        Self::Relu,
        Self::LeakyRelu { slope: Self::DEFAULT_SLOPE },
        Self::Sigmoid,
        Self::Tanh,
        Self::Softplus,
        Self::Gelu,
        Self::Silu,
        Self::Abs,
        Self::GeluTanh,
    ];
}

impl fmt::Display for Function {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::GeluTanh {
            return formatter.write_str("gelu-tanh");
        }
        let Self::LeakyRelu { slope } = self else { return formatter.write_str(self.kind()) };
        if *slope == Self::DEFAULT_SLOPE {
            formatter.write_str("leaky-relu")
        } else {
            write!(formatter, "leaky-relu:{slope}")
        }
    }
}

/// The names of [`Function::NAMED`], and `leaky-relu:SLOPE`.
impl FromStr for Function {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        if let Some(slope) = name.strip_prefix("leaky-relu:").and_then(|text| text.parse().ok()) {
            return Ok(Self::LeakyRelu { slope });
        }
        Self::NAMED.into_iter().find(|function| function.to_string() == name).ok_or_else(|| {
            Error::UnknownName {
                what: "function",
                actual: name.chars().take(40).collect(),
                expected: "relu, leaky-relu, leaky-relu:SLOPE, sigmoid, tanh, softplus, gelu, \
                           gelu-tanh, silu or abs",
            }
        })
    }
}

impl Method {
    /// Name of the fit to observed values.
    pub const OBSERVED: &'static str = "observed";
}

impl fmt::Display for Measure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Legendre => "legendre",
            Self::Chebyshev => "chebyshev",
            Self::CryptoDl => "cryptodl",
            Self::CryptoDlEighth => "cryptodl8",
        })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::LeastSquares(measure) => return measure.fmt(formatter),
            Self::Derivative(measure) => return write!(formatter, "derivative-{measure}"),
            Self::Interpolation => "interpolation",
            Self::Minimax => "minimax",
            Self::Bernstein => "bernstein",
            Self::Taylor => "taylor",
        })
    }
}

impl FromStr for Method {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|method| method.to_string() == name).ok_or_else(|| {
            Error::UnknownName {
                what: "method",
                actual: name.chars().take(40).collect(),
                expected: "legendre, chebyshev, cryptodl, cryptodl8, one of these after derivative-, \
                           interpolation, minimax, bernstein, taylor or observed",
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for function in Function::NAMED {
            assert_eq!(function.to_string().parse::<Function>().unwrap(), function);
        }
        let leaky = Function::LeakyRelu { slope: 0.25 };
        assert_eq!(leaky.to_string().parse::<Function>().unwrap(), leaky);
        for method in Method::ALL {
            assert_eq!(method.to_string().parse::<Method>().unwrap(), method);
        }
        assert!("sampled".parse::<Function>().is_err());
        assert!("leaky-relu:x".parse::<Function>().is_err());
        assert!("Legendre".parse::<Method>().is_err());
    }
}
