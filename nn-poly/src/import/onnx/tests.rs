//! One graph per fault, each made by altering a valid one.
#![allow(clippy::cast_possible_wrap, reason = "tests")]

use super::proto::{
    AttributeProto, DimensionProto, GraphProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto, element,
};
use super::*;
use crate::approximate::Function;
use crate::error::Error;
use crate::import::ImportedNode;
use crate::layer::{Activation, Layer, Padding, Pool2d, PoolKind};

mod meaning;

fn tensor(name: &str, dims: &[i64], value: f32) -> TensorProto {
    let n: i64 = dims.iter().product();
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: element::FLOAT,
        float_data: vec![value; usize::try_from(n).unwrap()],
        ..TensorProto::default()
    }
}

fn integers(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: vec![values.len() as i64],
        data_type: element::INT64,
        int64_data: values.to_vec(),
        ..TensorProto::default()
    }
}

fn node(op_type: &str, input: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: op_type.into(),
        input: input.iter().map(|&name| name.into()).collect(),
        output: vec![output.into()],
        ..NodeProto::default()
    }
}

fn ints(mut node: NodeProto, name: &str, ints: &[i64]) -> NodeProto {
    let i = ints.first().copied().unwrap_or(0);
    node.attribute.push(AttributeProto {
        name: name.into(),
        i,
        ints: ints.to_vec(),
        ..AttributeProto::default()
    });
    node
}

fn float(mut node: NodeProto, name: &str, f: f32) -> NodeProto {
    node.attribute.push(AttributeProto { name: name.into(), f, ..AttributeProto::default() });
    node
}

fn int(mut node: NodeProto, name: &str, i: i64) -> NodeProto {
    node.attribute.push(AttributeProto { name: name.into(), i, ..AttributeProto::default() });
    node
}

fn word(mut node: NodeProto, name: &str, word: &'static str) -> NodeProto {
    node.attribute.push(AttributeProto {
        name: name.into(),
        s: Bytes::from_static(word.as_bytes()),
        ..AttributeProto::default()
    });
    node
}

/// A value of this name with axes after the batch; −1 is one without a length.
fn value(name: &str, dims: &[i64]) -> ValueInfoProto {
    let batch = DimensionProto { dim_param: Some("batch".into()), ..DimensionProto::default() };
    let dims = dims.iter().map(|&dim| DimensionProto {
        dim_value: (dim >= 0).then_some(dim),
        ..DimensionProto::default()
    });
    let shape = TensorShapeProto { dim: std::iter::once(batch).chain(dims).collect() };
    let tensor_type = TensorTypeProto { elem_type: element::FLOAT, shape: Some(shape) };
    let value_type = Some(TypeProto { tensor_type: Some(tensor_type) });
    ValueInfoProto { name: name.into(), value_type }
}

/// A graph from `x` of these axes to `y`.
fn model(dims: &[i64], nodes: Vec<NodeProto>, initializer: Vec<TensorProto>) -> ModelProto {
    ModelProto {
        ir_version: 8,
        graph: Some(GraphProto {
            node: nodes,
            initializer,
            input: vec![value("x", dims)],
            output: vec![value("y", &[2])],
            ..GraphProto::default()
        }),
        opset_import: vec![OperatorSetIdProto { version: 17, ..OperatorSetIdProto::default() }],
        ..ModelProto::default()
    }
}

/// Two convolutions, a pool and a dense layer: what the cases below alter.
fn valid() -> ModelProto {
    let nodes = vec![
        node("Conv", &["x", "w1"], "c1"),
        node("Relu", &["c1"], "r1"),
        node("GlobalAveragePool", &["r1"], "p"),
        node("Flatten", &["p"], "f"),
        node("Gemm", &["f", "w2"], "y"),
    ];
    model(&[1, 4, 4], nodes, vec![tensor("w1", &[3, 1, 3, 3], 0.5), tensor("w2", &[3, 2], 0.25)])
}

fn read(model: &ModelProto) -> Result<ImportedNetwork> {
    parse_onnx(&model.encode_to_vec(), None)
}

fn fault(model: &ModelProto) -> ImportError {
    match read(model) {
        Err(Error::Import(fault)) => *fault,
        other => panic!("{other:?}"),
    }
}

fn graph(model: &mut ModelProto) -> &mut GraphProto {
    model.graph.as_mut().unwrap()
}

