//! From features of a data set to what an imported network was trained on.

use std::str::FromStr;

use super::Preprocessing;
use super::assemble::{Affine, entry, single};
use super::fault::ImportError;
use crate::error::{Error, Result};
use crate::layer::Layer;
use crate::network::{Network, Source};

/// How features were scaled before the imported network saw them.
///
/// Readers of images deliver values from 0 to 1, readers of tables what the table holds.
#[derive(Clone, Debug, PartialEq)]
pub enum InputScale {
    /// `unit`: values from 0 to 1, as they are.
    Unit,
    /// `bytes`: values from 0 to 255.
    Bytes,
    /// `raw:LIMIT`: values as they are, limited to `−LIMIT ..= LIMIT`.
    Raw {
        /// The limit, positive.
        limit: f32,
    },
    /// `MEAN/DEVIATION`: `(x − mean)/deviation`, one number each, or one per channel (per feature of a
    /// table) separated by commas.
    Standardized {
        /// What is subtracted.
        mean: Vec<f32>,
        /// What then divides; positive.
        deviation: Vec<f32>,
    },
}

/// The forms of [`InputScale`], for messages.
const FORMS: &str = "expected unit, bytes, raw:LIMIT or MEAN/DEVIATION, such as 0.1307/0.3081 or \
                     0.49,0.48,0.45/0.25,0.24,0.26";

impl FromStr for InputScale {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || Error::UnknownName {
            what: "input scale",
            actual: text.chars().take(40).collect(),
            expected: FORMS,
        };
        let number = |text: &str| text.trim().parse::<f32>().ok().filter(|v| v.is_finite());
        let positive = |values: &[f32]| values.iter().all(|&v| v > 0.0);
        if let Some(limit) = text.strip_prefix("raw:") {
            let limit = number(limit).filter(|&limit| limit > 0.0);
            return Ok(Self::Raw { limit: limit.ok_or_else(refuse)? });
        }
        match (text, text.split_once('/')) {
            ("unit", _) => Ok(Self::Unit),
            ("bytes", _) => Ok(Self::Bytes),
            (_, Some((mean, deviation))) => {
                let list = |text: &str| text.split(',').map(number).collect::<Option<Vec<_>>>();
                let (mean, deviation) = list(mean).zip(list(deviation)).ok_or_else(refuse)?;
                if mean.len() != deviation.len() || !positive(&deviation) {
                    return Err(refuse());
                }
                Ok(Self::Standardized { mean, deviation })
            }
            _ => Err(refuse()),
        }
    }
}

/// The map to fold into the network, and the preprocessing of its inputs.
///
/// `file` is what the file does to its inputs, after `scale`. For values from 0 to 1 everything is folded
/// where that is exact; otherwise, and for tables, inputs are standardized.
pub(super) fn preprocessing(
    network: &Network<f32>,
    file: &Affine,
    scale: Option<&InputScale>,
    clip: f32,
) -> Result<(Affine, Preprocessing)> {
    let refuse = |reason| Error::from(ImportError::InputScale { reason });
    let shape = network.input_shape();
    let is_image = shape.as_image().is_some();
    let unit = InputScale::Unit;
    let scale = match scale {
        Some(scale) => scale,
        None if is_image => &unit,
        None if !file.is_identity() => {
            return standardized(network, file, clip);
        }
        None => {
            return Err(refuse(
                "nothing says how the features of this table were scaled: give raw:LIMIT, \
                 MEAN/DEVIATION or unit",
            ));
        }
    };
    let own = match scale {
        InputScale::Unit | InputScale::Raw { .. } => Affine::uniform(1.0, 0.0),
        InputScale::Bytes => Affine::uniform(255.0, 0.0),
        InputScale::Standardized { mean, deviation } => {
            let n = mean.len();
            if n != 1 && n != shape.channels() {
                return Err(refuse("give one mean and deviation, or one per channel or feature"));
            }
            let pairs = mean.iter().zip(deviation).map(|(&m, &d)| (f64::from(m), f64::from(d)));
            Affine {
                scale: pairs.clone().map(|(_, d)| d.recip()).collect(),
                offset: pairs.map(|(m, d)| -m / d).collect(),
            }
        }
    };
    let whole = own.then(file);
    match scale {
        InputScale::Standardized { .. } if !is_image => standardized(network, &whole, clip),
        InputScale::Raw { limit } => {
            let n = shape.len();
            let preprocessing = Preprocessing::Standardize {
                mean: vec![0.0; n],
                deviation: vec![1.0; n],
                clip: *limit,
            };
            Ok((whole, preprocessing))
        }
        InputScale::Unit | InputScale::Bytes | InputScale::Standardized { .. }
            if whole.keeps_zero() || !begins_with_padding(network) =>
        {
            Ok((whole, Preprocessing::UnitRange))
        }
        InputScale::Unit | InputScale::Bytes | InputScale::Standardized { .. } => {
            let n = whole.scale.len().max(whole.offset.len());
            let ends = (0..n).flat_map(|i| {
                let (s, o) = (entry(&whole.scale, i), entry(&whole.offset, i));
                [o.abs(), (s + o).abs()]
            });
            let clip = ends.fold(0.0, f64::max);
            standardized(network, &whole, single(clip))
        }
    }
}

