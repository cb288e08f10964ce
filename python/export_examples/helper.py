"""Small graphs written with onnx.helper, one per exporter's habit: python helper.py FOLDER (needs onnx)."""
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper as h, numpy_helper

rng = np.random.default_rng(7)


def array(name, *dims, positive=False, values=None):
    """An initializer; random unless the values are given."""
    data = rng.normal(0, 0.4, dims) if values is None else np.asarray(values)
    dtype = data.dtype if values is not None and data.dtype == np.int64 else np.float32
    return numpy_helper.from_array((np.abs(data) + 0.3 if positive else data).astype(dtype), name)


def norm(name, n):
    """The four statistics of a normalization."""
    return [array(f"{name}.{p}", n, positive=p == "var") for p in ("gamma", "beta", "mean", "var")]


def save(folder, name, opset, sample, nodes, initializers, ml=None, n_out=None):
    """Check and write one graph whose last node makes the scores."""
    graph = h.make_graph(
        nodes, name,
        [h.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *sample])],
        [h.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", n_out])], initializers)
    sets = [h.make_opsetid("", opset)] + ([h.make_opsetid("ai.onnx.ml", ml)] if ml else [])
    model = h.make_model(graph, opset_imports=sets, ir_version=8, producer_name="securedl-examples")
    onnx.checker.check_model(model, full_check=True)
    Path(folder, f"{name}.onnx").write_bytes(model.SerializeToString())


def graphs(folder):
    """Every graph."""
    node = h.make_node
    bn = lambda name: [f"{name}.{p}" for p in ("gamma", "beta", "mean", "var")]

    # What PyTorch writes: Conv, BatchNormalization, Relu, pools, Flatten, Gemm with transB.
    save(folder, "pytorch_cnn", 11, (3, 10, 9), [
        node("Conv", ["x", "c1.w", "c1.b"], ["c1"], "conv1", strides=[2, 1], pads=[1, 0, 2, 1]),
        node("BatchNormalization", ["c1", *bn("n1")], ["n1"], epsilon=1e-3),
        node("Relu", ["n1"], ["r1"]),
        node("AveragePool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["p1"], ["f"]),
        node("Dropout", ["f"], ["d"]),
        node("Gemm", ["d", "g.w", "g.b"], ["g"], alpha=0.5, beta=2.0, transB=1),
        node("Softmax", ["g"], ["y"], axis=1),
    ], [array("c1.w", 4, 3, 3, 2), array("c1.b", 4), *norm("n1", 4),
        array("g.w", 5, 4 * 3 * 4), array("g.b", 5)], n_out=5)

    # Depthwise and grouped convolutions with squares, SAME padding, dilation; GlobalAveragePool.
    save(folder, "depthwise_squares", 17, (4, 8, 8), [
        node("Conv", ["x", "c1.w", "c1.b"], ["c1"], group=4, auto_pad="SAME_UPPER", strides=[2, 2]),
        node("BatchNormalization", ["c1", *bn("n1")], ["n1"]),
        node("Mul", ["n1", "n1"], ["s1"]),
        node("Conv", ["s1", "c2.w"], ["c2"], group=2, dilations=[2, 1], pads=[2, 1, 2, 1]),
        node("Pow", ["c2", "two"], ["s2"]),
        node("GlobalAveragePool", ["s2"], ["p"]),
        node("Reshape", ["p", "flat"], ["f"]),
        node("MatMul", ["f", "g.w"], ["m"]),
        node("Add", ["m", "g.b"], ["y"]),
    ], [array("c1.w", 8, 1, 3, 2), array("c1.b", 8), *norm("n1", 8), array("c2.w", 6, 4, 3, 3),
        array("two", values=2.0), array("flat", values=np.array([-1, 6])),
        array("g.w", 6, 3), array("g.b", 3)], n_out=3)

    # What Keras writes: channels last, transposed around the convolutions; Reshape with a shape.
    save(folder, "keras_cnn", 13, (6, 7, 2), [
        node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        node("Pad", ["t", "pads"], ["p"]),
        node("Conv", ["p", "c1.w"], ["c1"], strides=[2, 2]),
        node("Add", ["c1", "c1.b"], ["b1"]),
        node("Clip", ["b1", "zero", "six"], ["r1"]),
        node("MaxPool", ["r1"], ["m1"], kernel_shape=[2, 2]),
        node("Transpose", ["m1"], ["l"], perm=[0, 2, 3, 1]),
        node("Shape", ["l"], ["shape"]),
        node("Gather", ["shape", "first"], ["n"]),
        node("Unsqueeze", ["n", "axis"], ["n1"]),
        node("Concat", ["n1", "rest"], ["flat"], axis=0),
        node("Reshape", ["l", "flat"], ["f"]),
        node("MatMul", ["f", "d.w"], ["d"]),
        node("Add", ["d", "d.b"], ["y"]),
    ], [array("pads", values=np.array([0, 0, 1, 0, 0, 0, 1, 2])), array("c1.w", 3, 2, 3, 3),
        array("c1.b", 1, 3, 1, 1), array("zero", values=0.0), array("six", values=0.6),
        array("first", values=np.array(0)), array("axis", values=np.array([0])),
        array("rest", values=np.array([-1])), array("d.w", 18, 4), array("d.b", 4)], n_out=4)

    # Normalization of the inputs, a learned polynomial per channel, normalization after an activation,
    # average pools that count padding, ReduceMean.
    save(folder, "polynomial", 18, (2, 6, 6), [
        node("Sub", ["x", "mean"], ["x1"]),
        node("Div", ["x1", "deviation"], ["x2"]),
        node("Conv", ["x2", "c1.w"], ["c1"], pads=[1, 1, 1, 1]),
        node("Mul", ["c1", "c1"], ["sq"]),
        node("Mul", ["sq", "a"], ["a2"]),
        node("Mul", ["b", "c1"], ["b1"]),
        node("Add", ["a2", "b1"], ["ab"]),
        node("Add", ["ab", "c"], ["poly"]),
        node("AveragePool", ["poly"], ["p1"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1],
             count_include_pad=1),
        node("Relu", ["p1"], ["r1"]),
        node("BatchNormalization", ["r1", *bn("n1")], ["n1"]),
        node("Conv", ["n1", "c2.w", "c2.b"], ["c2"], pads=[1, 1, 1, 1]),
        node("Neg", ["c2"], ["neg"]),
        node("ReduceMean", ["neg", "axes"], ["y"], keepdims=0),
    ], [array("mean", 2, 1, 1), array("deviation", 2, 1, 1, positive=True), array("c1.w", 3, 2, 3, 3),
        array("a", 1, 3, 1, 1), array("b", 3, 1, 1), array("c", 3, 1, 1), *norm("n1", 3),
        array("c2.w", 4, 3, 3, 3), array("c2.b", 4), array("axes", values=np.array([2, 3]))], n_out=4)

    # A vector that is an image of one channel; a single logistic output.
    save(folder, "flat_digits", 21, (36,), [
        node("Reshape", ["x", "image"], ["i"]),
        node("Conv", ["i", "c1.w", "c1.b"], ["c1"]),
        node("Relu", ["c1"], ["r1"]),
        node("Flatten", ["r1"], ["f"]),
        node("BatchNormalization", ["f", *bn("n1")], ["n1"]),
        node("Gemm", ["n1", "g.w", "g.b"], ["g"]),
        node("Sigmoid", ["g"], ["y"]),
    ], [array("image", values=np.array([-1, 1, 6, 6])), array("c1.w", 2, 1, 3, 3), array("c1.b", 2),
        *norm("n1", 32), array("g.w", 32, 1), array("g.b", 1)], n_out=1)

    # Residual blocks as torchvision has them: a shortcut as it is, and one with a strided convolution.
    save(folder, "residual", 17, (3, 8, 8), [
        node("Conv", ["x", "c0.w"], ["c0"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c0", *bn("n0")], ["n0"]),
        node("Relu", ["n0"], ["r0"]),
        node("Conv", ["r0", "c1.w"], ["c1"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c1", *bn("n1")], ["n1"]),
        node("Relu", ["n1"], ["r1"]),
        node("Conv", ["r1", "c2.w"], ["c2"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c2", *bn("n2")], ["n2"]),
        node("Add", ["n2", "r0"], ["a1"]),
        node("Relu", ["a1"], ["r2"]),
        node("Conv", ["r2", "c3.w"], ["c3"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("BatchNormalization", ["c3", *bn("n3")], ["n3"]),
        node("Relu", ["n3"], ["r3"]),
        node("Conv", ["r3", "c4.w"], ["c4"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c4", *bn("n4")], ["n4"]),
        node("Conv", ["r2", "c5.w"], ["c5"], strides=[2, 2]),
        node("BatchNormalization", ["c5", *bn("n5")], ["n5"]),
        node("Add", ["n4", "n5"], ["a2"]),
        node("Relu", ["a2"], ["r4"]),
        node("GlobalAveragePool", ["r4"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "g.w", "g.b"], ["y"], transB=1),
    ], [array("c0.w", 4, 3, 3, 3), array("c1.w", 4, 4, 3, 3), array("c2.w", 4, 4, 3, 3),
        array("c3.w", 6, 4, 3, 3), array("c4.w", 6, 6, 3, 3), array("c5.w", 6, 4, 1, 1),
        *norm("n0", 4), *norm("n1", 4), *norm("n2", 4), *norm("n3", 6), *norm("n4", 6),
        *norm("n5", 6), array("g.w", 5, 6), array("g.b", 5)], n_out=5)

    # Joined channels, a difference of branches, a normalization that two layers read.
    save(folder, "joined", 18, (2, 7, 6), [
        node("Conv", ["x", "c1.w", "c1.b"], ["c1"], pads=[1, 1, 1, 1]),
        node("Mul", ["c1", "c1"], ["s1"]),
        node("AveragePool", ["x"], ["p1"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1],
             count_include_pad=1),
        node("Concat", ["s1", "p1"], ["j1"], axis=-3),
        node("BatchNormalization", ["j1", *bn("n1")], ["n1"]),
        node("Conv", ["n1", "c2.w", "c2.b"], ["c2"], pads=[1, 1, 1, 1], group=5),
        node("Relu", ["c2"], ["r2"]),
        node("Sub", ["r2", "n1"], ["d"]),
        node("Mul", ["d", "half"], ["h"]),
        node("GlobalAveragePool", ["h"], ["p2"]),
        node("Flatten", ["p2"], ["f"]),
        node("Gemm", ["f", "g1.w", "g1.b"], ["g1"]),
        node("Relu", ["g1"], ["r3"]),
        node("Concat", ["f", "r3"], ["j2"], axis=1),
        node("Gemm", ["j2", "g2.w", "g2.b"], ["y"]),
    ], [array("c1.w", 3, 2, 3, 3), array("c1.b", 3), *norm("n1", 5), array("c2.w", 5, 1, 3, 3),
        array("c2.b", 5), array("half", values=0.5), array("g1.w", 5, 4), array("g1.b", 4),
        array("g2.w", 9, 3), array("g2.b", 3)], n_out=3)

    # Activations that are no polynomials, the logistic function as a gate and on its own, maxima.
    save(folder, "activations", 20, (2, 8, 8), [
        node("Conv", ["x", "c1.w", "c1.b"], ["c1"], pads=[1, 1, 1, 1]),
        node("Sigmoid", ["c1"], ["s1"]),
        node("Mul", ["c1", "s1"], ["silu"]),
        node("MaxPool", ["silu"], ["m1"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["m1", "c2.w", "c2.b"], ["c2"], pads=[1, 1, 1, 1]),
        node("LeakyRelu", ["c2"], ["l2"], alpha=0.2),
        node("Conv", ["l2", "c3.w", "c3.b"], ["c3"]),
        node("Sigmoid", ["c3"], ["s3"]),
        node("Sub", ["s3", "half"], ["h3"]),
        node("Conv", ["h3", "c4.w", "c4.b"], ["c4"]),
        node("PRelu", ["c4", "slope"], ["p4"]),
        node("GlobalMaxPool", ["p4"], ["m4"]),
        node("Flatten", ["m4"], ["f"]),
        node("Gemm", ["f", "g1.w", "g1.b"], ["g1"]),
        node("Gelu", ["g1"], ["a1"]),
        node("Gemm", ["a1", "g2.w", "g2.b"], ["g2"]),
        node("Tanh", ["g2"], ["a2"]),
        node("Gemm", ["a2", "g3.w", "g3.b"], ["g3"]),
        node("Softplus", ["g3"], ["a3"]),
        node("Gemm", ["a3", "g4.w", "g4.b"], ["g4"]),
        node("Abs", ["g4"], ["a4"]),
        node("Gemm", ["a4", "g5.w", "g5.b"], ["g5"]),
        node("Sigmoid", ["g5"], ["y"]),
    ], [array("c1.w", 3, 2, 3, 3), array("c1.b", 3), array("c2.w", 4, 3, 3, 3), array("c2.b", 4),
        array("c3.w", 4, 4, 1, 1), array("c3.b", 4), array("half", values=0.5),
        array("c4.w", 5, 4, 2, 2), array("c4.b", 5), array("slope", values=np.full((5, 1, 1), 0.25)),
        *[array(f"g{i}.w", 5, 5) for i in range(1, 5)], *[array(f"g{i}.b", 5) for i in range(1, 5)],
        array("g5.w", 5, 3), array("g5.b", 3)], n_out=3)

    # A vector that one branch reads as an image and the other as it is.
    save(folder, "vector_skip", 13, (16,), [
        node("Reshape", ["x", "image"], ["i"]),
        node("Conv", ["i", "c1.w", "c1.b"], ["c1"]),
        node("Relu", ["c1"], ["r1"]),
        node("Flatten", ["r1"], ["f"]),
        node("Gemm", ["f", "g1.w", "g1.b"], ["g1"]),
        node("Gemm", ["x", "g2.w", "g2.b"], ["g2"]),
        node("Add", ["g1", "g2"], ["y"]),
    ], [array("image", values=np.array([-1, 1, 4, 4])), array("c1.w", 2, 1, 2, 3), array("c1.b", 2),
        array("g1.w", 12, 3), array("g1.b", 3), array("g2.w", 16, 3), array("g2.b", 3)], n_out=3)

    # What PyTorch's TorchScript exporter writes: paddings put together from constants, GELU by Erf.
    save(folder, "torchscript", 17, (2, 8, 8), [
        node("ConstantOfShape", ["four"], ["zeros"],
             value=numpy_helper.from_array(np.array([0], np.int64))),
        node("Concat", ["sides", "zeros"], ["all"], axis=0),
        node("Reshape", ["all", "pairs"], ["rows"]),
        node("Slice", ["rows", "last", "before", "first", "last"], ["turned"]),
        node("Transpose", ["turned"], ["columns"], perm=[1, 0]),
        node("Reshape", ["columns", "last"], ["list"]),
        node("Cast", ["list"], ["pads"], to=TensorProto.INT64),
        node("Pad", ["x", "pads", ""], ["p"], mode="constant"),
        node("Conv", ["p", "c1.w", "c1.b"], ["c1"], strides=[2, 2]),
        node("BatchNormalization", ["c1", *bn("n1")], ["n1"]),
        node("Div", ["n1", "root"], ["d1"]),
        node("Erf", ["d1"], ["e1"]),
        node("Add", ["e1", "one"], ["o1"]),
        node("Mul", ["n1", "o1"], ["m1"]),
        node("Mul", ["m1", "half"], ["gelu1"]),
        node("Flatten", ["gelu1"], ["f"]),
        node("Gemm", ["f", "g1.w", "g1.b"], ["g1"], transB=1),
        node("Mul", ["g1", "half"], ["h2"]),
        node("Mul", ["g1", "inverse"], ["d2"]),
        node("Erf", ["d2"], ["e2"]),
        node("Add", ["one", "e2"], ["o2"]),
        node("Mul", ["o2", "h2"], ["gelu2"]),
        node("Gemm", ["gelu2", "g2.w", "g2.b"], ["y"], transB=1),
    ], [array("four", values=np.array([4])), array("sides", values=np.array([0, 1, 2, 1])),
        array("pairs", values=np.array([-1, 2])), array("first", values=np.array([0])),
        array("last", values=np.array([-1])), array("before", values=np.array([-(2**63) + 1])),
        array("c1.w", 3, 2, 3, 3), array("c1.b", 3), *norm("n1", 3),
        array("root", values=2.0**0.5), array("inverse", values=0.5**0.5), array("one", values=1.0),
        array("half", values=0.5), array("g1.w", 7, 60), array("g1.b", 7), array("g2.w", 4, 7),
        array("g2.b", 4)], n_out=4)

    # What Keras becomes with one channel: a reshape in place of the transposition; a dense layer at
    # every position.
    save(folder, "keras_gray", 15, (8, 7, 1), [
        node("Reshape", ["x", "image"], ["t"]),
        node("Conv", ["t", "c1.w", "c1.b"], ["c1"], strides=[2, 2], auto_pad="SAME_UPPER"),
        node("Relu", ["c1"], ["r1"]),
        node("Transpose", ["r1"], ["l"], perm=[0, 2, 3, 1]),
        node("MatMul", ["l", "d1.w"], ["d1"]),
        node("Add", ["d1", "d1.b"], ["b1"]),
        node("Relu", ["b1"], ["r2"]),
        node("Reshape", ["r2", "flat"], ["f"]),
        node("MatMul", ["f", "d2.w"], ["d2"]),
        node("Add", ["d2", "d2.b"], ["a2"]),
        node("Softmax", ["a2"], ["y"]),
    ], [array("image", values=np.array([-1, 1, 8, 7])), array("c1.w", 3, 1, 3, 3), array("c1.b", 3),
        array("d1.w", 3, 2), array("d1.b", 2), array("flat", values=np.array([-1, 32])),
        array("d2.w", 32, 4), array("d2.b", 4)], n_out=4)

    # A perceptron of Keras on images in color: nothing but a reshape tells where the channels are.
    save(folder, "keras_mlp", 15, (4, 5, 3), [
        node("Reshape", ["x", "flat"], ["f"]),
        node("MatMul", ["f", "d1.w"], ["d1"]),
        node("Add", ["d1", "d1.b"], ["b1"]),
        node("Relu", ["b1"], ["r1"]),
        node("MatMul", ["r1", "d2.w"], ["d2"]),
        node("Add", ["d2", "d2.b"], ["y"]),
    ], [array("flat", values=np.array([-1, 60])), array("d1.w", 60, 6), array("d1.b", 6),
        array("d2.w", 6, 3), array("d2.b", 3)], n_out=3)

    # Read, but without an integer form: an activation before the first linear layer.
    save(folder, "relu_first", 17, (1, 3, 3), [
        node("Relu", ["x"], ["r"]),
        node("Flatten", ["r"], ["f"]),
        node("Gemm", ["f", "g.w", "g.b"], ["y"], transB=1),
    ], [array("g.w", 2, 9), array("g.b", 2)], n_out=2)


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    graphs(sys.argv[1])
