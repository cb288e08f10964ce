"""The same bytes on a cluster, whatever happens to it. Skipped, aloud, where Ray is missing."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import compiled, weights, write_model

import securedl

# A cluster on loopback addresses; read when Ray is imported.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
ray = pytest.importorskip("ray", reason="SKIPPED: Ray is not installed (pip install ray)")

from ray.cluster_utils import Cluster  # noqa: E402

from securedl.ray import Pool, classify, run  # noqa: E402
from securedl.ray import __main__ as command  # noqa: E402
from securedl.ray.pool import evaluate  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}


@pytest.fixture(scope="module")
def cluster():
    """A head that evaluates nothing, and a node that does; tests add and kill others."""
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    head = NODE | {"num_cpus": 0, "include_dashboard": False, "node_ip_address": "127.0.0.1"}
    cluster = Cluster(initialize_head=True, connect=False, head_node_args=head)
    cluster.add_node(**NODE, node_ip_address="127.0.0.1")
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


class Watched:
    """A pool that keeps what went out and what came back."""

    def __init__(self, pool, before=lambda n_submitted: None):
        self.pool, self.before, self.n_places = pool, before, pool.n_places
        self.asked = []

    def submit(self, segment, request):
        self.before(len(self.asked))
        reply = self.pool.submit(segment, request)
        self.asked.append((segment, request, reply))
        return reply

    def check(self, plan):
        """Every reply is that of an evaluator in this process, byte for byte."""
        here = securedl.SegmentEvaluator(plan)
        for segment, request, reply in self.asked:
            np.testing.assert_array_equal(ray.get(reply), here.evaluate(segment, request))
        return len(self.asked)


def many(samples):
    return np.concatenate([samples] * 20)


def test_results_are_those_of_one_process_byte_for_byte(cluster, plan, samples):
    watched = Watched(Pool(plan))
    told = []
    report = classify(plan, many(samples), watched, samples_per_batch=1000, progress=told.append)
    expected = plan.simulate(many(samples))
    np.testing.assert_array_equal(report.scores, expected.scores)
    np.testing.assert_array_equal(report.labels, expected.labels)
    assert report.verdict.is_intact and report.blocks == watched.check(plan)
    finished = [progress.samples_finished for progress in told]
    assert finished == sorted(finished) and finished[-1] > 0
    assert report.soundness.reply_word_bits or report.soundness.every_slot_change_bits
    assert max(progress.blocks_in_flight for progress in told) <= 2 * watched.n_places


def test_blocks_in_flight_are_bounded_and_batches_are_read_when_there_is_room(cluster, plans, samples):
    plan = plans["client"]
    n_read = 0
    n_taken = 0

    def batches():
        nonlocal n_read
        for _ in range(6):
            n_read += 1
            assert n_read - n_taken <= 3, "read ahead of what is finished"
            yield samples

    holder = securedl.KeyHolder(plan, samples)
    told = []
    for _ in run(holder, batches(), Pool(plan), blocks_in_flight=1, progress=told.append):
        n_taken += 1
    assert n_taken == 6 and all(progress.blocks_in_flight <= 1 for progress in told)


def test_a_node_that_is_killed_loses_nothing(cluster, plans, samples, tmp_path):
    """The node dies while blocks are on it: others evaluate them again, with the same bytes."""
    plan = plans["server"]
    second = cluster.add_node(**NODE, node_ip_address="127.0.0.1")
    cluster.wait_for_nodes()
    used, killed = tmp_path / "used", []
    used.mkdir()

    def telling(digest, packed, segment, request, threads):
        node = ray.get_runtime_context().get_node_id()
        (used / node).touch()
        return evaluate(digest, packed, segment, request, threads)

    def before(n_submitted):
        # Once it has worked, and has more to do.
        if not killed and (used / second.node_id).exists():
            cluster.remove_node(second, allow_graceful=False)
            killed.append(n_submitted)

    watched = Watched(Pool(plan, task=telling), before)
    rows = many(samples)
    report = classify(
        plan, rows, watched, samples_per_batch=500, blocks_in_flight=4, batches_in_flight=3
    )
    assert killed, "the node was not used, or the run was over before it was killed"
    assert killed[0] + 1 < report.blocks, "nothing was left to do after it"
    np.testing.assert_array_equal(report.scores, plan.simulate(rows).scores)
    assert report.blocks == watched.check(plan)


def test_a_dishonest_worker_is_caught(cluster, plan, samples, folder):
    """Another model on one worker out of several, for one block: words and canaries both notice."""
    arrays = weights()
    arrays["w1"][2, 5] += 0.5
    other = compiled(write_model(folder, "dishonest", arrays), samples, plan.activation)
    honest, dishonest = Pool(plan), Pool(other)

    class Mixed:
        n_places = honest.n_places
        n = 0

        def submit(self, segment, request):
            self.n += 1
            return (dishonest if self.n == 2 else honest).submit(segment, request)

    with pytest.raises(securedl.VerdictError) as caught:
        classify(plan, many(samples), Mixed())
    verdict = caught.value.verdict
    assert not verdict.is_intact and verdict.segment == 0, str(verdict)
    assert verdict.blocks == [1] or verdict.neurons, str(verdict)


def test_what_enters_the_cluster_is_ciphertexts_and_a_plan(cluster, plans, samples):
    """The task sees five values; none is a sample, a key or a position."""
    plan = plans["client"]
    # A row and a column of the samples in every form they have on their way to a plaintext.
    forms = []
    for kind in (np.uint8, np.int16, np.int32, np.int64, np.float32, np.float64):
        for values in (samples, plan.quantize(samples)):
            values = values.astype(kind)
            forms += [values[0].tobytes(), np.ascontiguousarray(values[:, 0]).tobytes()]
    forms = [form for form in forms if len(set(form)) > 4]

    def spy(digest, packed, segment, request, threads):
        assert isinstance(digest, str) and isinstance(segment, int) and isinstance(threads, int)
        assert bytes(packed[:7]) == b"SDLPLAN"
        whole = request.tobytes()
        assert not any(form in whole for form in forms)
        return evaluate(digest, packed, segment, request, threads)

    report = classify(plan, samples, Pool(plan, task=spy))
    np.testing.assert_array_equal(report.scores, plan.simulate(samples).scores)


def test_the_command_writes_predictions_and_resumes(cluster, plans, samples, tmp_path, monkeypatch):
    plan = plans["client"]
    plan.save(tmp_path / "small.plan")
    np.savez(tmp_path / "data.npz", x_test=many(samples))
    head = ["infer", "--plan", str(tmp_path / "small.plan"), "--data", str(tmp_path / "data.npz")]
    head += ["--samples-per-batch", "1500"]
    out = tmp_path / "predictions.csv"
    taken = []

    def interrupted(*arguments, **options):
        for result in run(*arguments, **options):
            yield result
            taken.append(result)
            if len(taken) == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(command, "run", interrupted)
    assert command.main([*head, "--split", "test", "--out", str(out)]) == 2
    assert not out.exists() and out.with_name("predictions.csv.journal").exists()
    monkeypatch.setattr(command, "run", run)
    assert command.main([*head, "--split", "test", "--out", str(out)]) == 2, "without --resume"
    assert command.main([*head, "--split", "test", "--out", str(out), "--resume"]) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    expected = plan.simulate(many(samples))
    np.testing.assert_array_equal([int(row["prediction"]) for row in rows], expected.labels)
    np.testing.assert_array_equal([int(row["score_2"]) for row in rows], expected.scores[:, 2])
    assert not out.with_name("predictions.csv.journal").exists()


def test_a_gateway_serves_clients_outside_the_cluster(cluster, plan, samples, tls):
    gateway = securedl.Gateway(plan, Pool(plan).begin, tls=tls)
    client = securedl.Client(
        plan, gateway.address, ca=tls, identities=[gateway.identity], patience=0
    )
    result = client.classify(samples)
    np.testing.assert_array_equal(result.scores, plan.simulate(samples).scores)
    gateway.close()


def test_failures_that_are_no_verdict_exit_with_two(cluster, plans, samples, tmp_path, monkeypatch):
    """1 says that somebody cheated."""
    plans["client"].save(tmp_path / "small.plan")
    np.savez(tmp_path / "data.npz", x_test=samples)
    head = ["infer", "--plan", str(tmp_path / "small.plan"), "--data", str(tmp_path / "data.npz")]

    def lost(*arguments, **options):
        raise ray.exceptions.WorkerCrashedError

    monkeypatch.setattr(command, "run", lost)
    assert command.main(head) == 2
    for wrong in (["--samples", "-1"], ["--cpus-per-block", "0"], ["--out", "predictions.npy"]):
        with pytest.raises(SystemExit) as ended:
            command.main([*head, *wrong])
        assert ended.value.code == 2


def test_no_samples_are_an_error(cluster, plans, samples):
    with pytest.raises(ValueError, match="no samples"):
        classify(plans["client"], samples[:0], Pool(plans["client"]))


OWN_CLUSTER = """
import json, os, sys
import ray
from securedl.ray import connect

