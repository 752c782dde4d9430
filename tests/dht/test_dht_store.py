"""The store: order of arrival does not matter, nothing comes back, nobody takes more than their share."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from moshgrid.dht.limits import Limits
from moshgrid.dht.record import MAX_TTL_MS, SignedRecord
from moshgrid.dht.store import Put, RecordStore
from moshgrid.p2p.errors import RecordRejected
from moshgrid.p2p.identity import Identity, PeerId

NOW = 1_700_000_000_000
OWN = Identity.from_seed(bytes(31) + b"\xff").peer_id
AUTHORS = [Identity.from_seed(number.to_bytes(32)).peer_id for number in range(1, 4)]
Sign = Callable[..., SignedRecord]


def fake(
    author: int, seq: int, ttl: int = 60_000, payload: int = 0, key: bytes = b"k", suffix: bytes = b""
) -> SignedRecord:
    """A record as the reader would return it, without the price of a signature."""
    peer = AUTHORS[author]
    return SignedRecord(
        raw=b"%d/%d/%d/%d" % (author, seq, ttl, payload),
        author=peer,
        key=key,
        subkey=peer.encode() + suffix,
        seq=seq,
        expires=seq + ttl,
        value=b"\x01",
        deleted=False,
        payload_hash=b"%03d/%08d/%d" % (payload, ttl, seq),
    )


def code_of(store: RecordStore, record: SignedRecord, now: int = NOW) -> str:
    try:
        return store.put(record, now).value
    except RecordRejected as error:
        return error.code


def test_newer_replaces_and_older_is_refused(sign: Sign) -> None:
    store = RecordStore(OWN)
    old, new = sign(seq=NOW), sign(seq=NOW + 1)
    assert store.put(old, NOW) is Put.STORED
    assert store.put(old, NOW) is Put.HELD
    assert store.put(new, NOW) is Put.STORED
    assert code_of(store, old) == "OLD_SEQ"
    assert [record.raw for record in store.get(b"k", NOW)] == [new.raw]
    assert (len(store), store.size) == (1, len(new.raw))


def test_a_key_holds_one_record_per_author_and_suffix(sign: Sign) -> None:
    store = RecordStore(OWN)
    records = [sign(author, suffix=suffix) for author in (1, 2) for suffix in ("", "a")]
    for record in records:
        store.put(record, NOW)
    assert store.get(b"k", NOW) == sorted(records, key=lambda record: record.subkey)
    assert store.find(b"k", records[1].subkey, NOW) == records[1]


def test_two_payloads_under_one_seq_end_the_same_everywhere() -> None:
    low, high = fake(0, NOW, payload=1), fake(0, NOW, payload=2)
    first, second = RecordStore(OWN), RecordStore(OWN)
    assert (code_of(first, low), code_of(first, high)) == ("stored", "EQUIVOCATION")
    assert (code_of(second, high), code_of(second, low)) == ("stored", "replaced_rival")
    assert first.get(b"k", NOW) == second.get(b"k", NOW) == [low]


def test_tombstones_are_kept_and_stop_a_replay(sign: Sign) -> None:
    store = RecordStore(OWN)
    record, gone = sign(seq=NOW, ttl=600_000), sign(seq=NOW + 1, ttl=60_000, deleted=True)
    store.put(record, NOW)
    store.put(gone, NOW)
    assert [held.deleted for held in store.get(b"k", NOW)] == [True]
    later = NOW + 100_000  # the tombstone has expired, the record would still live
    assert store.get(b"k", later) == []
    assert code_of(store, record, later) == "OLD_SEQ"


def test_expired_records_are_forgotten_with_their_bytes(sign: Sign) -> None:
    store = RecordStore(OWN)
    store.put(sign(ttl=60_000), NOW)
    assert len(store.get(b"k", NOW + 59_999)) == 1
    assert store.get(b"k", NOW + 60_000) == []
    assert (len(store), store.size, list(store.all_keys())) == (0, 0, [])


def test_time_codes_come_from_the_store_too(sign: Sign) -> None:
    store = RecordStore(OWN)
    assert code_of(store, sign(ttl=60_000), NOW + 60_000) == "EXPIRED"
    assert code_of(store, sign(seq=NOW + 60_001)) == "FUTURE"
    assert code_of(store, fake(0, NOW, ttl=MAX_TTL_MS + 1)) == "BAD_TTL"


def test_author_quotas_count_live_records_only(sign: Sign) -> None:
    store = RecordStore(OWN, Limits(records_per_author=2))
    assert code_of(store, sign(key="a", ttl=60_000)) == "stored"
    assert code_of(store, sign(key="b", ttl=600_000)) == "stored"
    assert code_of(store, sign(key="c")) == "QUOTA"
    assert code_of(store, sign(key="b", seq=NOW + 1)) == "stored"
    assert code_of(store, sign(2, key="c")) == "stored"
    assert code_of(store, sign(key="c"), NOW + 60_000) == "stored"


def test_author_bytes_are_bounded(sign: Sign) -> None:
    size = len(sign().raw)
    store = RecordStore(OWN, Limits(bytes_per_author=2 * size))
    assert [code_of(store, sign(key=key)) for key in "abc"] == ["stored", "stored", "QUOTA"]
    assert code_of(store, sign(key="a", value=bytes(500), seq=NOW + 1)) == "QUOTA"


def test_records_per_key_are_bounded(sign: Sign) -> None:
    store = RecordStore(OWN, Limits(records_per_key=2))
    assert [code_of(store, sign(author)) for author in (1, 2, 3)] == ["stored", "stored", "FULL"]
    assert code_of(store, sign(1, seq=NOW + 1)) == "stored"


def test_own_records_need_no_quota(sign: Sign) -> None:
    own = sign().author
    limits = Limits(records_per_author=1, records_per_key=1, bytes_per_author=1, total_bytes=1)
    store = RecordStore(own, limits)
    assert [code_of(store, sign(key="k", suffix=suffix)) for suffix in "abc"] == ["stored"] * 3


def test_a_full_store_evicts_by_a_secret_order(sign: Sign) -> None:
    records = [sign(author, key=key) for author in range(1, 9) for key in "abcd"]
    room = 10 * max(len(record.raw) for record in records)
    held = []
    for secret in (b"one", b"two"):
        store = RecordStore(OWN, Limits(total_bytes=room), secret)
        codes = [code_of(store, record) for record in records]
        assert store.size <= room
        assert "QUOTA" in codes
        held.append({record.raw for key in b"abcd" for record in store.get(bytes([key]), NOW)})
        assert len(held[-1]) == len(store) >= 9
    assert held[0] != held[1]


def test_what_is_evicted_is_not_served_older(sign: Sign) -> None:
    store = RecordStore(OWN, Limits(total_bytes=250), b"secret")
    for author in range(1, 9):
        code_of(store, sign(author, seq=NOW + 1))
    for author in range(1, 9):
        assert code_of(store, sign(author, seq=NOW)) in ("OLD_SEQ", "QUOTA")


def test_floors_are_bounded_and_lapse(sign: Sign) -> None:
    store = RecordStore(OWN, Limits(floors=1))
    assert code_of(store, sign(1, ttl=60_000)) == "stored"
    assert code_of(store, sign(2)) == "QUOTA"
    later = NOW + MAX_TTL_MS
    assert code_of(store, sign(2, seq=later), later) == "stored"


def test_a_floor_that_rose_does_not_lapse_with_what_it_was(sign: Sign) -> None:
    store = RecordStore(OWN)
    store.put(sign(seq=NOW), NOW)
    store.put(sign(seq=NOW + 50_000, ttl=60_000), NOW)
    later = NOW + MAX_TTL_MS + 1
    assert code_of(store, sign(seq=NOW + 40_000, ttl=MAX_TTL_MS), later) == "OLD_SEQ"


def test_an_author_may_use_the_bytes_of_what_expired(sign: Sign) -> None:
    store = RecordStore(OWN, Limits(bytes_per_author=2 * len(sign(key="a").raw)))
    assert code_of(store, sign(key="a", ttl=60_000)) == "stored"
    assert code_of(store, sign(key="b")) == "stored"
    assert code_of(store, sign(key="c")) == "QUOTA"
    assert code_of(store, sign(key="c"), NOW + 60_000) == "stored"


def test_heaps_stay_small_when_one_record_is_refreshed_for_ever() -> None:
    store = RecordStore(OWN)
    for step in range(2_000):
        store.put(fake(0, NOW + step), NOW + step)
    assert len(store._expiries) < 200 and len(store._lapses) < 200 and len(store._ranks) < 200


records = st.builds(
    fake,
    author=st.integers(0, 1),
    seq=st.integers(NOW, NOW + 3),
    ttl=st.sampled_from([30_000, 60_000]),
    payload=st.integers(0, 2),
    suffix=st.sampled_from([b"", b"/a"]),
)


def state(arrivals: list[SignedRecord]) -> list[SignedRecord]:
    store = RecordStore(OWN)
    for record in arrivals:
        code_of(store, record)
    return store.get(b"k", NOW)


@settings(max_examples=300, deadline=None)
@given(st.lists(records, max_size=6), st.randoms(use_true_random=False))
def test_any_order_and_any_repetition_ends_in_one_state(arrivals: list[SignedRecord], rng) -> None:  # type: ignore[no-untyped-def]
    again = arrivals + rng.choices(arrivals, k=3) if arrivals else []
    rng.shuffle(again)
    assert state(arrivals) == state(again)


@given(st.lists(records, min_size=3, max_size=3))
def test_any_grouping_ends_in_one_state(arrivals: list[SignedRecord]) -> None:
    # What two stores hold, brought together, is what one would hold: replicas converge pairwise.
    for a, b, c in itertools.permutations(arrivals):
        assert state([*state([a, b]), c]) == state([a, *state([b, c])])


class NeverServesLower(RuleBasedStateMachine):
    """The model: the highest seq that was ever served from each slot."""

    def __init__(self) -> None:
        super().__init__()
        self.store = RecordStore(OWN, Limits(total_bytes=60, records_per_author=3, floors=5), b"s")
        self.now = NOW
        self.highest: dict[tuple[bytes, bytes], int] = {}
        self.seen: list[SignedRecord] = []

    @rule(
        author=st.integers(0, 2),
        age=st.integers(-50_000, 4_000_000),
        ttl=st.sampled_from([30_000, 600_000, MAX_TTL_MS]),
        payload=st.integers(0, 1),
        key=st.sampled_from([b"k", b"l"]),
    )
    def sign_and_put(self, author: int, age: int, ttl: int, payload: int, key: bytes) -> None:
        record = fake(author, self.now - age, ttl, payload, key)
        self.seen.append(record)
        code_of(self.store, record, self.now)

    @rule(pick=st.randoms(use_true_random=False))
    def replay(self, pick) -> None:  # type: ignore[no-untyped-def]
        if self.seen:
            code_of(self.store, pick.choice(self.seen), self.now)

    @rule(by=st.sampled_from([1, 29_999, 600_000, MAX_TTL_MS - 1, MAX_TTL_MS]))
    def wait(self, by: int) -> None:
        self.now += by

    @invariant()
    def nothing_lower_and_nothing_expired(self) -> None:
        for key in (b"k", b"l"):
            for record in self.store.get(key, self.now):
                slot = (key, record.subkey)
                assert record.seq >= self.highest.get(slot, 0)
                assert record.expires > self.now
                self.highest[slot] = record.seq
        assert self.store.size <= 60
        assert self.store.size == sum(len(r.raw) for k in (b"k", b"l") for r in self.store.get(k, self.now))


TestNeverServesLower = NeverServesLower.TestCase
TestNeverServesLower.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.slow
@pytest.mark.timeout(3000)
class TestNeverServesLowerInAHundredThousandSteps(NeverServesLower.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(
        max_examples=2_500, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )


def walk(seed: int, steps: int = 40) -> None:
    """The model's rules in plain random order, which comes upon rare turns more often."""
    chance, model = random.Random(seed), NeverServesLower()
    for _ in range(steps):
        match chance.randrange(3):
            case 0:
                age = chance.choice([chance.randint(-50_000, 60_000), chance.randint(60_000, 4_000_000)])
                ttl, key = chance.choice([30_000, 600_000, MAX_TTL_MS]), chance.choice([b"k", b"l"])
                model.sign_and_put(chance.randrange(3), age, ttl, chance.randrange(2), key)
            case 1:
                model.replay(chance)
            case _:
                model.wait(chance.choice([1, 29_999, 600_000, MAX_TTL_MS - 1, MAX_TTL_MS]))
        model.nothing_lower_and_nothing_expired()


@pytest.mark.parametrize("walks", [200, pytest.param(2_500, marks=pytest.mark.slow)])
def test_nothing_lower_is_served_on_random_walks(walks: int) -> None:
    for seed in range(walks):
        walk(seed)


def unchecked_floor(*_: object) -> bool:
    return False


def forgetful_drop(self: RecordStore, slot: tuple[bytes, bytes], drop: Any = RecordStore._drop) -> None:
    drop(self, slot)
    self._floors.pop(slot, None)


GUARDS = {"_check_floor": unchecked_floor, "_drop": forgetful_drop, "expire": lambda *_: None}


@pytest.mark.parametrize("guard", GUARDS)
def test_the_model_notices_a_guard_that_is_missing(guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RecordStore, guard, GUARDS[guard])
    with pytest.raises(AssertionError):
        for seed in range(200):
            walk(seed)


def test_peer_ids_of_the_fakes_differ() -> None:
    assert len({*AUTHORS, OWN}) == 4
    with pytest.raises(ValueError, match="base58"):
        from moshgrid.p2p.identity import peer_id_to_bytes

        peer_id_to_bytes(PeerId("not/an/id"))
