"""Grid plans: dimensions, places, what is believed of a record, who publishes, and which plan wins."""

import random
from collections import Counter
from itertools import pairwise
from math import prod

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshgrid.averaging.grid_plan import (
    GridPlan,
    PlanRecord,
    fitted_dims,
    member_list,
    publisher_order,
    read_member_list,
)
from moshgrid.averaging.planning import PlanBook
from moshgrid.averaging.topology import MoshpitTopology, View


def names(count):
    return [f"peer{i:05d}" for i in range(count)]


@pytest.mark.parametrize(
    ("count", "most", "dims"),
    [
        (512, 32, (16, 32)), (768, 32, (24, 32)), (900, 32, (30, 30)), (1024, 32, (32, 32)),
        (1000, 32, (32, 32)), (16, 4, (4, 4)), (6, 16, (6,)), (20, 4, (2, 3, 4)), (512, 8, (8, 8, 8)),
    ],
)  # fmt: skip
def test_dims_fit_the_peers(count, most, dims):
    assert fitted_dims(count, most) == dims


@given(st.integers(2, 4000), st.integers(2, 64))
def test_dims_reach_and_keep_within_the_group_size(count, most):
    dims = fitted_dims(count, most)
    assert prod(dims) >= count
    assert max(dims) <= most
    assert len(dims) == 1 or most ** (len(dims) - 1) < count


@given(st.integers(17, 400), st.integers(4, 16), st.integers(1, 9))
def test_every_round_everybody_is_in_one_line_and_lines_differ_by_a_peer_or_two(count, most, number):
    peers = names(count)
    if count <= most:
        return
    plan = GridPlan.drawn(1, 1, peers, most)
    lines = Counter(plan.line(peer, number, peers).key for peer in peers)
    assert sum(lines.values()) == count
    assert max(lines.values()) <= most
    for peer in peers[:5]:
        line = plan.line(peer, number, peers)
        assert peer in line.members
        assert {plan.line(other, number, peers).key for other in line.members} == {line.key}
        assert line.count >= len(lines)


@pytest.mark.parametrize(("count", "most"), [(512, 32), (768, 32), (900, 32), (16, 4), (60, 5)])
def test_the_mean_is_exact_once_every_axis_had_its_turn(count, most):
    peers = names(count)
    plan = GridPlan.drawn(3, 5, peers, most)
    values = dict(zip(peers, np.random.default_rng(0).normal(size=count), strict=True))
    mean = np.mean(list(values.values()))
    for number in range(5, 5 + len(plan.record.dims)):
        assert np.var(list(values.values())) > 1e-6
        values = {
            peer: float(np.mean([values[other] for other in plan.line(peer, number, peers).members]))
            for peer in peers
        }
    np.testing.assert_allclose(list(values.values()), mean, atol=1e-12)


def test_latecomers_take_the_emptiest_lines():
    peers = names(20)
    plan = GridPlan.drawn(1, 1, peers[:19], 5)  # 4 × 5, one cell empty
    emptiest = min(len(plan.line(peer, 1, peers).members) for peer in peers[:19])
    assert len(plan.line(peers[19], 1, peers).members) == emptiest
    gone = [peer for peer in peers if peer not in set(list(plan.line(peers[0], 1, peers).members)[:2])]
    assert plan.line(peers[19], 1, gone).key == plan.line(peers[0], 1, peers).key


def test_a_plan_fits_while_it_can_be_recomputed_within_five_percent():
    peers = names(100)
    plan = GridPlan.drawn(1, 1, peers, 16)
    assert plan.fits(peers[:95])
    assert plan.fits([*peers[:97], "x", "y"])
    assert not plan.fits(peers[:94])
    small = GridPlan.drawn(1, 1, peers[:10], 4)
    assert small.fits(peers[:9])
    assert not small.fits(peers[:8])


def test_what_does_not_follow_from_the_members_is_refused():
    plan = GridPlan.drawn(1, 3, names(20), 5)
    again = PlanRecord.from_value(plan.record.to_value())
    assert again is not None
    assert GridPlan.checked(again, read_member_list(member_list(plan.members)), 5) == plan
    for change in (
        {"dims": (5, 4)}, {"size": 21}, {"digest": bytes(32)}, {"epoch": 4},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"plan|grid"):
            GridPlan.checked(msgspec.structs.replace(plan.record, **change), plan.members, 5)
    with pytest.raises(ValueError, match="more peers than one group"):
        GridPlan.checked(plan.record, plan.members, 20)