/// `alter` a valid model and expect this in the message.
fn check(expected: &str, alter: impl FnOnce(&mut ModelProto)) {
    let mut model = valid();
    alter(&mut model);
    let message = fault(&model).to_string();
    assert!(message.contains(expected), "expected `{expected}` in: {message}");
}

#[test]
fn the_unaltered_graph_is_read() {
    let imported = read(&valid()).unwrap();
    assert_eq!(imported.network.layers().len(), 5);
    assert_eq!(imported.network.output_shape().len(), 2);
}

#[test]
fn faults_of_the_graph_are_named() {
    check("version 10 of operator set `ai.onnx`", |m| m.opset_import[0].version = 10);
    check("version 22 of operator set `ai.onnx`", |m| m.opset_import[0].version = 22);
    check("names no version", |m| m.opset_import.clear());
    check("holds no graph", |m| m.graph = None);
    check("`w1` is defined twice", |m| graph(m).initializer[1].name = "w1".into());
    check("`c1` is defined twice", |m| graph(m).node[1].output[0] = "c1".into());
    check("Relu `r1` (opset 17) reads `zz`", |m| graph(m).node[1].input[0] = "zz".into());
    check("reads `w2`, which is no input", |m| drop(graph(m).initializer.pop()));
    check("has a cycle", |m| graph(m).node[0].input[0] = "f".into());
    check("has a cycle", |m| graph(m).node[1].input[0] = "r1".into());
    check("exactly one input, this one has none", |m| graph(m).input.clear());
    check("has `x`, `x2`", |m| graph(m).input.push(value("x2", &[1])));
    check("axis 2 of input `x` has no fixed length", |m| {
        graph(m).input[0] = value("x", &[1, -1, 4]);
    });
    check("axes [0, 1, 1, 1, 1]", |m| graph(m).input[0] = value("x", &[1, 1, 1, 1]));
    check("choose the output", |m| graph(m).output.push(value("r1", &[1])));
    check("is an image", |m| graph(m).output[0].name = "r1".into());
    check("is the input itself", |m| graph(m).output[0].name = "x".into());
    check("always 1", |m| {
        graph(m).initializer[1] = tensor("w2", &[3, 1], 0.25);
        graph(m).node[4].output[0] = "g".into();
        graph(m).node.push(node("Softmax", &["g"], "y"));
    });
    check("does not depend on the network's input", |m| graph(m).output[0].name = "w1".into());
}

#[test]
fn an_output_can_be_chosen() {
    let mut model = valid();
    graph(&mut model).output.push(value("f", &[3]));
    let bytes = model.encode_to_vec();
    assert_eq!(parse_onnx(&bytes, Some("f")).unwrap().network.output_shape().len(), 3);
    assert_eq!(parse_onnx(&bytes, Some("f")).unwrap().n_unused_nodes, 1);
    let error = parse_onnx(&bytes, Some("z")).unwrap_err().to_string();
    assert_eq!(error, "there is no output `z`; the outputs are `y`, `f`");
}

/// Nodes need not be sorted.
#[test]
fn the_order_of_nodes_does_not_matter() {
    let mut model = valid();
    graph(&mut model).node.reverse();
    assert_eq!(read(&model).unwrap().network, read(&valid()).unwrap().network);
}

