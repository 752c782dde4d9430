"""Topology, patience and part counts: the arithmetic of who meets whom."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshgrid.averaging.fractions import part_counts
from moshgrid.averaging.patience import Patience, silence_after
from moshgrid.averaging.topology import MoshpitTopology, View, chunk_index, topology_by_name


@given(st.lists(st.floats(0, 1), min_size=1, max_size=16), st.integers(0, 500))
def test_part_counts_sum_up_and_are_within_one(weights, parts):
    total = sum(weights) or 1.0
    fractions = [w / total for w in weights] if sum(weights) else [1 / len(weights)] * len(weights)
    counts = part_counts(fractions, parts)
    assert sum(counts) == parts
    assert all(
        abs(count - fraction * parts) < 1 + 1e-6 for count, fraction in zip(counts, fractions, strict=True)
    )


def converge(n, group_size, rounds, seed, drop=0.0):
    """Variance over all peers after each round, with perfect matchmaking."""
    rng = random.Random(seed)
    peers = [f"peer{i:04d}" for i in range(n)]
    places = {peer: MoshpitTopology(group_size) for peer in peers}
    values = {peer: rng.gauss(0, 1) for peer in peers}
    history = []
    for t in range(rounds):
        keys = {}
        for peer in peers:
            if rng.random() >= drop:
                keys.setdefault(places[peer].place(peer, View(t + 1, peers)).key, []).append(peer)
        for key, members in keys.items():
            rng.shuffle(members)
            for start in range(0, len(members), group_size):
                group = members[start : start + group_size]
                if len(group) < 2:
                    continue
                mean = sum(values[peer] for peer in group) / len(group)
                group_id = f"{seed}/{t}/{key}/{start}".encode()
                for peer in group:
                    values[peer] = mean
                    places[peer].averaged(group_id, group, peer)
        history.append(float(np.var(list(values.values()))))
    return history


@pytest.mark.parametrize(("n", "size", "rounds"), [(16, 4, 2), (64, 8, 2), (64, 4, 3), (8, 4, 2), (4, 4, 1)])
def test_the_mean_is_exact_after_d_rounds_on_a_full_grid(n, size, rounds):
    assert converge(n, size, rounds, seed=1)[-1] < 1e-25


@pytest.mark.parametrize("n", [5, 7, 11, 50])
def test_any_number_of_peers_converges_exponentially(n):
    history = converge(n, 4, 12, seed=2)
    assert history[-1] < 1e-3 * history[0]


def test_members_that_drop_out_of_rounds_do_not_stop_it():
    assert converge(64, 8, 12, seed=3, drop=0.05)[-1] < 1e-4


def test_chunk_indices_are_distinct_and_agreed_upon():
    indices = [chunk_index(b"group", 3, position, 8) for position in range(3)]
    assert len(set(indices)) == 3
    assert all(0 <= index < 8 for index in indices)
    assert indices == [chunk_index(b"group", 3, position, 8) for position in range(3)]


def test_topologies_have_names():
    assert topology_by_name("single", 4).place("a", View(1, ["a", "b"])).key == "0"
    with pytest.raises(KeyError, match="moshpit, single, random, sliding"):
        topology_by_name("ring", 4)


def test_patience_is_fixed_until_it_has_learned_and_bounded_after():
    patience = Patience()
    assert patience.seconds == 3.0
    for _ in range(8):
        patience.observed(0.05, is_full=True)
    assert patience.seconds == 2.0
    for _ in range(20):
        patience.observed(4.0, is_full=True)
    assert patience.seconds == pytest.approx(4.4, rel=0.01)
    for _ in range(300):
        patience.observed(60.0, is_full=True)
    assert patience.seconds == 15.0


def test_silence_follows_how_long_declarations_take():
    assert [silence_after(delay) for delay in (None, 0.004, 0.2, 5.0)] == pytest.approx([0.1, 0.1, 0.3, 1.0])
