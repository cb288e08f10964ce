#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "tests"
)]

use ndarray::{Array, Array1, Array2, Array4, Dimension, array};
use ndarray_npy::{WritableElement, WriteNpyExt};
use std::io::Write as _;

use super::*;
use crate::tensor::Tensor;

const DESCRIPTION: &str = r#"
weights = "FILE"
input = [4, 5, 2]
order = "ORDER"

[[layers]]
kind = "conv2d"
weights = "c.w"
bias = "c.b"
stride = [2, 1]
padding = [1, 0, 1, 1]
groups = 2

[[layers]]
kind = "batch_norm"
gamma = "n.g"
beta = "n.b"
mean = "n.m"
variance = "n.v"

[[layers]]
kind = "square"

[[layers]]
kind = "max_pool"
window = [2, 2]

[[layers]]
kind = "flatten"

[[layers]]
kind = "dense"
weights = "d.w"
"#;

/// Arrays as PyTorch has them, and the same as Keras has them.
struct Arrays {
    kernels: Array4<f32>,
    bias: Array1<f32>,
    statistics: [Array1<f32>; 4],
    matrix: Array2<f32>,
}

fn arrays() -> Arrays {
    let number = |i: usize| ((i * 29 % 17) as f32 - 8.0) / 8.0;
    Arrays {
        kernels: Array4::from_shape_fn((4, 1, 2, 3), |(a, _, b, c)| number(7 * a + 3 * b + c)),
        bias: array![0.5, -0.5, 0.25, 0.0],
        statistics: [
            array![1.0, -0.5, 2.0, 0.75],
            array![0.5, 0.0, -1.0, 0.25],
            array![0.0, 0.5, 0.25, -0.5],
            array![1.0, 0.5, 2.0, 0.25],
        ],
        // Image of 1×2 with 4 channels after the pool.
        matrix: Array2::from_shape_fn((3, 8), |(i, j)| number(5 * i + 11 * j)),
    }
}

fn npy<A: WritableElement + Clone, D: Dimension>(values: &Array<A, D>) -> Vec<u8> {
    let mut bytes = Vec::new();
    values.as_standard_layout().write_npy(&mut bytes).unwrap();
    bytes
}

/// Keras stores the same network: kernels `(h, w, in/groups, out)`, matrices `(in, out)`, and the features
/// of a flattened image pixel by pixel.
fn last(arrays: &Arrays) -> (Array4<f32>, Array2<f32>) {
    let kernels = arrays.kernels.view().permuted_axes([2, 3, 1, 0]).to_owned();
    let order = Order::of_flattened(4, 2);
    let matrix = Array2::from_shape_fn((8, 3), |(j, i)| arrays.matrix[(i, order.position(j))]);
    (kernels, matrix)
}

fn write_npz(path: &Path, kernels: &Array4<f32>, matrix: &Array2<f32>, arrays: &Arrays) {
    let mut archive = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated);
    let [g, b, m, v] = &arrays.statistics;
    for (name, bytes) in [
        ("c.w", npy(kernels)),
        ("c.b", npy(&arrays.bias.mapv(f64::from))),
        ("n.g", npy(g)),
        ("n.b", npy(b)),
        ("n.m", npy(m)),
        ("n.v", npy(v)),
        ("d.w", npy(matrix)),
    ] {
        archive.start_file(format!("{name}.npy"), options).unwrap();
        archive.write_all(&bytes).unwrap();
    }
    archive.finish().unwrap();
}