#[test]
fn operators_without_a_layer_are_named_with_what_to_do() {
    for operator in ["Elu", "HardSwish", "Sqrt"] {
        check(&format!("{operator} `r1` (opset 17)"), |m| {
            graph(m).node[1].op_type = operator.into();
        });
        check("ReLU, GELU, a square or the like", |m| {
            graph(m).node[1].op_type = operator.into();
        });
    }
    check("`approximate` must be none or tanh", |m| {
        graph(m).node[1] = word(node("Gelu", &["c1"], "r1"), "approximate", "sigmoid");
    });
    check("one slope for all channels", |m| {
        graph(m).initializer.push(tensor("slopes", &[3, 1, 1], 0.5));
        graph(m).initializer[2].float_data[1] = 0.25;
        graph(m).node[1] = node("PRelu", &["c1", "slopes"], "r1");
    });
    check("`alpha` must be a finite number", |m| {
        graph(m).node[1] = float(node("LeakyRelu", &["c1"], "r1"), "alpha", f32::NAN);
    });
    check("use a classifier", |m| graph(m).node[0].op_type = "ConvTranspose".into());
    check("export the float network", |m| graph(m).node[0].op_type = "QLinearConv".into());
    check("com.example.Magic `c1` (opset 0)", |m| {
        graph(m).node[0].domain = "com.example".into();
        graph(m).node[0].op_type = "Magic".into();
    });
    check("Softmax `g` (opset 17) is not supported: no layer computes it", |m| {
        graph(m).node[4].input[0] = "g".into();
        graph(m).node.push(node("Softmax", &["f"], "g"));
    });
    check("Sigmoid `s1` (opset 17) is not supported: no layer computes it", |m| {
        graph(m).node[1] = node("Sub", &["one", "s1"], "r1");
        graph(m).initializer.push(tensor("one", &[], 1.0));
        graph(m).node.push(node("Sigmoid", &["c1"], "s1"));
    });
    check("Mul `p` (opset 17) is not supported: it multiplies two branches", |m| {
        graph(m).node[2] = node("Mul", &["c1", "r1"], "p");
    });
    check("joins two branches of different shapes", |m| {
        graph(m).node[2] = node("Add", &["c1", "x"], "p");
    });
    check("`axis` must be that of the channels", |m| {
        graph(m).node[2] = node("Concat", &["c1", "r1"], "p");
    });
}

/// The activations of a graph, and what the report says of its nodes.
fn activations(model: &ModelProto) -> (Vec<Function>, Vec<String>) {
    let imported = read(model).unwrap();
    let function = |layer: &Layer<f32>| {
        let Layer::Activation(Activation::Function(function)) = layer else { return None };
        Some(function.clone())
    };
    let functions = imported.network.layers().iter().filter_map(function).collect();
    let told = |node: &ImportedNode| format!("{}: {}", node.site.operator, node.treatment);
    (functions, imported.nodes.iter().map(told).collect())
}

#[test]
fn activations_that_are_no_polynomials_are_kept() {
    let slope = |slope: f32| Function::LeakyRelu { slope: slope.into() };
    let cases = [
        (node("Tanh", &["c1"], "r1"), Function::Tanh),
        (node("Gelu", &["c1"], "r1"), Function::Gelu),
        (word(node("Gelu", &["c1"], "r1"), "approximate", "none"), Function::Gelu),
        (word(node("Gelu", &["c1"], "r1"), "approximate", "tanh"), Function::GeluTanh),
        (node("LeakyRelu", &["c1"], "r1"), slope(0.01)),
        (float(node("LeakyRelu", &["c1"], "r1"), "alpha", 0.25), slope(0.25)),
        (node("PRelu", &["c1", "slopes"], "r1"), slope(0.5)),
        (node("Softplus", &["c1"], "r1"), Function::Softplus),
        (node("Abs", &["c1"], "r1"), Function::Abs),
        (node("Sigmoid", &["c1"], "r1"), Function::Sigmoid),
    ];
    for (node, expected) in cases {
        let mut model = valid();
        graph(&mut model).initializer.push(tensor("slopes", &[3, 1, 1], 0.5));
        let told = format!("{}: {}", node.op_type, expected.kind());
        graph(&mut model).node[1] = node;
        let (functions, nodes) = activations(&model);
        assert_eq!((functions, &nodes[1]), (vec![expected], &told));
    }
}

#[test]
fn logistic_functions_are_shared_and_gates_are_recognized() {
    // x · sigmoid(x), in either order.
    for inputs in [["c1", "s1"], ["s1", "c1"]] {
        let mut model = valid();
        graph(&mut model).node[1] = node("Mul", &inputs, "r1");
        graph(&mut model).node.push(node("Sigmoid", &["c1"], "s1"));
        let (functions, nodes) = activations(&model);
        assert_eq!(functions, [Function::Silu]);
        assert!(nodes.contains(&"Sigmoid: silu".into()) && nodes.contains(&"Mul: silu".into()));
    }
    // Two readers of one logistic function, one through a reshape that moves nothing.
    let mut model = valid();
    graph(&mut model).initializer.push(integers("same", &[-1, 3, 2, 2]));
    graph(&mut model).node[1] = node("Add", &["s1", "s2"], "r1");
    graph(&mut model).node.push(node("Sigmoid", &["c1"], "s1"));
    graph(&mut model).node.push(node("Reshape", &["s1", "same"], "s2"));
    let (functions, _) = activations(&model);
    assert_eq!(functions, [Function::Sigmoid]);
    // Affine maps of it are folded into what follows; at the end it is left out as before.
    let mut model = valid();
    graph(&mut model).initializer.push(tensor("two", &[], 2.0));
    graph(&mut model).node[1] = node("Mul", &["s1", "two"], "r1");
    graph(&mut model).node.push(node("Sigmoid", &["c1"], "s1"));
    graph(&mut model).node[4].output[0] = "g".into();
    graph(&mut model).node.push(node("Sigmoid", &["g"], "y"));
    let imported = read(&model).unwrap();
    assert_eq!(activations(&model).0, [Function::Sigmoid]);
    assert_eq!(imported.ending, Some(super::super::Ending::Sigmoid));
}

