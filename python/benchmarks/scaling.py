"""What a Ray cluster costs per block, beside one process on as many cores: the figures of docs/scaling.md.

    python scaling.py [--network cryptonets] [--activation server] [--cores 2] [--blocks 4 8 16] [--repeat 5]

The networks are those of `securedl bench network`, with random weights, on random images. Every block is encrypted
beforehand, so that only evaluation and transport are timed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

arguments = argparse.ArgumentParser(description=__doc__)
arguments.add_argument("--network", choices=["cryptonets", "securedl"], default="cryptonets")
arguments.add_argument("--activation", choices=["server", "client"], default="server")
arguments.add_argument("--cores", type=int, default=2)
arguments.add_argument("--blocks", type=int, nargs="+", default=[4, 8, 16])
arguments.add_argument("--repeat", type=int, default=5)
options = arguments.parse_args()
# Of this process, read when the arithmetic is used first; workers have as many as Ray sets cores aside.
os.environ["RAYON_NUM_THREADS"] = str(options.cores)

import numpy as np  # noqa: E402
import ray  # noqa: E402
import securedl  # noqa: E402
from securedl.ray import Pool, connect  # noqa: E402

draw = np.random.default_rng(0)
SQUARE, FLATTEN = {"kind": '"square"'}, {"kind": '"flatten"'}
POOL = {"kind": '"average_pool"', "window": [2, 2]}


def convolution(maps: int, channels: int, **where: list[int]) -> dict[str, object]:
    return {"kind": '"conv2d"', "shape": (maps, channels, 5, 5), **where}


def dense(n_in: int, n_out: int) -> dict[str, object]:
    return {"kind": '"dense"', "shape": (n_out, n_in)}


NETWORKS = {
    "cryptonets": [
        convolution(5, 1, stride=[2, 2], padding=[1, 0, 1, 0]), SQUARE, FLATTEN,
        dense(845, 100), SQUARE, dense(100, 10),
    ],
    "securedl": [
        convolution(20, 1), SQUARE, POOL, convolution(50, 20), SQUARE, POOL, FLATTEN,
        dense(800, 256), SQUARE, dense(256, 10),
    ],
}  # fmt: skip


def network(name: str) -> securedl.Plan:
    text, arrays = 'weights = "w.npz"\ninput = [28, 28, 1]\norder = "channels-first"\n', {}
    for number, layer in enumerate(NETWORKS[name]):
        fields = dict(layer)
        if "shape" in fields:
            shape = fields.pop("shape")
            arrays[f"w{number}"] = draw.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
            fields["weights"] = f'"w{number}"'
        text += "\n[[layers]]\n" + "".join(f"{key} = {value}\n" for key, value in fields.items())
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "w.npz"), **{name: a.astype(np.float32) for name, a in arrays.items()})
        Path(folder, f"{name}.toml").write_text(text)
        model = securedl.Model.from_description(Path(folder, f"{name}.toml"))
    images = draw.random((256, 28, 28, 1), dtype=np.float32)
    return securedl.compile(
        model, images, bits="4/4/4", activation=options.activation, expected_samples=8000, self_test=False
    )


plan = network(options.network)
holder = securedl.KeyHolder(plan, draw.random((32, *plan.input_shape), dtype=np.float32))
here = securedl.SegmentEvaluator(plan)
connect(num_cpus=options.cores)
pool = Pool(plan)


def requests(number: int, n_blocks: int) -> list[np.ndarray]:
    """Requests for a segment: for those after the first, replies are computed on the way there."""
    capacity = min(holder.samples_per_block)
    samples = draw.random((min(capacity, 64), *plan.input_shape), dtype=np.float32)
    batch = holder.batch(samples)
    while batch.segment(0) < number:
        for block in range(batch.n_blocks):
            batch.reply(block, here.evaluate(batch.segment(block), batch.request(block)))
        batch.finish_round()
    first = batch.request(number - batch.segment(0))
    # A block costs the same whatever is in it: the same bytes, but an object each.
    return [first.copy() for _ in range(n_blocks)]


def on_ray(number: int, blocks: list[np.ndarray]) -> list[np.ndarray]:
    pending, waiting, replies = [], list(blocks), []
    while waiting or pending:
        while waiting and len(pending) < 2 * options.cores:
            pending.append(pool.submit(number, waiting.pop()))
        ready, pending = ray.wait(pending, num_returns=1)
        replies.extend(ray.get(ready))
    return replies


def in_one_process(number: int, blocks: list[np.ndarray]) -> list[np.ndarray]:
    return [here.evaluate(number, block) for block in blocks]


def seconds(work, number: int, blocks: list[np.ndarray]) -> float:
    began = time.perf_counter()
    replies = work(number, blocks)
    took = time.perf_counter() - began
    assert len(replies) == len(blocks)
    return took


print(f"{plan}, {options.cores} cores, median of {options.repeat}")
for segment in plan.segments:
    mega = (segment.request_bytes + segment.reply_bytes) / 1e6
    memory = here.memory_bytes(segment.number) / 1e6
    print(f"segment {segment.number}: {mega:.2f} MB both ways, {memory:.0f} MB at the evaluator")
    print("  blocks | one process, ms per block | Ray, ms per block | ratio")
    warm = requests(segment.number, 2 * options.cores)
    on_ray(segment.number, warm)
    in_one_process(segment.number, warm)
    for n_blocks in options.blocks:
        blocks = requests(segment.number, n_blocks)
        # In turns, so that whatever else the machine does meets both.
        pairs = [
            (seconds(in_one_process, segment.number, blocks), seconds(on_ray, segment.number, blocks))
            for _ in range(options.repeat)
        ]
        one, many = (1e3 * statistics.median(column) / n_blocks for column in zip(*pairs, strict=True))
        ratio = statistics.median(ray_time / own for own, ray_time in pairs)
        print(f"  {n_blocks:6} | {one:25.2f} | {many:17.2f} | {ratio:.2f}")
