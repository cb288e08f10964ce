"""Train in scikit-learn, import, classify encrypted on a server in this process, verify.

    pip install scikit-learn skl2onnx && python sklearn_wine.py
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import securedl

try:
    from skl2onnx import to_onnx
    from sklearn.datasets import load_wine
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
except ImportError as error:
    sys.exit(print(f"SKIPPED: {error} (pip install scikit-learn skl2onnx)"))

# 1. Train.
wine = load_wine()
x_train, x_test, y_train, y_test = train_test_split(
    wine.data.astype(np.float32), wine.target, random_state=0
)
trained = make_pipeline(StandardScaler(), MLPClassifier((16,), max_iter=2000, random_state=0))
trained.fit(x_train, y_train)

with tempfile.TemporaryDirectory() as folder:
    # 2. Import: the scaler becomes the preprocessing of the model.
    path = Path(folder, "wine.onnx")
    graph = to_onnx(trained, x_train[:1], target_opset=17, options={"zipmap": False})
    path.write_bytes(graph.SerializeToString())
    model = securedl.Model.from_onnx(path, labels=list(wine.target_names))

# 3. Compile: fewer bits are cheaper, and cost accuracy.
plan = securedl.compile(model, calibrate=(x_train, y_train), bits="8/6/6", expected_samples=len(x_test))
print(plan, plan.forecast())

# 4. Classify encrypted. With a server elsewhere: securedl.Client(plan, "host:7443", ca="tls").
result = securedl.Client.in_process(plan, examples=x_train).classify(x_test)
print(result)
print(f"accuracy: {np.mean(result.labels == y_test):.1%} (trained: {trained.score(x_test, y_test):.1%})")

# 5. Verify: the checks of the run, and equality with the integers of the plan.
print(result.verdict)
assert np.array_equal(result.scores, plan.simulate(x_test).scores)
