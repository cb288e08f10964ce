"""Models, plans, errors: what needs no server."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from conftest import N_FEATURES, compiled, weights

import securedl


def test_a_model_gives_the_scores_of_its_arrays(model, samples):
    arrays = weights()
    hidden = (samples @ arrays["w1"].T + arrays["b1"]) ** 2
    expected = hidden @ arrays["w2"].T + arrays["b2"]
    np.testing.assert_allclose(model.scores(samples), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(model.predict(samples), expected.argmax(axis=1))
    assert model.class_names == ["a", "b", "c"]
    assert model.layers == ["dense", "square", "dense"]


def test_samples_of_any_type_order_and_number_of_axes_are_read(model, samples):
    expected = model.scores(samples)
    doubles = np.asfortranarray(samples.astype(np.float64))
    np.testing.assert_array_equal(model.scores(doubles), expected)
    np.testing.assert_array_equal(model.scores(samples.reshape(-1, 4, 4)), expected)
    np.testing.assert_array_equal(model.scores(samples[::-1])[::-1], expected)
    with pytest.raises(ValueError, match="samples are rows"):
        model.scores(samples[0])


def test_models_and_plans_survive_their_files(model, plan, samples, tmp_path):
    model.save(tmp_path / "x.model")
    again = securedl.Model.load(tmp_path / "x.model")
    np.testing.assert_array_equal(again.scores(samples), model.scores(samples))
    plan.save(tmp_path / "x.plan")
    for other in (
        securedl.Plan.load(str(tmp_path / "x.plan")),
        securedl.Plan.from_bytes(plan.to_bytes()),
        pickle.loads(pickle.dumps(plan)),
    ):
        assert other == plan and hash(other) == hash(plan) and other.digest == plan.digest


def test_compiling_twice_gives_the_same_plan(model, plan, samples):
    assert compiled(model, (samples, np.zeros(len(samples))), plan.activation) == plan


def test_a_simulation_is_close_to_the_model(model, plan, samples):
    simulation = plan.simulate(samples)
    agreement = np.mean(simulation.labels == model.predict(samples))
    assert agreement > 0.8, agreement
    np.testing.assert_array_equal(simulation.labels, simulation.scores.argmax(axis=1))
    assert simulation.scores.shape == (len(samples), 3)
    inputs = plan.quantize(samples)
    assert inputs.dtype == np.int32 and inputs.min() >= 0 and inputs.max() < 16
    np.testing.assert_array_equal(inputs, np.floor(samples * 15 + 0.5).astype(np.int32))


def test_a_plan_says_what_it_costs(plan):
    forecast = plan.forecast(1)
    assert forecast.rounds == plan.rounds == len(plan.segments)
    assert forecast.blocks == [1] * len(plan.segments)
    assert forecast.bytes_up == sum(segment.request_bytes for segment in plan.segments)
    assert forecast.bytes_down == sum(segment.reply_bytes for segment in plan.segments)
    assert forecast.bytes == forecast.bytes_up + forecast.bytes_down
    assert plan.security_bits >= 128 and plan.input_shape == [N_FEATURES]


def test_errors_are_of_one_class_and_say_what_to_do(model, samples, tmp_path):
    assert issubclass(securedl.VerdictError, securedl.Error)
    assert issubclass(securedl.RefusedError, securedl.Error)
    with pytest.raises(securedl.Error, match="No such file"):
        securedl.Plan.load(tmp_path / "missing.plan")
    (tmp_path / "bad.plan").write_bytes(b"not a plan")
    with pytest.raises(securedl.Error, match=r"bad\.plan"):
        securedl.Plan.load(tmp_path / "bad.plan")
    with pytest.raises(securedl.Error, match="shape|features"):
        model.scores(samples[:, :5])
    with pytest.raises(ValueError, match="expected one of time, bytes, rounds"):
        securedl.compile(model, samples, objective="beauty")
    with pytest.raises(securedl.Error, match="such as 4/4/4"):
        securedl.compile(model, samples, bits="many")
    with pytest.raises(ValueError, match="joined layers"):
        securedl.compile(model, samples, relinearize="always")


def test_mutated_plans_are_errors(plan):
    data = bytearray(plan.to_bytes())
    draw = np.random.default_rng(3)
    for position in draw.integers(len(data), size=100):
        mutated = bytearray(data)
        mutated[position] ^= 1 << int(draw.integers(8))
        with pytest.raises(securedl.Error):
            securedl.Plan.from_bytes(mutated)
    with pytest.raises(securedl.Error):
        securedl.Plan.from_bytes(data[:-1])


def test_every_public_name_has_a_type_and_words():
    stub = (Path(securedl.__file__).parent / "_native.pyi").read_text()
    for name in securedl.__all__:
        value = getattr(securedl, name)
        assert value.__doc__, name
        if isinstance(value, types.BuiltinFunctionType):
            assert f"\ndef {name}(" in stub, name
            continue
        body = re.split(rf"\nclass {name}\b", stub)[1].split("\nclass ")[0]
        for member in vars(value):
            if not member.startswith("_"):
                assert getattr(vars(value)[member], "__doc__", None), f"{name}.{member}"
                assert f"def {member}(" in body or f"    {member}: " in body, f"{name}.{member}"


EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(name, *arguments):
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return done.stdout


def test_the_example_of_an_audit_tells_services_apart(model, samples, tmp_path):
    model.save(tmp_path / "small.model")
    np.save(tmp_path / "samples.npy", samples)
    told = run_example("fingerprint_audit.py", tmp_path / "small.model", tmp_path / "samples.npy")
    assert "honest:   Audit(Same" in told and "tampered: Audit(Different" in told


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_examples_run_or_say_what_they_lack(name):
    told = run_example(name)
    assert told.strip()
    if "SKIPPED" in told:
        pytest.skip(told.strip())
