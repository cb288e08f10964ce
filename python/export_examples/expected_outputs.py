"""Inputs and onnxruntime's outputs beside every FILE.onnx of a folder, as .npy (needs onnxruntime)."""
import sys
from pathlib import Path

import numpy as np
import onnxruntime

for path in sorted(Path(sys.argv[1]).glob("*.onnx")):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    dims = [d if isinstance(d, int) else 6 for d in session.get_inputs()[0].shape]
    x = np.random.default_rng(1).normal(0.3, 1, dims).astype("float32")
    name = [o.name for o in session.get_outputs() if "label" not in o.name][-1]
    y = session.run([name], {session.get_inputs()[0].name: x})[0]
    if isinstance(y, list):  # one map from class to probability per sample
        y = np.array([[row[k] for k in sorted(row)] for row in y])
    np.save(path.with_suffix(".inputs.npy"), x)
    np.save(path.with_suffix(".outputs.npy"), y.astype("float32"))