#[test]
fn forms_without_a_layer_are_named() {
    let conv = || node("Conv", &["x", "w1"], "c1");
    let cases = [
        ("strides", ints(conv(), "strides", &[0, 1])),
        ("pads", ints(conv(), "pads", &[-1, 0, 0, 0])),
        ("pads", ints(conv(), "pads", &[1, 1])),
        ("dilations", ints(conv(), "dilations", &[i64::MAX, 1])),
        ("dilations", ints(conv(), "dilations", &[1 << 24, 1])),
        ("kernel_shape", ints(conv(), "kernel_shape", &[2, 2])),
        ("auto_pad", word(conv(), "auto_pad", "SAME")),
        ("padding must be smaller", ints(conv(), "pads", &[3, 0, 0, 0])),
        ("larger than the padded image", ints(conv(), "dilations", &[3, 3])),
        ("`group` must be a divisor", ints(conv(), "group", &[3])),
        ("`group` must be a divisor", ints(conv(), "group", &[0])),
    ];
    for (expected, node) in cases {
        check(expected, |m| graph(m).node[0] = node);
    }
    let pool = || ints(node("AveragePool", &["r1"], "p"), "kernel_shape", &[2, 2]);
    let single = || ints(node("AveragePool", &["r1"], "p"), "kernel_shape", &[1, 1]);
    let cases = [
        ("kernel_shape", node("AveragePool", &["r1"], "p")),
        ("count_include_pad=1", ints(pool(), "pads", &[1, 1, 1, 1])),
        ("ceil_mode=0", ints(ints(single(), "strides", &[2, 2]), "ceil_mode", &[1])),
        ("dilations", ints(pool(), "dilations", &[2, 2])),
        ("axes", ints(node("ReduceMean", &["r1"], "p"), "axes", &[1])),
        ("changes the batch axis", node("Reshape", &["r1", "shape"], "p")),
        (
            "channel-first and channel-last",
            ints(node("Transpose", &["r1"], "p"), "perm", &[0, 1, 3, 2]),
        ),
        ("only squares", node("Pow", &["r1", "three"], "p")),
        ("divides by computed values", node("Div", &["three", "r1"], "p")),
        ("differ from position to position", node("Add", &["r1", "plane"], "p")),
    ];
    for (expected, node) in cases {
        check(expected, |m| {
            graph(m).node[2] = node;
            graph(m).initializer.extend([
                integers("shape", &[3, -1]),
                tensor("three", &[], 3.0),
                tensor("plane", &[2, 2], 1.0),
            ]);
        });
    }
    check("transA", |m| {
        let gemm = graph(m).node.pop().unwrap();
        graph(m).node.push(ints(gemm, "transA", &[1]));
    });
    check("put Flatten before it", |m| {
        graph(m).node[4].input[0] = "r1".into();
    });
    check("matrix has axes [2, 3], expected [2, 4]", |m| {
        graph(m).initializer[0] = tensor("w1", &[4, 1, 3, 3], 0.5);
    });
    check("it reads an image padded by Pad", |m| {
        graph(m).initializer.push(integers("pads", &[0, 0, 1, 1, 0, 0, 1, 1]));
        graph(m).node[2] = node("Pad", &["r1", "pads"], "p");
    });
}

