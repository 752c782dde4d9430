"""Placements, views, pace and what a table knows: each rule alone."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

import pytest

from moshgrid.dht.density import Density
from moshgrid.dht.keys import point_of_peer, prefixes_of
from moshgrid.dht.lookup import Lookup
from moshgrid.dht.pace import Pace
from moshgrid.dht.placement import Placement
from moshgrid.dht.record import SignedRecord
from moshgrid.dht.routing import RoutingTable
from moshgrid.dht.views import View, Views, doubtful
from moshgrid.p2p.identity import PeerId, peer_id_from_public_key

Sign = Callable[..., SignedRecord]

PEERS = sorted(
    (peer_id_from_public_key(hashlib.sha256(bytes([n])).digest()) for n in range(40)), key=point_of_peer
)
OWN = PEERS.pop()
A, B, C, D, E = PEERS[:5]  # nearest to point 0, in this order


def placement(sign: Sign, *seeds: PeerId, need: int = 3, acks: int = 2, mine: bool = False) -> Placement:
    lookup = Lookup(0, seeds, own=OWN, need=need - mine, alpha=10, thorough=False)
    return Placement(sign(), lookup, OWN, acks, mine=mine)


def test_the_record_goes_to_the_nearest_that_are_known_without_asking(sign: Sign) -> None:
    placed = placement(sign, D, A, B, C)
    assert placed.start(0.0) == [A, B, C]
    assert placed.also() == prefixes_of([A, B, C])
    for peer in (A, B, C):
        assert not placed.is_over
        assert placed.answered(peer, "", [], 0.1) == []
    assert placed.closest == (A, B, C) and placed.stored_at == [A, B, C] and not placed.waiting
    assert not placed.missed() and not placed.lacks


def test_a_storer_that_was_missed_gets_it_on_another_ones_word(sign: Sign) -> None:
    placed = placement(sign, A, C, D)
    assert placed.start(0.0) == [A, C, D]
    assert placed.answered(A, "", [B], 0.1) == [B]
    placed.answered(C, "", [], 0.1)
    placed.answered(B, "", [], 0.2)
    assert list(placed.waiting) == [D] and not placed.is_over
    placed.answered(D, "QUOTA", [], 0.3)
    assert placed.closest == (A, B, C)


def test_one_that_failed_is_replaced_and_what_is_lacking_is_told(sign: Sign) -> None:
    placed = placement(sign, A, B, C, D)
    placed.also()
    placed.start(0.0)
    assert placed.lost(A, "gone", 0.1) == [D]
    for peer in (B, C, D):
        placed.answered(peer, "", [], 0.2)
    assert placed.closest == (B, C, D) and not placed.lacks and placed.missed() == [A]
    placed = placement(sign, A, B, C)
    placed.start(0.0)
    placed.lost(A, "gone", 0.1)
    placed.answered(B, "", [], 0.1)
    placed.answered(C, "QUOTA", [], 0.1)
    assert placed.lacks and placed.refused == {A: "gone", C: "QUOTA"}
    assert placed.more([A, B, C, OWN, E]) == [E]
    assert list(placed.waiting) == [E]


def test_this_peer_is_one_of_the_storers_and_says_so(sign: Sign) -> None:
    placed = placement(sign, A, B, C, mine=True)
    assert placed.start(0.0) == [A, B]
    assert placed.stored_at == [OWN] and placed.also() == prefixes_of([OWN, A, B])


def test_who_is_slow_is_passed_over_and_may_still_answer(sign: Sign) -> None:
    placed = placement(sign, A, B, C, D)
    placed.start(0.0)
    placed.answered(B, "", [], 0.1)
    assert placed.deadline == 0.03
    assert placed.passed(0.03) == []
    assert placed.deadline == 1.0
    assert placed.passed(1.0) == [D]
    placed.answered(A, "", [], 1.5)
    assert A in placed.stored_at


def test_all_are_asked_when_the_first_do_not_answer_at_once(sign: Sign) -> None:
    lookup = Lookup(0, [A, B, C, D], own=OWN, need=4, alpha=2, thorough=False)
    placed = Placement(sign(), lookup, OWN, 2, mine=False)
    assert placed.start(0.0) == [A, B]
    assert placed.passed(0.03) == [C, D]


@pytest.mark.parametrize(
    ("nearest", "heard", "doubt"),
    [
        ([], [], True),
        ([{}, {}], [], True),
        ([{b"a": 1}, {b"a": 1}], [{}], False),
        ([{b"a": 1}, {b"a": 2}], [], True),
        ([{b"a": 1}, {}], [], True),
        ([{b"a": 2}], [{b"a": 1}], False),
        ([{b"a": 1}], [{b"a": 2}], True),
        ([{b"a": 1}], [{b"b": 1}], True),
    ],
)
def test_doubt_is_about_the_nearest_and_about_who_knew_more(
    nearest: list[dict[bytes, int]], heard: list[dict[bytes, int]], doubt: bool
) -> None:
    assert doubtful(nearest, heard) is doubt


def test_a_view_grows_by_what_the_storer_stored_since(sign: Sign) -> None:
    old, other, new = sign(1), sign(2), sign(1, value=b"\x02", seq=1_700_000_000_001)
    view = View().extended([old, other], 7, 0).extended([new], 9, 0)
    assert (set(view.records.values()), view.stamp) == ({new, other}, 9)
    assert view.extended([], 9, other.expires).records == {new.subkey: new}


def test_few_views_are_kept(sign: Sign) -> None:
    views = Views()
    views.keep(b"k", {peer: View({}, 5) for peer in PEERS[:10]})
    assert [views.of(b"k", peer).stamp for peer in PEERS[:10]] == [5] * 8 + [0] * 2
    views.forget(b"k", A)
    assert views.of(b"k", A).stamp == 0
    for number in range(256):
        views.keep(b"%d" % number, {})
    assert views.of(b"k", B).stamp == 0


def test_patience_grows_with_the_own_slowness_and_shrinks_again() -> None:
    pace = Pace()
    pace.turned(0.004)
    assert pace.slack == 0.0
    pace.turned(0.5)
    assert pace.slack == 16.0
    pace.turned(5.0)
    assert pace.slack == 30.0
    for _ in range(100):
        pace.turned(0.0)
    assert pace.slack == 0.0


def test_a_table_knows_whether_it_may_lack_somebody_near_a_point() -> None:
    own = PeerId(OWN)
    table = RoutingTable(own, k=4)
    rng = random.Random(1)
    peers = [peer_id_from_public_key(rng.randbytes(32)) for _ in range(40)]
    far = [p for p in peers if (point_of_peer(p) ^ table.own_point).bit_length() == 256]
    near = [p for p in peers if p not in far][:3]
    for peer in near:
        table.answered(peer, 0.0)
    assert table.sees_all_near(table.own_point) and table.sees_all_near(point_of_peer(far[0]))
    for peer in far[:6]:
        table.answered(peer, 0.0)
    assert not table.sees_all_near(point_of_peer(far[0]))
    assert len(table) == 7 and len(table.candidates(0, 99)) == 9
    assert table.is_waiting(far[5]) and not table.is_waiting(far[0])
    expected = sorted([*near, *far[:6]], key=lambda peer: point_of_peer(peer) ^ 5)
    assert table.candidates(5, 5) == expected[:5]


def test_a_table_tells_how_many_of_a_range_it_has_met() -> None:
    table = RoutingTable(PeerId(OWN), k=4)
    rng = random.Random(2)
    peers = [peer_id_from_public_key(rng.randbytes(32)) for _ in range(40)]
    far = [p for p in peers if (point_of_peer(p) ^ table.own_point).bit_length() == 256]
    for peer in far[:6]:
        table.answered(peer, 0.0)
    assert table.met_beside(point_of_peer(far[9])) == (6, 1 << 255)
    assert table.met_beside(table.own_point ^ 4) == (0, 4)
    assert table.met_beside(table.own_point) == (0, 1)


def test_a_crowd_shows_also_to_whoever_is_one_of_the_nearest() -> None:
    density = Density(k=4)
    for _ in range(8):
        density.saw(0, PEERS[:4])  # the fourth is as far as it is from 0
    at = point_of_peer(PEERS[0])
    crowd = [PEERS[0]] * 4
    assert density.is_abnormal(at, crowd) and density.is_abnormal(at, crowd[:3])
    assert not density.is_abnormal(at, crowd[:2]), "too few to tell"
    assert not density.is_abnormal(0, PEERS[:4]) and not density.is_abnormal(0, PEERS[:3])


def test_the_region_of_a_key_lies_in_the_key_space_also_when_few_peers_are_all_there_are() -> None:
    density = Density(k=4)
    for _ in range(8):
        density.saw(0, [max(PEERS, key=point_of_peer)] * 4)  # a quarter of the key space for one peer
    for at in (0, (1 << 256) - 1):
        points = density.region(at)
        assert len(set(points)) == 16 and all(0 <= point < 1 << 256 for point in points)


def test_a_small_range_is_remembered_whole_until_places_run_out() -> None:
    table = RoutingTable(PeerId(OWN), k=4)
    rng = random.Random(2)
    peers = [peer_id_from_public_key(rng.randbytes(32)) for _ in range(40)]
    far = [p for p in peers if (point_of_peer(p) ^ table.own_point).bit_length() == 256]
    for peer in far[:8]:
        table.answered(peer, 0.0)
    at = point_of_peer(far[9])
    assert not table.remembers_beside(at), "nobody looked there"
    table.looked_at(at, 0.0)
    assert table.remembers_beside(at), "its four places and the four that wait are taken, by all there are"
    table.answered(far[4], 0.0)
    assert table.remembers_beside(at), "one that waits answered again"
    table.answered(far[8], 1.0)
    assert not table.remembers_beside(at), "one was turned away"
    table.failed(far[7], 2.0)
    assert not table.remembers_beside(at), "there is a place again, but who was turned away is not back"
    table.looked_at(at, 3.0)
    assert not table.remembers_beside(at), "it may have been turned away by that lookup"
    table.looked_at(at, 4.0)
    assert table.remembers_beside(at), "a lookup met nobody that had no place"
    near = table.own_point ^ 1
    table.looked_at(near, 5.0)
    assert table.remembers_beside(near), "another bucket"
