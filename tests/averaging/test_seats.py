"""Seats by address block: the rule, a leader that follows it, and swarms half of which is of one block."""

import random

import numpy as np
import pytest
import trio
from averaging_swarm import swarm
from hypothesis import given
from hypothesis import strategies as st

from moshgrid.averaging.address_blocks import HOME, block_of
from moshgrid.averaging.averager_setup import run_config
from moshgrid.averaging.match_events import Formed, NoGroup, SeekerSeen, Tell, Told
from moshgrid.averaging.matchmaking import Matchmaking
from moshgrid.averaging.messages import Accepted, Join, Leave, Offer, Refused
from moshgrid.averaging.seats import NO_SEAT, Applicant, Seats, crowded_block, seated
from moshgrid.averaging.topology import rank
from moshgrid.p2p.errors import ConfigurationError
from moshgrid.p2p.machine import DeadlinePassed
from moshgrid.p2p.testing import run_virtual

OFFER = Offer(1.0, 0.0, bytes(32), "float16", True)
CROWD = "203.0.113.0/24"
NAMES = sorted((f"p{i}" for i in range(24)), key=lambda peer: rank("0", 1, peer))
LEADER, OTHERS = NAMES[0], NAMES[1:]


# The rule ---------------------------------------------------------------------------------------------


def strangers(*names):
    return [(name, f"198.18.{number}.0/24") for number, name in enumerate(names)]


def crowd(*names):
    return [(name, CROWD) for name in names]


def test_of_eight_or_more_only_the_first_of_a_block_have_a_seat():
    applicants = crowd("x", "y", "z") + strangers(*"abcdefg")
    assert seated(applicants, 16, 1) == ["x", *"abcdefg"]
    assert seated(applicants, 16, 2) == ["x", "y", *"abcdefg"]
    assert seated(applicants, 8, 1) == ["x", *"abcdefg"]
    assert seated(applicants, 8, None) == ["x", "y", "z", *"abcde"]


def test_with_fewer_others_the_extras_fill_up_to_seven_seats_and_no_more():
    assert seated(crowd(*"uvwxyz") + strangers(*"ab"), 16, 1) == list("uvwxyab")
    assert seated(crowd(*"stuvwxyz"), 16, 1) == list("stuvwxy")
    assert seated(crowd(*"wxyz") + strangers(*"abcdef"), 16, 1) == ["w", *"abcdef"]
    assert seated(crowd(*"wxyz"), 4, 1) == list("wxyz"), "small groups are not limited"


def test_neighbours_and_those_behind_a_relay_are_not_counted():
    assert len(seated([(f"p{i}", place) for i in range(6) for place in (None, HOME)], 16, 1)) == 12


@given(
    st.lists(st.sampled_from([None, HOME, "a", "b", "c", "d", "e", "f", "g", "h", "i"]), max_size=40),
    st.integers(2, 20),
    st.integers(1, 3),
)
def test_whoever_comes_in_whatever_order(blocks, size, per_block):
    applicants = list(enumerate(blocks))
    group = seated(applicants, size, per_block)
    assert group == sorted(set(group)) and len(group) <= size
    assert len(group) >= min(len(applicants), 7, size), "nobody is locked out of a small group"
    places = [blocks[peer] for peer in group]
    assert crowded_block(places, per_block) is None
    if len(group) >= 8 and size >= 8:
        assert group == seated([(peer, blocks[peer]) for peer in group], size, per_block)
        # Who is the first of its block has a seat, however many came before of another one.
        first = [peer for peer in range(len(blocks)) if blocks.index(blocks[peer]) == peer]
        assert len(group) == size or set(first) <= set(group)


def test_a_crowded_block_is_seen_in_groups_of_eight_or_more():
    assert crowded_block([CROWD, CROWD, *"abcdef"], 1) == CROWD
    assert crowded_block([CROWD, CROWD, *"abcdef"], 2) is None
    assert crowded_block([CROWD, CROWD, *"abcde"], 1) is None
    assert crowded_block([CROWD, CROWD, *"abcdef"], None) is None
    assert crowded_block([None, None, HOME, HOME, *"abcdef"], 1) is None


@pytest.mark.parametrize(
    ("ip", "block"),
    [
        ("203.0.113.77", "203.0.113.0/24"), ("::ffff:203.0.113.77", "203.0.113.0/24"),
        ("64:ff9b::203.0.113.77", "203.0.113.0/24"), ("2002:cb00:714d::1", "203.0.113.0/24"),
        ("2001:db8:1:2::3", "2001:db8:1::/48"), ("10.1.2.3", HOME), ("127.0.0.1", HOME),
        ("169.254.1.1", HOME), ("100.64.0.1", HOME), ("::1", HOME), ("fe80::1%eth0", HOME), ("fd00::1", HOME),
        ("example", None),
    ],
)  # fmt: skip
def test_blocks(ip, block):
    assert block_of(ip) == block


# A leader ---------------------------------------------------------------------------------------------


def applicants(*blocks, sees=""):
    return {name: Applicant(OFFER, block, sees) for name, block in zip(OTHERS, blocks, strict=False)}


