//! Imported ONNX graphs compute what onnxruntime computes.
//!
//! The fixtures were written by `python/export_examples` (see the README there); each `NAME.onnx` has the
//! inputs and onnxruntime's outputs beside it. `.ci/run` makes more, and lets `live` check them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "tests"
)]

use std::path::{Path, PathBuf};

use ndarray::{Array2, ArrayD, Axis, IxDyn};
use nn_poly::import::{
    Ending, ImportedNetwork, InputScale, ModelOptions, ReadOptions, read_network,
};
use nn_poly::layer::Layer;
use nn_poly::model::Bits;
use nn_poly::quantize::quantize_model;
use nn_poly::{Network, Predictor, Tensor};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/onnx")
}

fn import(path: &Path) -> ImportedNetwork {
    read_network(path, &ReadOptions::default()).unwrap()
}

/// A batch in this crate's layout, if the graph has images with channels first.
fn rows(array: &ArrayD<f32>, shape: &[usize]) -> Array2<f32> {
    let n = array.len_of(Axis(0));
    let is_channels_first = array.ndim() == 4 && array.shape()[1..] != *shape;
    let array = if is_channels_first {
        let array = array.view().permuted_axes(IxDyn(&[0, 2, 3, 1]));
        assert_eq!(array.shape()[1..], *shape);
        array.as_standard_layout().into_owned()
    } else {
        array.clone()
    };
    let len: usize = shape.iter().product();
    array.into_shape_with_order((n, len)).unwrap()
}

/// What the file would answer, in `width` columns, from the scores of its network.
fn finish(imported: &ImportedNetwork, scores: &Array2<f64>, width: usize) -> Array2<f64> {
    let scores = if imported.is_binary && width == 1 {
        scores.slice_axis(Axis(1), ndarray::Slice::from(1..)).to_owned()
    } else {
        scores.clone()
    };
    match imported.ending {
        None => scores,
        Some(Ending::Sigmoid) => scores.mapv(|z| 1.0 / (1.0 + (-z).exp())),
        Some(ending) => {
            let mut scores = scores;
            for mut row in scores.rows_mut() {
                let most = row.iter().copied().fold(f64::MIN, f64::max);
                let sum: f64 = row.iter().map(|z| (z - most).exp()).sum();
                row.mapv_inplace(|z| z - most - sum.ln());
            }
            if ending == Ending::Softmax { scores.mapv(f64::exp) } else { scores }
        }
    }
}

/// Import `path` and compare with the outputs beside it; the largest difference.
///
/// onnxruntime computes in 32 bits and sums in an order of its own. Where large values cancel, such as
/// squares, a score may be small and still have the error of what it is a difference of; double
/// precision is then as far from onnxruntime as single precision is. So differences count in units of
/// the largest value that the sample has anywhere in the network, of which 32 bits resolve 6·10⁻⁸; and
/// the same network in double precision must be as close.
fn check(path: &Path) -> f64 {
    let read = |suffix: &str| -> ArrayD<f32> {
        ndarray_npy::read_npy(path.with_extension(suffix)).expect("NPY beside the graph")
    };
    let imported = import(path);
    let inputs = normalized(&imported, &read("inputs.npy"));
    let expected = read("outputs.npy");
    let n = expected.len_of(Axis(0));
    let width = expected.len() / n;
    let expected = expected.into_shape_with_order((n, width)).unwrap().mapv(f64::from);
    let wide = imported.network.cast::<f64>().unwrap();
    let wide_inputs = inputs.mapv(f64::from);
    let units = largest_values(&wide, &wide_inputs);
    let mut worst = 0.0_f64;
    for (bits, scores) in
        [(32, imported.network.scores(&inputs).unwrap()), (64, wide.outputs(&wide_inputs).unwrap())]
    {
        let actual = finish(&imported, &scores, width);
        assert_eq!(actual.dim(), expected.dim(), "{}", path.display());
        let off = &actual - &expected;
        let off =
            off.rows().into_iter().zip(&units).flat_map(|(row, unit)| row.mapv(|d| d.abs() / unit));
        let off = off.fold(0.0, f64::max);
        println!("{}, {bits} bits: {off:.1e}", path.display());
        assert!(off < 5e-6, "{}: off by {off} in {bits} bits", path.display());
        worst = worst.max(off);
    }
    worst
}

/// Inputs of a file as its network takes them: the normalization is not part of the network.
fn normalized(imported: &ImportedNetwork, inputs: &ArrayD<f32>) -> Array2<f32> {
    let entry = |values: &[f64], idx: usize| values[idx % values.len()];
    let mut inputs = rows(inputs, imported.network.input_shape().dims());
    for mut row in inputs.rows_mut() {
        for (idx, x) in row.iter_mut().enumerate() {
            let affine = &imported.input;
            let y = entry(&affine.scale, idx) * f64::from(*x) + entry(&affine.offset, idx);
            *x = y as f32;
        }
    }
    inputs
}

