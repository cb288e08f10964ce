"""A PyTorch network as ONNX: python pytorch_cnn.py digits.onnx (needs torch and onnx)."""
import sys
import torch
from torch import nn

net = nn.Sequential(
    nn.Conv2d(1, 5, 5, stride=2, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.AvgPool2d(2),
    nn.Flatten(), nn.Dropout(0.2), nn.Linear(5 * 6 * 6, 10), nn.Softmax(dim=1))
# ... train here, then:
net.eval()
torch.onnx.export(net, torch.zeros(1, 1, 28, 28), sys.argv[1], opset_version=17, dynamo=False,
                  input_names=["image"], output_names=["scores"], dynamic_axes={"image": {0: "batch"}})
