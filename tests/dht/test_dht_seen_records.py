"""What a reader remembers, and whom it asks beside the nearest."""

from __future__ import annotations

import random
from collections.abc import Callable

from moshgrid.dht.keys import point_of_peer
from moshgrid.dht.record import SignedRecord
from moshgrid.dht.seen_records import SeenRecords, witnesses
from moshgrid.p2p.identity import Identity

NOW = 1_700_000_000_000
Sign = Callable[..., SignedRecord]


def test_the_newest_of_each_slot_is_remembered_until_it_expires(sign: Sign) -> None:
    seen = SeenRecords()
    old, new, other = sign(1), sign(1, seq=NOW + 5), sign(2, ttl=60_000)
    seen.saw(b"k", [new, other], NOW)
    seen.saw(b"k", [old], NOW)
    assert sorted(r.raw for r in seen.of(b"k", NOW)) == sorted([new.raw, other.raw])
    assert seen.of(b"k", NOW + 60_000) == [new]
    assert seen.of(b"other", NOW) == []
    seen.saw(b"k", [], NOW + 60_000)
    assert len(seen) == 1


def test_it_is_bounded_and_forgets_what_was_read_longest_ago(sign: Sign) -> None:
    seen = SeenRecords(most=3)
    for key in "abc":
        seen.saw(key.encode(), [sign(1, key=key)], NOW)
    seen.saw(b"a", [sign(1, key="a")], NOW)
    seen.saw(b"d", [sign(1, key="d")], NOW)
    assert [bool(seen.of(key, NOW)) for key in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    assert len(seen) == 3


def test_witnesses_are_two_of_the_nearest_that_were_not_asked() -> None:
    peers = [Identity.from_seed(bytes([number]) * 32).peer_id for number in range(1, 41)]
    nearest = sorted(peers, key=lambda peer: point_of_peer(peer) ^ 5)
    drawn = set()
    for seed in range(200):
        chosen = witnesses(5, peers, nearest[:3], 20, random.Random(seed))
        assert len(chosen) == 2 == len(set(chosen))
        drawn.update(chosen)
    assert drawn == set(nearest[3:20])
    assert witnesses(5, nearest[:3], nearest[:3], 20, random.Random(1)) == []
    assert witnesses(5, nearest[:4], nearest[:3], 20, random.Random(1)) == [nearest[3]]