/// Standardization that computes `map`, limited to `±clip`.
fn standardized(
    network: &Network<f32>,
    map: &Affine,
    clip: f32,
) -> Result<(Affine, Preprocessing)> {
    let reason = "a scale is not positive or too large; rescale the inputs before training";
    let n = network.input_shape().len();
    let at = |i: usize| (entry(&map.scale, i), entry(&map.offset, i));
    let mean = (0..n).map(|i| single(-at(i).1 / at(i).0)).collect();
    let deviation = (0..n).map(|i| single(at(i).0.recip())).collect();
    let preprocessing = Preprocessing::Standardize { mean, deviation, clip };
    preprocessing.check(n).map_err(|_| ImportError::InputScale { reason })?;
    Ok((Affine::uniform(1.0, 0.0), preprocessing))
}

/// Whether a map with an offset cannot move into the first layer.
fn begins_with_padding(network: &Network<f32>) -> bool {
    // Whether every value so far is the input, flattened or not.
    let mut is_input = vec![true];
    let mut cannot_move = network.layers().is_empty();
    for (layer_idx, layer) in network.layers().iter().enumerate() {
        let holds = |source: &Source| is_input.get(source.value_idx()) == Some(&true);
        let reads_input = network.sources(layer_idx).iter().any(holds);
        cannot_move |= reads_input
            && match layer {
                Layer::Conv2d(conv) => !conv.padding.is_none(),
                Layer::Dense(_) | Layer::Flatten => false,
                Layer::BatchNorm(_)
                | Layer::Activation(_)
                | Layer::Pool2d(_)
                | Layer::Clamp(_)
                | Layer::Quantize(_)
                | Layer::Dropout(_)
                | Layer::Add
                | Layer::Concat => true,
            };
        is_input.push(reads_input && matches!(layer, Layer::Flatten));
    }
    cannot_move || is_input.iter().all(|&holds| holds)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::cast_precision_loss, reason = "tests")]
    use ndarray::{Array1, Array2, Array4, array};

    use super::*;
    use crate::layer::{Conv2d, Dense, Padding};
    use crate::network::Predictor;
    use crate::tensor::Shape;

    #[test]
    fn scales_are_parsed() {
        let parse = |text: &str| text.parse::<InputScale>();
        assert_eq!(parse("unit").unwrap(), InputScale::Unit);
        assert_eq!(parse("bytes").unwrap(), InputScale::Bytes);
        assert_eq!(parse("raw:2.5").unwrap(), InputScale::Raw { limit: 2.5 });
        let expected = InputScale::Standardized { mean: vec![0.5, 1.0], deviation: vec![2.0, 4.0] };
        assert_eq!(parse("0.5, 1/2,4").unwrap(), expected);
        for wrong in ["", "raw:", "raw:-1", "raw:nan", "1", "1/0", "1,2/3", "1/2/3", "a/b", "0/-1"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    fn image(padding: usize) -> Network<f32> {
        let weights = Array4::from_shape_fn((2, 3, 3, 2), |(o, u, v, c)| {
            [0.5, -1.0, 0.25, 0.75, -0.5][(o + 2 * u + 3 * v + c) % 5]
        });
        let conv = Conv2d::new(weights, array![0.1, 0.2], (1, 1), Padding::uniform(padding));
        Network::new(Shape::image(4, 4, 2).unwrap(), vec![Layer::Conv2d(conv)]).unwrap()
    }

    /// Preprocessing and folded network together compute `network(file(scale(x)))`.
    fn check(network: &Network<f32>, scale: &InputScale, file: &Affine, is_unsigned: bool) {
        let (affine, preprocessing) = preprocessing(network, file, Some(scale), 3.0).unwrap();
        assert_eq!(preprocessing == Preprocessing::UnitRange, is_unsigned);
        let mut budget = super::super::assemble::Budget::for_files_of(0);
        let folded =
            super::super::assemble::with_input_affine(network, affine, &mut budget).unwrap();
        let n = network.input_shape().len();
        let features = Array2::from_shape_fn((3, n), |(i, j)| ((7 * i + j) % 11) as f32 / 10.0);
        let actual = folded.scores(&preprocessing.apply(&features).unwrap()).unwrap();
        let n_channels = network.input_shape().channels();
        let scaled = Array2::from_shape_fn((3, n), |(i, j)| {
            let x = f64::from(features[(i, j)]);
            let x = match scale {
                InputScale::Unit | InputScale::Raw { .. } => x,
                InputScale::Bytes => 255.0 * x,
                InputScale::Standardized { mean, deviation } => {
                    let c = j % n_channels % mean.len();
                    (x - f64::from(mean[c])) / f64::from(deviation[c])
                }
            };
            single(entry(&file.scale, j) * x + entry(&file.offset, j))
        });
        let expected = network.scores(&scaled).unwrap();
        for (actual, expected) in actual.iter().zip(&expected) {
            assert!((actual - expected).abs() < 1e-3 * (1.0 + expected.abs()), "{scale:?}");
        }
    }

    #[test]
    fn every_scale_computes_what_the_network_was_trained_on() {
        let standardized =
            InputScale::Standardized { mean: vec![0.5, 0.25], deviation: vec![0.25, 0.5] };
        let none = Affine::uniform(1.0, 0.0);
        let some = Affine { scale: vec![2.0, 0.5], offset: vec![0.0, -0.25] };
        for padding in [0, 1] {
            let network = image(padding);
            check(&network, &InputScale::Unit, &none, true);
            check(&network, &InputScale::Bytes, &none, true);
            check(&network, &standardized, &none, padding == 0);
            check(&network, &standardized, &some, padding == 0);
            check(&network, &InputScale::Unit, &some, padding == 0);
        }
        let weights = Array2::from_elem((2, 4), 0.5);
        let dense = Layer::Dense(Dense::new(weights, Array1::zeros(2)));
        let table = Network::new(Shape::vector(4).unwrap(), vec![dense]).unwrap();
        let one = InputScale::Standardized { mean: vec![0.5], deviation: vec![0.5] };
        check(&table, &one, &none, false);
        check(&table, &InputScale::Unit, &none, true);
        check(&table, &InputScale::Raw { limit: 2.0 }, &none, false);
    }

    #[test]
    fn a_table_without_a_known_scale_is_refused() {
        let dense = Layer::Dense(Dense::new(Array2::ones((2, 4)), Array1::zeros(2)));
        let table = Network::new(Shape::vector(4).unwrap(), vec![dense]).unwrap();
        let none = Affine::uniform(1.0, 0.0);
        let error = preprocessing(&table, &none, None, 3.0).unwrap_err().to_string();
        assert!(error.contains("raw:LIMIT"), "{error}");
        let negative = Affine::uniform(-1.0, 0.0);
        assert!(preprocessing(&table, &negative, None, 3.0).is_err());
        let wrong = InputScale::Standardized { mean: vec![0.0; 3], deviation: vec![1.0; 3] };
        assert!(preprocessing(&table, &none, Some(&wrong), 3.0).is_err());
    }
}
