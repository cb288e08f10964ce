"""The same bytes on a cluster, whatever happens to it. Skipped, aloud, where Ray is missing."""

from __future__ import annotations

import csv
import os

import numpy as np
import pytest
from conftest import compiled, weights, write_model

import securedl

# Every port on loopback addresses; read when Ray is imported.
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
    assert told[-1].samples_finished <= len(report.labels)
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


def test_a_node_that_is_killed_loses_nothing(cluster, plans, samples):
    """The node dies while blocks are on it: others evaluate them again, with the same bytes."""
    plan = plans["server"]
    second = cluster.add_node(**NODE, node_ip_address="127.0.0.1")
    cluster.wait_for_nodes()
    killed = []

    def before(n_submitted):
        if n_submitted == 6:
            cluster.remove_node(second, allow_graceful=False)
            killed.append(n_submitted)

    watched = Watched(Pool(plan), before)
    rows = many(samples)
    report = classify(
        plan, rows, watched, samples_per_batch=500, blocks_in_flight=4, batches_in_flight=3
    )
    assert killed, "the run was over before the node was killed"
    assert report.blocks > 8, "nothing was left to do after it"
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
    inputs = plan.quantize(samples).astype(np.uint8)

    def spy(digest, packed, segment, request, threads):
        assert isinstance(digest, str) and isinstance(segment, int) and isinstance(threads, int)
        assert bytes(packed[:7]) == b"SDLPLAN"
        assert inputs[:, 0].tobytes() not in request.tobytes()
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
    gateway = securedl.Gateway(plan, Pool(plan).evaluate, tls=tls)
    client = securedl.Client(
        plan, gateway.address, ca=tls, identities=[gateway.identity], patience=0
    )
    result = client.classify(samples)
    np.testing.assert_array_equal(result.scores, plan.simulate(samples).scores)
    gateway.close()
