//! The functions that are approximated.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Interval;
use super::error_function::{normal_cdf, normal_density};
use crate::artifact;
use crate::error::{Error, Result};

/// A function of one variable.
///
/// The order of the variants is part of the model file format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Function {
    /// `max(x, 0)`.
    Relu,
    /// `x` for `x ≥ 0`, else `slope · x`.
    LeakyRelu {
        /// Slope for negative values, finite.
        slope: f64,
    },
    /// `1/(1 + e^(−x))`.
    Sigmoid,
    /// `tanh x`.
    Tanh,
    /// `log(1 + eˣ)`.
    Softplus,
    /// `x Φ(x)` with the distribution function `Φ` of the standard normal law.
    Gelu,
    /// `x/(1 + e^(−x))`.
    Silu,
    /// `|x|`.
    Abs,
    /// Straight lines between points of a table.
    Sampled(SampledFunction),
    /// `x (1 + tanh(√(2/π) (x + 0.044715 x³)))/2`, the form of GELU that some networks are trained
    /// with; at most `5·10⁻⁴` from [`Self::Gelu`] (Hendrycks and Gimpel 2016).
    GeluTanh,
}

/// A table of values, joined by straight lines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(f64, f64)>", into = "Vec<(f64, f64)>")]
pub struct SampledFunction {
    /// Invariant: at least 2, finite, strictly ascending in `x`.
    points: Vec<(f64, f64)>,
}

impl Function {
    /// Its value. A table goes on beyond its ends as its first and last line do.
    #[must_use]
    pub fn value(&self, x: f64) -> f64 {
        match self {
            Self::Relu => x.max(0.0),
            Self::LeakyRelu { slope } => x.max(0.0) + slope * x.min(0.0),
            Self::Sigmoid => sigmoid(x),
            Self::Tanh => x.tanh(),
            Self::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
            Self::Gelu => x * normal_cdf(x),
            Self::Silu => x * sigmoid(x),
            Self::GeluTanh => x * sigmoid(GeluGate::at(x).argument),
            Self::Abs => x.abs(),
            Self::Sampled(table) => table
                .line(x)
                .map_or(0.0, |((x0, y0), (x1, y1))| y0 + (y1 - y0) * ((x - x0) / (x1 - x0))),
        }
    }

    /// Its slope; at a corner, the mean of the slopes on both sides (of a table, the right one).
    #[must_use]
    pub fn derivative(&self, x: f64) -> f64 {
        let step = if x == 0.0 { 0.5 } else { f64::from(u8::from(x > 0.0)) };
        match self {
            Self::Relu => step,
            Self::LeakyRelu { slope } => slope + (1.0 - slope) * step,
            Self::Sigmoid => sigmoid(x) * sigmoid(-x),
            Self::Tanh => 1.0 - x.tanh().powi(2),
            Self::Softplus => sigmoid(x),
            Self::Gelu => normal_cdf(x) + x * normal_density(x),
            Self::Silu => sigmoid(x) * (1.0 + x * sigmoid(-x)),
            Self::GeluTanh => GeluGate::at(x).derivative(x),
            Self::Abs => 2.0 * step - 1.0,
            Self::Sampled(table) => {
                table.line(x).map_or(0.0, |((x0, y0), (x1, y1))| (y1 - y0) / (x1 - x0))
            }
        }
    }

    /// Its second derivative; 0 at a corner.
    #[must_use]
    pub fn second_derivative(&self, x: f64) -> f64 {
        match self {
            Self::Relu | Self::LeakyRelu { .. } | Self::Abs | Self::Sampled(_) => 0.0,
            Self::Sigmoid => sigmoid_bend(x),
            Self::Tanh => -2.0 * x.tanh() * (1.0 - x.tanh().powi(2)),
            Self::Softplus => sigmoid(x) * sigmoid(-x),
            Self::Gelu => normal_density(x) * (2.0 - x * x),
            Self::Silu => 2.0 * sigmoid(x) * sigmoid(-x) + x * sigmoid_bend(x),
            Self::GeluTanh => GeluGate::at(x).second_derivative(x),
        }
    }

