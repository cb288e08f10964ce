"""Random graphs of every supported operator: python random_graphs.py FOLDER N SEED (needs onnx).

Each is checked by onnx.checker; expected_outputs.py adds inputs and outputs. Used by .ci/run.
"""
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper as h, numpy_helper


class Builder:
    """Appends nodes and keeps the shape of what they make, as (channels, height, width) or (n,)."""

    def __init__(self, rng, shape, opset):
        self.rng, self.shape, self.opset = rng, shape, opset
        self.nodes, self.arrays, self.last = [], [], "x"

    def array(self, *dims, positive=False, values=None):
        data = np.asarray(values) if values is not None else self.rng.normal(0, 0.5, dims)
        data = np.abs(data) + 0.3 if positive else data
        name = f"a{len(self.arrays)}"
        dtype = np.int64 if data.dtype == np.int64 else np.float32
        self.arrays.append(numpy_helper.from_array(np.asarray(data, dtype), name))
        return name

    def add(self, op, inputs, **attributes):
        name = f"v{len(self.nodes)}"
        self.nodes.append(h.make_node(op, inputs, [name], **attributes))
        self.last = name

    def conv(self):
        c, height, width = self.shape
        groups = int(self.rng.choice([g for g in (1, 1, 2, c) if c % g == 0]))
        maps = groups * int(self.rng.integers(1, 4))
        kernel = [int(self.rng.integers(1, min(4, n) + 1)) for n in (height, width)]
        steps = [int(self.rng.integers(1, 3)) for _ in "hw"]
        dilation = [int(self.rng.integers(1, 3)) if (k - 1) * 2 < n else 1
                    for k, n in zip(kernel, (height, width))]
        extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
        inputs = [self.last, self.array(maps, c // groups, *kernel)]
        if self.rng.random() < 0.7:
            inputs.append(self.array(maps))
        rule = self.rng.choice(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])
        attributes = dict(strides=steps, dilations=dilation, group=groups)
        if rule == "NOTSET":
            pads = [int(self.rng.integers(0, e)) for e in extent + extent]
            attributes["pads"] = pads
            size = [n + pads[i] + pads[i + 2] for i, n in enumerate((height, width))]
            out = [(n - e) // s + 1 for n, e, s in zip(size, extent, steps)]
        else:
            attributes["auto_pad"] = str(rule)
            attributes["dilations"], extent = [1, 1], kernel
            out = [-(-n // s) for n, s in zip((height, width), steps)]
            if rule == "VALID":
                out = [(n - e) // s + 1 for n, e, s in zip((height, width), extent, steps)]
        self.add("Conv", inputs, **attributes)
        self.shape = (maps, *out)

    def pool(self):
        c, height, width = self.shape
        window = [int(self.rng.integers(1, min(3, n) + 1)) for n in (height, width)]
        steps = [int(self.rng.integers(1, 3)) for _ in "hw"]
        if self.rng.random() < 0.4:
            pads = [int(self.rng.integers(0, w)) for w in window + window]
            if self.rng.random() < 0.5:
                self.add("AveragePool", [self.last], kernel_shape=window, strides=steps, pads=pads,
                         count_include_pad=1)
            else:
                self.add("MaxPool", [self.last], kernel_shape=window, strides=steps, pads=pads)
            height, width = height + pads[0] + pads[2], width + pads[1] + pads[3]
        else:
            self.add(str(self.rng.choice(["AveragePool", "MaxPool"])), [self.last],
                     kernel_shape=window, strides=steps)
        out = [(n - w) // s + 1 for n, w, s in zip((height, width), window, steps)]
        self.shape = (c, *out)

    def dense(self):
        (n,) = self.shape
        m = int(self.rng.integers(2, 7))
        if self.rng.random() < 0.5:
            transposed = int(self.rng.random() < 0.5)
            self.add("Gemm", [self.last, self.array(*((m, n) if transposed else (n, m))), self.array(m)],
                     alpha=0.5, beta=1.5, transB=transposed)
        else:
            self.add("MatMul", [self.last, self.array(n, m)])
            self.add("Add", [self.last, self.array(m)])
        self.shape = (m,)

    def norm(self):
        n = self.shape[0]
        statistics = [self.array(n), self.array(n), self.array(n), self.array(n, positive=True)]
        self.add("BatchNormalization", [self.last, *statistics], epsilon=1e-3)

    def activation(self):
        kinds = ["Relu", "square", "polynomial", "Clip", "arithmetic", "silu", "Tanh", "Sigmoid",
                 "LeakyRelu", "PRelu", "Softplus", "Abs"] + ["Gelu"] * (self.opset >= 20)
        kind = self.rng.choice(kinds)
        x, rest = self.last, [1] * (len(self.shape) - 1)
        constant = lambda: self.array(self.shape[0], *rest)
        if kind == "Relu":
            self.add("Relu", [x])
        elif kind == "Gelu":
            self.add("Gelu", [x], approximate="tanh" if self.opset % 2 else "none")
        elif kind in ("Tanh", "Sigmoid", "Softplus", "Abs"):
            self.add(str(kind), [x])
        elif kind == "LeakyRelu":
            self.add("LeakyRelu", [x], alpha=float(self.rng.normal(0, 0.3)))
        elif kind == "PRelu":
            slope = self.rng.normal(0, 0.3)
            self.add("PRelu", [x, self.array(values=np.full([self.shape[0], *rest], slope))])
        elif kind == "silu":
            self.add("Sigmoid", [x])
            self.add("Mul", [x, self.last] if self.rng.random() < 0.5 else [self.last, x])
        elif kind == "square":
            self.add("Mul", [x, x])
        elif kind == "Clip":
            self.add("Clip", [x, self.array(values=0.0), self.array(values=1.5)])
        elif kind == "arithmetic":
            self.add("Sub", [x, constant()])
            self.add("Div", [self.last, self.array(self.shape[0], *rest, positive=True)])
        else:
            self.add("Pow", [x, self.array(values=2.0)])
            self.add("Mul", [constant(), self.last])
            square = self.last
            self.add("Mul", [x, constant()])
            self.add("Add", [square, self.last])
            self.add("Sub", [self.last, constant()])

    def residual(self):
        """One or two layers, added to (or taken from) what they read."""
        before, shape = self.last, self.shape
        if len(shape) == 3:
            groups = int(self.rng.choice([1, shape[0]]))
            self.add("Conv", [self.last, self.array(shape[0], shape[0] // groups, 3, 3)],
                     pads=[1, 1, 1, 1], group=groups)
        else:
            self.add("MatMul", [self.last, self.array(shape[0], shape[0])])
        for step in self.rng.permutation([self.norm, self.activation])[: int(self.rng.integers(0, 3))]:
            step()
        pair = [before, self.last] if self.rng.random() < 0.5 else [self.last, before]
        self.add(str(self.rng.choice(["Add", "Sub"])), pair)

    def joined(self):
        """The channels of a layer and of what it reads."""
        before, n = self.last, self.shape[0]
        self.norm()
        self.add("Concat", [before, self.last], axis=int(self.rng.choice([1, -len(self.shape)])))
        self.shape = (2 * n, *self.shape[1:])

    def flatten(self):
        if self.rng.random() < 0.3:
            self.add("GlobalAveragePool", [self.last])
            self.shape = (self.shape[0], 1, 1)
        n = int(np.prod(self.shape))
        if self.rng.random() < 0.5:
            self.add("Flatten", [self.last])
        else:
            self.add("Reshape", [self.last, self.array(values=np.array([0, -1]))])
        self.shape = (n,)


def graph(seed):
    """One random network."""
    rng = np.random.default_rng(seed)
    opset = int(rng.choice([11, 12, 13, 15, 17, 18, 20, 21]))
    shape = tuple(int(n) for n in (rng.integers(1, 4), rng.integers(5, 11), rng.integers(5, 11)))
    b = Builder(rng, shape, opset)
    if rng.random() < 0.3:
        b.add("Sub", [b.last, b.array(shape[0], 1, 1)])
    for _ in range(int(rng.integers(1, 4))):
        b.conv()
        steps = [b.norm, b.activation, b.pool, b.residual, b.joined]
        for step in rng.permutation(steps)[: int(rng.integers(0, 6))]:
            step()
    b.flatten()
    for _ in range(int(rng.integers(0, 2))):
        b.dense()
        steps = [b.norm, b.activation, b.residual, b.joined]
        for step in rng.permutation(steps)[: int(rng.integers(0, 5))]:
            step()
    b.dense()
    if rng.random() < 0.5:
        b.add(str(rng.choice(["Softmax", "LogSoftmax", "Sigmoid"])), [b.last])
    x = h.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])
    y = h.make_tensor_value_info(b.last, TensorProto.FLOAT, ["batch", b.shape[0]])
    made = h.make_model(h.make_graph(b.nodes, "random", [x], [y], b.arrays),
                        opset_imports=[h.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made


if __name__ == "__main__":
    folder, n, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        (folder / f"random{seed + i}.onnx").write_bytes(graph(seed + i).SerializeToString())
