"""Train a small convolution in PyTorch, import, classify encrypted, and watch a cheating server be caught.

    pip install torch onnx scikit-learn && python torch_digits.py
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import securedl

try:
    import onnx  # noqa: F401  (torch exports through it)
    import torch
    from sklearn.datasets import load_digits
    from torch import nn
except ImportError as error:
    sys.exit(print(f"SKIPPED: {error} (pip install torch onnx scikit-learn)"))

# 1. Train on digits of 8 × 8 pixels from 0 to 1. Squares can be evaluated by the server.
torch.manual_seed(0)
digits = load_digits()
images = (digits.images / 16).astype(np.float32)
x_train, x_test = images[:1500], images[1500:]
y_train, y_test = digits.target[:1500], digits.target[1500:]


class Square(nn.Module):
    def forward(self, x):
        return x * x


def network():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), Square(), nn.Flatten(), nn.Linear(64, 10)
    )


def train(net):
    step = torch.optim.Adam(net.parameters(), 0.01)
    inputs, targets = torch.from_numpy(x_train)[:, None], torch.from_numpy(y_train)
    for _ in range(300):
        step.zero_grad()
        nn.functional.cross_entropy(net(inputs), targets).backward()
        step.step()
    return net.eval()


def imported(net):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "digits.onnx")
        torch.onnx.export(net, torch.zeros(1, 1, 8, 8), str(path), dynamo=False)
        return securedl.Model.from_onnx(path)


# 2. and 3. Import and compile. Samples have their channels last here.
net = train(network())
model = imported(net)
own, others = x_train[..., None], x_test[..., None]
settings = {"calibrate": own, "bits": "4/5/5", "activation": "server", "self_test": False}
plan = securedl.compile(model, **settings)
print(plan, plan.segments)

# 4. Classify encrypted, and see how it goes on.
client = securedl.Client.in_process(plan, examples=own)
result = client.classify(others, progress=print)
print(result)
print(f"accuracy: {np.mean(result.labels == y_test):.1%}")

# 5. Verify. A server whose model has one other weight is caught, and nothing is released.
print(result.verdict)
with torch.no_grad():
    net[0].weight[0, 0, 1, 1] *= -1
other = securedl.SegmentEvaluator(securedl.compile(imported(net), **settings))
batch = securedl.KeyHolder(plan, own).batch(others)
try:
    for block in range(batch.n_blocks):
        batch.reply(block, other.evaluate(batch.segment(block), batch.request(block)))
    batch.finish_round()
    raise SystemExit("the other model was not noticed")
except securedl.VerdictError as error:
    print("caught:", error)