    /// Whether no value is negative.
    #[must_use]
    pub fn is_non_negative(&self) -> bool {
        match self {
            Self::Relu | Self::Sigmoid | Self::Softplus | Self::Abs => true,
            Self::LeakyRelu { slope } => *slope <= 0.0,
            Self::Tanh | Self::Gelu | Self::Silu | Self::GeluTanh => false,
            // Beyond the ends the first and the last line go on.
            Self::Sampled(table) => {
                table.points.iter().all(|&(_, y)| y >= 0.0)
                    && self.derivative(f64::NEG_INFINITY) <= 0.0
                    && self.derivative(f64::INFINITY) >= 0.0
            }
        }
    }

    /// Whether larger arguments never have smaller values: then `max f(x) = f(max x)`.
    #[must_use]
    pub fn is_non_decreasing(&self) -> bool {
        match self {
            Self::Relu | Self::Sigmoid | Self::Tanh | Self::Softplus => true,
            Self::LeakyRelu { slope } => *slope >= 0.0,
            Self::Gelu | Self::Silu | Self::Abs | Self::GeluTanh => false,
            Self::Sampled(table) => {
                table.points.iter().zip(table.points.iter().skip(1)).all(|(p, q)| p.1 <= q.1)
            }
        }
    }

    /// Where the function may turn from falling to rising or back: between two neighbors it is
    /// monotone. Ascending.
    pub(crate) fn turning_points(&self) -> Vec<f64> {
        match self {
            Self::Sigmoid | Self::Tanh | Self::Softplus => Vec::new(),
            Self::Relu | Self::LeakyRelu { .. } | Self::Abs => vec![0.0],
            Self::Gelu => vec![GELU_LEAST],
            Self::GeluTanh => vec![GELU_TANH_LEAST],
            Self::Silu => vec![SILU_LEAST],
            Self::Sampled(table) => table.points.iter().map(|&(knot, _)| knot).collect(),
        }
    }

    /// Largest value on `interval`.
    #[must_use]
    pub fn largest_on(&self, interval: Interval) -> f64 {
        let inside = self.turning_points().into_iter().filter(|&x| interval.contains(x));
        let ends = [interval.low(), interval.high()];
        inside.chain(ends).map(|x| self.value(x)).fold(f64::NEG_INFINITY, f64::max)
    }

    /// Name of the kind of function as the names of layers are written, such as `leaky_relu`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Relu => "relu",
            Self::LeakyRelu { .. } => "leaky_relu",
            Self::Sigmoid => "sigmoid",
            Self::Tanh => "tanh",
            Self::Softplus => "softplus",
            Self::Gelu => "gelu",
            Self::Silu => "silu",
            Self::Abs => "abs",
            Self::Sampled(_) => "sampled",
            Self::GeluTanh => "gelu_tanh",
        }
    }

    /// Whether the function has a corner at `x`.
    pub(super) fn has_corner_at(&self, x: f64) -> bool {
        match self {
            Self::Relu | Self::LeakyRelu { .. } | Self::Abs => x == 0.0,
            Self::Sampled(table) => table.points.iter().any(|&(knot, _)| knot == x),
            Self::Sigmoid
            | Self::Tanh
            | Self::Softplus
            | Self::Gelu
            | Self::Silu
            | Self::GeluTanh => false,
        }
    }

    /// Where inside `interval` numerical integration must be cut: at corners, and around 0 at
    /// distances that grow like the scale on which a smooth function changes.
    pub(super) fn cuts(&self, interval: Interval) -> Vec<f64> {
        let mut cuts = match self {
            Self::Relu | Self::LeakyRelu { .. } | Self::Abs => vec![0.0],
            Self::Sampled(table) => table.points.iter().map(|&(knot, _)| knot).collect(),
            Self::Sigmoid
            | Self::Tanh
            | Self::Softplus
            | Self::Gelu
            | Self::Silu
            | Self::GeluTanh => {
                let distances = (0..24).map(|k| f64::from(k) * 2.0).chain([64.0, 128.0, 512.0]);
                distances.flat_map(|distance| [-distance, distance]).collect()
            }
        };
        cuts.retain(|&x| interval.low() < x && x < interval.high());
        cuts
    }

    /// Whether the function is defined on `interval` with these numbers.
    pub(super) fn check(&self, interval: Interval) -> Result<()> {
        match self {
            Self::LeakyRelu { slope } if !slope.is_finite() => Err(Error::InvalidSetting {
                setting: "slope of the leaky ReLU",
                value: *slope,
                requirement: "finite",
            }),
            Self::Sampled(table) if !table.covers(interval) => Err(Error::CannotApproximate {
                function: self.to_string(),
                method: "any method".to_owned(),
                reason: "the samples do not cover the interval",
            }),
            Self::Relu
            | Self::LeakyRelu { .. }
            | Self::Sigmoid
            | Self::Tanh
            | Self::Softplus
            | Self::Gelu
            | Self::Silu
            | Self::Abs
            | Self::Sampled(_)
            | Self::GeluTanh => Ok(()),
        }
    }
}