fn write_safetensors(path: &Path, kernels: &Array4<f32>, matrix: &Array2<f32>, arrays: &Arrays) {
    let [g, b, m, v] = &arrays.statistics;
    let bytes = |values: Vec<f32>| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let all = [
        ("c.w", kernels.shape().to_vec(), bytes(kernels.iter().copied().collect())),
        ("c.b", vec![4], bytes(arrays.bias.to_vec())),
        ("n.g", vec![4], bytes(g.to_vec())),
        ("n.b", vec![4], bytes(b.to_vec())),
        ("n.m", vec![4], bytes(m.to_vec())),
        ("n.v", vec![4], bytes(v.to_vec())),
        ("d.w", matrix.shape().to_vec(), bytes(matrix.iter().copied().collect())),
    ];
    let views = all.iter().map(|(name, shape, data)| {
        let dtype = safetensors::Dtype::F32;
        (*name, safetensors::tensor::TensorView::new(dtype, shape.clone(), data).unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn describe(folder: &Path, file: &str, order: &str) -> PathBuf {
    let path = folder.join(format!("{order}-{file}.toml"));
    std::fs::write(&path, DESCRIPTION.replace("FILE", file).replace("ORDER", order)).unwrap();
    path
}

use std::path::PathBuf;

fn outputs(network: &Network<f32>) -> Vec<f32> {
    let mut batch = Tensor::zeros(network.input_shape().clone(), 2);
    for (i, x) in batch.values_mut().into_iter().enumerate() {
        *x = (i * 13 % 7) as f32 / 3.0 - 1.0;
    }
    network.forward(&batch).unwrap().into_values().into_iter().collect()
}

/// Value by value, from the definition of each layer with channels first.
fn reference(arrays: &Arrays) -> Vec<f32> {
    let x = |s: usize, c: usize, h: i64, w: i64| -> f32 {
        if !(0..4).contains(&h) || !(0..5).contains(&w) {
            return 0.0;
        }
        let i = s * 40 + (h as usize * 5 + w as usize) * 2 + c;
        (i * 13 % 7) as f32 / 3.0 - 1.0
    };
    let [g, b, m, v] = &arrays.statistics;
    let square = |s: usize, o: usize, i: i64, j: i64| -> f32 {
        let mut z = arrays.bias[o];
        for u in 0..2 {
            for t in 0..3 {
                let (h, w) = (2 * i + u as i64 - 1, j + t as i64 - 1);
                z += arrays.kernels[(o, 0, u, t)] * x(s, o / 2, h, w);
            }
        }
        let z = g[o] * (z - m[o]) / (v[o] + 1e-5).sqrt() + b[o];
        z * z
    };
    let mut scores = Vec::new();
    for s in 0..2 {
        let mut features = Vec::new();
        for o in 0..4 {
            for j in [0, 2] {
                let window = [(0, j), (0, j + 1), (1, j), (1, j + 1)];
                features
                    .push(window.map(|(i, j)| square(s, o, i, j)).into_iter().fold(0.0, f32::max));
            }
        }
        for row in arrays.matrix.outer_iter() {
            scores.push(row.iter().zip(&features).map(|(w, f)| w * f).sum());
        }
    }
    scores
}

#[test]
fn both_formats_and_both_orders_describe_the_same_network() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let arrays = arrays();
    let (kernels, matrix) = last(&arrays);
    write_npz(&folder.join("first.npz"), &arrays.kernels, &arrays.matrix, &arrays);
    write_npz(&folder.join("last.npz"), &kernels, &matrix, &arrays);
    write_safetensors(&folder.join("first.safetensors"), &arrays.kernels, &arrays.matrix, &arrays);
    write_safetensors(&folder.join("last.safetensors"), &kernels, &matrix, &arrays);
    let expected = reference(&arrays);
    for (file, order) in [
        ("first.npz", "channels-first"),
        ("last.npz", "channels-last"),
        ("first.safetensors", "channels-first"),
        ("last.safetensors", "channels-last"),
    ] {
        let imported = read_description(&describe(folder, file, order)).unwrap();
        let actual = outputs(&imported.network);
        assert_eq!(actual.len(), expected.len());
        for (actual, expected) in actual.iter().zip(&expected) {
            assert!((actual - expected).abs() < 1e-4 * (1.0 + expected.abs()), "{file}");
        }
    }
}

#[test]
fn activations_that_are_no_polynomials_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let arrays = arrays();
    write_npz(&folder.join("w.npz"), &arrays.kernels, &arrays.matrix, &arrays);
    let slope = Function::LeakyRelu { slope: 0.25 };
    for (kind, expected) in [
        ("sigmoid", Function::Sigmoid),
        ("tanh", Function::Tanh),
        ("softplus", Function::Softplus),
        ("gelu", Function::Gelu),
        ("silu", Function::Silu),
        ("abs", Function::Abs),
        ("leaky_relu\"\nslope = 0.25 #", slope),
    ] {
        let text = DESCRIPTION.replace("ORDER", "channels-first").replace("FILE", "w.npz");
        let path = folder.join("altered.toml");
        std::fs::write(
            &path,
            text.replace("kind = \"square\"", &format!("kind = \"{kind}\"").replace(" #\"", "")),
        )
        .unwrap();
        let imported = read_description(&path).unwrap();
        let expected = Layer::Activation(Activation::Function(expected));
        assert!(imported.network.layers().contains(&expected), "{kind}");
    }
}

#[test]
fn faults_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let arrays = arrays();
    write_npz(&folder.join("w.npz"), &arrays.kernels, &arrays.matrix, &arrays);
    std::fs::write(folder.join("damaged.npz"), b"PK\x03\x04").unwrap();
    let check = |expected: &str, from: &str, to: &str| {
        let text = DESCRIPTION.replace("ORDER", "channels-first").replace("FILE", "w.npz");
        assert!(text.contains(from), "{from}");
        let path = folder.join("altered.toml");
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let message = read_description(&path).unwrap_err().to_string();
        assert!(message.contains(expected), "expected `{expected}` in: {message}");
    };
    check("layer 0 needs the array `zz`; the weight file has `c.b`, `c.w`", "\"c.w\"", "\"zz\"");
    check("is not in the folder", "w.npz", "../w.npz");
    check("is not in the folder", "w.npz", "/etc/passwd");
    check("cannot read", "w.npz", "absent.npz");
    check("damaged weight file", "w.npz", "damaged.npz");
    check("unknown field `strides`", "stride =", "strides =");
    check("unknown variant", "\"square\"", "\"elu\"");
    check(
        "smaller than its window",
        "kind = \"max_pool\"",
        "kind = \"max_pool\"\npadding = [2, 0, 0, 0]",
    );
    check(
        "unknown field `padding`",
        "kind = \"max_pool\"",
        "kind = \"average_pool\"\npadding = [1, 0, 0, 0]",
    );
    check("missing field `slope`", "\"square\"", "\"leaky_relu\"");
    check("slope[0] is NaN", "\"square\"", "\"leaky_relu\"\nslope = nan");
    check("layer 0: `c.w` has axes [4, 1, 2, 3]", "groups = 2", "groups = 3");
    check("layer 0: `c.w` has axes [4, 1, 2, 3]", "groups = 2", "groups = 0");
    check("padding must be smaller", "[1, 0, 1, 1]", "[2, 0, 1, 1]");
    check("layer 5: `d.w` has axes [3, 8]", "window = [2, 2]", "window = [2, 1]");
    check("layer 0: `c.w`", "\"channels-first\"", "\"channels-last\"");
    check("invalid shape", "[4, 5, 2]", "[4, 5, 2, 1]");
    check("invalid shape", "[4, 5, 2]", "[4000000000, 4000000000, 2]");
    check("end with a dense layer", "[[layers]]\nkind = \"dense\"\nweights = \"d.w\"\n", "");
}

/// A depthwise convolution has as many weights as the file, not as a full one.
#[test]
fn groups_stay_groups() {
    let folder = tempfile::tempdir().unwrap();
    let arrays = arrays();
    write_npz(&folder.path().join("n.npz"), &arrays.kernels, &arrays.matrix, &arrays);
    let description = DESCRIPTION.replace("FILE", "n.npz").replace("ORDER", "channels-first");
    let path = folder.path().join("n.toml");
    std::fs::write(&path, description).unwrap();
    let network = read_description(&path).unwrap().network;
    let Layer::Conv2d(conv) = &network.layers()[0] else { panic!("a convolution comes first") };
    assert_eq!((conv.groups, conv.weights.len()), (2, arrays.kernels.len()));
}

#[test]
fn names_of_files_cannot_control_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("n.toml");
    for name in ["\\u001b[31m.npz", "a\\u0000.npz"] {
        let description = DESCRIPTION.replace("FILE", name).replace("ORDER", "channels-first");
        std::fs::write(&path, description).unwrap();
        let message = read_description(&path).unwrap_err().to_string();
        assert!(!message.chars().any(char::is_control), "{message:?}");
        assert!(message.contains(".npz"), "{message:?}");
    }
    let missing = Path::new("/no/\u{1b}[31m");
    let message = artifact::read_file(missing, 1).unwrap_err().to_string();
    assert!(!message.chars().any(char::is_control), "{message:?}");
}
