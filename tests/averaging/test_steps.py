"""Steps: their arguments, those that are ended by closing, and where the next one is declared meanwhile."""

import numpy as np
import pytest
import trio
from averaging_swarm import swarm

from moshgrid.averaging.averager_setup import check_step, run_config
from moshgrid.p2p.errors import Closed, ConfigurationError
from moshgrid.p2p.testing import run_virtual


def config(**changed):
    arguments = {
        "run_id": "run", "like": [np.zeros(3, np.float32)], "group_size": 4, "min_group_size": 2,
        "compression": "none", "topology": "single", "reducer": "mean", "deadline": None, **changed,
    }  # fmt: skip
    return run_config(**arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [("compression", 7), ("compression", None), ("deadline", "1"), ("deadline", np.nan), ("group_size", "4"),
     ("group_size", 4.0), ("authority", 7), ("topology", 3), ("reducer", None)],
)  # fmt: skip
def test_arguments_of_the_wrong_kind_are_refused_in_words(name, value):
    with pytest.raises(ConfigurationError, match=name):
        config(**{name: value})


def test_numbers_may_be_those_of_numpy():
    made = config(group_size=np.int64(8), min_group_size=np.int32(3), deadline=np.float32(2))
    assert (made.group_size, made.min_group_size, made.deadline) == (8, 3, 2)
    assert check_step(np.float32(0.5), np.int64(2)) == (0.5, 2)
    for weight in (np.float32(np.nan), np.float64(-1), "1", None, 1j):
        with pytest.raises(ConfigurationError, match="weight"):
            check_step(weight, 1)


def test_closing_ends_a_step_that_looks_for_a_group_and_those_that_wait_for_their_turn():
    async def main():
        async with swarm(1) as group:
            (peer,) = group.peers
            ended = []

            async def one():
                with pytest.raises(Closed, match="closed"):
                    await peer.core.step(peer.arrays, 1.0, 1)
                ended.append(trio.current_time())

            async with trio.open_nursery() as nursery:
                nursery.start_soon(one)
                nursery.start_soon(one)
                await trio.sleep(0.5)
                closed = trio.current_time()
                await peer.core.aclose()
            assert ended == [closed, closed]
            await one()

    run_virtual(main)


def test_who_closes_in_a_round_leaves_it_and_the_others_hold_the_mean_of_the_rest():
    async def main():
        async with swarm(3, seed=1, size=3000) as group:
            leaver, *others = group.peers
            rest = np.mean([peer.arrays[0] for peer in others], axis=0)
            everybody = np.mean([peer.arrays[0] for peer in group.peers], axis=0)
            before = leaver.arrays[0].copy()
            began = trio.Event()
            leaver.host.events.add_sink(lambda e: e["event"] == "exchange_started" and began.set())
            reports = {}

            async def one(peer):
                reports[peer.id] = await peer.core.step(peer.arrays, 1.0, 1)

            async def leave():
                with pytest.raises(Closed):
                    await leaver.core.step(leaver.arrays, 1.0, 1)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(leave)
                for peer in others:
                    nursery.start_soon(one, peer)
                await began.wait()
                await leaver.core.aclose()
            assert (leaver.arrays[0] == before).all()
            assert all(reports[peer.id].committed for peer in others)
            assert others[0].arrays[0].tobytes() == others[1].arrays[0].tobytes()
            found = others[0].arrays[0]
            assert (np.isclose(found, rest, atol=1e-6) | np.isclose(found, everybody, atol=1e-6)).all()

    run_virtual(main)


def test_when_half_are_lost_between_two_rounds_the_others_declare_their_next_group_anew():
    async def main():
        async with swarm(8, seed=2, group_size=4, topology="sliding") as group:
            async with trio.open_nursery() as nursery:
                for peer in group.peers:
                    nursery.start_soon(peer.core.step, peer.arrays, 1.0, 1)
            for peer in group.peers[4:]:
                group.crash(peer)
            left = group.peers[:4]
            number = 1 + max(peer.core.round for peer in left)
            await trio.sleep(5)  # nobody steps
            for peer in left:
                others = {one.id for one in left} - {peer.id}
                assert set(peer.core._membership.seekers("0", number)) == others

    run_virtual(main)
