"""Small models, made here: no test needs data, and none a network beyond this machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import securedl

N_FEATURES, N_CLASSES = 16, 3

DESCRIPTION = """
weights = "{weights}"
input = [{n_features}]
order = "channels-first"

[[layers]]
kind = "dense"
weights = "w1"
bias = "b1"

[[layers]]
kind = "square"

[[layers]]
kind = "dense"
weights = "w2"
bias = "b2"
"""


def weights() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(1)
    return {
        "w1": draw.normal(size=(8, N_FEATURES)).astype(np.float32) / 4,
        "b1": draw.normal(size=8).astype(np.float32) / 4,
        "w2": draw.normal(size=(N_CLASSES, 8)).astype(np.float32),
        "b2": np.zeros(N_CLASSES, np.float32),
    }


def write_model(folder: Path, name: str, arrays: dict[str, np.ndarray]) -> securedl.Model:
    np.savez(folder / f"{name}.npz", **arrays)
    path = folder / f"{name}.toml"
    path.write_text(DESCRIPTION.format(weights=f"{name}.npz", n_features=N_FEATURES))
    return securedl.Model.from_description(path, labels=["a", "b", "c"], input_scale="unit")


def compiled(model: securedl.Model, samples: np.ndarray, side: str) -> securedl.Plan:
    return securedl.compile(
        model,
        calibrate=samples,
        bits="4/4/4",
        activation=side,
        objective="bytes",
        expected_samples=64,
        self_test=False,
    )


@pytest.fixture(scope="session")
def samples() -> np.ndarray:
    return np.random.default_rng(2).random((200, N_FEATURES), dtype=np.float32)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def model(folder: Path) -> securedl.Model:
    return write_model(folder, "small", weights())


@pytest.fixture(scope="session")
def plans(model: securedl.Model, samples: np.ndarray) -> dict[str, securedl.Plan]:
    """A plan whose server squares (checked in slots), and one whose server does not (word by word)."""
    return {side: compiled(model, samples, side) for side in ("server", "client")}


@pytest.fixture(params=["server", "client"])
def plan(request: pytest.FixtureRequest, plans: dict[str, securedl.Plan]) -> securedl.Plan:
    return plans[request.param]


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of a server on this machine."""
    folder = tmp_path_factory.mktemp("tls") / "tls"
    securedl.init_tls(folder, ["127.0.0.1"])
    return folder
