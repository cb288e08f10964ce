//! Graphs that look like readable ones and mean something else: each is refused.

use super::super::proto::FunctionProto;
use super::*;

/// `alter` the graph of this model and expect this in the message; none if it is read.
fn expect(expected: Option<&str>, model: &ModelProto) {
    match expected {
        None => {
            read(model).unwrap();
        }
        Some(expected) => {
            let message = fault(model).to_string();
            assert!(message.contains(expected), "expected `{expected}` in: {message}");
        }
    }
}

#[test]
fn a_vector_is_an_image_of_one_shape_only() {
    let two_views = |second: &[i64]| {
        let nodes = vec![
            node("Reshape", &["x", "first"], "i1"),
            node("Reshape", &["x", "second"], "i2"),
            node("Conv", &["i1", "w1"], "c1"),
            node("Conv", &["i2", "w1"], "c2"),
            node("Flatten", &["c1"], "f1"),
            node("Flatten", &["c2"], "f2"),
            node("Gemm", &["f1", "g1"], "d1"),
            node("Gemm", &["f2", "g1"], "d2"),
            node("Add", &["d1", "d2"], "y"),
        ];
        let arrays = vec![
            integers("first", &[-1, 1, 4, 4]),
            integers("second", second),
            tensor("w1", &[1, 1, 1, 1], 0.5),
            tensor("g1", &[16, 2], 0.25),
        ];
        model(&[16], nodes, arrays)
    };
    expect(None, &two_views(&[-1, 1, 4, 4]));
    expect(Some("makes an image of other axes of the same input"), &two_views(&[-1, 1, 2, 8]));
}

#[test]
fn a_vector_may_be_read_as_an_image_and_as_it_is() {
    let nodes = vec![
        node("Gemm", &["x", "g1"], "d1"),
        node("Reshape", &["x", "image"], "i"),
        node("Conv", &["i", "w1"], "c"),
        node("Flatten", &["c"], "f"),
        node("Gemm", &["f", "g1"], "d2"),
        node("Add", &["d1", "d2"], "y"),
    ];
    let image = integers("image", &[-1, 1, 4, 4]);
    let arrays = vec![image, tensor("w1", &[1, 1, 1, 1], 0.5), tensor("g1", &[16, 2], 0.25)];
    let imported = read(&model(&[16], nodes, arrays)).unwrap();
    assert_eq!(imported.network.input_shape().dims(), [4, 4, 1]);
    let inputs =
        ndarray::Array2::from_shape_fn((1, 16), |(_, i)| f32::from(u8::try_from(i).unwrap()));
    // 120 · 0.25 as it is, and half of that through the convolution.
    assert_eq!(imported.network.outputs(&inputs).unwrap(), ndarray::array![[45.0, 45.0]]);
}

/// `Concat(1 − sigmoid(z), sigmoid(z + shift))` along `axis`.
fn pair(shift: f32, axis: i64) -> ModelProto {
    let nodes = vec![
        node("Gemm", &["x", "g1"], "z"),
        node("Sigmoid", &["z"], "p"),
        node("Sub", &["one", "p"], "q"),
        node("Add", &["z", "shift"], "z2"),
        node("Sigmoid", &["z2"], "p2"),
        int(node("Concat", &["q", "p2"], "y"), "axis", axis),
    ];
    let arrays =
        vec![tensor("g1", &[4, 1], 0.5), tensor("one", &[1], 1.0), tensor("shift", &[1], shift)];
    model(&[4], nodes, arrays)
}

#[test]
fn complements_belong_to_the_same_score() {
    assert!(read(&pair(0.0, 1)).unwrap().is_binary);
    assert!(read(&pair(0.0, -1)).unwrap().is_binary);
    expect(Some("not one minus a probability and that probability"), &pair(3.0, 1));
    expect(Some("not one minus a probability and that probability"), &pair(0.0, 0));
}

#[test]
fn normalizers_keep_the_order_of_the_scores() {
    let normalized = |ending: &str, norm: &'static str| {
        let mut model = valid();
        graph(&mut model).node[4].output[0] = "g".into();
        graph(&mut model).node.push(node(ending, &["g"], "e"));
        let mut last = word(node("Normalizer", &["e"], "y"), "norm", norm);
        last.domain = "ai.onnx.ml".into();
        graph(&mut model).node.push(last);
        let set = OperatorSetIdProto { domain: "ai.onnx.ml".into(), version: 3 };
        model.opset_import.push(set);
        model
    };
    for (ending, norm) in [
        ("Softmax", "L1"),
        ("Softmax", "MAX"),
        ("Sigmoid", "L2"),
        ("LogSoftmax", "L1"),
        ("LogSoftmax", "L2"),
    ] {
        expect(None, &normalized(ending, norm));
    }
    expect(Some("does not keep the order of the scores"), &normalized("LogSoftmax", "MAX"));
    expect(Some("`norm` must be L1, L2 or MAX"), &normalized("Softmax", "L3"));
    // A single probability divided by its sum is 1.
    let mut single = normalized("Sigmoid", "L1");
    graph(&mut single).initializer[1] = tensor("w2", &[3, 1], 0.25);
    expect(Some("does not keep the order of the scores"), &single);
}

/// `x · (offset + erf(x · factor)) · scale`.
fn gated(factor: f32, offset: f32, scale: f32) -> ModelProto {
    let mut model = valid();
    graph(&mut model).node[1] = node("Mul", &["m", "scale"], "r1");
    graph(&mut model).node.extend([
        node("Mul", &["c1", "factor"], "z"),
        node("Erf", &["z"], "e"),
        node("Add", &["offset", "e"], "o"),
        node("Mul", &["c1", "o"], "m"),
    ]);
    let numbers = [("factor", factor), ("offset", offset), ("scale", scale)];
    graph(&mut model).initializer.extend(numbers.map(|(name, v)| tensor(name, &[], v)));
    model
}

