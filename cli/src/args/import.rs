//! Arguments of `securedl import`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use super::OutputPath;

/// Make a model of a network that was trained elsewhere.
///
/// Reads ONNX (operator sets 11 to 21), or a description in TOML beside a safetensors or NPZ file.
/// Normalizations are folded into the weights; what only turns scores into probabilities is left out.
/// Anything that cannot be computed exactly is refused with the name of the operation.
#[derive(Debug, Args)]
#[command(after_help = "\
Input scales:
  unit             the network reads values from 0 to 1, as images are delivered (default for them)
  bytes            it reads values from 0 to 255
  MEAN/DEVIATION   it reads (x - mean)/deviation; one number each, or one per channel or feature:
                   0.1307/0.3081, or 0.485,0.456,0.406/0.229,0.224,0.225
  raw:LIMIT        it reads the features of a table as they are, limited to -LIMIT ... LIMIT
A normalization at the beginning of the file (such as a StandardScaler) is used without being asked.

Examples:
  securedl import digits.onnx --labels classes.txt --out digits.model
  securedl import resnet.onnx --input-scale 0.49,0.48,0.45/0.25,0.24,0.26 --out resnet.model
  securedl import mlp.onnx --input-shape 28x28x1 --out mlp.model
  securedl import network.toml --out network.model --json -")]
pub(crate) struct ImportArguments {
    /// The network: FILE.onnx, or a description FILE.toml.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Names of the classes, one line `number name` each, from 0 [default: numbers].
    #[arg(long, value_name = "FILE")]
    pub(crate) labels: Option<PathBuf>,
    /// How features were scaled for the network: unit, bytes, MEAN/DEVIATION or raw:LIMIT.
    #[arg(long, value_name = "SCALE", allow_hyphen_values = true)]
    pub(crate) input_scale: Option<String>,
    /// Limit of standardized features of tables, in standard deviations.
    #[arg(long, value_name = "C", default_value_t = 3.0)]
    pub(crate) input_clip: f32,
    /// Shape of the samples, HEIGHTxWIDTHxCHANNELS, if the network reads images as vectors (of one
    /// channel), or it is open whether their channels come first or last.
    #[arg(long, value_name = "HxWxC")]
    pub(crate) input_shape: Option<ShapeArgument>,
    /// Output with the class scores, if an ONNX graph has several.
    #[arg(long, value_name = "NAME")]
    pub(crate) output: Option<String>,
    /// Name of the model [default: that of the file].
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Where to write the model.
    #[arg(long, value_name = "MODEL")]
    pub(crate) out: PathBuf,
    /// Write a report of what was imported (`-` = standard output).
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<OutputPath>,
}

/// Axes of a sample, such as `28x28x1` or `13`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShapeArgument(pub(crate) Vec<usize>);

impl FromStr for ShapeArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let dims: Option<Vec<usize>> =
            text.split('x').map(|dim| dim.parse().ok().filter(|&n| n > 0)).collect();
        dims.map(Self).ok_or_else(|| format!("`{text}` is not of the form 28x28x1"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_positive_numbers() {
        assert_eq!("28x28x1".parse(), Ok(ShapeArgument(vec![28, 28, 1])));
        for wrong in ["", "x", "28x", "0x1", "-1", "28×28"] {
            assert!(wrong.parse::<ShapeArgument>().is_err(), "{wrong}");
        }
    }
}
