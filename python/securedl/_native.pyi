"""Types of what is written in Rust; the words are in the docstrings there."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Path = str | PathLike[str]
Buffer = bytes | bytearray | memoryview | NDArray[np.uint8]

class Error(Exception): ...

class VerdictError(Error):
    verdict: Verdict
    evidence: list[PathLike[str]]

class RefusedError(Error):
    code: str

class Model:
    @staticmethod
    def load(path: Path) -> Model: ...
    @staticmethod
    def from_onnx(
        path: Path,
        labels: Sequence[str] | None = None,
        *,
        name: str | None = None,
        input_scale: str | None = None,
        input_shape: Sequence[int] | None = None,
        clip: float = 3.0,
        output: str | None = None,
    ) -> Model: ...
    @staticmethod
    def from_description(
        path: Path,
        labels: Sequence[str] | None = None,
        *,
        name: str | None = None,
        input_scale: str | None = None,
        input_shape: Sequence[int] | None = None,
        clip: float = 3.0,
    ) -> Model: ...
    def save(self, path: Path) -> None: ...
    def scores(self, samples: ArrayLike) -> NDArray[np.float64]: ...
    def predict(self, samples: ArrayLike) -> NDArray[np.int64]: ...
    @property
    def name(self) -> str: ...
    @property
    def input_shape(self) -> list[int]: ...
    @property
    def class_names(self) -> list[str]: ...
    @property
    def layers(self) -> list[str]: ...
    @property
    def n_parameters(self) -> int: ...

def compile(
    model: Model,
    calibrate: ArrayLike | tuple[ArrayLike, ArrayLike],
    *,
    bits: str | None = None,
    activation: Literal["server", "client"] | None = None,
    objective: Literal["time", "bytes", "rounds"] = "time",
    expected_samples: int = 8192,
    link_bits_per_second: float | None = 1e9,
    latency: float = 1e-3,
    memory_bytes: int | None = None,
    max_rounds: int | None = None,
    ranges: Literal["prefer-proven", "proven", "cheapest"] = "prefer-proven",
    relinearize: Literal["auto", "never", "always"] = "auto",
    self_test: bool = True,
) -> Plan: ...

class Plan:
    @staticmethod
    def load(path: Path) -> Plan: ...
    @staticmethod
    def from_bytes(data: Buffer) -> Plan: ...
    def save(self, path: Path) -> None: ...
    def to_bytes(self) -> bytes: ...
    def quantize(self, samples: ArrayLike) -> NDArray[np.int32]: ...
    def simulate(self, samples: ArrayLike) -> Simulation: ...
    def forecast(
        self, n_samples: int | None = None, *, canaries: int | None = None, replicas: int = 1
    ) -> Forecast: ...
    @property
    def segments(self) -> list[Segment]: ...
    @property
    def digest(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def input_shape(self) -> list[int]: ...
    @property
    def class_names(self) -> list[str]: ...
    @property
    def activation(self) -> str: ...
    @property
    def trust(self) -> str: ...
    @property
    def security_bits(self) -> int: ...
    @property
    def expected_samples(self) -> int: ...
    @property
    def rounds(self) -> int: ...
    @property
    def score_step(self) -> float: ...

class Segment:
    number: int
    round: int
    squares: bool
    relinearizes: bool
    n_inputs: int
    n_outputs: int
    ring_degree: int
    capacity: int
    request_bytes: int
    reply_bytes: int

class Forecast:
    n_samples: int
    rounds: int
    blocks: list[int]
    bytes_up: int
    bytes_down: int
    @property
    def bytes(self) -> int: ...

class Verdict:
    name: str
    is_intact: bool
    segment: int | None
    neurons: list[int]
    blocks: list[int]
    text: str

class Soundness:
    every_slot_change_bits: float | None
    one_percent_bits: float | None
    one_sample_bits: float | None
    reply_word_bits: float | None
    @staticmethod
    def weakest(batches: Sequence[Soundness]) -> Soundness: ...

class Receipt:
    plan: str
    segment: int
    request_hash: str
    reply_hash: str
    identity: str
    seconds: float

class Progress:
    batch: int
    n_batches: int
    round: int
    n_rounds: int
    n_blocks: int
    blocks_finished: int
    samples_finished: int

class Simulation:
    labels: NDArray[np.int64]
    scores: NDArray[np.int64]
    out_of_calibration: NDArray[np.bool_]

class Result:
    labels: NDArray[np.int64]
    scores: NDArray[np.int64]
    out_of_calibration: NDArray[np.bool_]
    verdict: Verdict
    soundness: Soundness
    receipts: list[Receipt]
    rounds: int
    blocks: int
    bytes_up: int
    bytes_down: int
    seconds: float
    client_seconds: float
    server_seconds: float | None
    @property
    def bytes(self) -> int: ...

class Client:
    def __init__(
        self,
        plan: Plan,
        address: str | Sequence[str],
        *,
        ca: Path,
        client_certificate: Path | None = None,
        token: str | None = None,
        identities: Sequence[str] = (),
        examples: ArrayLike | None = None,
        fingerprint: Fingerprint | None = None,
        canaries: int | None = None,
        replicas: int = 1,
        batches_in_flight: int = 1,
        patience: int = 60,
        evidence: Path | None = None,
    ) -> None: ...
    @staticmethod
    def in_process(
        plan: Plan,
        *,
        examples: ArrayLike | None = None,
        fingerprint: Fingerprint | None = None,
        canaries: int | None = None,
        replicas: int = 1,
        batches_in_flight: int = 1,
    ) -> Client: ...
    def classify(
        self, samples: ArrayLike, *, progress: Callable[[Progress], Any] | None = None
    ) -> Result: ...

class KeyHolder:
    def __init__(
        self,
        plan: Plan,
        examples: ArrayLike | None = None,
        *,
        fingerprint: Fingerprint | None = None,
        canaries: int | None = None,
        replicas: int = 1,
    ) -> None: ...
    def batch(self, samples: ArrayLike) -> Batch: ...
    def batch_of_inputs(self, inputs: ArrayLike) -> Batch: ...
    def samples_per_batch(self, limit: int | None = None) -> int: ...
    @property
    def samples_per_block(self) -> list[int]: ...
    @property
    def description(self) -> str: ...

class Batch:
    def request(self, block: int) -> NDArray[np.uint8]: ...
    def reply(self, block: int, reply: Buffer) -> None: ...
    def finish_round(self) -> Result | None: ...
    def segment(self, block: int) -> int: ...
    @property
    def n_blocks(self) -> int: ...
    @property
    def round(self) -> int: ...
    @property
    def n_rounds(self) -> int: ...
    @property
    def n_samples(self) -> int: ...
    @property
    def is_answered(self) -> bool: ...

class SegmentEvaluator:
    def __init__(self, plan: Plan) -> None: ...
    def evaluate(self, segment: int, request: Buffer) -> NDArray[np.uint8]: ...
    def memory_bytes(self, segment: int) -> int: ...
    @property
    def n_segments(self) -> int: ...
    @property
    def digest(self) -> str: ...

class Pending(Protocol):
    def result(self, timeout: float | None = None, /) -> Buffer: ...
    def cancel(self) -> Any: ...

def init_tls(folder: Path, names: Sequence[str]) -> list[PathLike[str]]: ...

class Gateway:
    def __init__(
        self,
        plan: Plan,
        evaluate: Callable[[int, NDArray[np.uint8]], Buffer | Pending],
        *,
        tls: Path,
        listen: str = "127.0.0.1:0",
        access: Path | None = None,
        evaluations: int | None = None,
        memory_bytes: int | None = None,
    ) -> None: ...
    @property
    def address(self) -> str: ...
    @property
    def identity(self) -> str: ...
    def serve_forever(self) -> None: ...
    def close(self) -> None: ...

class Journal:
    def __init__(
        self,
        path: Path,
        plan: Plan,
        *,
        samples_per_batch: int,
        description: str,
        resume: bool = False,
    ) -> None: ...
    def append(self, samples: ArrayLike, result: Result) -> None: ...
    def check(self, batch: int, samples: ArrayLike) -> None: ...
    def read(self, batch: int) -> Result: ...
    def remove(self) -> None: ...
    def close(self) -> None: ...
    @property
    def n_batches(self) -> int: ...

class Samples:
    def __init__(
        self,
        data: Path,
        plan: Plan,
        *,
        split: Literal["train", "test", "all"] = "test",
        label_column: str | None = None,
        n_samples: int | None = None,
    ) -> None: ...
    def next(self, max_samples: int) -> NDArray[np.float32] | None: ...
    def select(self, positions: Sequence[int]) -> NDArray[np.float32]: ...
    @property
    def labels(self) -> NDArray[np.int64] | None: ...
    def __len__(self) -> int: ...

class Fingerprint:
    @staticmethod
    def load(path: Path) -> Fingerprint: ...
    @staticmethod
    def generate(
        model: Model,
        samples: ArrayLike,
        out: Path,
        *,
        plan: Plan | None = None,
        generator: str = "tie",
        optimizer: str | None = None,
        count: int = 8,
        bag: int | None = None,
        select: str = "class-cover",
        rule: str | None = None,
        input_bits: int | None = None,
        ball: float | None = None,
        margin: float | None = None,
        seed: int = 0,
        progress: Callable[[int, int], Any] | None = None,
    ) -> Fingerprint: ...
    def verify(
        self,
        endpoint: Model | Plan | Callable[[NDArray[np.float32]], ArrayLike],
        *,
        units: Literal["raw", "preprocessed", "levels"] = "raw",
        probabilities: bool = False,
        rule: str | None = None,
        once: bool = False,
    ) -> Audit: ...
    @property
    def name(self) -> str: ...
    @property
    def n_samples(self) -> int: ...
    @property
    def rule(self) -> str: ...
    @property
    def uses(self) -> int: ...

class Audit:
    outcome: Literal["Same", "Different", "Unsteady", "DoesNotFit", "Undecided"]
    is_same: bool
    samples: list[int]
    n_samples: int
    rule: str
