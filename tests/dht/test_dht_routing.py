"""Keys, distances and the routing table."""

from __future__ import annotations

import hashlib
import random

from moshgrid.dht.keys import point_of_key, point_of_peer, point_prefix
from moshgrid.dht.routing import Change, RoutingTable
from moshgrid.p2p.identity import PeerId, peer_id_from_public_key, peer_id_to_bytes

OWN = peer_id_from_public_key(hashlib.sha256(b"own").digest())
JOINED, KNOWN = Change(True), Change(False)


def peers(count: int, start: int = 0) -> list[PeerId]:
    return [
        peer_id_from_public_key(hashlib.sha256(number.to_bytes(4)).digest())
        for number in range(start, start + count)
    ]


def in_one_bucket(count: int) -> list[PeerId]:
    """Peers in the half of the space that this one is not in: one bucket."""
    own = point_of_peer(OWN)
    return [peer for peer in peers(4 * count) if (point_of_peer(peer) ^ own) >> 255][:count]


def test_points_are_plain_hashes() -> None:
    assert point_of_key(b"n" * 16, b"k") == int(hashlib.sha256(b"n" * 16 + b"k").hexdigest(), 16)
    assert point_of_peer(OWN) == int(hashlib.sha256(peer_id_to_bytes(OWN)).hexdigest(), 16)
    assert point_prefix(point_of_peer(OWN)) == hashlib.sha256(peer_id_to_bytes(OWN)).digest()[:4]


def test_networks_do_not_share_points() -> None:
    assert point_of_key(b"a" * 16, b"k") != point_of_key(b"b" * 16, b"k")


def test_closest_is_exact() -> None:
    table = RoutingTable(OWN)
    known = peers(100)
    for peer in known:
        table.answered(peer, 0.0)
    held = [peer for peer in known if table.knows(peer)]
    for seed in range(20):
        target = random.Random(seed).getrandbits(256)
        expected = sorted(held, key=lambda peer: point_of_peer(peer) ^ target)
        assert table.closest(target, 7) == expected[:7]


def test_who_is_unnamed_is_exact() -> None:
    rng = random.Random(4)
    table = RoutingTable(OWN, k=8)
    known = peers(120)
    for turn in range(300):
        table.answered(rng.choice(known), float(turn))
        if turn % 3 == 0:
            table.failed(rng.choice(known), float(turn))
        target = rng.getrandbits(256)
        near = target >> 224
        around = [point_of_peer(peer) >> 224 for peer in table.closest(target, 12)]
        named = set(rng.sample(around, rng.randrange(len(around) + 1)))
        reach = rng.choice([1 << 32, 0, max((at ^ near for at in around), default=0), rng.getrandbits(30)])
        at_of = {peer: point_of_peer(peer) >> 224 for peer in table.closest(target, 8)}
        expected = [peer for peer, at in at_of.items() if at not in named and at ^ near <= reach]
        assert table.unnamed(target, named, reach) == expected
        live = [peer for peer in known if table.is_live(peer)]
        nearer = [peer for peer in live if point_of_peer(peer) ^ target < table.own_point ^ target]
        assert table.nearer_than_own(target) == len(nearer) and len(table) == len(live)


def test_a_full_bucket_keeps_its_old_live_peers() -> None:
    table = RoutingTable(OWN, k=3)
    *old, newcomer = in_one_bucket(4)
    assert [table.answered(peer, float(at)) for at, peer in enumerate(old)] == [JOINED] * 3
    assert table.answered(newcomer, 30.0) == KNOWN  # everybody was heard of lately
    assert table.answered(newcomer, 100.0) == Change(False, ping=old[0])
    assert not table.knows(newcomer) and not table.wants(newcomer)
    table.answered(old[0], 101.0)
    assert table.answered(newcomer, 102.0) == Change(False, ping=old[1])
    assert set(table.closest(0, 9)) == set(old)


