"""``DiLoCo`` over real peers of one process."""

from __future__ import annotations

import pytest
import torch
from training_peers import Peer, Peers, loss_on, model_of, place_of

from moshgrid.p2p import ConfigurationError, Node
from moshgrid.swarm import DiLoCo, Run


def _meet(peer: Peer, opt: DiLoCo, others: int) -> None:
    peer.meet([fragment.averager for fragment in opt.fragments], others)


def _alone(model: torch.nn.Module, node: Node, **options: object) -> DiLoCo:
    run = Run(node, "r", model, progress=False)
    return DiLoCo(run, torch.optim.AdamW(model.parameters(), 1e-2), **options)


@pytest.fixture
def node() -> Node:
    with Node(listen=["/ip4/127.0.0.1/tcp/0"], network="alone") as node:
        yield node


def test_every_member_holds_the_same_after_a_round_and_goes_on_while_it_runs() -> None:
    def act(peer: Peer) -> tuple[torch.Tensor, torch.Tensor, DiLoCo]:
        opt = DiLoCo(peer.run, torch.optim.AdamW(peer.model.parameters(), 1e-2), sync_every=5)
        reports = []
        peer.run.on_round(reports.append)
        _meet(peer, opt, 2)
        for _ in range(12):
            peer.step(opt)
        peer.barrier.wait()
        opt.synchronize()
        assert sum(report.committed for report in reports) == opt.epoch >= 2
        assert all(report.codec == "int8" and report.reference for report in reports if report.committed)
        return place_of(peer.model), torch.cat([a.reshape(-1) for a in opt.fragments[0].loop.anchors]), opt

    results = Peers(3).train(act)
    assert all(torch.equal(anchors, results[0][1]) for _, anchors, _ in results)
    assert all(torch.equal(place, results[0][1]) for place, _, _ in results)


def test_averaging_after_every_step_with_lr_1_is_what_run_step_does() -> None:
    """H = 1, outer lr 1, no momentum, nothing lost to a codec: parameter averaging, bit for bit."""

    def diloco(peer: Peer) -> torch.Tensor:
        inner = torch.optim.SGD(peer.model.parameters(), 0.1)
        outer = torch.optim.SGD(peer.model.parameters(), 1.0)
        opt = DiLoCo(peer.run, inner, outer, sync_every=1, compression="none", overlap=False)
        _meet(peer, opt, 1)
        for _ in range(4):
            peer.step(opt)
            peer.barrier.wait()
        assert opt.epoch == 4
        return place_of(peer.model)

    def averaging(peer: Peer) -> torch.Tensor:
        inner = torch.optim.SGD(peer.model.parameters(), 0.1)
        peer.meet([peer.run.averager], 1)
        for _ in range(4):
            peer.step(inner)
            assert peer.run.step(weight=1.0).committed
            peer.barrier.wait()
        return place_of(peer.model)

    one, other = Peers(2).train(diloco), Peers(2).train(averaging, compression="none")
    for place in (*one, *other):
        assert torch.equal(place, one[0])


def test_streaming_with_one_fragment_and_no_delay_is_diloco() -> None:
    def act(peer: Peer, streaming: bool) -> torch.Tensor:
        inner = torch.optim.AdamW(peer.model.parameters(), 1e-2)
        if streaming:
            options = {"model_fragments": [peer.model], "fragment_sync_delay": 0}
        else:
            options = {"overlap": False}
        opt = DiLoCo(peer.run, inner, sync_every=3, compression="none", **options)
        _meet(peer, opt, 1)
        for _ in range(9):
            peer.step(opt)
            peer.barrier.wait()
        assert opt.epoch == 3
        return place_of(peer.model)

    streamed = Peers(2).train(lambda peer: act(peer, True))
    at_once = Peers(2).train(lambda peer: act(peer, False))
    assert all(torch.equal(place, streamed[0]) for place in (*streamed, *at_once))


def test_fragments_take_turns_and_a_result_comes_after_the_delay() -> None:
    def act(peer: Peer) -> tuple[torch.Tensor, list[int]]:
        opt = DiLoCo(
            peer.run,
            torch.optim.AdamW(peer.model.parameters(), 1e-2),
            sync_every=4,
            model_fragments=2,
            fragment_sync_delay=1,
            fragment_update_alpha=0.5,
        )
        _meet(peer, opt, 1)
        seen = []
        for _ in range(9):
            peer.step(opt)
            seen.append(sum(fragment.loop.applied or 0 for fragment in opt.fragments))
            peer.barrier.wait()
        return torch.cat([a.reshape(-1) for f in opt.fragments for a in f.loop.anchors]), seen

    results = Peers(2).train(act)
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] == [0, 0, 1, 1, 2, 2, 3, 3, 4]


