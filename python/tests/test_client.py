"""Runs: encrypted, verified, equal to the simulation."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import sys
import threading
import time

import numpy as np
import pytest
from conftest import compiled, weights, write_model

import securedl


def test_a_run_equals_the_simulation(plan, samples):
    client = securedl.Client.in_process(plan)
    told = []
    result = client.classify(samples, progress=told.append)
    simulation = plan.simulate(samples)
    np.testing.assert_array_equal(result.scores, simulation.scores)
    np.testing.assert_array_equal(result.labels, simulation.labels)
    np.testing.assert_array_equal(result.out_of_calibration, simulation.out_of_calibration)
    assert result.verdict.is_intact and result.verdict.name == "Intact"
    assert result.bytes == result.bytes_up + result.bytes_down > 0
    assert result.seconds > 0 and result.server_seconds > 0
    assert len(result.receipts) == result.blocks
    assert {receipt.plan for receipt in result.receipts} == {plan.digest}
    assert {receipt.segment for receipt in result.receipts} == set(range(len(plan.segments)))
    assert told[-1].samples_finished == len(samples) and told[-1].blocks_finished == result.blocks


def test_soundness_says_what_is_checked(plans, samples):
    words = securedl.Client.in_process(plans["client"]).classify(samples[:3]).soundness
    assert words.reply_word_bits >= 40
    slots = securedl.Client.in_process(plans["server"], replicas=2).classify(samples[:3]).soundness
    assert slots.every_slot_change_bits > 20 and slots.one_sample_bits > 10


def test_batches_may_be_in_flight_together(plan, samples):
    client = securedl.Client.in_process(plan, examples=samples[:32], batches_in_flight=3)
    many = np.concatenate([samples] * 2)
    np.testing.assert_array_equal(client.classify(many).scores, plan.simulate(many).scores)


def test_what_a_progress_function_raises_ends_the_run(plan, samples):
    class Enough(Exception):
        pass

    def stop(_):
        raise Enough

    with pytest.raises(Enough):
        securedl.Client.in_process(plan).classify(samples, progress=stop)


def test_ctrl_c_ends_a_run(plans, samples):
    """The signal comes when the run has begun; without a look at signals it would come to its end."""
    plan = plans["client"]
    client = securedl.Client.in_process(plan)
    many = np.concatenate([samples] * 2000)
    began = threading.Event()
    finished = []

    def progress(now):
        finished.append(now.samples_finished)
        if not began.is_set():
            began.set()
            os.kill(os.getpid(), signal.SIGINT)

    # Jobs in the background of a shell ignore the signal unless they ask for it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            client.classify(many, progress=progress)
    finally:
        signal.signal(signal.SIGINT, before)
    assert finished[-1] < len(many), "the signal was seen after the end only"


def test_the_lock_is_free_while_a_run_works(plan, samples):
    """Another thread computes while the run does: with the lock held it would stand still."""
    client = securedl.Client.in_process(plan, examples=samples)
    counted, over = [0], threading.Event()

    def count():
        while not over.is_set():
            counted[0] += 1

    before = sys.getswitchinterval()
    # Longer than the run: a thread that holds the lock is not asked to give it away meanwhile.
    sys.setswitchinterval(1.0)
    try:
        thread = threading.Thread(target=count)
        thread.start()
        first = counted[0]
        client.classify(samples)
        last = counted[0]
    finally:
        sys.setswitchinterval(before)
        over.set()
        thread.join()
    assert last > first + 100


def test_nothing_secret_is_printed_or_pickled(plan, samples):
    holder = securedl.KeyHolder(plan, samples)
    batch = holder.batch(samples[:4])
    batch.request(0)
    client = securedl.Client.in_process(plan)
    for secret in (holder, batch, client):
        assert len(repr(secret)) < 100
        for leave in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="must not leave this process"):
                leave(secret)
    public = {name for name in dir(batch) if not name.startswith("_")}
    assert public == {
        "finish_round", "is_answered", "n_blocks", "n_rounds", "n_samples", "reply", "request",
        "round", "segment",
    }


def test_a_server_that_is_not_there_is_an_error(plan, samples, tls, tmp_path):
    with pytest.raises(securedl.Error, match="ca.pem"):
        securedl.Client(plan, "127.0.0.1:1", ca=tmp_path)
    for wrong in ({"token": "nonsense"}, {"identities": ["x"]}, {"client_certificate": tmp_path}):
        with pytest.raises(securedl.Error):
            securedl.Client(plan, "127.0.0.1:1", ca=tls, **wrong)
    with pytest.raises(securedl.Error, match="127.0.0.1:1"):
        securedl.Client(plan, "127.0.0.1:1", ca=tls, patience=0).classify(samples)


def test_a_gateway_is_a_server_like_any_other(plan, samples, tls):
    evaluator = securedl.SegmentEvaluator(plan)
    gateway = securedl.Gateway(plan, evaluator.evaluate, tls=tls)
    identity = gateway.identity
    client = securedl.Client(plan, gateway.address, ca=tls, identities=[identity], patience=0)
    result = client.classify(samples)
    np.testing.assert_array_equal(result.scores, plan.simulate(samples).scores)
    assert {receipt.identity for receipt in result.receipts} == {identity}
    stranger = securedl.Client(
        plan, [gateway.address], ca=tls / "ca.pem", identities=["00" * 32], patience=0
    )
    with pytest.raises(securedl.Error, match="identity"):
        stranger.classify(samples)
    with pytest.raises(securedl.Error, match="who may enter"):
        securedl.Gateway(plan, evaluator.evaluate, tls=tls, listen="0.0.0.0:0")


class Later:
    """A reply that is not there yet, as of a pool of machines."""

    def __init__(self, reply=None):
        self.reply, self.looks, self.cancelled = reply, 0, threading.Event()

    def result(self, timeout):
        self.looks += 1
        if self.reply is None or self.looks == 1:
            time.sleep(timeout)
            raise TimeoutError
        return self.reply

    def cancel(self):
        self.cancelled.set()


def test_a_gateway_waits_for_replies_that_come_later(plans, samples, tls):
    plan = plans["client"]
    evaluator = securedl.SegmentEvaluator(plan)
    gateway = securedl.Gateway(
        plan, lambda *request: Later(evaluator.evaluate(*request)), tls=tls, evaluations=2
    )
    client = securedl.Client(plan, gateway.address, ca=tls, patience=0)
    result = client.classify(samples)
    np.testing.assert_array_equal(result.scores, plan.simulate(samples).scores)
    gateway.close()


def test_what_nobody_waits_for_is_cancelled(plans, samples, tls):
    """The client leaves while a request is with the function: it gets its place back."""
    asked = []

    def never(segment, request):
        asked.append(Later())
        return asked[-1]

    plan = plans["client"]
    gateway = securedl.Gateway(plan, never, tls=tls, evaluations=1)
    client = securedl.Client(plan, gateway.address, ca=tls, patience=0)

    class Enough(Exception):
        pass

    def leave():
        while not asked:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread = threading.Thread(target=leave)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            client.classify(samples)
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert asked[0].cancelled.wait(30), "nobody waits, and it was not told"
    gateway.close()


# A token of nobody, and its salted hash, as `securedl access add` makes them.
TOKEN = "sdltoken1_37a4d3f6e11075c29f9cfc3e88e33720d8c459e94dfb4e5627333ed5988b2a5f"
ACCESS = """version = 1