def test_a_waiting_peer_takes_the_place_of_one_that_failed() -> None:
    table = RoutingTable(OWN, k=3)
    *old, earlier, later = in_one_bucket(5)
    for peer in (*old, earlier, later):
        table.answered(peer, 0.0)
    assert table.failed(old[1], 1.0) == later
    assert set(table.closest(0, 9)) == {old[0], old[2], later}


def test_who_takes_the_place_of_a_failed_peer_keeps_to_the_share_of_its_block() -> None:
    crowd = set(peers(400)[::2])
    table = RoutingTable(
        OWN, placing=lambda peer: ("9.9.9", "9.9") if peer in crowd else (f"{peer}", f"{peer}")
    )
    for peer in peers(400):
        table.answered(peer, 0.0)
    for round_ in range(6):
        for peer in [peer for peer in table.live_peers() if peer not in crowd][:20]:
            table.failed(peer, 10.0 * round_)
        assert sum(peer in crowd for peer in table.live_peers()) <= 10


def test_a_lost_peer_is_suspect_until_it_answers() -> None:
    table = RoutingTable(OWN)
    (peer,) = peers(1)
    assert table.answered(peer, 0.0) == JOINED
    assert table.answered(peer, 0.5) == KNOWN
    assert table.failed(peer, 1.0) is None
    assert (len(table), table.is_live(peer), table.knows(peer), table.closest(0, 9)) == (0, False, True, [])
    assert table.wants(peer)
    assert table.answered(peer, 2.0) == JOINED
    assert table.is_live(peer)


def test_a_suspect_yields_its_place_to_a_newcomer() -> None:
    table = RoutingTable(OWN, k=2)
    a, b, c = in_one_bucket(3)
    table.answered(a, 0.0), table.answered(b, 0.0)
    table.failed(a, 1.0)
    assert table.wants(c)
    assert table.answered(c, 2.0) == JOINED
    assert not table.knows(a)


def test_five_failures_end_it_and_simultaneous_ones_count_once() -> None:
    table = RoutingTable(OWN)
    (peer,) = peers(1)
    table.answered(peer, 0.0)
    for _ in range(50):
        table.failed(peer, 1.0)
    assert table.knows(peer)
    for at in (2.0, 3.0, 4.0, 5.0):
        assert table.knows(peer)
        table.failed(peer, at)
    assert not table.knows(peer)


def test_own_id_and_removed_peers_are_not_in_the_table() -> None:
    table = RoutingTable(OWN)
    (peer,) = peers(1)
    assert table.answered(OWN, 0.0) == KNOWN and not table.wants(OWN)
    table.answered(peer, 0.0)
    table.remove(peer)
    assert len(table) == 0 and not table.knows(peer)


def test_nearer_than_own_counts_live_peers() -> None:
    table = RoutingTable(OWN)
    known = peers(50)
    for peer in known:
        table.answered(peer, 0.0)
    target = random.Random(3).getrandbits(256)
    own = point_of_peer(OWN) ^ target
    expected = [peer for peer in known if table.knows(peer) and point_of_peer(peer) ^ target < own]
    assert table.nearer_than_own(target) == len(expected)
    assert table.nearer_than_own(point_of_peer(OWN)) == 0


def test_stale_are_the_buckets_that_no_lookup_touched_as_far_as_the_nearest_peer() -> None:
    table = RoutingTable(OWN)
    for peer in peers(30):
        table.answered(peer, 0.0)
    nearest = min((point_of_peer(peer) ^ table.own_point).bit_length() for peer in peers(30))

    def stale(before: float) -> list[int]:
        points = table.stale_points(before, random.Random(1))
        return [(point ^ table.own_point).bit_length() for point in points]

    assert stale(10.0) == list(range(256, nearest - 1, -1)), "each once, by a point within it"
    table.looked_at(table.own_point ^ (1 << 255), 20.0)
    assert stale(10.0) == list(range(255, nearest - 1, -1))
    assert stale(30.0) == list(range(256, nearest - 1, -1)), "that was long ago"
