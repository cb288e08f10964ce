"""A scikit-learn pipeline as ONNX: python sklearn_mlp.py FILE.onnx (needs scikit-learn, skl2onnx)."""
import sys
from skl2onnx import to_onnx
from sklearn.datasets import load_wine
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

x, y = load_wine(return_X_y=True)
model = make_pipeline(StandardScaler(), MLPClassifier((16, 8), max_iter=400, random_state=0)).fit(x, y)
onnx = to_onnx(model, x[:1].astype("float32"), target_opset=17, options={"zipmap": False})
open(sys.argv[1], "wb").write(onnx.SerializeToString())