#[test]
fn padding_of_maxima_is_kept() {
    for (operator, kind) in [("MaxPool", PoolKind::Max), ("AveragePool", PoolKind::Average)] {
        let pool = ints(node(operator, &["r1"], "p"), "kernel_shape", &[2, 2]);
        let pool = ints(ints(pool, "strides", &[1, 2]), "pads", &[1, 0, 0, 1]);
        let mut model = valid();
        graph(&mut model).node[2] = int(pool, "count_include_pad", 1);
        graph(&mut model).initializer[1] = tensor("w2", &[6, 2], 0.25);
        let padding = Padding { top: 1, bottom: 0, left: 0, right: 1 };
        let pool = Pool2d { kind, window: (2, 2), stride: (1, 2), padding };
        let imported = read(&model).unwrap();
        let is_kept = imported.network.layers().contains(&Layer::Pool2d(pool));
        assert_eq!(is_kept, kind == PoolKind::Max, "averages with padding are convolutions");
    }
    check("smaller than its window", |m| {
        let pool = ints(node("MaxPool", &["r1"], "p"), "kernel_shape", &[2, 2]);
        graph(m).node[2] = ints(pool, "pads", &[2, 0, 0, 1]);
    });
}

#[test]
fn weights_must_be_finite_and_complete() {
    check("value 4 of `w1` is NaN", |m| graph(m).initializer[0].float_data[4] = f32::NAN);
    check("value 0 of `w2` is -inf", |m| {
        graph(m).initializer[1].float_data[0] = f32::NEG_INFINITY;
    });
    check("`w1` holds 26 values, its axes say 27", |m| {
        graph(m).initializer[0].float_data.pop();
    });
    check("`w1` has element type number 3", |m| graph(m).initializer[0].data_type = 3);
    check("no folder", |m| graph(m).initializer[0].data_location = proto::EXTERNAL);
    check("holds 0 values", |m| {
        graph(m).initializer[0].dims = vec![1 << 20, 1 << 20];
        graph(m).initializer[0].float_data.clear();
    });
}

/// A dilated kernel of few weights becomes one of very many zeros.
#[test]
fn small_files_do_not_make_large_networks() {
    let n = 8192;
    let conv = ints(node("Conv", &["x", "w"], "c"), "group", &[n]);
    let nodes = vec![conv, node("GlobalAveragePool", &["c"], "p"), node("Flatten", &["p"], "y")];
    let depthwise = model(&[n, 1, 1], nodes.clone(), vec![tensor("w", &[n, 1, 1, 1], 1.0)]);
    assert_eq!(read(&depthwise).unwrap().network.n_parameters(), 2 * 8192);
    let conv = ints(node("Conv", &["x", "w"], "c"), "dilations", &[5000, 5000]);
    let nodes = [vec![conv], nodes.into_iter().skip(1).collect()].concat();
    let dilated = model(&[1, 8, 8], nodes, vec![tensor("w", &[1, 1, 2, 2], 1.0)]);
    assert!(matches!(fault(&dilated), ImportError::TooLarge { .. }));
    let mut huge = valid();
    graph(&mut huge).input[0] = value("x", &[1, 1 << 40, 1 << 40]);
    assert!(matches!(read(&huge), Err(Error::InvalidShape { .. })));
}

/// An axis of length 0 makes any other free.
#[test]
fn empty_weights_claim_nothing() {
    check("a matrix with values", |m| graph(m).initializer[1] = tensor("w2", &[0, 1 << 40], 0.0));
    check("input 1 must be", |m| {
        graph(m).initializer[1] = tensor("w2", &[0, 1 << 40], 0.0);
        graph(m).node[4] = node("MatMul", &["f", "w2"], "y");
    });
    check("dilations", |m| graph(m).initializer[0] = tensor("w1", &[1 << 39, 1, 0, 1], 0.0));
    check("kernel has axes", |m| graph(m).initializer[0] = tensor("w1", &[1 << 39, 0, 3, 3], 0.0));
}

/// One dense layer shared by many nodes is charged for each.
#[test]
fn sharing_weights_does_not_evade_the_budget() {
    let n = 512;
    let mut nodes = Vec::new();
    let mut last = "x".to_owned();
    for i in 0..80 {
        let name = if i == 79 { "y".to_owned() } else { format!("v{i}") };
        nodes.push(node("MatMul", &[&last, "w"], &name));
        last = name;
    }
    let model = model(&[n], nodes, vec![tensor("w", &[n, n], 0.0)]);
    assert!(matches!(fault(&model), ImportError::TooLarge { .. }));
}