/// Per sample, the largest magnitude of a value, at least 1.
fn largest_values(network: &Network<f64>, inputs: &Array2<f64>) -> Vec<f64> {
    let batch = Tensor::new(network.input_shape().clone(), inputs.clone()).unwrap();
    let values = network.forward_all(&batch).unwrap();
    let of_sample = |sample: usize| {
        let all = values.iter().flat_map(|value| value.values().row(sample).to_vec());
        all.fold(1.0_f64, |most, v| most.max(v.abs()))
    };
    (0..inputs.nrows()).map(of_sample).collect()
}

fn graphs(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "onnx"))
        .collect();
    paths.sort();
    paths
}

#[test]
fn fixtures_compute_what_onnxruntime_computed() {
    let paths = graphs(&fixtures());
    assert!(paths.len() >= 10);
    for path in paths {
        check(&path);
    }
}

/// Fresh random graphs and onnxruntime's answers, made by `.ci/run`.
#[test]
#[ignore = "needs a folder made by python/export_examples/random_graphs.py in SECUREDL_ONNX_GRAPHS"]
fn live() {
    let folder = std::env::var_os("SECUREDL_ONNX_GRAPHS").expect("SECUREDL_ONNX_GRAPHS is set");
    let paths = graphs(Path::new(&folder));
    assert!(!paths.is_empty());
    let worst = paths.iter().map(|path| check(path)).fold(0.0, f64::max);
    println!("{} graphs, worst difference {worst:.1e} of the largest value", paths.len());
}

fn options() -> ModelOptions {
    ModelOptions {
        name: "imported".into(),
        labels: None,
        input_scale: None,
        clip: 3.0,
        input_shape: None,
    }
}

#[test]
fn what_was_read_is_told() {
    let imported = import(&fixtures().join("pytorch_cnn.onnx"));
    let kinds: Vec<&str> = imported.network.layers().iter().map(|layer| layer.name()).collect();
    assert_eq!(kinds, ["conv2d", "relu", "average_pool", "flatten", "dense"]);
    assert_eq!(imported.ending, Some(Ending::Softmax));
    assert_eq!((imported.opset, imported.n_unused_nodes), (Some(11), 0));
    let nodes: Vec<String> =
        imported.nodes.iter().map(|n| format!("{}: {}", n.site.operator, n.treatment)).collect();
    assert_eq!(nodes[1], "BatchNormalization: folded into its neighbors");
    assert_eq!(nodes[7], "Softmax: left out");

    let squares = import(&fixtures().join("depthwise_squares.onnx"));
    let kinds: Vec<&str> = squares.network.layers().iter().map(|layer| layer.name()).collect();
    let expected = ["conv2d", "square", "conv2d", "square", "average_pool", "flatten", "dense"];
    assert_eq!(kinds, expected, "normalization before a square is folded, the square stays one");
}

#[test]
fn residual_blocks_have_an_integer_form() {
    let imported = import(&fixtures().join("residual.onnx"));
    let count =
        |name: &str| imported.network.layers().iter().filter(|layer| layer.name() == name).count();
    let kinds = ["conv2d", "relu", "add", "average_pool", "flatten", "dense"];
    assert_eq!(kinds.map(count), [6, 5, 2, 1, 1, 1], "normalizations are folded");
    assert_eq!(imported.network.layers().len(), 16);
    let n = imported.network.input_shape().len();
    let inputs = Array2::from_shape_fn((40, n), |(i, j)| ((7 * i + 3 * j) % 17) as f32 / 16.0);
    let model = imported.into_model(options()).unwrap();
    let bits = Bits { input: 8, weight: 8, activation: 8 };
    let integers = quantize_model(&model, bits, &inputs).unwrap();
    // The stem, two per block, and the scores: shortcuts need no stage.
    assert_eq!(integers.network.structure().len(), 6);
    let expected = model.network().scores(&inputs).unwrap();
    let grid = integers.network.input();
    let scores = integers.network.evaluate(&grid.quantize(inputs.view()).unwrap()).unwrap().scores;
    let largest = expected.iter().fold(0.0_f64, |most, z| most.max(z.abs()));
    for (sample, row) in expected.rows().into_iter().enumerate() {
        for (class, z) in row.iter().enumerate() {
            let actual = scores[(class, sample)] as f64 * f64::from(integers.score_step);
            assert!((actual - z).abs() < 0.05 * largest, "{sample}/{class}: {actual} {z}");
        }
    }
}

