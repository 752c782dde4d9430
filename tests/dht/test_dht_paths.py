"""Disjoint paths and address diversity: each rule alone."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import pytest

from moshgrid.dht.disjoint_paths import PATHS, DisjointLookup, deal
from moshgrid.dht.diversity import Place, diverse, place_of
from moshgrid.dht.keys import point_of_peer
from moshgrid.dht.lookup import Answered, Ask, Done, Failed, Lookup
from moshgrid.dht.routing import RoutingTable
from moshgrid.p2p.identity import PeerId, peer_id_from_public_key

OWN = peer_id_from_public_key(hashlib.sha256(b"own").digest())
P = [PeerId(str(number)) for number in range(30)]


def paths(*seeds: PeerId, need: int = 2, paths: int = 2, alpha: int = 1, **options: Any) -> DisjointLookup:
    return DisjointLookup(
        0, seeds, own=OWN, need=need, paths=paths, alpha=alpha, distance_point=int, **options
    )


def test_seeds_are_dealt_out_and_each_path_asks_its_own() -> None:
    assert paths(P[5], P[6]).start(0.0) == [Ask(P[5]), Ask(P[6])]


def test_half_of_the_paths_begin_far_from_the_target() -> None:
    near, far = P[:20], P[20:]
    dealt = deal(near, P, random.Random(1))
    begins = [set(dealt[path::PATHS]) for path in range(PATHS)]
    assert all(begin <= set(near) for begin in begins[:2])
    assert all(begin <= set(far) for begin in begins[2:])
    assert begins[0] | begins[1] == set(near[:10]), "the nearest of those"
    assert deal(near, near, random.Random(1)) == near, "nobody else is known"


def test_what_one_path_hears_helps_that_path_only() -> None:
    machine = paths(P[5], P[6], need=1)
    machine.start(0.0)
    assert machine.handle(Answered(P[5], [P[1]]), 0.1) == [Ask(P[1])]
    assert machine.handle(Answered(P[6], [P[2]]), 0.1) == [Ask(P[2])]


def test_a_peer_is_asked_by_one_path_and_the_result_is_of_all() -> None:
    machine = paths(P[5], P[6], need=2)
    machine.start(0.0)
    assert machine.handle(Answered(P[5], [P[1]]), 0.1) == [Ask(P[1])]
    assert machine.handle(Answered(P[6], [P[1], P[2]]), 0.2) == [Ask(P[2])]
    assert machine.handle(Answered(P[2], []), 0.3) == []
    assert machine.handle(Answered(P[1], []), 0.4) == [Done((P[1], P[2]), True)]


def test_whoever_failed_its_own_path_is_in_no_result() -> None:
    machine = paths(P[5], P[6], need=2)
    machine.start(0.0)
    machine.handle(Answered(P[5], [P[1]]), 0.1)
    machine.handle(Answered(P[6], [P[1]]), 0.2)
    assert machine.handle(Failed(P[1]), 0.3) == [Done((P[5], P[6]), True)]


def test_nobody_to_ask_is_the_end() -> None:
    assert paths().start(0.0) == [Done((), True)]


@pytest.mark.parametrize(
    ("addr", "place"),
    [
        ("/ip4/203.0.114.7/tcp/1/p2p/x", ("203.0.114.0/24", "203.0.0.0/16")),
        ("/ip6/2a00:1450:4001:82a::1/tcp/1", ("2a00:1450:4001::/48", "2a00:1450::/32")),
        ("/dns4/example.org/tcp/1", ("names", "names")),
        ("/ip4/127.0.0.1/tcp/1", None),
        ("/ip4/192.168.7.7/tcp/1", None),
        ("/memory/1", None),
        ("/ip4/nonsense/tcp/1", None),
        ("", None),
    ],
)
def test_places(addr: str, place: Place | None) -> None:
    assert place_of(addr) == place
    if place is None and "192" in addr:
        assert place_of(addr, exempt_local=False) == ("192.168.7.0/24", "192.168.0.0/16")


def at(block: int, wide: int = 0) -> Place:
    return f"{wide}.{block}", f"{wide}"


def test_the_caps_bind_only_where_there_are_others() -> None:
    crowd = [(at(1), number) for number in range(6)]
    assert diverse(crowd, 4) == [0, 1, 2, 3]
    assert diverse([*crowd, (None, 8), (None, 9)], 4) == [0, 1, 8, 9]
    assert diverse([(at(number), number) for number in range(6)] + [(at(1, 1), 7)], 4) == [0, 1, 2, 7]


def test_a_lookup_passes_over_a_crowd() -> None:
    places = {peer: at(1) for peer in P[1:6]}
    machine = Lookup(
        0, P[1:10], own=OWN, need=4, alpha=9, thorough=False, distance_point=int, placing=places.get
    )
    assert machine.start(0.0) == [Ask(peer) for peer in (P[1], P[2], P[6], P[7])]


def peers_of_far_bucket(table: RoutingTable, count: int) -> list[PeerId]:
    found, number = [], 0
    while len(found) < count:
        peer = peer_id_from_public_key(hashlib.sha256(number.to_bytes(4)).digest())
        number += 1
        if (point_of_peer(peer) ^ table.own_point).bit_length() == 256:
            found.append(peer)
    return found


def test_a_full_bucket_lets_the_crowd_go_when_others_come() -> None:
    places: dict[PeerId, Place] = {}
    table = RoutingTable(OWN, k=5, placing=places.get)
    crowd = peers_of_far_bucket(table, 9)
    crowd, others = crowd[:5], crowd[5:]
    places.update({peer: at(1) for peer in crowd})
    assert all(table.answered(peer, 0.0).joined for peer in crowd)
    for number, peer in enumerate(others[:3]):
        change = table.answered(peer, 0.0)
        assert change.joined and change.removed == crowd[4 - number]
    assert not table.answered(others[3], 0.0).joined  # two of a block are within its share


def test_one_block_has_ten_places_of_a_table_that_others_need() -> None:
    places: dict[PeerId, Place] = {}
    table = RoutingTable(OWN, placing=places.get)
    crowd = [peer_id_from_public_key(hashlib.sha256(n.to_bytes(4)).digest()) for n in range(1_000)]
    honest = [peer_id_from_public_key(hashlib.sha256(n.to_bytes(5)).digest()) for n in range(200)]
    places.update({peer: at(1) for peer in crowd})
    for peer in honest[:100]:
        table.answered(peer, 0.0)
    for peer in crowd:
        table.answered(peer, 0.0)
    assert sum(table.is_live(peer) for peer in crowd) <= 10
    assert all(table.is_live(peer) for peer in honest[:20])
