"""Roles: groups behind routers of every type average over direct connections, or say why they do not."""

import numpy as np
import pytest
import trio
from averaging_swarm import swarm

from moshgrid.averaging.drafting import DRAFT_SECONDS, Drafting
from moshgrid.averaging.messages import Offer
from moshgrid.averaging.roles import RoleGroup, agreed_pairs, assign_roles, known_direct
from moshgrid.p2p.testing import run_virtual

OPEN, PORT, SYM = "open", "port-restricted", "symmetric"
OFFER = Offer(1.0, 0.0, bytes(32), "none", True)
HOME = Offer(1.0, 0.0, bytes(32), "none", True, home=True)


def pairs(*names):
    return {frozenset(name) for name in names}


# Deciding ---------------------------------------------------------------------------------------------


def test_all_that_are_direct_to_all_reduce():
    assert assign_roles("abc", pairs("ab", "bc", "ac"), 2) == [RoleGroup(("a", "b", "c"), ())]


def test_who_is_not_direct_to_all_is_a_client():
    assert assign_roles("abcd", pairs("ab", "bc", "bd", "ac"), 2) == [RoleGroup(("b",), ("a", "c", "d"))]


def test_without_a_reducer_for_all_the_group_is_split():
    groups = assign_roles("abcdef", pairs("ab", "bc", "de", "ef"), 2)
    assert groups == [RoleGroup(("b",), ("a", "c")), RoleGroup(("e",), ("d", "f"))]


def test_who_is_direct_to_nobody_is_in_no_group():
    assert assign_roles("abc", pairs("ab"), 2) == [RoleGroup(("a", "b"), ())]
    assert assign_roles("abc", pairs(), 2) == []
    assert assign_roles("abc", pairs("ab"), 3) == []


def test_a_lie_about_directness_makes_nobody_a_reducer():
    honest = {"a": {"b"}, "b": {"a"}, "c": set()}
    assert agreed_pairs({**honest, "liar": {"a", "b", "c"}}) == pairs("ab")
    silent = agreed_pairs({"a": {"b", "liar"}, "b": {"a", "liar"}, "liar": set()})
    assert assign_roles(["a", "b", "liar"], silent, 2) == [RoleGroup(("a", "b"), ())]


def test_nobody_is_asked_where_all_can_be_dialled_or_said_so():
    assert known_direct([("a", OFFER), ("b", OFFER), ("c", OFFER)], "a", [])
    assert not known_direct([("a", OFFER), ("b", HOME)], "a", [])
    assert known_direct([("a", OFFER), ("b", HOME)], "a", ["b"])
    far = Offer(1.0, 0.0, bytes(32), "none", True, home=True, direct=("b",))
    assert not known_direct([("a", OFFER), ("b", OFFER), ("c", HOME)], "a", ["c"])
    assert known_direct([("a", OFFER), ("b", OFFER), ("c", far)], "a", ["c"])


def test_a_draft_waits_for_all_reports_but_not_for_ever():
    drafting = Drafting([(name, HOME) for name in "abcd"], 2, 10.0)
    drafting.reported("a", "bc")
    drafting.reported("b", "ac")
    drafting.lost("d")
    assert not drafting.is_due(10.1)
    drafting.reported("c", "ab")
    assert drafting.is_due(10.1)
    (group,) = drafting.settle().groups
    assert [(peer, offer.reduces) for peer, offer in group] == [("a", True), ("b", True), ("c", True)]
    silent = Drafting([(name, HOME) for name in "abc"], 2, 10.0)
    silent.reported("a", "b")
    silent.reported("b", "a")
    assert silent.is_due(10.0 + DRAFT_SECONDS)
    assert "did not say in time" in silent.settle().excluded["c"]


# Whole groups -----------------------------------------------------------------------------------------


async def step_all(peers, weights=None):
    reports, start = {}, trio.current_time()

    async def one(peer, weight):
        reports[peer.id] = await peer.core.step(peer.arrays, weight, 1)

    async with trio.open_nursery() as nursery:
        for peer, weight in zip(peers, weights or [1.0] * len(peers), strict=True):
            nursery.start_soon(one, peer, weight)
    return reports, trio.current_time() - start