def test_who_misses_a_round_replays_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "moshgrid.swarm")

    def act(peer: Peer) -> tuple[torch.Tensor, int]:
        opt = DiLoCo(peer.run, torch.optim.AdamW(peer.model.parameters(), 1e-2), sync_every=2, overlap=False)
        _meet(peer, opt, 2)
        for number in range(1, 5):
            peer.step(opt)
            if number == 2 and peer.number == 2:
                opt.trigger.steps += 10**6  # it does something else while the others average
                due, opt.trigger._due = opt.trigger._due, [10**7]
                peer.step(opt)
                opt.trigger._due = due
            else:
                peer.step(opt)
            peer.barrier.wait()
        return torch.cat([a.reshape(-1) for a in opt.fragments[0].loop.anchors]), opt.epoch

    results = Peers(3).train(act, deadline=2.0)
    assert [epoch for _, epoch in results] == [4, 4, 4]
    assert all(torch.equal(anchors, results[0][0]) for anchors, _ in results)
    assert "caught up to round 2: the average of the round that was missed was replayed" in caplog.text


def test_states_that_began_apart_are_united_in_the_first_round() -> None:
    def act(peer: Peer) -> torch.Tensor:
        for parameter in peer.model.parameters():
            parameter.data.add_(0.1 * peer.number)
        opt = DiLoCo(peer.run, torch.optim.AdamW(peer.model.parameters(), 1e-2), sync_every=2, overlap=False)
        _meet(peer, opt, 1)
        references = []
        peer.run.on_round(lambda report: references.append(bool(report.reference)))
        for _ in range(4):
            peer.step(opt)
            peer.barrier.wait()
        assert references == [False, True], "float16 of the values first, then int8 of the difference"
        return place_of(peer.model)

    one, other = Peers(2).train(act)
    assert torch.equal(one, other)


def test_alone_it_is_its_inner_optimizer_bit_for_bit_and_counts_what_it_missed(node: Node) -> None:
    model, twin = model_of(), model_of()
    opt, inner = _alone(model, node, sync_every=2), torch.optim.AdamW(twin.parameters(), 1e-2)
    for optimizer, one in ((opt, model), (inner, twin)):
        chance = torch.Generator().manual_seed(1)
        for _ in range(10):
            loss_on(one, chance).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert torch.equal(place_of(model), place_of(twin))
    assert opt.no_group > 0 and opt.epoch == 0
    opt.run.close()


def test_a_saved_optimizer_goes_on_exactly(node: Node) -> None:
    model = model_of()
    opt = _alone(model, node, sync_every=4)
    chance = torch.Generator().manual_seed(1)

    def train(steps: int) -> None:
        for _ in range(steps):
            loss_on(model, chance).backward()
            opt.step()
            opt.zero_grad()

    train(6)
    saved, place, at = opt.state_dict(), model.state_dict(), chance.get_state()
    saved = torch.load(_stored(saved), weights_only=True)
    place = {name: tensor.clone() for name, tensor in place.items()}
    train(5)
    expected = place_of(model)
    opt.run.close()
    model = model_of(seed=5)
    opt = _alone(model, node, sync_every=4)
    model.load_state_dict(place)
    opt.load_state_dict(saved)
    chance.set_state(at)
    assert opt.trigger.steps == 6
    train(5)
    assert torch.equal(place_of(model), expected)
    opt.run.close()


def test_values_that_are_not_finite_are_not_sent_and_given_up(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "moshgrid.swarm")

    def act(peer: Peer) -> torch.Tensor:
        opt = DiLoCo(peer.run, torch.optim.AdamW(peer.model.parameters(), 1e-2), sync_every=2, overlap=False)
        _meet(peer, opt, 1)
        for number in range(1, 5):
            peer.step(opt)
            if number == 3 and peer.number == 1:
                next(iter(peer.model.parameters())).data[0] = float("nan")
        return place_of(peer.model)

    for place in Peers(2).train(act, deadline=1.0):
        assert bool(torch.isfinite(place).all())
    assert "your model holds NaN or infinite values; nothing of it was sent" in caplog.text
    assert "back to the swarm's state of round 1" in caplog.text


def test_options_that_make_no_sense(node: Node) -> None:
    model = model_of()
    for options, text in (
        ({"sync_every": 10, "model_fragments": 3}, "model_fragments must be 1 to 2"),
        ({"sync_every": 5, "model_fragments": 2}, "divisible"),
        ({"model_fragments": [model[0]]}, "leave out 2 parameters"),
        ({"model_fragments": [model[0], model[1]]}, "has no parameters"),
        ({"fragment_update_alpha": 2.0}, "0 to 1"),
        ({"compression": "zip"}, "zip"),
    ):
        with pytest.raises(ConfigurationError, match=text):
            _alone(model, node, **options)


def _stored(state: object) -> object:
    """What a file would hold."""
    import io

    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer
