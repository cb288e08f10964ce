"""The side that holds the keys: batches through a pool, with a bounded number of blocks in flight."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from numpy.typing import ArrayLike, NDArray

from securedl import Batch, KeyHolder, Plan, Result, Soundness, Verdict
from securedl.ray.pool import Pool

# Blocks in flight for every place at which one is evaluated: one to work at, one that waits for it.
BLOCKS_PER_PLACE = 2
# Batches under way: while one is judged and refreshed, the cluster works at another.
BATCHES_IN_FLIGHT = 2


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    batches_finished: int
    blocks_finished: int
    blocks_in_flight: int
    samples_finished: int


@dataclass(frozen=True)
class Report:
    """The results of an intact run."""

    labels: NDArray[np.int64]
    scores: NDArray[np.int64]
    out_of_calibration: NDArray[np.bool_]
    verdict: Verdict
    #: Of the batch that was checked least, for each kind of cheat.
    soundness: Soundness
    batches: int
    blocks: int
    bytes_up: int
    bytes_down: int


def run(
    holder: KeyHolder,
    batches: Iterable[ArrayLike],
    pool: Pool,
    *,
    blocks_in_flight: int | None = None,
    batches_in_flight: int = BATCHES_IN_FLIGHT,
    progress: Callable[[Progress], Any] | None = None,
) -> Iterator[Result]:
    """The results of batches of raw samples, in their order, as they are finished.

    Reads a batch when there is room for it, and encrypts a block when fewer than `blocks_in_flight` are on
    their way, so that memory does not grow with the number of samples. Raises `VerdictError` as soon as a
    round is not intact; nothing of its batch or of those behind it is released.
    """
    flight = _Flight(holder, enumerate(batches), pool, blocks_in_flight, batches_in_flight)
    told = (0, 0)
    next_batch, samples_finished = 0, 0
    try:
        while flight.advance():
            while (result := flight.finished.pop(next_batch, None)) is not None:
                next_batch += 1
                samples_finished += len(result.labels)
                yield result
            if progress is not None and told != (next_batch, flight.blocks_finished):
                told = (next_batch, flight.blocks_finished)
                progress(Progress(*told, len(flight.pending), samples_finished))
    finally:
        flight.cancel()


class _Flight:
    """What is under way."""

    def __init__(
        self,
        holder: KeyHolder,
        source: Iterator[tuple[int, ArrayLike]],
        pool: Pool,
        limit: int | None,
        n_batches: int,
    ) -> None:
        self.holder, self.source, self.pool = holder, source, pool
        self.fixed_limit, self.n_batches = limit, max(1, n_batches)
        self.active: dict[int, Batch] = {}
        # Blocks that are to be encrypted; those that are on their way.
        self.waiting: deque[tuple[int, int]] = deque()
        self.pending: dict[ray.ObjectRef, tuple[int, int]] = {}
        self.finished: dict[int, Result] = {}
        self.blocks_finished = 0

    @property
    def limit(self) -> int:
        """Blocks on their way at most. Unless it is given it follows the cluster, which may grow."""
        if self.fixed_limit is not None:
            return max(1, self.fixed_limit)
        return BLOCKS_PER_PLACE * self.pool.n_places

    def advance(self) -> bool:
        """Begin what there is room for, then take one reply. False once everything was taken."""
        while len(self.active) + len(self.finished) < self.n_batches:
            following = next(self.source, None)
            if following is None:
                break
            number, samples = following
            self.active[number] = self.holder.batch(samples)
            self._wait_for_room(number)
        limit = self.limit
        while self.waiting and len(self.pending) < limit:
            number, block = self.waiting.popleft()
            batch = self.active[number]
            reply = self.pool.submit(batch.segment(block), batch.request(block))
            self.pending[reply] = (number, block)
        if not self.pending:
            return bool(self.finished)
        ready, _ = ray.wait(list(self.pending), num_returns=1)
        for reply in ready:
            number, block = self.pending.pop(reply)
            self._take(number, block, ray.get(reply))
        return True

    def _take(self, number: int, block: int, reply: NDArray[np.uint8]) -> None:
        batch = self.active[number]
        batch.reply(block, reply)
        self.blocks_finished += 1
        if not batch.is_answered:
            return
        result = batch.finish_round()
        if result is None:
            self._wait_for_room(number)
        else:
            del self.active[number]
            self.finished[number] = result

    def _wait_for_room(self, number: int) -> None:
        self.waiting.extend((number, block) for block in range(self.active[number].n_blocks))

    def cancel(self) -> None:
        for reply in self.pending:
            ray.cancel(reply)
        self.pending.clear()


def classify(
    plan: Plan,
    samples: ArrayLike,
    pool: Pool,
    *,
    holder: KeyHolder | None = None,
    samples_per_batch: int | None = None,
    **options: Any,
) -> Report:
    """Classify raw samples, one row each: encrypted, verified, on the cluster.

    Canaries are drawn from the samples unless a `holder` is given. `options` are those of `run`.
    """
    rows = np.asarray(samples)
    if len(rows) == 0:
        raise ValueError("there are no samples")
    holder = holder or KeyHolder(plan, rows)
    step = holder.samples_per_batch(samples_per_batch)
    pieces = (rows[first : first + step] for first in range(0, len(rows), step))
    results = list(run(holder, pieces, pool, **options))
    return Report(
        labels=np.concatenate([result.labels for result in results]),
        scores=np.concatenate([result.scores for result in results]),
        out_of_calibration=np.concatenate([result.out_of_calibration for result in results]),
        verdict=results[0].verdict,
        soundness=Soundness.weakest([result.soundness for result in results]),
        batches=len(results),
        blocks=sum(result.blocks for result in results),
        bytes_up=sum(result.bytes_up for result in results),
        bytes_down=sum(result.bytes_down for result in results),
    )
