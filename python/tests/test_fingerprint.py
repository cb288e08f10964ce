"""Networks of other frameworks, and fingerprints: made, kept, and asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import weights, write_model

import securedl

GRAPHS = Path(__file__).parents[2] / "nn-poly" / "tests" / "fixtures" / "onnx"


@pytest.fixture(scope="module")
def fingerprint(model, samples, tmp_path_factory) -> securedl.Fingerprint:
    out = tmp_path_factory.mktemp("fingerprint") / "small.fp"
    return securedl.Fingerprint.generate(model, samples, out, count=6, bag=30, margin=1e-4)


@pytest.fixture(scope="module")
def tampered(folder) -> securedl.Model:
    """Every weight of the last layer moved by a hundredth of the largest."""
    arrays = weights()
    step = 0.01 * np.abs(arrays["w2"]).max()
    arrays["w2"] = arrays["w2"] + step * np.random.default_rng(4).choice([-1, 1], arrays["w2"].shape)
    return write_model(folder, "tampered", {k: v.astype(np.float32) for k, v in arrays.items()})


@pytest.mark.parametrize(
    ("name", "scale"), [("sklearn_mlp", None), ("pytorch_cnn", "raw:100"), ("keras_mlp", "raw:100")]
)
def test_an_imported_graph_gives_the_scores_of_its_framework(name, scale):
    inputs = np.load(GRAPHS / f"{name}.inputs.npy")
    expected = np.load(GRAPHS / f"{name}.outputs.npy").reshape(len(inputs), -1)
    # Random inputs, some far from what the scaler was fitted to: not cut off here.
    model = securedl.Model.from_onnx(GRAPHS / f"{name}.onnx", clip=1e4, input_scale=scale)
    assert model.name == name and len(model.class_names) == expected.shape[1]
    if name == "pytorch_cnn":  # channels first there, last here
        inputs = inputs.transpose(0, 2, 3, 1)
    scores = model.scores(inputs)
    scale = np.abs(expected).max()
    if expected.min() >= 0 and np.allclose(expected.sum(axis=1), 1, atol=1e-4):
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores, expected, atol=1e-4 * scale)
    np.testing.assert_array_equal(model.predict(inputs), expected.argmax(axis=1))


def test_what_is_no_graph_is_an_error(tmp_path):
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"\x08\x07nothing")
    with pytest.raises(securedl.Error, match=r"bad\.onnx"):
        securedl.Model.from_onnx(path)
    with pytest.raises(securedl.Error, match="input scale|scale"):
        securedl.Model.from_onnx(GRAPHS / "sklearn_mlp.onnx", input_scale="furlongs")


def test_fingerprints_know_their_model(model, tampered, fingerprint):
    assert fingerprint.n_samples == 6 and fingerprint.name == model.name
    audit = fingerprint.verify(model)
    assert audit.is_same and audit.outcome == "Same" and audit.n_samples == 6
    other = fingerprint.verify(tampered)
    assert not other.is_same and other.outcome == "Different" and other.samples
    assert set(other.samples) <= set(range(6))


def test_functions_are_asked_in_their_units_and_counted(model, tampered, fingerprint):
    uses, seen = fingerprint.uses, []

    def labels(samples):
        seen.append(samples)
        return model.predict(samples)

    assert fingerprint.verify(labels).is_same
    # The samples, and the natural ones they came from.
    assert seen[0].shape == (12, 16) and 0 <= seen[0].min() and seen[0].max() <= 1
    assert not fingerprint.verify(lambda x: tampered.scores(x), rule="tolerance-1e-5").is_same
    by_level = fingerprint.verify(lambda x: model.predict(x / 255), units="levels", once=True)
    assert by_level.is_same
    assert fingerprint.uses == uses + 3


def test_an_exception_of_the_function_comes_back(fingerprint):
    def broken(samples):
        raise RuntimeError("out of service")

    with pytest.raises(Exception, match="out of service"):
        fingerprint.verify(broken)
    with pytest.raises(TypeError, match="a Model, a Plan or a function"):
        fingerprint.verify(3)


def test_a_client_can_be_asked(model, plans, samples, tmp_path):
    plan = plans["client"]
    made = securedl.Fingerprint.generate(
        model, samples, tmp_path / "plan.fp", plan=plan, count=4, bag=20
    )
    assert made.rule == "exact"
    assert made.verify(plan).is_same
    client = securedl.Client.in_process(plan, fingerprint=made)
    result = client.classify(samples[:5])
    assert result.verdict.is_intact
    np.testing.assert_array_equal(result.scores, plan.simulate(samples[:5]).scores)
    audit = made.verify(lambda x: client.classify(x).labels, rule="top-1")
    assert audit.is_same and made.uses == 1


def test_fingerprints_survive_their_files(model, fingerprint, samples, tmp_path):
    out = tmp_path / "again.fp"
    told = []
    made = securedl.Fingerprint.generate(
        model, samples, out, count=6, bag=30, margin=1e-4, progress=lambda *n: told.append(n)
    )
    again = securedl.Fingerprint.load(out)
    assert repr(again) == repr(made) == repr(fingerprint)
    assert again.verify(model).is_same
    assert (30, 30) in told and {total for _, total in told} == {30}
    data = bytearray(out.read_bytes())
    data[len(data) // 2] ^= 1
    out.write_bytes(data)
    with pytest.raises(securedl.Error):
        securedl.Fingerprint.load(out)


def test_settings_of_a_fingerprint_are_checked(model, plans, samples, tmp_path):
    def generate(**settings):
        out = tmp_path / "never.fp"
        return securedl.Fingerprint.generate(model, samples, out, **settings)

    with pytest.raises(securedl.Error, match="unknown generator"):
        generate(generator="divination")
    with pytest.raises(securedl.Error, match="an optimizer is for"):
        generate(optimizer="adam")
    with pytest.raises(securedl.Error, match="number of samples generated is 3"):
        generate(count=4, bag=3)
    with pytest.raises(securedl.Error, match="its own input grid"):
        generate(plan=plans["client"], input_bits=8)
    with pytest.raises(ZeroDivisionError):
        generate(progress=lambda done, total: done // 0)
    assert not (tmp_path / "never.fp").exists()