fn sigmoid(x: f64) -> f64 {
    // Never the exponential of a large number.
    let decay = (-x.abs()).exp();
    if x < 0.0 { decay / (1.0 + decay) } else { 1.0 / (1.0 + decay) }
}

/// Second derivative of [`sigmoid`].
fn sigmoid_bend(x: f64) -> f64 {
    sigmoid(x) * sigmoid(-x) * (sigmoid(-x) - sigmoid(x))
}

/// The gate `s(p)` of `x s(p)`, the GELU by tanh: `(1 + tanh(p/2))/2` is the sigmoid of `p`.
pub(super) struct GeluGate {
    /// `p = 2√(2/π) (x + 0.044715 x³)`.
    pub(super) argument: f64,
    /// `p′`.
    pub(super) slope: f64,
    /// `p″`.
    pub(super) bend: f64,
}

impl GeluGate {
    const SCALE: f64 = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::SQRT_2;
    const CUBIC: f64 = 0.044_715;
    /// `p‴`, everywhere.
    pub(super) const TWIST: f64 = 6.0 * Self::SCALE * Self::CUBIC;
    /// Beyond, the gate is 0 or 1 to the last bit, and powers of large `x` might be infinite.
    const REACH: f64 = 40.0;

    pub(super) fn at(x: f64) -> Self {
        let x = x.clamp(-Self::REACH, Self::REACH);
        Self {
            argument: Self::SCALE * x * (1.0 + Self::CUBIC * x * x),
            slope: Self::SCALE * (1.0 + 3.0 * Self::CUBIC * x * x),
            bend: Self::TWIST * x,
        }
    }

    fn derivative(&self, x: f64) -> f64 {
        let p = self.argument;
        sigmoid(p) + x * sigmoid(p) * sigmoid(-p) * self.slope
    }

    fn second_derivative(&self, x: f64) -> f64 {
        let p = self.argument;
        let rise = sigmoid(p) * sigmoid(-p);
        2.0 * rise * self.slope + x * (sigmoid_bend(p) * self.slope * self.slope + rise * self.bend)
    }
}

/// Where `x Φ(x)` is least.
const GELU_LEAST: f64 = -0.751_791_524_693_564_5;
/// Where the GELU by tanh is least.
const GELU_TANH_LEAST: f64 = -0.752_461_422_071_016_2;
/// Where `x/(1 + e^(−x))` is least: `−1 − W(1/e)`.
const SILU_LEAST: f64 = -1.278_464_542_761_074;

impl TryFrom<Vec<(f64, f64)>> for SampledFunction {
    type Error = Error;

    fn try_from(points: Vec<(f64, f64)>) -> Result<Self> {
        Self::new(points)
    }
}

impl From<SampledFunction> for Vec<(f64, f64)> {
    fn from(function: SampledFunction) -> Self {
        function.points
    }
}

impl SampledFunction {
    /// Most points of a table.
    pub const MAX_POINTS: usize = 4096;
    /// Largest file with a table, in bytes.
    pub const MAX_BYTES: usize = 1 << 20;

