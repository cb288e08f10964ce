"""Two classes, one logistic output: python sklearn_binary.py FILE.onnx (needs scikit-learn, skl2onnx)."""
import sys
from skl2onnx import to_onnx
from sklearn.datasets import make_moons
from sklearn.neural_network import MLPClassifier

x, y = make_moons(300, noise=0.1, random_state=0)
model = MLPClassifier((8, 4), max_iter=800, random_state=0).fit(x, y)
onnx = to_onnx(model, x[:1].astype("float32"), target_opset=15)
open(sys.argv[1], "wb").write(onnx.SerializeToString())
