"""Data sets through a Ray cluster, and a gateway to one, from a shell."""

from __future__ import annotations

import argparse
import csv
import os
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import securedl
from securedl import Fingerprint, Gateway, Journal, KeyHolder, Plan, Result, Samples
from securedl.ray import Pool, Progress, connect, run
from securedl.ray.driver import BATCHES_IN_FLIGHT, BLOCKS_PER_PLACE

# Samples from which canaries are drawn, at most.
EXAMPLES = 1024
# Requests that a gateway has on the cluster at a time: what a server allows.
MAX_EVALUATIONS = 128
# Seconds between two lines of progress.
LINE_INTERVAL = 5.0


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 intact, 1 caught cheating, 2 any error, as of the command `securedl`."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except securedl.VerdictError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (securedl.Error, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 2
    except Exception as error:  # Ray's among them: 1 would say that somebody cheated
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return 2


def _count(text: str) -> int:
    """A number of things, at least one."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _csv(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() != ".csv":
        raise argparse.ArgumentTypeError(f"{text} does not end in .csv")
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m securedl.ray", description=__doc__)
    commands = parser.add_subparsers(required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--plan", required=True, help="the plan, with its weights")
    common.add_argument(
        "--address", help="the cluster, as ray.init takes it; without it one is started on this machine"
    )
    common.add_argument("--cpus-per-block", type=_count, default=1, metavar="N")

    infer = commands.add_parser("infer", parents=[common], help="classify a data set")
    infer.set_defaults(command=_infer)
    infer.add_argument("--data", required=True, help="a path, or a name in the data folder")
    infer.add_argument("--split", default="test", choices=["train", "test", "all"])
    infer.add_argument("--samples", type=_count, metavar="N", help="only the first N")
    infer.add_argument("--label-column", metavar="COLUMN")
    infer.add_argument("--out", type=_csv, metavar="FILE.csv", help="where predictions go")
    infer.add_argument("--resume", action="store_true", help="go on with the journal beside --out")
    infer.add_argument("--fingerprint", metavar="FP", help="its samples are the canaries")
    infer.add_argument("--canaries", type=_count, metavar="N")
    infer.add_argument("--replicas", type=_count, default=1, metavar="R")
    infer.add_argument(
        "--samples-per-batch", type=_count, metavar="N", help="default: as the plan was compiled for"
    )
    infer.add_argument("--blocks-in-flight", type=_count, metavar="N", help="default: two per place")
    infer.add_argument("--batches-in-flight", type=_count, default=BATCHES_IN_FLIGHT, metavar="N")

    serve = commands.add_parser(
        "serve", parents=[common], help="a server for clients outside the cluster, over TLS"
    )
    serve.set_defaults(command=_serve)
    serve.add_argument("--tls", required=True, help="a folder made by `securedl tls init`")
    serve.add_argument("--listen", default="127.0.0.1:7443", metavar="ADDR")
    serve.add_argument("--access", metavar="FILE", help="who may enter; needed beyond loopback")
    serve.add_argument(
        "--evaluations", type=_count, metavar="N", help="requests on the cluster at a time; default: two per place"
    )
    serve.add_argument(
        "--memory-gb", type=_count, metavar="GB", help="what admitted requests may declare; default 4"
    )
    return parser


def _serve(options: argparse.Namespace) -> int:
    plan = Plan.load(options.plan)
    connect(options.address)
    pool = Pool(plan, cpus_per_block=options.cpus_per_block)
    gateway = Gateway(
        plan,
        pool.begin,
        tls=options.tls,
        listen=options.listen,
        access=options.access,
        evaluations=options.evaluations or min(MAX_EVALUATIONS, BLOCKS_PER_PLACE * pool.n_places),
        memory_bytes=None if options.memory_gb is None else options.memory_gb << 30,
    )
    # As a container is stopped: no further connections, and what runs is finished.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"listening on {gateway.address}; identity {gateway.identity}", flush=True)
    try:
        gateway.serve_forever()
    except KeyboardInterrupt:
        print("stopping", file=sys.stderr)
        gateway.close()
    return 0


def _infer(options: argparse.Namespace) -> int:
    if options.resume and options.out is None:
        raise ValueError("--resume goes with --out: the journal lies beside it")
    plan = Plan.load(options.plan)
    samples = Samples(
        options.data,
        plan,
        split=options.split,
        label_column=options.label_column,
        n_samples=options.samples,
    )
    holder = _holder(options, plan, samples)
    step = holder.samples_per_batch(options.samples_per_batch)
    journal = None
    if options.out is not None:
        description = f"{holder.description}part: {options.split}\nsamples: {len(samples)}\n"
        journal = Journal(
            options.out.with_name(options.out.name + ".journal"),
            plan,
            samples_per_batch=step,
            description=description,
            resume=options.resume,
        )
    connect(options.address)
    pool = Pool(plan, cpus_per_block=options.cpus_per_block)
    work = _Work(samples, step, journal)
    began = time.monotonic()
    results = run(
        holder,
        work.batches(),
        pool,
        blocks_in_flight=options.blocks_in_flight,
        batches_in_flight=options.batches_in_flight,
        progress=_Lines(len(samples) - work.n_earlier, began),
    )
    for result in results:
        work.keep(result)
    seconds = time.monotonic() - began
    work.report(seconds)
    if journal is not None:
        _write(options.out, journal, plan, samples.labels)
        journal.remove()
    return 0


def _holder(options: argparse.Namespace, plan: Plan, samples: Samples) -> KeyHolder:
    checks = {"canaries": options.canaries, "replicas": options.replicas}
    if options.fingerprint is not None:
        return KeyHolder(plan, fingerprint=Fingerprint.load(options.fingerprint), **checks)
    count = min(EXAMPLES, len(samples))
    positions = secrets.SystemRandom().sample(range(len(samples)), count)
    return KeyHolder(plan, samples.select(positions), **checks)


class _Work:
    """Samples on their way: read when they are needed, kept when they are finished."""

    def __init__(self, samples: Samples, step: int, journal: Journal | None) -> None:
        self.samples, self.step, self.journal = samples, step, journal
        self.under_way: list[NDArray[np.float32]] = []
        self.labels = samples.labels
        self.n_earlier = self.n_finished = self.n_correct = 0
        self.bytes = self.blocks = 0
        self.soundness: list[securedl.Soundness] = []
        if journal is not None:
            for batch in range(journal.n_batches):
                rows = samples.next(step)
                journal.check(batch, rows)
                self._count(journal.read(batch))
            self.n_earlier = self.n_finished

    def batches(self) -> Iterator[NDArray[np.float32]]:
        while (rows := self.samples.next(self.step)) is not None:
            self.under_way.append(rows)
            yield rows

    def keep(self, result: Result) -> None:
        rows = self.under_way.pop(0)
        if self.journal is not None:
            self.journal.append(rows, result)
        self._count(result)
        self.bytes += result.bytes
        self.blocks += result.blocks

    def _count(self, result: Result) -> None:
        first = self.n_finished
        self.n_finished += len(result.labels)
        self.soundness.append(result.soundness)
        if self.labels is not None:
            expected = self.labels[first : self.n_finished]
            self.n_correct += int(np.count_nonzero(result.labels == expected))

    def report(self, seconds: float) -> None:
        n_now = self.n_finished - self.n_earlier
        rate = n_now / seconds if seconds > 0 else 0.0
        print(f"samples      {self.n_finished} ({self.n_earlier} by an earlier run)")
        print(f"time         {seconds:.1f} s, {rate:.1f} samples/s")
        print(f"blocks       {self.blocks}, {self.bytes / 1e6:.1f} MB in both directions")
        if self.labels is not None and self.n_finished:
            print(f"accuracy     {100 * self.n_correct / self.n_finished:.2f} %")
        if self.soundness:
            weakest = securedl.Soundness.weakest(self.soundness)
            print(f"verdict      intact: every check of every block passed; {weakest}")


class _Lines:
    """Tells how a run goes on, now and then."""

    def __init__(self, n_samples: int, began: float) -> None:
        self.n_samples, self.began, self.last = n_samples, began, began

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self.last < LINE_INTERVAL:
            return
        self.last = now
        rate = progress.samples_finished / (now - self.began)
        print(
            f"  {progress.samples_finished} of {self.n_samples} samples, "
            f"{progress.blocks_finished} blocks, {progress.blocks_in_flight} in flight; "
            f"{rate:.1f} samples/s",
            file=sys.stderr,
        )


def _write(path: Path, journal: Journal, plan: Plan, labels: NDArray[np.int64] | None) -> None:
    """Predictions in the form of `securedl infer --out`, completely or not at all."""
    scores = [f"score_{number}" for number in range(len(plan.class_names))]
    head = ["index", "prediction", *scores, "out_of_calibration"]
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(head + ["label"] * (labels is not None))
            index = 0
            for batch in range(journal.n_batches):
                result = journal.read(batch)
                for label, values, out in zip(
                    result.labels, result.scores, result.out_of_calibration, strict=True
                ):
                    row = [index, label, *values, int(out)]
                    rows.writerow(row + ([labels[index]] if labels is not None else []))
                    index += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


if __name__ == "__main__":
    sys.exit(main())