    /// Join `points` by straight lines.
    ///
    /// # Errors
    /// - [`Error::NoSamples`] for fewer than two points, [`Error::TooLarge`] for more than
    ///   [`Self::MAX_POINTS`].
    /// - [`Error::InvalidTable`] unless all are finite with strictly ascending `x`; lines are counted
    ///   from 1.
    pub fn new(points: Vec<(f64, f64)>) -> Result<Self> {
        if points.len() < 2 {
            return Err(Error::NoSamples { what: "a table of fewer than two points" });
        }
        if points.len() > Self::MAX_POINTS {
            return Err(Error::TooLarge {
                what: "number of points",
                actual: points.len() as u64,
                limit: Self::MAX_POINTS as u64,
            });
        }
        let bad = |line: usize, reason: &str| {
            Err(Error::InvalidTable { line: line as u64, reason: reason.to_owned() })
        };
        for (idx, &(x, y)) in points.iter().enumerate() {
            // Magnitudes at which differences and products stay finite.
            if !(x.abs() <= Interval::MAX_MAGNITUDE && y.abs() <= 1e100) {
                return bad(idx + 1, "x is at most 1e6 and y at most 1e100 in magnitude");
            }
            let previous = idx.checked_sub(1).and_then(|idx| points.get(idx));
            if previous.is_some_and(|&(before, _)| x - before < 1e-9) {
                return bad(idx + 1, "x does not ascend (by at least 1e-9)");
            }
        }
        Ok(Self { points })
    }

