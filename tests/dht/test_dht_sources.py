"""Quotas by address: nobody's block or range takes more than its share where there is contention."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from moshgrid.dht.diversity import Place
from moshgrid.dht.limits import Limits
from moshgrid.dht.record import SignedRecord
from moshgrid.dht.store import RecordStore
from moshgrid.p2p.errors import RecordRejected
from moshgrid.p2p.identity import Identity

NOW = 1_700_000_000_000
OWN = Identity.from_seed(bytes(31) + b"\xff").peer_id
Sign = Callable[..., SignedRecord]
HERE: Place = ("1.1.1", "1.1")
BESIDE: Place = ("1.1.2", "1.1")
ELSEWHERE: Place = ("2.2.2", "2.2")


def code_of(store: RecordStore, record: SignedRecord, place: Place | None) -> str:
    try:
        return store.put(record, NOW, place).value
    except RecordRejected as error:
        return error.code


def test_a_block_has_its_share_of_a_key_once_half_is_taken(sign: Sign) -> None:
    limits = Limits(records_per_key=8, subkeys_per_block=2, subkeys_per_range=8)
    store = RecordStore(OWN, limits)
    assert [code_of(store, sign(author), HERE) for author in range(1, 6)] == ["stored"] * 4 + ["FULL"]
    assert code_of(store, sign(6), BESIDE) == "stored"
    assert code_of(store, sign(1, seq=NOW + 1), HERE) == "stored", "a refresh takes no place"
    assert code_of(store, sign(7), None) == "stored"
    assert code_of(store, sign(8, key="other"), HERE) == "stored"


def test_a_range_that_fills_a_key_makes_room_for_others(sign: Sign) -> None:
    limits = Limits(records_per_key=4, subkeys_per_block=9, subkeys_per_range=2)
    store = RecordStore(OWN, limits)
    assert [code_of(store, sign(author), HERE) for author in (1, 2)] == ["stored"] * 2
    assert code_of(store, sign(3), BESIDE) == "FULL"
    limits = Limits(records_per_key=4, subkeys_per_block=9, subkeys_per_range=3)
    store = RecordStore(OWN, limits)
    assert [code_of(store, sign(author), HERE) for author in (1, 2, 3)] == ["stored"] * 3
    assert code_of(store, sign(4), None) == "stored"
    assert code_of(store, sign(5), ELSEWHERE) == "FULL", "nobody has more than the share"
    crowded = RecordStore(OWN, Limits(records_per_key=8, subkeys_per_block=9, subkeys_per_range=3))
    assert [code_of(crowded, sign(author), HERE) for author in range(1, 5)] == ["stored"] * 4
    assert [code_of(crowded, sign(author), None) for author in range(5, 9)] == ["stored"] * 4
    assert [code_of(crowded, sign(author), ELSEWHERE) for author in (9, 10)] == ["stored", "FULL"]
    assert len(crowded.get(b"k", NOW)) == 8


@pytest.mark.parametrize(
    ("per_block", "per_range", "beside"), [(600, 9_999, "stored"), (9_999, 600, "QUOTA")]
)
def test_bytes_of_a_block_and_of_a_range_are_bounded_once_half_is_full(
    sign: Sign, per_block: int, per_range: int, beside: str
) -> None:
    size = len(sign().raw)
    store = RecordStore(
        OWN, Limits(total_bytes=8 * size, bytes_per_block=per_block, bytes_per_range=per_range)
    )
    assert [code_of(store, sign(author), HERE) for author in range(1, 6)] == ["stored"] * 4 + ["QUOTA"]
    assert code_of(store, sign(6), BESIDE) == beside
    assert code_of(store, sign(7), ELSEWHERE) == "stored"


def test_a_full_store_evicts_from_the_range_over_its_share(sign: Sign) -> None:
    size = max(len(sign(author, key="long").raw) for author in range(1, 20))
    store = RecordStore(OWN, Limits(total_bytes=8 * size, bytes_per_range=2 * size), b"s")
    greedy = [sign(author) for author in (1, 2, 3, 4)]
    assert [code_of(store, record, HERE) for record in greedy] == ["stored"] * 4
    honest = [sign(author, key=f"h{author}") for author in range(5, 11)]
    for at, record in enumerate(honest):
        assert code_of(store, record, (f"3.{at}.1", f"3.{at}")) == "stored"
    held = {
        record.raw
        for key in ("k", *(f"h{n}" for n in range(5, 11)))
        for record in store.get(key.encode(), NOW)
    }
    assert all(record.raw in held for record in honest)
    assert sum(record.raw in held for record in greedy) == 2
    assert store.size <= 8 * size


def test_one_range_cannot_use_up_what_is_remembered(sign: Sign) -> None:
    store = RecordStore(OWN, Limits(floors=32))
    codes = [code_of(store, sign(1, key=f"k{n}"), HERE) for n in range(20)]
    assert codes == ["stored"] * 16 + ["QUOTA"] * 4
    assert [code_of(store, sign(2, key=f"k{n}"), ELSEWHERE) for n in range(3)] == [
        "stored",
        "stored",
        "QUOTA",
    ]
    later = NOW + 3_600_000
    store.expire(later)
    assert store.put(sign(1, key="again", seq=later), later, HERE).value == "stored"


def test_counts_return_to_nothing(sign: Sign) -> None:
    store = RecordStore(OWN, Limits(total_bytes=3_000, records_per_key=6, subkeys_per_range=2), b"s")
    chance = random.Random(1)
    for step in range(400):
        place = chance.choice([HERE, BESIDE, ELSEWHERE, None])
        record = sign(chance.randrange(1, 9), key=chance.choice("abc"), seq=NOW + step // 9)
        code_of(store, record, place)
    store.expire(NOW + 10_000_000)
    assert len(store) == 0 == store.size
    sources = store._sources
    assert not sources._entries and not sources._bytes and not sources._subkeys
    assert not sources._slots and not sources._ranks and not store._floors_of and not store._put_at
