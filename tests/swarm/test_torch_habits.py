"""``DiLoCo`` and ``Optimizer`` as torch optimizers: with schedulers, scalers, closures, on devices."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from training_peers import Peer, Peers, loss_on, model_of, place_of

from moshgrid.p2p import Node
from moshgrid.swarm import DiLoCo, Optimizer, Run

Wrap = Callable[[Run, torch.optim.Optimizer], torch.optim.Optimizer]

WRAPPERS: dict[str, Wrap] = {
    "DiLoCo": lambda run, inner: DiLoCo(run, inner, sync_every=5),
    "Optimizer": lambda run, inner: Optimizer(run, inner, target_batch_size=1, batch_size_per_step=1),
}

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.fixture
def node() -> Iterator[Node]:
    with Node(listen=["/ip4/127.0.0.1/tcp/0"], network="alone") as node:
        yield node


@pytest.fixture(params=WRAPPERS)
def wrap(request: pytest.FixtureRequest) -> Wrap:
    return WRAPPERS[request.param]


def test_it_is_an_optimizer_with_the_inner_ones_groups(node: Node, wrap: Wrap) -> None:
    model = model_of()
    inner = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters()}], lr=0.01
    )
    with Run(node, "r", model, progress=False) as run:
        opt = wrap(run, inner)
        assert isinstance(opt, torch.optim.Optimizer)
        assert opt.param_groups is inner.param_groups and len(opt.param_groups) == 2
        assert [group["lr"] for group in opt.param_groups] == [0.1, 0.01]
        opt.param_groups[0]["lr"] = 0.0
        before = model[0].weight.detach().clone()
        loss_on(model, torch.Generator().manual_seed(0)).backward()
        opt.step()
        assert torch.equal(model[0].weight, before)
        opt.zero_grad()
        assert all(p.grad is None for p in model.parameters())
        assert repr(opt).startswith(type(opt).__name__)


def test_schedulers_set_its_learning_rate_without_a_warning(node: Node, wrap: Wrap) -> None:
    model = model_of()
    with Run(node, "r", model, progress=False) as run, warnings.catch_warnings():
        warnings.simplefilter("error")
        inner = torch.optim.AdamW(model.parameters(), 0.1)
        opt = wrap(run, inner)
        scheduler = torch.optim.lr_scheduler.StepLR(opt, step_size=1, gamma=0.5)
        for expected in (0.1, 0.05, 0.025):
            assert inner.param_groups[0]["lr"] == pytest.approx(expected)
            loss_on(model, torch.Generator().manual_seed(0)).backward()
            opt.step()
            scheduler.step()
        torch.optim.lr_scheduler.ReduceLROnPlateau(opt).step(1.0)


def test_closures(node: Node, wrap: Wrap) -> None:
    model, twin = model_of(), model_of()
    with Run(node, "r", model, progress=False) as run:
        opt, inner = (
            wrap(run, torch.optim.SGD(model.parameters(), 0.1)),
            torch.optim.SGD(twin.parameters(), 0.1),
        )

        def closure(one: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], torch.Tensor]:
            chance = torch.Generator().manual_seed(0)

            def run_it() -> torch.Tensor:
                optimizer.zero_grad()
                loss = loss_on(one, chance)
                loss.backward()
                return loss

            return run_it

        loss = opt.step(closure(model, opt))
        assert loss.item() == inner.step(closure(twin, inner)).item()
        torch.testing.assert_close(place_of(model), place_of(twin))


def test_hooks_run(node: Node, wrap: Wrap) -> None:
    model, called = model_of(), []
    with Run(node, "r", model, progress=False) as run:
        opt = wrap(run, torch.optim.SGD(model.parameters(), 0.1))
        opt.register_step_pre_hook(lambda *_: called.append("before"))
        opt.register_step_post_hook(lambda *_: called.append("after"))
        loss_on(model, torch.Generator().manual_seed(0)).backward()
        opt.step()
    assert called == ["before", "after"]


def test_state_of_the_bare_inner_optimizer_is_taken(node: Node, wrap: Wrap) -> None:
    model = model_of()
    inner = torch.optim.Adam(model.parameters(), 0.1)
    loss_on(model, torch.Generator().manual_seed(0)).backward()
    inner.step()
    saved = copy.deepcopy(inner.state_dict())
    with Run(node, "r", model, progress=False) as run:
        opt = wrap(run, torch.optim.Adam(model.parameters(), 0.5))
        opt.load_state_dict(saved)
        assert opt.param_groups[0]["lr"] == 0.1
        weight = next(iter(model.parameters()))
        assert torch.equal(opt.state[weight]["exp_avg"], saved["state"][0]["exp_avg"])
        opt.step()
        assert set(opt.state_dict()) == {"state", "param_groups", "moshgrid"}


def test_a_gradient_scaler_skips_steps_whose_gradients_overflowed(node: Node, wrap: Wrap) -> None:
    model = model_of()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    with Run(node, "r", model, progress=False) as run:
        opt = wrap(run, torch.optim.SGD(model.parameters(), 0.1))
        before = place_of(model)
        for overflows in (True, False):
            opt.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_on(model, torch.Generator().manual_seed(0))
            scaler.scale(loss).backward()
            if overflows:
                next(iter(model.parameters())).grad[0] = float("inf")
            scaler.unscale_(opt)
            scaler.step(opt)
            scaler.update()
            assert torch.equal(place_of(model), before) == overflows
        assert scaler.get_scale() == 4.0


def test_parameters_in_bfloat16_are_averaged(node: Node) -> None:
    def act(peer: Peer) -> torch.Tensor:
        opt = DiLoCo(peer.run, torch.optim.SGD(peer.model.parameters(), 0.05), sync_every=2, overlap=False)
        peer.meet([opt.fragments[0].averager], 1)
        for _ in range(4):
            opt.zero_grad()
            x = torch.randn(8, 8, generator=peer.chance).to(torch.bfloat16)
            peer.model(x).float().square().mean().backward()
            opt.step()
        peer.barrier.wait()
        assert opt.epoch == 2
        return place_of(peer.model)

    import training_peers

    original = training_peers.model_of
    training_peers.model_of = lambda seed=0: original(seed).to(torch.bfloat16)
    try:
        one, other = Peers(2).train(act)
    finally:
        training_peers.model_of = original
    assert torch.equal(one, other) and one.dtype == torch.bfloat16


@needs_gpu
@pytest.mark.parametrize("moved", ["before", "after"])
def test_a_model_may_be_moved_to_the_gpu_before_or_after(moved: str) -> None:
    def act(peer: Peer) -> torch.Tensor:
        if moved == "before":
            peer.model.cuda()
        opt = DiLoCo(peer.run, torch.optim.AdamW(peer.model.parameters(), 1e-2), sync_every=3, overlap=False)
        if moved == "after":
            peer.model.cuda()
        peer.meet([opt.fragments[0].averager], 1)
        for _ in range(6):
            peer.step(opt)
        peer.barrier.wait()
        assert opt.epoch == 2 and next(peer.model.parameters()).is_cuda
        return place_of(peer.model)

    one, other = Peers(2).train(act)
    assert torch.equal(one, other)


@needs_gpu
def test_mixed_precision_on_the_gpu(node: Node, wrap: Wrap) -> None:
    model = model_of().cuda()
    scaler = torch.amp.GradScaler("cuda")
    with Run(node, "r", model, progress=False) as run:
        opt = wrap(run, torch.optim.AdamW(model.parameters(), 1e-2))
        before = place_of(model)
        for _ in range(20):
            opt.zero_grad()
            with torch.autocast("cuda", torch.float16):
                loss = loss_on(model, torch.Generator().manual_seed(0))
            scaler.scale(loss).backward()
            scaler.step(opt)
            scaler.update()
        assert not torch.equal(place_of(model), before)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices here")
def test_a_model_spread_over_two_gpus(node: Node) -> None:
    def act(peer: Peer) -> torch.Tensor:
        peer.model[0].to("cuda:0")
        peer.model[2].to("cuda:1")
        opt = DiLoCo(peer.run, torch.optim.AdamW(peer.model.parameters(), 1e-2), sync_every=2, overlap=False)
        peer.meet([opt.fragments[0].averager], 1)
        for _ in range(4):
            opt.zero_grad()
            hidden = peer.model[1](peer.model[0](torch.randn(8, 8).to("cuda:0")))
            peer.model[2](hidden.to("cuda:1")).square().mean().backward()
            opt.step()
        peer.barrier.wait()
        assert opt.epoch == 2
        return place_of(peer.model)

    one, other = Peers(2).train(act)
    assert torch.equal(one, other)