#[test]
fn error_functions_are_read_as_gates_of_gelu_only() {
    let root = std::f32::consts::FRAC_1_SQRT_2;
    assert_eq!(activations(&gated(root, 1.0, 0.5)).0, [Function::Gelu]);
    // Another factor behind it is folded into what follows.
    assert_eq!(activations(&gated(root, 1.0, 2.0)).0, [Function::Gelu]);
    for (factor, offset) in [(root, 0.5), (root, -1.0)] {
        expect(Some("Erf `e` (opset 17) is not supported"), &gated(factor, offset, 0.5));
    }
    // gelu(1.41 x) / 1.41 is one, too.
    assert_eq!(activations(&gated(1.0, 1.0, 0.5)).0, [Function::Gelu]);
    // The gate of other values, and the gate alone.
    let mut other = gated(root, 1.0, 0.5);
    graph(&mut other).node.push(node("Relu", &["c1"], "r2"));
    graph(&mut other).node[6].input[0] = "r2".into();
    graph(&mut other).node[5].input[0] = "r2".into();
    expect(Some("outside of GELU"), &other);
    let mut alone = gated(root, 1.0, 0.5);
    graph(&mut alone).node[2].input[0] = "o".into();
    expect(Some("outside of GELU"), &alone);
}

#[test]
fn paddings_are_put_together_from_constants() {
    let padded = |length: i64, step: i64| {
        let mut model = valid();
        graph(&mut model).node[0].input[0] = "p0".into();
        graph(&mut model).node.extend([
            node("ConstantOfShape", &["length"], "zeros"),
            node("Concat", &["zeros", "sides"], "all"),
            node("Reshape", &["all", "pairs"], "rows"),
            node("Slice", &["rows", "last", "before", "first", "step"], "turned"),
            ints(node("Transpose", &["turned"], "columns"), "perm", &[1, 0]),
            node("Reshape", &["columns", "last"], "pads"),
            node("Pad", &["x", "pads"], "p0"),
        ]);
        graph(&mut model).node[5].attribute.push(AttributeProto {
            name: "value".into(),
            t: Some(integers("", &[0])),
            ..AttributeProto::default()
        });
        graph(&mut model).initializer.extend([
            integers("length", &[length]),
            integers("sides", &[0, 1, 2, 0]),
            integers("pairs", &[-1, 2]),
            integers("first", &[0]),
            integers("last", &[-1]),
            integers("before", &[i64::MIN + 1]),
            integers("step", &[step]),
        ]);
        model
    };
    // Rows (0 0) (0 0) (0 1) (2 0), turned: (2 0) (0 1) (0 0) (0 0): two images before the batch.
    expect(Some("it pads the batch or the channels"), &padded(4, -1));
    expect(Some("two numbers per axis"), &padded(6, -1));
    expect(Some("one or two axes for whole numbers"), &padded(5, -1));
    expect(Some("it picks values apart"), &padded(4, -2));
    expect(Some("would take the weights beyond"), &padded(1 << 40, -1));
    expect(Some("the axes of a constant"), &padded(-1, -1));
}

#[test]
fn what_the_file_defines_itself_is_not_guessed() {
    let mut sparse = valid();
    graph(&mut sparse).initializer.pop();
    graph(&mut sparse).sparse_initializer.push(Bytes::from_static(b"\x0a\x00"));
    expect(Some("sparse tensors, which are not read"), &sparse);
    let function = |name: &str| {
        let (name, domain) = (name.into(), String::new());
        let mut model = valid();
        model.functions.push(FunctionProto { name, domain });
        model
    };
    expect(Some("Relu `r1` (opset 17) is not supported: the file defines it"), &function("Relu"));
    expect(None, &function("Elu"));
}

#[test]
fn softmax_may_come_before_the_flattening_of_single_pixels() {
    let ended = |axis: i64| {
        let nodes = vec![
            node("Conv", &["x", "w1"], "c1"),
            node("GlobalAveragePool", &["c1"], "p"),
            int(node("Softmax", &["p"], "s"), "axis", axis),
            node("Flatten", &["s"], "y"),
        ];
        model(&[1, 4, 4], nodes, vec![tensor("w1", &[3, 1, 3, 3], 0.5)])
    };
    for axis in [1, -3] {
        let imported = read(&ended(axis)).unwrap();
        assert_eq!(imported.ending, Some(super::super::super::Ending::Softmax));
        assert_eq!(imported.network.output_shape().len(), 3);
    }
    expect(Some("does not normalize vectors of scores"), &ended(2));
}

#[test]
fn a_single_score_of_a_linear_classifier_needs_a_threshold() {
    let classifier = |transform: &'static str| {
        let mut last =
            word(node("LinearClassifier", &["x"], "labels"), "post_transform", transform);
        last.domain = "ai.onnx.ml".into();
        last.output.push("y".into());
        last.attribute.push(AttributeProto {
            name: "coefficients".into(),
            floats: vec![0.5; 4],
            ..AttributeProto::default()
        });
        let mut model = model(&[4], vec![last], vec![]);
        let set = OperatorSetIdProto { domain: "ai.onnx.ml".into(), version: 1 };
        model.opset_import.push(set);
        model
    };
    assert!(read(&classifier("LOGISTIC")).unwrap().is_binary);
    expect(Some("its threshold is open"), &classifier("NONE"));
    expect(Some("its threshold is open"), &classifier("SOFTMAX"));
}
