"""Watchers: who is told what, once, and for how long."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from moshgrid.dht.keys import prefixes_of
from moshgrid.dht.limits import Limits
from moshgrid.dht.record import SignedRecord
from moshgrid.dht.watchers import Watchers
from moshgrid.p2p.errors import RecordRejected
from moshgrid.p2p.identity import Identity

NOW = 1_700_000_000_000
Sign = Callable[..., SignedRecord]
A, B, C = (Identity.from_seed(number.to_bytes(32)).peer_id for number in (11, 12, 13))


def test_a_new_watcher_gets_what_is_held_and_then_each_change_once(sign: Sign) -> None:
    watchers = Watchers()
    old, new = sign(seq=NOW), sign(seq=NOW + 1)
    assert watchers.subscribe(A, b"k", [old], True, NOW) == [old]
    assert watchers.stored(old, b"", NOW) == []
    assert watchers.stored(new, b"", NOW) == [A]
    assert watchers.take(A, NOW) == [new]
    assert watchers.take(A, NOW) == []
    assert watchers.stored(new, b"", NOW) == []


def test_renewing_brings_only_news_and_starting_afresh_all(sign: Sign) -> None:
    watchers = Watchers()
    one, two = sign(1), sign(2)
    watchers.subscribe(A, b"k", [one], True, NOW)
    assert watchers.subscribe(A, b"k", [one, two], False, NOW) == [two]
    assert watchers.subscribe(A, b"k", [one, two], True, NOW) == [one, two]


def test_the_author_is_not_told_of_its_own_record(sign: Sign) -> None:
    watchers = Watchers()
    record = sign(1)
    watchers.subscribe(record.author, b"k", [], True, NOW)
    watchers.subscribe(A, b"k", [], True, NOW)
    assert watchers.stored(record, b"", NOW) == [A]


def test_who_gets_it_from_the_sender_is_told_only_when_that_failed(sign: Sign) -> None:
    watchers = Watchers()
    record = sign()
    for peer in (A, B):
        watchers.subscribe(peer, b"k", [], True, NOW)
    assert watchers.stored(record, prefixes_of([A, C]), NOW) == [B]
    assert watchers.stored(record, prefixes_of([C]), NOW) == [A]
    assert watchers.stored(record, b"", NOW) == []


def test_only_the_newest_of_each_subkey_waits(sign: Sign) -> None:
    watchers = Watchers()
    watchers.subscribe(A, b"k", [], True, NOW)
    newest = [sign(author, seq=NOW + 9) for author in (1, 2)]
    for author in (1, 2):
        for step in range(10):
            watchers.stored(sign(author, seq=NOW + step), b"", NOW)
    assert watchers.take(A, NOW) == newest


def test_one_push_holds_what_fits_and_the_rest_waits(sign: Sign) -> None:
    watchers = Watchers()
    watchers.subscribe(A, b"k", [], True, NOW)
    records = [sign(author, value=bytes(1000)) for author in range(1, 31)]
    watchers.queue(A, records)
    first, second, third = (watchers.take(A, NOW) for _ in range(3))
    assert first + second + third == records
    assert sum(len(record.raw) for record in first) <= 16 * 1024


def test_what_did_not_arrive_waits_again_unless_something_newer_does(sign: Sign) -> None:
    watchers = Watchers()
    watchers.subscribe(A, b"k", [], True, NOW)
    one, two, newer = sign(1), sign(2), sign(1, seq=NOW + 1)
    watchers.queue(A, [one, two])
    taken = watchers.take(A, NOW)
    watchers.stored(newer, b"", NOW)
    watchers.put_back(A, taken)
    assert watchers.take(A, NOW) == [newer, two]


def test_expired_records_are_not_told(sign: Sign) -> None:
    watchers = Watchers()
    watchers.subscribe(A, b"k", [], True, NOW)
    watchers.queue(A, [sign(ttl=1_000)])
    assert watchers.take(A, NOW + 1_000) == []


def test_a_subscription_lapses_unless_renewed(sign: Sign) -> None:
    watchers = Watchers()
    watchers.subscribe(A, b"k", [], True, NOW)
    watchers.subscribe(B, b"k", [], True, NOW)
    watchers.subscribe(B, b"k", [], False, NOW + 40_000)
    assert watchers.stored(sign(), b"", NOW + 60_000) == [B]


def test_unsubscribing_ends_one_key(sign: Sign) -> None:
    watchers = Watchers()
    for key in (b"k", b"l"):
        watchers.subscribe(A, key, [], True, NOW)
    watchers.unsubscribe(A, b"k")
    watchers.unsubscribe(A, b"never")
    assert watchers.stored(sign(key="k"), b"", NOW) == []
    assert watchers.stored(sign(key="l"), b"", NOW) == [A]


@pytest.mark.parametrize("limits", [Limits(watchers_per_key=2), Limits(watchers=2)])
def test_watchers_are_bounded_and_lapsed_ones_make_room(limits: Limits) -> None:
    watchers = Watchers(limits)
    for peer in (A, B):
        watchers.subscribe(peer, b"k", [], True, NOW)
    with pytest.raises(RecordRejected, match="QUOTA"):
        watchers.subscribe(C, b"k", [], True, NOW)
    watchers.subscribe(B, b"k", [], True, NOW + 1)
    watchers.subscribe(C, b"k", [], True, NOW + 60_000)


def test_keys_per_watcher_are_bounded() -> None:
    watchers = Watchers(Limits(keys_per_watcher=2))
    for key in (b"a", b"b"):
        watchers.subscribe(A, key, [], True, NOW)
    with pytest.raises(RecordRejected, match="QUOTA"):
        watchers.subscribe(A, b"c", [], True, NOW)
    watchers.subscribe(B, b"c", [], True, NOW)
    watchers.subscribe(A, b"c", [], True, NOW + 60_000)


def test_nothing_waits_any_more_for_who_went_without_a_word(sign: Sign) -> None:
    watchers = Watchers()
    for key in ("k", "quiet"):
        watchers.subscribe(A, key.encode(), [], True, NOW)
        watchers.stored(sign(key=key), b"", NOW)
    watchers.stored(sign(key="other"), b"", NOW + 60_000)
    assert watchers.take(A, NOW + 60_000) == []
    assert not watchers.split(b"quiet")


def test_what_was_told_is_forgotten_when_it_is_not_held_any_more(sign: Sign) -> None:
    watchers = Watchers()
    old, new = sign(1), sign(2)
    assert watchers.subscribe(A, b"k", [old], True, NOW) == [old]
    assert watchers.subscribe(A, b"k", [new], False, NOW + 40_000) == [new]
    (subscription,) = watchers._by_key[b"k"].values()
    assert subscription.told == {new.subkey: new.seq}