[[client]]
name = "tester"
plans = ["*"]

[[token]]
client = "tester"
hash = "blake3:aac9ef1dfe2075de2b2822b310cdc50d:4e05e8869121c1b174b37ff46fba02477210ef17cfa93b2e2e5e7509315cc442"
"""


def test_a_gateway_lets_in_whom_its_access_file_names(plans, samples, tls, tmp_path):
    plan = plans["client"]
    evaluator = securedl.SegmentEvaluator(plan)
    access = tmp_path / "access.toml"
    access.write_text(ACCESS)
    access.chmod(0o600)
    gateway = securedl.Gateway(plan, evaluator.evaluate, tls=tls, access=access)

    def classify(**credentials):
        client = securedl.Client(plan, gateway.address, ca=tls, patience=0, **credentials)
        return client.classify(samples)

    np.testing.assert_array_equal(classify(token=TOKEN).scores, plan.simulate(samples).scores)
    for credentials in ({}, {"token": TOKEN[:-1] + "0"}):
        with pytest.raises(securedl.RefusedError) as refused:
            classify(**credentials)
        assert refused.value.code == "Unauthorized", refused.value.code
    gateway.close()


def test_keys_do_not_go_on_in_a_child(plans, samples):
    """Parent and child would encrypt with the same randomness."""
    plan = plans["client"]
    batch = securedl.KeyHolder(plan, samples).batch(samples)
    client = securedl.Client.in_process(plan)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        told = []
        for use in (lambda: batch.request(0), lambda: client.classify(samples)):
            try:
                use()
                told.append("went on")
            except securedl.Error as error:
                told.append(str(error))
        os.write(write, "|".join(told).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        told = pipe.read().split("|")
    os.waitpid(child, 0)
    assert len(told) == 2 and all("after a fork" in text for text in told), told
    assert batch.request(0).size > 0, "the parent goes on"


def test_a_gateway_without_evaluators_refuses(plan, samples, tls, caplog):
    def broken(segment, request):
        raise RuntimeError("no evaluator")

    gateway = securedl.Gateway(plan, broken, tls=tls)
    client = securedl.Client(plan, gateway.address, ca=tls, patience=0)
    with caplog.at_level("ERROR", logger="securedl.gateway"):
        with pytest.raises(securedl.RefusedError) as refused:
            client.classify(samples)
    assert refused.value.code == "Internal"
    assert "no evaluator" not in str(refused.value), "the reason is not the client's to know"
    assert "RuntimeError: no evaluator" in caplog.text


def test_a_server_without_the_plan_refuses(plans, samples, tls):
    gateway = securedl.Gateway(plans["server"], lambda *_: b"", tls=tls)
    client = securedl.Client(plans["client"], gateway.address, ca=tls, patience=0)
    with pytest.raises(securedl.RefusedError, match="does not hold this plan") as refused:
        client.classify(samples)
    assert refused.value.code == "UnknownPlan"


def test_another_model_is_caught(plan, samples, folder):
    """A server with one other weight: in words or in slots, the verdict names the segment."""
    arrays = weights()
    arrays["w2"][1, 3] *= -1
    other = compiled(write_model(folder, "other", arrays), samples, plan.activation)
    assert other.digest != plan.digest
    dishonest = securedl.SegmentEvaluator(other)
    batch = securedl.KeyHolder(plan, samples).batch(samples)
    with pytest.raises(securedl.VerdictError) as caught:
        while True:
            for block in range(batch.n_blocks):
                segment = batch.segment(block)
                batch.reply(block, dishonest.evaluate(segment, batch.request(block)))
            assert batch.finish_round() is None, "scores of another model"
    verdict = caught.value.verdict
    assert verdict.name == "ModelModified" and verdict.segment == 1, str(verdict)
    assert str(caught.value) == str(verdict) and caught.value.evidence == []
    assert batch.n_blocks == 0