def average(nat, rounds=2, size=24, seed=0, prepare=lambda group: None, weights=None):
    """What each round's reports were, how long they took, what relays carried, and what is in the arrays."""
    told = []

    async def main():
        async with swarm(len(nat), seed=seed, size=size, nat=nat, group_size=8) as group:
            prepare(group)
            before = [peer.arrays[0].copy() for peer in group.peers]
            for _ in range(rounds):
                told.append(await step_all(group.peers, weights))
            return before, [peer.arrays[0] for peer in group.peers], group.switch.relayed_bytes

    before, after, relayed = run_virtual(main, seed=seed)
    return told, before, after, relayed


MIXES = {
    "all open": [OPEN] * 5,
    "one open": [OPEN, SYM, SYM, PORT, SYM],
    "all punchable": [PORT] * 5,
    "mixed": [OPEN, OPEN, PORT, SYM, "cone"],
    "a leader at home": [SYM, SYM, SYM, SYM, OPEN],
}


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("seed", range(3))
def test_all_are_averaged_over_direct_connections(mix, seed):
    elements = 200_000  # more than the relay would carry
    told, before, after, relayed = average(MIXES[mix], size=elements, seed=seed)
    for reports, seconds in told:
        assert all(report.committed for report in reports.values()), [r.reason for r in reports.values()]
        assert {len(report.group) for report in reports.values()} == {5}
        assert seconds < 15.0
    for vector in after:
        np.testing.assert_allclose(vector, np.mean(before, axis=0), atol=1e-6)
    assert relayed < 4 * elements, "tensors go over no relay"


@pytest.mark.parametrize("seed", range(3))
def test_peers_that_cannot_be_punched_say_so_in_time(seed):
    told, _, _, _ = average([SYM] * 4, rounds=1, seed=seed)
    for reports, seconds in told:
        assert not any(report.committed for report in reports.values())
        assert all("no direct connection" in report.reason for report in reports.values()), reports
        assert seconds < 15.0


def test_one_that_can_be_dialled_and_adds_nothing_reduces_for_all_that_cannot_meet():
    """Weight 0: it helps a run of home peers without a part in their average."""
    elements = 200_000
    told, before, after, relayed = average(
        [SYM, SYM, SYM, SYM, OPEN], size=elements, weights=[1.0] * 4 + [0.0]
    )
    for reports, seconds in told:
        assert all(report.committed for report in reports.values()), [r.reason for r in reports.values()]
        assert seconds < 15.0
        assert all(len(report.contributors) == 4 for report in reports.values())
    for vector in after:
        np.testing.assert_allclose(vector, np.mean(before[:4], axis=0), atol=1e-6)
    assert relayed < 4 * elements


def test_a_group_that_has_no_common_reducer_is_split():
    told, _, _, _ = average([PORT, PORT, SYM, SYM, "cone", "cone"], rounds=1, prepare=_two_islands)
    reports, _ = told[0]
    assert all(report.committed for report in reports.values()), [r.reason for r in reports.values()]
    assert sorted(len(report.group) for report in reports.values()) == [2, 2, 4, 4, 4, 4]


def _two_islands(group):
    """The two port-restricted peers are direct to each other only."""
    names = [peer.id for peer in group.peers]
    for here in names[:2]:
        group.switch.reachability.unpunchable |= {frozenset((here, there)) for there in names[2:]}


def test_a_punch_that_never_ends_holds_nobody_up():
    def prepare(group):
        names = [peer.id for peer in group.peers]
        group.switch.reachability.endless.add(frozenset(names[1:3]))

    told, _, _, _ = average([OPEN, PORT, PORT, PORT], rounds=1, prepare=prepare)
    reports, seconds = told[0]
    assert all(report.committed for report in reports.values()), [r.reason for r in reports.values()]
    assert seconds < 15.0


def test_once_connections_are_direct_nobody_is_asked_again():
    told, _, _, _ = average([PORT] * 4, rounds=3)
    assert told[0][1] > 0.5, "the first round has to punch"
    assert all(seconds < 0.5 for _, seconds in told[1:]), [seconds for _, seconds in told]