/// Many wide normalizations of one value are steps of their own; all are charged.
#[test]
fn branches_do_not_evade_the_budget() {
    let n = 16_384;
    let names = (0..200).map(|i| format!("r{i}")).collect::<Vec<_>>();
    let mut nodes = Vec::new();
    for name in &names {
        nodes.push(node("Mul", &["x", "a"], &format!("b{name}")));
        nodes.push(node("Relu", &[&format!("b{name}")], name));
    }
    let joined = node("Concat", &names.iter().map(String::as_str).collect::<Vec<_>>(), "y");
    nodes.push(int(joined, "axis", 1));
    let model = model(&[n], nodes, vec![tensor("a", &[n], 2.0)]);
    assert!(matches!(fault(&model), ImportError::TooLarge { .. }));
}

#[test]
fn training_and_changing_types_are_refused() {
    let truth = |value: i32| TensorProto {
        name: "training".into(),
        data_type: element::BOOL,
        int32_data: vec![value],
        ..TensorProto::default()
    };
    let with_dropout = |value| {
        let mut model = valid();
        graph(&mut model).node[3].input[0] = "d".into();
        graph(&mut model).node.push(node("Dropout", &["p", "", "training"], "d"));
        graph(&mut model).initializer.push(truth(value));
        model
    };
    assert!(read(&with_dropout(0)).is_ok());
    let error = fault(&with_dropout(1)).to_string();
    assert!(error.contains("input 2 must be false: export in evaluation mode"), "{error}");
    let mut packed = with_dropout(0);
    let training = &mut graph(&mut packed).initializer[2];
    (training.int32_data, training.raw_data) = (Vec::new(), vec![1].into());
    assert!(matches!(fault(&packed), ImportError::Input { index: 2, .. }));

    let cast_like = |m: &mut ModelProto, like: &str| {
        graph(m).node[3].input[0] = "d".into();
        graph(m).node.push(node("CastLike", &["p", like], "d"));
        graph(m).initializer.push(integers("whole", &[1]));
    };
    let mut floats = valid();
    cast_like(&mut floats, "w1");
    assert!(read(&floats).is_ok());
    check("a type that keeps the values", |m| cast_like(m, "whole"));
}

#[test]
fn names_cannot_control_a_terminal() {
    for bad in ["\u{1b}[2J", "a\nb", &"x".repeat(5000)] {
        check("or holds control characters", |m| graph(m).node[1].name = bad.into());
        check("or holds control characters", |m| graph(m).output[0].name = bad.into());
        let mut model = valid();
        graph(&mut model).node[0].op_type = bad.into();
        let error = fault(&model).to_string();
        assert!(error.len() < 500 && !error.chars().any(char::is_control), "{error}");
    }
    check("defined twice", |m| {
        let set = m.opset_import[0].clone();
        m.opset_import.push(set);
    });
}

/// `a x² + b x + c` written as arithmetic, shared subexpressions included, is one activation.
#[test]
fn polynomials_are_recognized() {
    let nodes = vec![
        node("MatMul", &["x", "w"], "z"),
        node("Mul", &["z", "z"], "zz"),
        node("Mul", &["zz", "a"], "azz"),
        node("Sub", &["azz", "z"], "d"),
        node("Add", &["d", "c"], "y"),
    ];
    // With 1/2, −1 and 1/2 it is half the square of z − 1.
    for (constant, kind) in [(0.25, "polynomial"), (0.5, "square")] {
        let arrays =
            vec![tensor("w", &[2, 2], 1.0), tensor("a", &[2], 0.5), tensor("c", &[2], constant)];
        let network = read(&model(&[2], nodes.clone(), arrays)).unwrap().network;
        let kinds: Vec<&str> = network.layers().iter().map(|layer| layer.name()).collect();
        assert_eq!(kinds, ["dense", kind]);
        let input = crate::Tensor::new(network.input_shape().clone(), ndarray::array![[1.0, 2.0]]);
        let output = network.forward(&input.unwrap()).unwrap().into_values();
        assert!(output.iter().all(|y| (y - (1.5 + constant)).abs() < 1e-6), "{output}");
    }
}

#[test]
fn a_cube_is_refused() {
    let nodes = vec![
        node("MatMul", &["x", "w"], "z"),
        node("Mul", &["z", "z"], "zz"),
        node("Mul", &["zz", "z"], "y"),
    ];
    let error = fault(&model(&[2], nodes, vec![tensor("w", &[2, 2], 1.0)])).to_string();
    assert!(error.contains("no polynomial of degree 2 or less"), "{error}");
}
