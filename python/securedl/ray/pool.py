"""The evaluators of one plan on a cluster."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray._private import ray_constants

from securedl import Plan, SegmentEvaluator

# How often Ray repeats a block whose worker or node is lost. A block is the same bytes every time.
MAX_RETRIES = 20

# The evaluator of the plan this worker served last: made once per worker process, from the copy of the plan
# that its node holds.
_evaluator: SegmentEvaluator | None = None


def evaluate(
    digest: str, plan: NDArray[np.uint8], segment: int, request: NDArray[np.uint8], threads: int
) -> NDArray[np.uint8]:
    """The task: the reply to one request. Runs on workers."""
    global _evaluator
    if _evaluator is None or _evaluator.digest != digest:
        # Read by the arithmetic at its first use: as many threads as Ray has set cores aside.
        # Whatever the driver's environment says.
        os.environ["RAYON_NUM_THREADS"] = str(threads)
        _evaluator = SegmentEvaluator(Plan.from_bytes(plan))
    return _evaluator.evaluate(segment, request)


def connect(address: str | None = None, **options: Any) -> None:
    """Connect to a cluster, or without an address start one on this machine, bound to the loopback address.

    A cluster that already runs is joined only if it is named, `auto` included. Does nothing if this process is
    connected already.
    """
    if ray.is_initialized():
        return
    if address is None:
        # None would be RAY_ADDRESS, or whatever cluster somebody runs on this machine.
        address = "local"
        options = {"include_dashboard": False} | options
        _use_loopback()
    ray.init(address=address, log_to_driver=False, **options)
    if address == "local" and (found := ray.util.get_node_ip_address()) != "127.0.0.1":
        ray.shutdown()
        raise RuntimeError(
            f"this version of Ray listens on {found}, not on the loopback address only: start a cluster with "
            "`ray start` on an address of your choice, and name it"
        )


def _use_loopback() -> None:
    """Let the cluster that is started next listen on the loopback address only.

    Ray replaces a loopback address that it is given by one that others reach, and has a single switch against that:
    the one by which it keeps to loopback on Windows and macOS. It is read when Ray is imported, here and in the
    processes that are started.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False


class Pending:
    """A reply on its way, with the two methods of a future that a `Gateway` needs."""

    def __init__(self, reply: ray.ObjectRef) -> None:
        self._reply = reply

    def result(self, timeout: float | None = None) -> NDArray[np.uint8]:
        """The reply; `TimeoutError` if it takes longer than `timeout` seconds."""
        return ray.get(self._reply, timeout=timeout)

    def cancel(self) -> None:
        """Give the place of the request to another, if it does not run yet."""
        ray.cancel(self._reply)


class Pool:
    """Evaluates segments of `plan` on the cluster this process is connected to.

    The plan is put into the object store once; every node fetches it once, and every worker reads it from
    there. A block takes `cpus_per_block` cores of a node.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        cpus_per_block: int = 1,
        max_retries: int = MAX_RETRIES,
        task: Any = evaluate,
    ) -> None:
        self._digest = plan.digest
        self._plan = ray.put(np.frombuffer(plan.to_bytes(), dtype=np.uint8))
        self._cpus = cpus_per_block
        options = {"num_cpus": cpus_per_block, "max_retries": max_retries}
        self._task = ray.remote(**options)(task)

    @property
    def n_places(self) -> int:
        """Blocks that the cluster evaluates at the same time."""
        cpus = ray.cluster_resources().get("CPU", 1.0)
        return max(1, math.floor(cpus / self._cpus))

    def submit(self, segment: int, request: NDArray[np.uint8]) -> ray.ObjectRef:
        """Begin to evaluate a request; the reference is to its reply."""
        place = ray.put(request)
        return self._task.remote(self._digest, self._plan, segment, place, self._cpus)

    def begin(self, segment: int, request: NDArray[np.uint8]) -> Pending:
        """Begin to evaluate a request, for a `Gateway`. May be called from several threads."""
        return Pending(self.submit(segment, request))

    def evaluate(self, segment: int, request: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The reply to a request; waits for it. May be called from several threads."""
        return ray.get(self.submit(segment, request))

    def __repr__(self) -> str:
        return f"Pool({self._digest[:12]}, {self.n_places} blocks at a time)"
