"""Attendance: which group keys are followed, and what stays known of those that are not any more."""

import random

import numpy as np
import pytest
from averaging_swarm import step_all, swarm
from running import tasks

from moshgrid.averaging.attendance import Attendance
from moshgrid.averaging.declarations import Declarations
from moshgrid.p2p.testing import run_virtual


def test_a_key_is_left_when_nobody_asked_for_it_in_sixteen_rounds():
    attendance = Attendance()
    assert attendance.ask("old", 1) == []
    for number in range(1, 18):
        assert attendance.ask("again", number) == []
    assert attendance.ask("again", 18) == ["old"]
    assert attendance.ask("old", 18) == []


def test_of_too_many_keys_those_asked_for_first_are_left():
    attendance = Attendance()
    for number in range(128):
        assert attendance.ask(str(number), 1) == []
    attendance.ask("0", 1)
    assert attendance.ask("one more", 1) == ["1"]


def test_how_far_others_are_stays_known_and_who_is_gone_is_forgotten():
    declarations = Declarations()
    for key, peer, number in (("a", "anna", 3), ("a", "bert", 4), ("b", "anna", 2), ("c", "carl", 1)):
        declarations.note(key, peer, number)
    declarations.retire("a", ["anna"])
    assert declarations.latest() == {"anna": 3, "carl": 1}
    assert declarations.seekers("b", 2) == []
    declarations.retire("b", ["anna"])
    declarations.retire("never followed", ["anna"])
    assert declarations.latest() == {"anna": 3, "carl": 1}
    assert declarations.forget("anna")
    declarations.retire("c", [])
    assert declarations.latest() == {}


@pytest.mark.slow
def test_a_run_that_draws_many_plans_follows_the_keys_of_the_last_ones_only():
    """Every newcomer makes the plan before wrong about one in ten."""

    async def main():
        rng = random.Random(0)
        async with swarm(9, seed=1, group_size=4) as group:
            peers = list(group.peers)
            followed = []
            for _ in range(14):
                for _ in range(3):
                    await step_all(peers, 300)
                victim = rng.choice(peers[1:])
                peers.remove(victim)
                group.crash(victim)
                peers.append(await group.add([np.zeros_like(array) for array in peers[0].arrays]))
                running = tasks(peers[0].host.nursery)
                followed.append(sum(running[name] for name in running if name.endswith("._follow")))
            print(followed)
            assert max(followed) <= 30, followed

    run_virtual(main)


def test_nothing_is_followed_after_the_end():
    async def main():
        async with swarm(2) as group:
            await step_all(group.peers)
            await group.peers[0].core.aclose()
            running = tasks(group.peers[0].host.nursery)
            assert not [name for name in running if name.endswith(("._follow", "._subscribe"))]

    run_virtual(main)
