"""A residual network of ten layers on 32x32 color images, trained and exported.

Usage: pytorch_residual.py FOLDER OUT.onnx [EPOCHS]

FOLDER holds CIFAR-style records (label byte, then 3 planes of 32x32), NAME_train.bin.gz and NAME_test.bin.gz.
"""

import gzip
import pathlib
import sys

import numpy
import torch
from torch import nn
from torch.nn import functional


def records(path):
    rows = numpy.frombuffer(gzip.decompress(path.read_bytes()), numpy.uint8).reshape(-1, 3073)
    images = torch.from_numpy(rows[:, 1:].reshape(-1, 3, 32, 32).astype(numpy.float32)) / 255
    return images, torch.from_numpy(rows[:, 0].astype(numpy.int64))


def normalized(n_in, n_out, kernel, stride, padding):
    return nn.Sequential(nn.Conv2d(n_in, n_out, kernel, stride, padding, bias=False), nn.BatchNorm2d(n_out))


class Block(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.first, self.second = normalized(n, n, 3, 1, 1), normalized(n, n, 3, 1, 1)

    def forward(self, x):
        return functional.relu(self.second(functional.relu(self.first(x))) + x)


def network(n_classes, width=16):
    return nn.Sequential(
        normalized(3, width, 4, 2, 1), nn.ReLU(), Block(width),
        normalized(width, 2 * width, 3, 2, 1), nn.ReLU(), Block(2 * width),
        normalized(2 * width, 4 * width, 3, 2, 1), nn.ReLU(), Block(4 * width),
        nn.AvgPool2d(4), nn.Flatten(), nn.Linear(4 * width, n_classes),
    )


def shifted(images, most=2):
    dy, dx = torch.randint(0, 2 * most + 1, (2,)).tolist()
    return functional.pad(images, (most,) * 4)[:, :, dy:dy + 32, dx:dx + 32]


def main(folder, out, epochs=20):
    torch.manual_seed(0)
    folder = pathlib.Path(folder)
    (images, labels), test = (records(next(folder.glob(f"*_{part}.bin.gz"))) for part in ("train", "test"))
    model = network(int(labels.max()) + 1)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    n_steps = int(epochs) * (len(images) // 100)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, n_steps, pct_start=0.2)
    for epoch in range(int(epochs)):
        for batch in torch.randperm(len(images))[: len(images) // 100 * 100].split(100):
            loss = functional.cross_entropy(model.train()(shifted(images[batch])), labels[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            right = model.eval()(test[0]).argmax(1) == test[1]
        print(f"epoch {epoch + 1}: {100 * right.float().mean():.2f} % of the test part", flush=True)
    torch.onnx.export(model.eval(), (images[:1],), out, input_names=["image"], output_names=["scores"],
                      dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}}, opset_version=17, dynamo=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