def test_a_leader_takes_the_others_word_for_its_own_block_one_for_each_block():
    seats = Seats(LEADER, 16, 1)
    others = {name: Applicant(OFFER, f"198.18.{i}.0/24", CROWD) for i, name in enumerate(OTHERS[:8])}
    others |= {OTHERS[8]: Applicant(OFFER, CROWD)}
    assert OTHERS[8] not in seats.taken(others), "of the leader's own block"
    others |= {name: Applicant(OFFER, "192.0.2.0/24", "198.18.0.0/24") for name in OTHERS[9:20]}
    assert OTHERS[0] in seats.taken(others), "many of one block have one word"
    others |= {OTHERS[20]: Applicant(OFFER, HOME)}
    assert OTHERS[20] not in seats.taken(others), "others see a neighbour in the leader's block"
    unseen = {name: Applicant(OFFER, each.block) for name, each in others.items()}
    assert {OTHERS[8], OTHERS[20]} <= set(seats.taken(unseen)), "as long as nobody says where the leader is"


def seek(**options):
    options = {"size": 16, "seats_per_block": 1, **options}
    return Matchmaking(LEADER, "0", 1, OFFER, options.pop("size"), 2, 0.0, **options)


def joins(machine, peers, block=None, now=0.0):
    """What the machine does when these ask it to lead; ``block`` None: each is of its own."""
    return [
        effect
        for peer in peers
        for effect in machine.handle(Told(peer, Join("0", 1, OFFER), block or f"of {peer}"), now)
    ]


def test_who_has_no_seat_is_told_when_the_group_begins_and_whom_to_ask():
    machine = seek()
    joins(machine, OTHERS[:3], CROWD)
    joins(machine, OTHERS[3:10])
    *told, formed = machine.handle(DeadlinePassed(), machine.deadline)
    roster = (LEADER, OTHERS[0], *OTHERS[3:10])
    assert formed == Formed(tuple((peer, OFFER) for peer in roster))
    assert [tell.peer for tell in told] == OTHERS[1:3]
    for tell in told:
        assert tell.message.reason.startswith(NO_SEAT)
        assert (tell.message.try_instead, tell.message.taken) == (OTHERS[1], roster)


def test_a_group_is_not_full_of_those_without_a_seat():
    machine = seek(size=8)
    joins(machine, OTHERS[:12], CROWD)
    assert not machine.over
    assert not any(isinstance(effect, Formed) for effect in joins(machine, OTHERS[12:17]))
    *_, formed = joins(machine, OTHERS[17:18])
    assert [peer for peer, _ in formed.members] == [LEADER, OTHERS[0], *OTHERS[12:18]]


def test_those_without_a_seat_are_bounded_and_whoever_is_sent_away_is_not_waited_for():
    machine = seek(silence=0.1)
    many = [f"x{i}" for i in range(300)]
    lower = [peer for peer in many if rank("0", 1, peer) > rank("0", 1, LEADER)]
    for peer in lower:
        machine.handle(SeekerSeen(peer), 0.0)
    answers = joins(machine, lower, CROWD)
    accepted = [each.peer for each in answers if isinstance(each.message, Accepted)]
    refused = [each.message.reason for each in answers if isinstance(each.message, Refused)]
    assert len(accepted) <= 16 + 64 and len(accepted) + len(refused) == len(lower)
    assert refused and all(reason.startswith(NO_SEAT) for reason in refused)
    assert machine.deadline == pytest.approx(0.1)
    assert isinstance(joins(machine, OTHERS[:1])[0].message, Accepted), "others have seats still"
    *_, formed = machine.handle(DeadlinePassed(), machine.deadline)
    assert [peer for peer, _ in formed.members] == [LEADER, *accepted[:5], OTHERS[0]]


def test_who_leaves_makes_room_for_the_next_of_its_block():
    machine = seek()
    joins(machine, OTHERS[:2], CROWD)
    joins(machine, OTHERS[2:10])
    machine.handle(Told(OTHERS[0], Leave("0", 1)), 0.0)
    *_, formed = machine.handle(DeadlinePassed(), machine.deadline)
    assert [peer for peer, _ in formed.members] == [LEADER, *OTHERS[1:10]]


def test_who_has_no_seat_looks_on_with_the_others_that_have_none():
    me, first = OTHERS[1], OTHERS[0]
    machine = Matchmaking(me, "0", 1, OFFER, 16, 2, 0.0, seats_per_block=1, patience=3.0)
    machine.handle(SeekerSeen(LEADER), 0.0)
    machine.handle(SeekerSeen(first), 0.0)
    machine.handle(Told(first, Refused("0", 1, "following another leader", LEADER, ())), 0.1)
    machine.handle(Told(LEADER, Accepted("0", 1)), 0.1)
    machine.handle(DeadlinePassed(), 3.0)  # the leader's patience ends as this peer's does
    refused = Refused("0", 1, NO_SEAT + "a reason", first, (LEADER,))
    assert machine.handle(Told(LEADER, refused), 3.1) == [Tell(first, Join("0", 1, OFFER))]
    assert machine.leader is None and machine.deadline == pytest.approx(4.1)
    assert machine.handle(Told(LEADER, Accepted("0", 1)), 3.1) == [Tell(LEADER, Leave("0", 1))]
    assert not machine.would_follow(LEADER)
    (end,) = machine.handle(DeadlinePassed(), 4.1)
    assert end == NoGroup(NO_SEAT + "a reason")