def listening():
    addresses = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(table) as file:
            for line in list(file)[1:]:
                fields = line.split()
                if fields[3] == "0A":
                    addresses.add(fields[1])
    return addresses

before = listening()
connect(num_cpus=1, object_store_memory=100 << 20)
found = sorted(listening() - before)
print(json.dumps({"nodes": [n["NodeManagerAddress"] for n in ray.nodes()], "listening": found}))
"""


def test_a_cluster_of_ones_own_is_ones_own_and_on_loopback_only():
    """Whatever the environment names, and whoever else runs a cluster here."""
    environment = os.environ | {"RAY_ADDRESS": "192.0.2.1:6379"}
    del environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"]
    done = subprocess.run(
        [sys.executable, "-c", OWN_CLUSTER], env=environment, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["nodes"] == ["127.0.0.1"]
    loopback = ("0100007F:", "00000000000000000000000001000000:", "0000000000000000FFFF00000100007F:")
    beyond = [address for address in told["listening"] if not address.startswith(loopback)]
    assert told["listening"] and not beyond, beyond


def test_the_gateway_command_serves_and_ends_in_order(plans, samples, tls, tmp_path):
    """On a cluster of its own; SIGTERM ends it as a container is ended."""
    plan = plans["client"]
    plan.save(tmp_path / "small.plan")
    command_line = [sys.executable, "-m", "securedl.ray", "serve", "--plan", str(tmp_path / "small.plan")]
    command_line += ["--tls", str(tls), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            told = server.stdout.readline()
            address = told.split()[2].rstrip(";")
            client = securedl.Client(plan, address, ca=tls, patience=0)
            result = client.classify(samples)
            np.testing.assert_array_equal(result.scores, plan.simulate(samples).scores)
            server.terminate()
            assert server.wait(60) == 0
            assert "stopping" in server.stderr.read()
        finally:
            server.kill()
