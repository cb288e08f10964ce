"""Batches and evaluators apart: requests and replies as bytes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import securedl


@pytest.fixture(scope="module")
def evaluators(plans):
    return {side: securedl.SegmentEvaluator(plan) for side, plan in plans.items()}


@pytest.fixture(scope="module")
def holders(plans, samples):
    return {side: securedl.KeyHolder(plan, samples) for side, plan in plans.items()}


@pytest.fixture(params=["server", "client"])
def case(request, plans, evaluators, holders):
    side = request.param
    return plans[side], evaluators[side], holders[side]


def finish(batch, evaluator):
    while True:
        for block in range(batch.n_blocks):
            batch.reply(block, evaluator.evaluate(batch.segment(block), batch.request(block)))
        if (result := batch.finish_round()) is not None:
            return result


def test_a_batch_equals_the_simulation(case, samples):
    plan, evaluator, holder = case
    batch = holder.batch(samples)
    assert (batch.round, batch.n_rounds, batch.n_samples) == (0, plan.rounds, len(samples))
    result = finish(batch, evaluator)
    np.testing.assert_array_equal(result.scores, plan.simulate(samples).scores)
    assert result.receipts == [] and result.server_seconds is None
    same = finish(holder.batch_of_inputs(plan.quantize(samples)), evaluator)
    np.testing.assert_array_equal(same.scores, result.scores)


@pytest.mark.parametrize("relinearize", ["never", "always"])
def test_joined_layers_take_one_round(model, samples, relinearize):
    plan = securedl.compile(
        model,
        samples,
        bits="4/5/5",
        activation="server",
        max_rounds=1,
        relinearize=relinearize,
        expected_samples=64,
        self_test=False,
    )
    assert plan.rounds == 1
    assert {s.relinearizes for s in plan.segments} == {relinearize == "always"}
    result = finish(securedl.KeyHolder(plan, samples).batch(samples), securedl.SegmentEvaluator(plan))
    np.testing.assert_array_equal(result.scores, plan.simulate(samples).scores)


def test_evaluation_is_a_pure_function_of_bytes(case, samples):
    plan, evaluator, holder = case
    batch = holder.batch(samples)
    request = batch.request(0)
    segment = plan.segments[batch.segment(0)]
    assert request.dtype == np.uint8 and request.nbytes == segment.request_bytes
    reply = evaluator.evaluate(0, request)
    assert reply.dtype == np.uint8 and reply.nbytes == segment.reply_bytes
    another = securedl.SegmentEvaluator(securedl.Plan.from_bytes(plan.to_bytes()))
    for same in (request, request.tobytes(), bytearray(request), memoryview(request.tobytes())):
        np.testing.assert_array_equal(another.evaluate(0, same), reply)
    np.testing.assert_array_equal(batch.request(0), request, "asked again: the same bytes")
    assert not np.array_equal(holder.batch(samples).request(0), request), "another key and seed"


def test_blocks_come_in_any_order_and_from_any_thread(case, samples):
    plan, evaluator, holder = case
    many = np.concatenate([samples] * 30)
    batch = holder.batch(many)

    def block(number):
        batch.reply(number, evaluator.evaluate(batch.segment(number), batch.request(number)))

    result = None
    while result is None:
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(block, reversed(range(batch.n_blocks))))
        assert batch.is_answered
        result = batch.finish_round()
    np.testing.assert_array_equal(result.scores, plan.simulate(many).scores)


def test_wrong_calls_are_errors(case, samples):
    _, evaluator, holder = case
    batch = holder.batch(samples)
    with pytest.raises(securedl.Error, match="not answered yet"):
        batch.finish_round()
    with pytest.raises(securedl.Error, match="not asked for"):
        batch.reply(0, b"")
    with pytest.raises(securedl.Error, match="no block"):
        batch.request(batch.n_blocks)
    with pytest.raises(securedl.Error, match="no segment 9"):
        evaluator.evaluate(9, batch.request(0))
    with pytest.raises(securedl.Error):
        holder.batch(samples[:, :3])
    finish(batch, evaluator)
    with pytest.raises(securedl.Error, match="the batch is over"):
        batch.request(0)


def test_a_block_is_answered_once(case, samples):
    plan, evaluator, holder = case
    batch = holder.batch(np.concatenate([samples] * 30))
    request = batch.request(0)
    reply = evaluator.evaluate(batch.segment(0), request)
    batch.reply(0, reply)
    for again in (lambda: batch.reply(0, reply), lambda: batch.request(0)):
        with pytest.raises(securedl.Error, match="block 0 of this round is answered already"):
            again()
    for block in range(1, batch.n_blocks):
        assert not batch.is_answered
        batch.reply(block, evaluator.evaluate(batch.segment(block), batch.request(block)))
    assert batch.is_answered and batch.finish_round() is None
    assert batch.request(0).size > 0, "the next round has blocks of its own"


def test_memory_of_a_request_is_declared(case):
    plan, evaluator, _ = case
    for segment in plan.segments:
        assert evaluator.memory_bytes(segment.number) > segment.request_bytes
    with pytest.raises(securedl.Error, match="no segment 9"):
        evaluator.memory_bytes(9)


def test_malformed_requests_and_replies_are_errors(case, samples):
    """Cut off, prolonged, or with a residue out of range; whatever it is, nothing crashes."""
    _, evaluator, holder = case
    request = holder.batch(samples).request(0)
    full = np.concatenate([request[:32], np.full(request.size - 32, 0xFF, np.uint8)])
    for bad in (b"", request[:31], request[:-1], np.append(request, np.uint8(0)), full):
        with pytest.raises((securedl.Error, ValueError)):
            evaluator.evaluate(0, bad)
    reply = evaluator.evaluate(0, request)
    for bad in (reply[:-1], np.append(reply, np.uint8(0)), np.full_like(reply, 0xFF)):
        batch = holder.batch(samples)
        batch.request(0)
        with pytest.raises(securedl.Error):
            batch.reply(0, bad)


def test_altered_replies_never_become_scores(case, samples):
    """One bit of one reply, anywhere: an error, a verdict, or, where a bit only adds noise, the right scores."""
    plan, evaluator, holder = case
    expected = plan.simulate(samples).scores
    draw = np.random.default_rng(4)
    n_verdicts = 0
    for _ in range(6):
        batch = holder.batch(samples)
        altered = evaluator.evaluate(batch.segment(0), batch.request(0)).copy()
        altered[draw.integers(altered.size)] ^= 1 << draw.integers(8)
        try:
            batch.reply(0, altered)
            for block in range(1, batch.n_blocks):
                batch.reply(block, evaluator.evaluate(batch.segment(block), batch.request(block)))
            result = batch.finish_round() or finish(batch, evaluator)
            np.testing.assert_array_equal(result.scores, expected)
        except securedl.VerdictError as error:
            n_verdicts += 1
            assert error.verdict.segment == 0 and not error.verdict.is_intact
        except securedl.Error:
            pass
    assert n_verdicts > 0


def test_a_journal_keeps_what_is_finished(case, samples, tmp_path):
    plan, evaluator, holder = case
    path = tmp_path / "run.journal"
    task = {"samples_per_batch": 100, "description": holder.description}
    journal = securedl.Journal(path, plan, **task)
    result = finish(holder.batch(samples[:100]), evaluator)
    journal.append(samples[:100], result)
    journal.close()
    with pytest.raises(securedl.Error):
        securedl.Journal(path, plan, **task)
    with pytest.raises(securedl.Error, match="replicas"):
        other = securedl.KeyHolder(plan, samples, replicas=2).description
        securedl.Journal(path, plan, samples_per_batch=100, description=other, resume=True)
    again = securedl.Journal(path, plan, **task, resume=True)
    assert again.n_batches == 1
    again.check(0, samples[:100])
    with pytest.raises(securedl.Error):
        again.check(0, samples[100:])
    kept = again.read(0)
    np.testing.assert_array_equal(kept.scores, result.scores)
    assert kept.blocks == result.blocks and kept.verdict.is_intact
    again.remove()
    assert not path.exists()