def test_a_leader_whose_group_is_too_small_waits_for_its_time_and_not_before():
    machine = Matchmaking(LEADER, "0", 1, OFFER, 4, 3, 0.0, patience=3.0)
    joins(machine, OTHERS[:1])
    assert machine.deadline == pytest.approx(3.0)


@pytest.mark.parametrize("value", [0, -1, 1.5, "1"])
def test_the_option_is_checked(value):
    with pytest.raises(ConfigurationError, match="seats_per_block must be None"):
        limited(value)
    assert limited(np.int64(2)).seats_per_block == 2
    assert limited(None).seats_per_block is None


def limited(value):
    like = [np.zeros(3, np.float32)]
    return run_config("run", like, 8, 2, "none", "single", "mean", None, seats_per_block=value)


# Swarms -----------------------------------------------------------------------------------------------


async def half_of_one_block(group, seed, honest, obedient):
    """So many peers of a block each, and as many of one that come first; the latter's ids."""
    rng = random.Random(seed)
    kinds = [True, *rng.sample([True] * (honest - 1) + [False] * honest, 2 * honest - 1)]
    for number, is_honest in enumerate(kinds):
        arrays = [np.full(24, rng.random(), np.float32), np.ones((3, 2), np.float32)]
        ip, limit = (
            (f"198.18.{number}.7", 1) if is_honest else (f"203.0.113.{number}", 1 if obedient else None)
        )
        await group.add(arrays, ip, seats_per_block=limit)
    return {peer.id for peer, is_honest in zip(group.peers, kinds, strict=True) if not is_honest}


async def step_after(group, sybils, seconds):
    """Everybody steps once, the sybils first."""
    reports = {}

    async def one(peer):
        await trio.sleep(0 if peer.id in sybils else seconds)
        reports[peer.id] = await peer.core.step(peer.arrays, 1.0, 1)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for peer in group.peers:
                nursery.start_soon(one, peer)
    return reports


def check_seats(group, sybils, reports):
    """Of eight members or more at most one is a sybil; everybody honest is in a group."""
    honest = [reports[peer.id] for peer in group.peers if peer.id not in sybils]
    assert all(report.committed for report in honest), honest
    assert all(len(report.group) < 8 or len(sybils & set(report.group)) <= 1 for report in honest)
    return [len(report.group) for report in honest]


def sybils_apply(seed, size, topology, rounds=1, honest=8, obedient=True, late=0.05):
    async def main():
        sizes = []
        async with swarm(0, seed=seed, group_size=size, topology=topology) as group:
            sybils = await half_of_one_block(group, seed, honest, obedient)
            for _ in range(rounds):
                reports = await step_after(group, sybils, late)
                sizes += check_seats(group, sybils, reports)
                if obedient:
                    assert sum(reports[peer].committed for peer in sybils) >= 6, "nor are those locked out"
        return sizes

    return run_virtual(main, seed=seed)


def test_half_of_the_applicants_are_of_one_block_and_get_one_seat():
    assert set(sybils_apply(0, 16, "single", honest=7)) == {8}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("size", "topology"), [(16, "single"), (16, "moshpit"), (8, "moshpit")])
def test_in_every_round_of_every_seed(seed, size, topology):
    sybils_apply(seed, size, topology, rounds=3, late=random.Random(seed).choice([0.0, 0.05, 1.0]))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_followers_decline_a_leader_that_gives_its_own_block_more(seed):
    sizes = sybils_apply(seed, 16, "single", rounds=4, obedient=False)
    assert np.mean(sizes) > 6, "what such a leader costs is time"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_household_that_joins_through_relays_and_is_direct_then_has_one_seat(seed):
    async def main():
        nat = ("open",) * 8 + ("port-restricted",) * 3
        async with swarm(0, seed=seed, nat=nat, group_size=16, topology="single", seats_per_block=1) as group:
            for number, router in enumerate(nat):
                ip = f"198.18.{number}.7" if router == "open" else "203.0.113.5"
                await group.add([np.ones(24, np.float32)], ip)
            home = {peer.id for peer in group.peers[8:]}
            for _ in range(3):
                reports = await step_after(group, set(), 0.0)
                assert all(report.committed for report in reports.values())
                assert (
                    sorted(len(home & set(report.group)) for report in reports.values()) == [1] * 9 + [2] * 2
                )

    run_virtual(main, seed=seed)


def test_without_the_option_a_block_has_as_many_seats_as_it_takes():
    async def main():
        async with swarm(0, seed=2, group_size=16, topology="single") as group:
            for number in range(8):
                await group.add([np.ones(24, np.float32)], f"203.0.113.{number}")
            reports = await step_after(group, set(), 0.0)
            assert {len(report.group) for report in reports.values()} == {8}

    run_virtual(main)
