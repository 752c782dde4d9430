"""``Optimizer`` over real peers of one process."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from training_peers import Peer, Peers, loss_on, model_of, place_of

from moshgrid.p2p import ConfigurationError, Node
from moshgrid.swarm import Optimizer, Run
from moshgrid.swarm.gradient_accumulator import GradientAccumulator

LOSSLESS = {"grad_compression": "none"}


def _meet(peer: Peer, opt: Optimizer, others: int) -> None:
    peer.meet(list(opt._averagers.values()), others)


def _until(peer: Peer, opt: Optimizer, epoch: int, most: int = 4000) -> int:
    """Trains on until the epoch; the records of others take their time."""
    tick = threading.Event()
    for steps in range(most):
        if opt.epoch >= epoch:
            return steps
        peer.step(opt)
        tick.wait(0.005)
    raise AssertionError(f"epoch {opt.epoch} after {most} steps")


@pytest.fixture
def node() -> Node:
    with Node(listen=["/ip4/127.0.0.1/tcp/0"], network="alone") as node:
        yield node


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.mark.parametrize(
    ("options", "device"),
    [
        ({}, "cpu"),
        ({"delay_optimizer_step": True}, "cpu"),
        ({"use_local_updates": True}, "cpu"),
        pytest.param({}, "cuda", marks=on_a_gpu),
        pytest.param({"delay_optimizer_step": True}, "cuda", marks=on_a_gpu),
    ],
)
def test_members_step_together_when_the_swarm_has_seen_the_batch(
    options: dict[str, bool], device: str
) -> None:
    """On a GPU the model is moved there after the optimizer was made."""

    def act(peer: Peer) -> tuple[int, int, torch.Tensor]:
        opt = Optimizer(
            peer.run,
            torch.optim.Adam(peer.model.parameters(), 1e-2),
            target_batch_size=16 * 30,
            batch_size_per_step=16,
            **options,
        )
        peer.model.to(device)
        _meet(peer, opt, 2)
        steps = _until(peer, opt, 3)
        return opt.epoch, steps, place_of(peer.model)

    results = Peers(3).train(act)
    assert sum(steps for _, steps, _ in results) * 16 >= 3 * 16 * 30 * 0.7, "the batch was really accumulated"
    if "use_local_updates" not in options:
        for _, _, place in results:
            torch.testing.assert_close(place, results[0][2], rtol=1e-4, atol=1e-5)


def test_the_average_weighs_by_samples() -> None:
    """One member has ten times the samples: the step is along the mean over all samples."""

    def act(peer: Peer) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        inner = torch.optim.SGD(peer.model.parameters(), 0.1)
        opt = Optimizer(peer.run, inner, target_batch_size=10**6, average_state_every=0, **LOSSLESS)
        _meet(peer, opt, 1)
        before = place_of(peer.model)
        size = (200, 20)[peer.number]
        loss_on(peer.model, peer.chance, size).backward()
        gradient = torch.cat([p.grad.reshape(-1) for p in peer.model.parameters()])
        opt.step(batch_size=size)
        peer.barrier.wait()
        peer.run.tracker.aim(1)
        opt._synchronise()
        return before, gradient, place_of(peer.model), opt.no_group

    one, other = Peers(2).train(act)
    mean = (200 * one[1] + 20 * other[1]) / 220
    torch.testing.assert_close(one[2], one[0] - 0.1 * mean, rtol=1e-4, atol=1e-6)
    assert torch.equal(one[2], other[2])
    assert one[3] == other[3] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_gradients_of_many_batches_are_added_up_without_loss(dtype: torch.dtype) -> None:
    parameter = torch.nn.Parameter(torch.zeros(3, dtype=dtype))
    parameter.grad = torch.tensor([1.0, -0.1, 300.0], dtype=dtype)
    gradients = GradientAccumulator([parameter])
    for _ in range(1000):
        gradients.add(16)
    (mean,) = gradients.mean()
    assert mean.dtype == dtype and gradients.samples == 16_000
    torch.testing.assert_close(mean, parameter.grad, rtol=1e-3, atol=0)
    again = GradientAccumulator([parameter])
    again.load_state_dict(gradients.state_dict())
    assert torch.equal(again.mean()[0], mean) and again.is_finite()
    parameter.grad[1] = float("nan")
    again.add(1)
    assert not again.is_finite()


def test_gradients_that_are_not_finite_are_dropped_and_the_others_step_is_taken(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def act(peer: Peer) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        inner = torch.optim.SGD(peer.model.parameters(), 0.1)
        opt = Optimizer(peer.run, inner, target_batch_size=10**6, average_state_every=0, **LOSSLESS)
        _meet(peer, opt, 1)
        before = place_of(peer.model)
        loss_on(peer.model, peer.chance).backward()
        if peer.number == 1:
            next(peer.model.parameters()).grad[0] = float("nan")
        gradient = torch.cat([p.grad.reshape(-1) for p in peer.model.parameters()])
        opt.step(batch_size=16)
        peer.barrier.wait()
        peer.run.tracker.aim(1)
        opt._synchronise()
        assert opt.epoch == 1 and opt.no_group == 0
        return before, gradient, place_of(peer.model)

    one, other = Peers(2).train(act)
    torch.testing.assert_close(one[2], one[0] - 0.1 * one[1], rtol=1e-4, atol=1e-6)
    assert torch.equal(one[2], other[2])
    assert "your gradients hold NaN or infinite values; they were dropped" in caplog.text


def test_a_model_that_is_not_finite_takes_the_swarms_state(caplog: pytest.LogCaptureFixture) -> None:
    def act(peer: Peer) -> torch.Tensor:
        opt = Optimizer(
            peer.run,
            torch.optim.Adam(peer.model.parameters(), 1e-2),
            target_batch_size=16 * 10,
            batch_size_per_step=16,
            use_local_updates=True,
        )
        _meet(peer, opt, 1)
        _until(peer, opt, 2)
        peer.barrier.wait()
        if peer.number == 1:
            next(peer.model.parameters()).data[0] = float("inf")
        _until(peer, opt, 5)
        return place_of(peer.model)

    for place in Peers(2).train(act):
        assert bool(torch.isfinite(place).all())
    assert "your model holds NaN or infinite values" in caplog.text


def test_alone_it_accumulates_the_batch_itself(node: Node) -> None:
    model, twin = model_of(), model_of()
    with Run(node, "r", model, progress=False) as run:
        opt = Optimizer(
            run, torch.optim.SGD(model.parameters(), 0.1), target_batch_size=48, batch_size_per_step=16
        )
        inner = torch.optim.SGD(twin.parameters(), 0.1)
        one, other = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
        for epoch in range(1, 4):
            for _ in range(3):
                loss_on(model, one).backward()
                opt.step()
                opt.zero_grad()
            assert opt.epoch == opt.no_group == epoch
            (sum(loss_on(twin, other) for _ in range(3)) / 3).backward()
            inner.step()
            inner.zero_grad()
            torch.testing.assert_close(place_of(model), place_of(twin))


def test_without_a_group_it_steps_on_its_own_gradients_and_never_on_zeros() -> None:
    """The other member is known but does not come; and who has no samples does not step."""

    def act(peer: Peer) -> None:
        inner = torch.optim.AdamW(peer.model.parameters(), 1e-2, weight_decay=0.5)
        opt = Optimizer(peer.run, inner, target_batch_size=16, batch_size_per_step=16, average_state_every=0)
        _meet(peer, opt, 1)
        before = place_of(peer.model)
        if peer.number == 0:
            peer.step(opt)
            assert opt.no_group == 1 and opt.epoch == 1
            assert not torch.equal(place_of(peer.model), before)
        peer.barrier.wait()
        if peer.number == 1:
            opt._synchronise()  # nothing was accumulated, and nobody is there
            assert opt.no_group == 1
            assert torch.equal(place_of(peer.model), before), "not even weight decay"

    Peers(2).train(act, deadline=0.5)


def test_who_is_behind_takes_the_steps_of_the_others(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "moshgrid.swarm")

    def act(peer: Peer) -> torch.Tensor:
        inner = torch.optim.Adam(peer.model.parameters(), 1e-2)
        opt = Optimizer(
            peer.run, inner, target_batch_size=64, batch_size_per_step=16, average_state_every=0, **LOSSLESS
        )
        _meet(peer, opt, 2)
        if peer.number < 2:
            _until(peer, opt, 1)
        peer.barrier.wait()
        if peer.number == 2:
            tick = threading.Event()
            while not peer.run.progress.behind:
                tick.wait(0.02)
            peer.step(opt)
        assert opt.epoch == 1
        return place_of(peer.model)

    places = Peers(3).train(act, deadline=2.0)
    assert torch.equal(places[0], places[2])
    assert "caught up to round 1: the step that was missed was replayed" in caplog.text


def test_a_saved_optimizer_goes_on_exactly(node: Node) -> None:
    def build(seed: int) -> tuple[torch.nn.Module, Run, Optimizer]:
        model = model_of(seed)
        run = Run(node, "r", model, progress=False)
        inner = torch.optim.Adam(model.parameters(), 1e-2)
        scheduler = torch.optim.lr_scheduler.StepLR(inner, 1, 0.5)
        return (
            model,
            run,
            Optimizer(run, inner, target_batch_size=64, batch_size_per_step=16, scheduler=scheduler),
        )

    def train(steps: int) -> None:
        for _ in range(steps):
            loss_on(model, chance).backward()
            opt.step()
            opt.zero_grad()

    model, run, opt = build(0)
    chance = torch.Generator().manual_seed(1)
    train(6)  # one epoch and a half
    assert opt.param_groups[0]["lr"] == 5e-3
    saved, at = copy.deepcopy(opt.state_dict()), chance.get_state()
    place = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(7)
    expected = place_of(model)
    run.close()
    model, run, opt = build(1)
    model.load_state_dict(place)
    opt.load_state_dict(saved)
    chance.set_state(at)
    train(7)
    assert torch.equal(place_of(model), expected)
    run.close()


def test_options_that_make_no_sense(node: Node) -> None:
    model = model_of()
    with Run(node, "r", model, progress=False) as run:
        inner = torch.optim.SGD(model.parameters(), 0.1)
        with pytest.raises(ConfigurationError, match="target_batch_size"):
            Optimizer(run, inner, target_batch_size=0)
        with pytest.raises(ConfigurationError, match="use_local_updates"):
            Optimizer(run, inner, target_batch_size=9, use_local_updates=True, delay_optimizer_step=True)
        opt = Optimizer(run, inner, target_batch_size=9)
        with pytest.raises(ConfigurationError, match="batch_size"):
            opt.step()