    /// Read a table: two numbers `x,y` per line, with or without a header line.
    ///
    /// # Errors
    /// - [`Error::Io`] or [`Error::TooLarge`] if the file cannot be read or exceeds [`Self::MAX_BYTES`].
    /// - [`Error::InFile`] around [`Error::InvalidTable`] or [`Error::InvalidCell`] for its content, and
    ///   around the errors of [`Self::new`].
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = artifact::read_file(path, Self::MAX_BYTES)?;
        Self::parse(&bytes).map_err(|error| error.in_file(path))
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .trim(csv::Trim::All)
            .flexible(true)
            .from_reader(bytes);
        let mut points = Vec::new();
        for (idx, record) in reader.records().enumerate() {
            let line = idx as u64 + 1;
            let record =
                record.map_err(|error| Error::InvalidTable { line, reason: error.to_string() })?;
            let (Some(x), Some(y), 2) = (record.get(0), record.get(1), record.len()) else {
                let reason = format!("{} columns, expected x,y", record.len());
                return Err(Error::InvalidTable { line, reason });
            };
            let number = |column: &str, text: &str| match text.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(number),
                _ => Err(Error::InvalidCell {
                    line,
                    column: column.to_owned(),
                    value: text.chars().take(40).collect(),
                }),
            };
            match (number("x", x), number("y", y)) {
                (Ok(x), Ok(y)) => points.push((x, y)),
                // A first line without any number is a header.
                (Err(_), Err(_)) if idx == 0 => {}
                (Err(error), _) | (_, Err(error)) => return Err(error),
            }
        }
        Self::new(points)
    }

    /// The points, ascending.
    #[must_use]
    pub fn points(&self) -> &[(f64, f64)] {
        &self.points
    }

    fn covers(&self, interval: Interval) -> bool {
        let (first, last) = (self.points.first(), self.points.last());
        first.is_some_and(|p| p.0 <= interval.low()) && last.is_some_and(|p| p.0 >= interval.high())
    }

    /// The ends of the line above `x`.
    fn line(&self, x: f64) -> Option<((f64, f64), (f64, f64))> {
        let after = self.points.partition_point(|&(knot, _)| knot <= x);
        let after = after.clamp(1, self.points.len() - 1);
        Some((*self.points.get(after - 1)?, *self.points.get(after)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn functions() -> [Function; 10] {
        let table = SampledFunction::new(vec![(-9.0, 1.0), (0.0, 2.0), (9.0, -4.0)]).unwrap();
        [
            Function::Relu,
            Function::LeakyRelu { slope: 0.1 },
            Function::Sigmoid,
            Function::Tanh,
            Function::Softplus,
            Function::Gelu,
            Function::Silu,
            Function::Abs,
            Function::Sampled(table),
            Function::GeluTanh,
        ]
    }

    #[test]
    fn derivatives_are_slopes() {
        for function in functions() {
            for x in [-7.3, -1.9, -0.4, 0.3, 1.1, 2.5, 8.0] {
                let step = 1e-5;
                let slope = (function.value(x + step) - function.value(x - step)) / (2.0 * step);
                let derivative = function.derivative(x);
                assert!((slope - derivative).abs() < 1e-9, "{function} {x}: {slope} {derivative}");
                let bend = function.derivative(x + step) - function.derivative(x - step);
                let (bend, second) = (bend / (2.0 * step), function.second_derivative(x));
                assert!((bend - second).abs() < 1e-8, "{function} {x}: {bend} {second}");
            }
        }
        assert_eq!(Function::Relu.derivative(0.0), 0.5);
        assert_eq!(Function::Sigmoid.value(-800.0), 0.0);
        assert_eq!(Function::Softplus.value(800.0), 800.0);
        assert_eq!(Function::GeluTanh.value(1e200), 1e200);
        assert_eq!(Function::GeluTanh.derivative(-1e200), 0.0);
        assert_eq!(Function::GeluTanh.second_derivative(1e200), 0.0);
    }

    #[test]
    fn the_gelu_by_tanh_is_near_the_other() {
        let distance = |x: f64| (Function::GeluTanh.value(x) - Function::Gelu.value(x)).abs();
        let largest = (-800..=800).map(|i| distance(f64::from(i) / 100.0)).fold(0.0, f64::max);
        assert!((2e-4..5e-4).contains(&largest), "{largest}");
        // PyTorch: functional.gelu(torch.tensor([-1., 2.], dtype=float64), approximate="tanh").
        assert!((Function::GeluTanh.value(-1.0) + 0.158_808_009_391_7).abs() < 1e-12);
        assert!((Function::GeluTanh.value(2.0) - 1.954_597_694_087_8).abs() < 1e-12);
    }

    #[test]
    fn shapes_are_those_of_the_values() {
        let grid = || (-4000..=4000).map(|i| f64::from(i) / 200.0);
        for function in functions() {
            let values: Vec<f64> = grid().map(|x| function.value(x)).collect();
            let is_non_negative = values.iter().all(|&y| y >= 0.0);
            assert_eq!(function.is_non_negative(), is_non_negative, "{function}");
            let rises = values.iter().zip(values.iter().skip(1)).all(|(a, b)| a <= b);
            assert_eq!(function.is_non_decreasing(), rises, "{function}");
            // Where the direction changes, a turning point lies.
            let x: Vec<f64> = grid().collect();
            for (x, y) in x.windows(3).zip(values.windows(3)) {
                let turns = (y[1] - y[0]) * (y[2] - y[1]) < 0.0;
                let is_known = |p: &f64| (x[0]..=x[2]).contains(p);
                assert!(
                    !turns || function.turning_points().iter().any(is_known),
                    "{function} {x:?}"
                );
            }
        }
        for function in functions() {
            let interval = Interval::new(-9.0, 3.0).unwrap();
            let largest = function.largest_on(interval);
            let values = grid().filter(|&x| interval.contains(x)).map(|x| function.value(x));
            assert_eq!(values.fold(f64::NEG_INFINITY, f64::max), largest, "{function}");
        }
        for (function, least) in [
            (Function::Gelu, GELU_LEAST),
            (Function::Silu, SILU_LEAST),
            (Function::GeluTanh, GELU_TANH_LEAST),
        ] {
            assert!(function.derivative(least).abs() < 1e-12);
        }
    }

    #[test]
    fn tables_are_read_with_or_without_a_header() {
        let expected = [(-1.0, 1.0), (0.0, 0.0), (2.5, 4.0)];
        for text in ["x,y\n-1,1\n0, 0\n2.5,4\n", "-1,1\n0,0\n2.5,4"] {
            assert_eq!(SampledFunction::parse(text.as_bytes()).unwrap().points(), expected);
        }
        for (text, expected) in [
            ("", "fewer than two"),
            ("1,2", "fewer than two"),
            ("1,2\n1,3", "line 2: x does not ascend"),
            ("1,2\n2,x", "line 2, column `y`: `x`"),
            ("1,2\n2,inf", "line 2, column `y`: `inf`"),
            ("x,2\n2,3", "line 1, column `x`"),
            ("1,2\n2", "line 2: 1 columns"),
            ("1,2\n2000001,3", "line 2: x is at most"),
        ] {
            let error = SampledFunction::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