@pytest.mark.parametrize(
    "value",
    [None, 7, [], {}, [0, [2], 1, 2, bytes(32)], [1, [1], 1, 2, bytes(32)], [1, [2] * 14, 1, 2, bytes(32)],
     [1, [2], 1, 9000, bytes(32)], [1, [2], 1, 2, bytes(31)], [1, [2], 1, 2, "x" * 32],
     [2**50, [2], 1, 2, bytes(32)]],
)  # fmt: skip
def test_records_of_strangers_are_no_plans(value):
    assert PlanRecord.from_value(value) is None


@pytest.mark.parametrize("data", [b"", b"b\na", b"a\na", b"a\n", b"\xff", b"x" * 65, b"\n".join([b"a"] * 2)])
def test_lists_of_strangers_are_refused(data):
    with pytest.raises(ValueError, match="member list"):
        read_member_list(data)


def test_the_higher_epoch_wins_then_the_lower_hash_among_those_that_fit():
    peers = names(40)
    plans = [GridPlan.drawn(1, 1, peers, 8), GridPlan.drawn(1, 1, peers[:39], 8)]
    later, strange = GridPlan.drawn(2, 4, peers, 8), GridPlan.drawn(3, 3, peers[:30], 8)
    for order in (plans, plans[::-1]):
        book = PlanBook("me", 8)
        for plan in [*order, later, strange]:
            assert book.wants(plan.record, 1)
            book.learned(plan, peers)
            assert not book.wants(plan.record, 1)
        assert book.in_force(3, peers) == min(plans, key=lambda plan: plan.record.hash)
        assert book.in_force(4, peers) == later
        assert book.in_force(4, peers[:8]) is None
    distant = GridPlan.drawn(2, 1000, peers, 8)
    assert not PlanBook("me", 8).wants(distant.record, 1)


def test_plans_of_strangers_do_not_push_out_the_one_that_fits():
    peers = names(40)
    book = PlanBook("me", 8)
    book.learned(GridPlan.drawn(1, 1, peers, 8), peers)
    for epoch in range(2, 50):
        book.learned(GridPlan.drawn(epoch, epoch, names(20 + epoch % 7), 8), peers)
    assert book.in_force(3, peers) == GridPlan.drawn(1, 1, peers, 8)


def test_one_peer_publishes_and_the_next_one_only_if_it_stays_silent():
    peers = names(20)
    first, second, *others = publisher_order(1, peers)
    books = {peer: PlanBook(peer, 5) for peer in peers}
    published = books[first].to_publish(2, peers)
    assert published == GridPlan.drawn(1, 4, peers, 5)
    assert all(books[peer].to_publish(2, peers) is None for peer in (second, *others))
    assert books[second].to_publish(3, peers) is not None
    books[others[-1]].learned(published, peers)
    assert books[others[-1]].to_publish(40, peers) is None
    assert PlanBook(first, 20).to_publish(2, peers) is None


def test_no_plan_leaves_anybody_alone():
    peers = names(5)  # 2 × 3 cells for groups of 4: one line would hold one peer
    plan = GridPlan.drawn(1, 3, peers, 4)
    assert not plan.leaves_nobody_alone
    with pytest.raises(ValueError, match="two peers in every line"):
        GridPlan.checked(plan.record, plan.members, 4)
    assert all(PlanBook(peer, 4).to_publish(1, peers) is None for peer in peers)
    assert GridPlan.drawn(1, 3, names(6), 4).leaves_nobody_alone


def test_a_plan_is_drawn_anew_when_members_changed_and_each_axis_had_its_turn():
    peers = names(21)
    book = PlanBook(publisher_order(2, peers)[0], 5)
    book.learned(GridPlan.drawn(1, 4, peers[:20], 5), peers)
    assert [book.to_publish(number, peers) for number in (3, 4, 5)] == [None] * 3
    assert book.to_publish(6, peers) == GridPlan.drawn(2, 8, peers, 5)


def test_moshpit_follows_the_plan_and_slides_without_one():
    peers = names(20)
    plan = GridPlan.drawn(1, 1, peers, 5)
    topology = MoshpitTopology(5)
    with_plan = topology.place(peers[0], View(1, peers, plan))
    assert with_plan.expected == plan.line(peers[0], 1, peers).members
    assert topology.place(peers[0], View(1, peers)).key in {"0", "1", "2", "3"}