/// Every activation is kept, and the whole has an integer form in which each is a table.
#[test]
fn activations_that_are_no_polynomials_stay() {
    let imported = import(&fixtures().join("activations.onnx"));
    let kinds: Vec<&str> = imported.network.layers().iter().map(|layer| layer.name()).collect();
    for (kind, n) in [
        ("silu", 1),
        ("leaky_relu", 2),
        ("sigmoid", 1),
        ("gelu", 1),
        ("tanh", 1),
        ("softplus", 1),
        ("abs", 1),
        ("max_pool", 2),
    ] {
        assert_eq!(kinds.iter().filter(|k| **k == kind).count(), n, "{kind}: {kinds:?}");
    }
    assert_eq!(imported.ending, Some(Ending::Sigmoid));
    assert!(imported.network.needs_client());
    let n = imported.network.input_shape().len();
    let inputs = Array2::from_shape_fn((40, n), |(i, j)| ((7 * i + 3 * j) % 17) as f32 / 16.0);
    let model = imported.into_model(options()).unwrap();
    let bits = Bits { input: 8, weight: 8, activation: 8 };
    let integers = quantize_model(&model, bits, &inputs).unwrap();
    let stages = integers.network.structure();
    assert_eq!(stages.iter().filter(|stage| stage.table().is_some()).count(), 8);
    assert_eq!(stages.len(), 9, "maxima belong to the stages before them");
}

#[test]
fn groups_stay_groups_and_branches_meet() {
    let squares = import(&fixtures().join("depthwise_squares.onnx"));
    let groups = |network: &Network<f32>| -> Vec<usize> {
        let of = |layer: &Layer<f32>| {
            if let Layer::Conv2d(conv) = layer { Some(conv.groups) } else { None }
        };
        network.layers().iter().filter_map(of).collect()
    };
    assert_eq!(groups(&squares.network), [4, 2]);
    let joined = import(&fixtures().join("joined.onnx"));
    let kinds: Vec<&str> = joined.network.layers().iter().map(|layer| layer.name()).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "concat").count(), 2, "{kinds:?}");
    assert!(kinds.contains(&"add"), "{kinds:?}");
    // The grouped convolution, and the normalization and its negative, which cannot move into it.
    assert_eq!(groups(&joined.network).iter().filter(|&&n| n == 5).count(), 3, "{kinds:?}");
}

#[test]
fn models_of_tables_standardize_as_the_file_does() {
    let imported = import(&fixtures().join("sklearn_mlp.onnx"));
    let model = imported.clone().into_model(options()).unwrap();
    assert!(model.spec().preprocessing.is_signed());
    assert_eq!(model.spec().class_names, ["0", "1", "2"]);
    let names = Some(["a", "b", "c"].map(String::from).to_vec());
    let named = ModelOptions { labels: names, ..options() };
    assert_eq!(imported.clone().into_model(named).unwrap().spec().class_names[2], "c");
    let wrong = ModelOptions { labels: Some(vec!["a".into()]), ..options() };
    let error = imported.into_model(wrong).unwrap_err().to_string();
    assert_eq!(error, "1 labels for a network with 3 scores");
}

/// Without a transposition at the start, the shape of the samples tells where the channels are.
#[test]
fn the_shape_of_the_samples_decides_about_the_layout() {
    let read = |dims: Option<&[usize]>| {
        let input_shape = dims.map(|dims| nn_poly::Shape::new(dims).unwrap());
        let reading = ReadOptions { input_shape: input_shape.clone(), ..ReadOptions::default() };
        let imported = read_network(&fixtures().join("keras_mlp.onnx"), &reading).unwrap();
        imported.into_model(ModelOptions { input_shape, ..options() })
    };
    let dims = |dims| read(dims).unwrap().network().input_shape().dims().to_vec();
    assert_eq!(dims(None), [4, 5, 3], "the short axis comes last");
    assert_eq!(dims(Some(&[4, 5, 3])), [4, 5, 3]);
    assert_eq!(dims(Some(&[5, 3, 4])), [5, 3, 4], "four channels of 5 × 3");
    let error = read(Some(&[3, 4, 5])).unwrap_err().to_string();
    assert!(error.contains("[4, 5, 3]"), "{error}");
}

#[test]
fn a_network_of_vectors_takes_images_of_one_channel() {
    let path = fixtures().join("sklearn_binary.onnx");
    let imported = import(&path);
    let shape = |dims: &[usize]| Some(nn_poly::Shape::new(dims).unwrap());
    let input_scale = Some(InputScale::Unit);
    let image = ModelOptions { input_shape: shape(&[1, 2, 1]), input_scale, ..options() };
    let model = imported.clone().into_model(image.clone()).unwrap();
    assert_eq!(model.network().input_shape().dims(), [1, 2, 1]);
    for dims in [&[1, 1, 2][..], &[1, 3, 1]] {
        let image = ModelOptions { input_shape: shape(dims), ..image.clone() };
        assert!(imported.clone().into_model(image).is_err(), "{dims:?}");
    }
}
