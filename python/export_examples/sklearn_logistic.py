"""A logistic regression as ONNX: python sklearn_logistic.py FILE.onnx (needs scikit-learn, skl2onnx)."""
import sys
from skl2onnx import to_onnx
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

x, y = load_wine(return_X_y=True)
model = make_pipeline(StandardScaler(), LogisticRegression(random_state=0)).fit(x, y)
onnx = to_onnx(model, x[:1].astype("float32"), target_opset=17)
open(sys.argv[1], "wb").write(onnx.SerializeToString())