def merge(seed, count=100, group_size=10):
    """Rounds in which a plan spreads by the records of who follows it; returns who followed what."""
    rng = random.Random(seed)
    peers = names(count)
    one, other = GridPlan.drawn(1, 1, peers, group_size), GridPlan.drawn(1, 1, peers[1:], group_size)
    books = {peer: PlanBook(peer, group_size) for peer in peers}
    topologies = {peer: MoshpitTopology(group_size) for peer in peers}
    for peer in peers:
        drawn = rng.random()
        if drawn < 0.6:
            books[peer].learned(one if drawn < 0.3 else other, peers)
    followed, alone = [], []
    for number in range(1, 5):
        plans = {peer: books[peer].in_force(number, peers) for peer in peers}
        followed.append(set(plans.values()))
        keys = {}
        for peer in peers:
            place = topologies[peer].place(peer, View(number, peers, plans[peer]))
            keys.setdefault(place.key, []).append(peer)
        lonely = []
        for key, found in keys.items():
            rng.shuffle(found)
            for start in range(0, len(found), group_size):
                group = found[start : start + group_size]
                if len(group) < 2:
                    lonely += group
                for peer in group:
                    topologies[peer].averaged(f"{number}{key}{start}".encode(), group, peer)
                # The leader's progress record names the plan it follows; a tenth hears of it too late.
                for hearer in peers:
                    if (plan := plans[group[0]]) is not None and rng.random() < 0.9:
                        books[hearer].learned(plan, peers)
        alone.append(set(lonely) if len(lonely) == 1 else set())  # two or more meet in the lobby
    return followed, alone


@pytest.mark.parametrize("seed", range(20))
def test_two_plans_and_none_merge_within_three_rounds(seed):
    followed, alone = merge(seed)
    assert len(followed[0]) == 3
    assert len(followed[2]) == 1
    assert not any(before & after for before, after in pairwise(alone))


def after_crashes_and_newcomers(seed, doubt):
    """Rounds after two of sixteen peers crashed and two came, who believe the two are there for long.

    Returns the sizes of the groups of each round, by the plans that peers follow or the sliding index.
    """
    rng = random.Random(seed)
    everybody = [f"{rng.getrandbits(64):016x}" for _ in range(18)]
    old, dead, new = everybody[:14], everybody[14:16], everybody[16:]
    first = GridPlan.drawn(1, 1, [*old, *dead], 4)
    alive = [*old, *new]
    view = {peer: sorted(alive if peer in old else everybody) for peer in alive}
    doubtful = {peer: set() if peer in old or not doubt else {*old, *dead} for peer in alive}
    books = {peer: PlanBook(peer, 4) for peer in alive}
    topologies = {peer: MoshpitTopology(4) for peer in alive}
    sizes = []
    for peer in alive:
        books[peer].learned(first, view[peer], frozenset(doubtful[peer]))
    for number in range(5, 14):
        keys = {}
        plans = {peer: books[peer].in_force(number, view[peer], frozenset(doubtful[peer])) for peer in alive}
        for peer in alive:
            keys.setdefault(
                topologies[peer].place(peer, View(number, view[peer], plans[peer])).key, []
            ).append(peer)
        groups = [found[at : at + 4] for found in keys.values() for at in range(0, len(found), 4)]
        sizes.append(sum(len(group) ** 2 for group in groups) / len(alive))
        told = []
        for group in groups:
            for peer in group:
                topologies[peer].averaged(f"{number}{group[0]}".encode(), group, peer)
                doubtful[peer] -= set(group)
                due = books[peer].to_publish(number + 1, view[peer], frozenset(doubtful[peer]))
                told += [due, plans[peer]] if due is not None else [plans[peer]]
        for peer in alive:
            doubtful[peer] -= {one for one in old if rng.random() < 0.7}  # their records come by
            for plan in told:
                if plan is not None and books[peer].wants(plan.record, number) and rng.random() < 0.9:
                    books[peer].learned(plan, view[peer], frozenset(doubtful[peer]))
    return sizes


@pytest.mark.parametrize("seed", range(30))
def test_newcomers_who_count_the_dead_follow_the_plan_of_those_who_do_not(seed):
    sizes = after_crashes_and_newcomers(seed, doubt=True)
    assert sizes[-2:] == [4.0] * 2, sizes


def test_newcomers_without_doubts_would_follow_a_plan_of_their_own():
    ends = [after_crashes_and_newcomers(seed, doubt=False)[-1] for seed in range(30)]
    assert sum(size < 4 for size in ends) > 15
