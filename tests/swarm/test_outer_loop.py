"""The outer loop: identities that hold exactly, and orderings that hold on a toy task."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from outer_simulation import Outer, Task, Worker, average, nesterov, plain, train_together

from moshgrid.compression import get_codec
from moshgrid.p2p import SchemaMismatch
from moshgrid.swarm.merge_rule import Merge
from moshgrid.swarm.outer_loop import OuterLoop, is_plain_average


def _crew(count: int, outer: Outer, alpha: float = 0.0) -> tuple[Task, list[Worker]]:
    return Task(3, count, iid=True), [Worker(3, outer, alpha) for _ in range(count)]


def _round(crew: list[Worker], merge: Merge = Merge.OUTER_STEP) -> list[np.ndarray]:
    starts = [worker.loop.start() for worker in crew]
    mean = average(starts)
    for worker, start in zip(crew, starts, strict=True):
        worker.loop.take(start, mean, merge)
    return mean


def test_lr_1_without_momentum_after_every_step_is_parameter_averaging_bit_for_bit() -> None:
    task, crew = _crew(4, plain)
    assert is_plain_average(crew[0].loop.outer)
    for _ in range(5):
        for i, worker in enumerate(crew):
            worker.train([task.batch(i)])
        expected = torch.stack([worker.place() for worker in crew]).mean(dim=0)
        _round(crew)
        for worker in crew:
            assert torch.equal(worker.place(), expected)


def test_a_single_worker_with_lr_1_and_no_momentum_is_its_inner_optimizer_bit_for_bit() -> None:
    task, (alone, other) = _crew(2, plain)
    for _ in range(5):
        batches = [task.batch(0) for _ in range(4)]
        alone.train(batches)
        _round([alone])
        other.train(batches)
        assert torch.equal(alone.place(), other.place())


def test_the_outer_step_is_torchs_nesterov() -> None:
    task, crew = _crew(3, nesterov)
    shadow, velocity = crew[0].place(), torch.zeros_like(crew[0].place())
    for _ in range(4):
        for i, worker in enumerate(crew):
            worker.train([task.batch(i) for _ in range(3)])
        mean = torch.from_numpy(np.concatenate(_round(crew)))
        difference = shadow - mean
        velocity = 0.9 * velocity + difference
        shadow = shadow - 0.7 * (difference + 0.9 * velocity)
        torch.testing.assert_close(crew[0].place(), shadow, rtol=1e-5, atol=1e-6)
        assert all(torch.equal(crew[0].place(), worker.place()) for worker in crew)


def test_inner_steps_during_a_round_are_kept() -> None:
    task, crew = _crew(2, plain)
    starts = []
    for i, worker in enumerate(crew):
        worker.train([task.batch(i) for _ in range(3)])
        starts.append(worker.loop.start())
    before = [worker.place() for worker in crew]
    for i, worker in enumerate(crew):
        worker.train([task.batch(i) for _ in range(2)])
    meanwhile = [worker.place() - then for worker, then in zip(crew, before, strict=True)]
    mean = average(starts)
    for worker, start, step in zip(crew, starts, meanwhile, strict=True):
        worker.loop.take(start, mean, Merge.OUTER_STEP)
        expected = torch.from_numpy(np.concatenate(mean)) + step
        torch.testing.assert_close(worker.place(), expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(worker.loop.anchors[0], crew[0].loop.anchors[0])


def test_alpha_keeps_a_part_of_ones_own_place() -> None:
    task, crew = _crew(2, nesterov, alpha=0.25)
    for i, worker in enumerate(crew):
        worker.train([task.batch(i) for _ in range(3)])
    own = [worker.place() for worker in crew]
    _round(crew)
    for worker, place in zip(crew, own, strict=True):
        anchor = torch.cat([a.reshape(-1) for a in worker.loop.anchors])
        torch.testing.assert_close(worker.place(), 0.25 * place + 0.75 * anchor, rtol=1e-5, atol=1e-6)


def test_a_round_that_was_missed_is_replayed_to_the_very_same_state() -> None:
    task, crew = _crew(3, nesterov)
    for _ in range(2):
        for i, worker in enumerate(crew):
            worker.train([task.batch(i) for _ in range(3)])
        _round(crew)
    for i, worker in enumerate(crew):
        worker.train([task.batch(i) for _ in range(3)])
    mean = _round(crew[:2])
    crew[2].loop.replay(mean)
    assert torch.equal(crew[2].place(), crew[0].place())
    _round(crew)
    assert torch.equal(crew[2].place(), crew[0].place()), "momentum is the same, too"


def test_states_that_differ_are_united() -> None:
    task, crew = _crew(2, nesterov)
    for i, worker in enumerate(crew):
        worker.train([task.batch(i) for _ in range(5)])
        _round([worker])  # each went its own way
    expected = torch.stack([worker.place() for worker in crew]).mean(dim=0)
    _round(crew, Merge.UNITE)
    for worker in crew:
        assert torch.equal(worker.place(), expected)
        assert not worker.loop.outer.state
    for i, worker in enumerate(crew):
        worker.train([task.batch(i)])
    _round(crew)
    assert torch.equal(crew[0].place(), crew[1].place())


def test_a_round_that_came_to_nothing_changes_nothing() -> None:
    task, (worker, _) = _crew(2, nesterov)
    worker.train([task.batch(0)])
    place, anchors = worker.place(), [a.clone() for a in worker.loop.anchors]
    worker.loop.take(worker.loop.start(), None, Merge.NOTHING)
    assert torch.equal(worker.place(), place)
    assert all(torch.equal(a, b) for a, b in zip(anchors, worker.loop.anchors, strict=True))


def test_gradients_and_other_parameters_survive_an_outer_step() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2))
    outer = nesterov(list(model.parameters()))
    loop = OuterLoop({"w": model[0].weight}, outer)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    others = [p.detach().clone() for p in model[1].parameters()]
    loop.take(loop.start(), [np.zeros(6, np.float32)], Merge.OUTER_STEP)
    assert all(bool((p.grad == 1).all()) for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(others, model[1].parameters(), strict=True))
    assert set(outer.state) == {model[0].weight}


def test_error_feedback_sends_later_what_a_codec_left_out() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(16, 16, bias=False)
    codec = get_codec("int4")
    loop = OuterLoop({"w": layer.weight}, nesterov([layer.weight]), codec=codec)
    drift = torch.randn(16, 16) * 0.01
    anchor = loop.anchors[0].clone()
    total_sent, total = torch.zeros(256), torch.zeros(256)
    for _ in range(40):
        layer.weight.data.copy_(loop.anchors[0] + drift)
        start = loop.start()
        sent = (loop.outgoing(start)[0] - anchor).reshape(-1)
        encoded = codec.encode(sent.numpy())
        total_sent += torch.from_numpy(codec.decode(encoded.data, 256, np.dtype(np.float32)))
        total += drift.reshape(-1)
        loop.take(start, [anchor.reshape(-1).numpy()], Merge.OUTER_STEP)
        loop.load_shared({"anchor.w": anchor})  # the swarm's average is of no interest here
    error = (total_sent - total).norm() / total.norm()
    assert error < 0.01, "without feedback it would be the codec's error, several per cent, for ever"


def test_what_is_shared_goes_to_another_member_bit_for_bit() -> None:
    task, crew = _crew(2, nesterov)
    for _ in range(3):
        crew[0].train([task.batch(0)])
        _round(crew[:1])
    crew[1].loop.load_shared(crew[0].loop.shared_tensors())
    assert torch.equal(crew[0].place(), crew[1].place())
    for worker in crew:
        worker.train([])
    batch = task.batch(0)
    for worker in crew:
        worker.inner = torch.optim.SGD(worker.model.parameters(), 0.1)
        worker.train([batch])
    _round(crew)
    assert torch.equal(crew[0].place(), crew[1].place())
    with pytest.raises(SchemaMismatch, match="1 of 4 tensors"):
        state = crew[0].loop.shared_tensors()
        state["anchor.0.weight"] = torch.zeros(1)
        crew[1].loop.load_shared(state)


@pytest.mark.parametrize("iid", [pytest.param(True, marks=pytest.mark.slow), False])
def test_losses_are_ordered_as_expected_with_and_without_workers_missing(iid: bool) -> None:
    """DiLoCo ends below plain averaging, and stays there with 20 % of its workers missing each round."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        averaged = train_together(plain, iid=iid)
        diloco = train_together(nesterov, iid=iid)
        missing = train_together(nesterov, iid=iid, missing=0.2)
    finally:
        torch.set_num_threads(threads)
    assert diloco < 0.5 * averaged
    assert missing < 0.5 * averaged
    assert missing < 1.4 * diloco
