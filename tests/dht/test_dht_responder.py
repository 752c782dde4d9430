"""The responder: one test per kind of query and per refusal."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest

from moshgrid.dht.keys import point_of_key, point_of_peer, prefixes_of
from moshgrid.dht.limits import Limits
from moshgrid.dht.namespaces import Namespaces
from moshgrid.dht.rates import Rates
from moshgrid.dht.record import RecordReader, SignedRecord
from moshgrid.dht.responder import Equivocated, Introduced, Reply, Responder, Saw, TellWatcher
from moshgrid.dht.routing import RoutingTable
from moshgrid.dht.store import RecordStore
from moshgrid.dht.values import Record
from moshgrid.dht.watchers import Watchers
from moshgrid.dht.wire import (
    FindNode,
    Found,
    GetRecords,
    Ping,
    Pong,
    Push,
    PutRecords,
    Query,
    Received,
    Refusal,
    Taken,
    Watch,
    entry_of,
)
from moshgrid.p2p.errors import RecordRejected
from moshgrid.p2p.host import network_id
from moshgrid.p2p.identity import Identity, PeerId, peer_id_from_public_key

NOW = 1_700_000_000_000
NET = network_id("test")
Sign = Callable[..., SignedRecord]
OWN, ASKER, WATCHER = (Identity.from_seed(number.to_bytes(32)).peer_id for number in (21, 22, 23))


def peers(count: int) -> list[PeerId]:
    return [peer_id_from_public_key(hashlib.sha256(n.to_bytes(4)).digest()) for n in range(count)]


@dataclass
class Bench:
    limits: Limits = field(default_factory=Limits)
    watched: set[bytes] = field(default_factory=set)
    introduced: dict[PeerId, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = RecordStore(OWN, self.limits)
        self.table = RoutingTable(OWN)
        self.namespaces = Namespaces()
        self.responder = Responder(
            NET,
            RecordReader(NET),
            self.namespaces,
            self.store,
            self.table,
            Watchers(self.limits),
            lambda peer: entry_of(peer, [f"/memory/1/p2p/{peer}"]),
            self.introduced,
            self.watched.__contains__,
            Rates(self.limits),
        )

    def ask(self, query: Query, sender: PeerId = ASKER) -> Reply:
        return self.responder.answer(query, sender, NOW)

    def knows(self, known: Iterable[PeerId]) -> None:
        for peer in known:
            self.table.answered(peer, 0.0)


ME = entry_of(ASKER, [f"/memory/9/p2p/{ASKER}"])


@pytest.mark.parametrize(
    "query",
    [
        Ping(bytes(16), ME),
        FindNode(bytes(16), ME, bytes(32)),
        GetRecords(bytes(16), b"k"),
        PutRecords(bytes(16), []),
        Watch(bytes(16), b"k"),
        Push(bytes(16), []),
    ],
)
def test_other_networks_are_refused(query: Query) -> None:
    assert Bench().ask(query) == Reply(Refusal(b"WRONG_NETWORK"))


def test_ping_tells_where_we_listen_and_introduces_the_sender() -> None:
    reply = Bench().ask(Ping(NET, ME))
    assert reply.answer == Pong(entry_of(OWN, [f"/memory/1/p2p/{OWN}"]), NOW)
    assert reply.effects == [Introduced(ME)]


def test_nobody_is_introduced_by_another() -> None:
    assert Bench().ask(Ping(NET, ME), sender=WATCHER).effects == []


def test_find_node_names_the_nearest_but_not_the_sender_nor_the_skipped() -> None:
    bench, target = Bench(), 12345
    known = peers(60)
    bench.knows([*known, ASKER])
    near = [peer for peer in bench.table.closest(target, 60) if peer != ASKER]
    answer = bench.ask(FindNode(NET, ME, target.to_bytes(32))).answer
    assert isinstance(answer, Found) and [entry.peer for entry in answer.closer] == near[:20]
    skip = prefixes_of(near[:5])
    answer = bench.ask(FindNode(NET, ME, target.to_bytes(32), skip)).answer
    assert isinstance(answer, Found) and [entry.peer for entry in answer.closer] == near[5:25]


def test_find_node_names_those_that_joined_a_moment_ago() -> None:
    bench = Bench(introduced={WATCHER: None})
    answer = bench.ask(FindNode(NET, ME, bytes(32))).answer
    assert isinstance(answer, Found) and [entry.peer for entry in answer.closer] == [WATCHER]


def test_put_and_get(sign: Sign) -> None:
    bench, record = Bench(), sign()
    bench.knows(peers(30))
    assert bench.ask(PutRecords(NET, [record.raw])) == Reply(Taken([b""]), [Saw(record)])
    answer = bench.ask(GetRecords(NET, b"k")).answer
    assert isinstance(answer, Found)
    assert (answer.records, len(answer.closer), answer.more) == ([record.raw], 20, False)
    assert bench.ask(GetRecords(NET, b"k", closer=False)).answer == Found([record.raw], stamp=NOW)
    assert bench.ask(GetRecords(NET, b"k", closer=False, since=NOW)).answer == Found(stamp=NOW)
    assert bench.ask(GetRecords(NET, b"other", closer=False)).answer == Found(stamp=NOW)


def test_only_the_author_is_believed_about_whom_its_record_goes_to(sign: Sign) -> None:
    bench, old, new = Bench(), sign(), sign(seq=NOW + 1)
    also = prefixes_of([ASKER])
    bench.ask(PutRecords(NET, [old.raw], [also]))
    assert not bench.store.promised(old)
    bench.ask(PutRecords(NET, [old.raw], [also]), sender=old.author)
    bench.ask(PutRecords(NET, [old.raw]))
    assert bench.store.promised(old) == also
    bench.ask(PutRecords(NET, [new.raw]))  # handed over: nobody said who else has it
    assert not bench.store.promised(new)


def test_each_record_of_a_put_gets_its_code(sign: Sign) -> None:
    bench = Bench()
    good, old, new = sign(1), sign(2), sign(2, seq=NOW + 1)
    bad = good.raw[:-1] + bytes([good.raw[-1] ^ 1])
    expired = sign(3, seq=NOW - 60_000, ttl=60_000)
    reply = bench.ask(PutRecords(NET, [new.raw, good.raw, bad, old.raw, expired.raw, good.raw]))
    assert reply.answer == Taken([b"", b"", b"BAD_SIG", b"OLD_SEQ", b"EXPIRED", b""])


@pytest.mark.parametrize("first", [0, 1])
def test_whoever_signs_two_payloads_under_one_seq_is_found_out(sign: Sign, first: int) -> None:
    bench = Bench()
    one, other = sorted((sign(1, value=b"\x01"), sign(1, value=b"\x02")), key=lambda r: r.payload_hash)
    held, came = (one, other) if first == 0 else (other, one)
    bench.ask(PutRecords(NET, [held.raw]))
    reply = bench.ask(PutRecords(NET, [came.raw]))
    assert reply.answer == Taken([b"EQUIVOCATION" if first == 0 else b""])
    assert Equivocated(held, came) in reply.effects
    found = bench.ask(GetRecords(NET, b"k", closer=False)).answer
    assert isinstance(found, Found) and found.records == [one.raw], "the same everywhere"
    assert not any(isinstance(e, Equivocated) for e in bench.ask(PutRecords(NET, [one.raw])).effects)


def test_what_the_namespace_refuses_is_neither_stored_nor_pushed_on(sign: Sign) -> None:
    bench, closed = Bench(watched={b"shut/k", b"k"}), sign(1, key="shut/k")
    assert bench.ask(PutRecords(NET, [closed.raw])).answer == Taken([b"SCHEMA"])
    assert len(bench.store) == 0
    odd = sign(2, key="k", value=b"\xc1")
    bench.namespaces.register(Text())
    assert bench.ask(PutRecords(NET, [odd.raw])).answer == Taken([b"SCHEMA"])
    assert not bench.ask(Push(NET, [odd.raw])).effects


class Text:
    """Holds text only, under keys without a slash."""

    namespace, max_ttl_ms, max_value = "", 3_600_000, 1_024

    def validate(self, record: Record, now_ms: int) -> None:
        if not isinstance(record.value, str):
            raise RecordRejected("SCHEMA", "is no text")


def test_a_long_answer_is_paged(sign: Sign) -> None:
    bench = Bench()
    records = [sign(author) for author in range(1, 101)]
    for record in records:
        bench.store.put(record, NOW)
    first = bench.ask(GetRecords(NET, b"k", closer=False)).answer
    assert isinstance(first, Found) and first.more and len(first.records) == 64
    last = RecordReader(NET).read(first.records[-1]).subkey
    second = bench.ask(GetRecords(NET, b"k", after=last, closer=False)).answer
    assert isinstance(second, Found) and not second.more and len(second.records) == 36
    assert {*first.records, *second.records} == {record.raw for record in records}


def test_watchers_hear_of_puts_but_not_of_refused_ones(sign: Sign) -> None:
    bench = Bench(Limits(records_per_author=1))
    one, two = sign(key="k"), sign(key="l")
    for key in (b"k", b"l"):
        assert bench.ask(Watch(NET, key), WATCHER) == Reply(Found(), [])
    assert bench.ask(PutRecords(NET, [one.raw])).effects == [Saw(one), TellWatcher(WATCHER)]
    reply = bench.ask(PutRecords(NET, [two.raw]))
    # This peer's own watches may know it all the same: it is true, only not held here.
    assert (reply.answer, reply.effects) == (Taken([b"QUOTA"]), [Saw(two)])


def test_watch_brings_what_is_held_and_the_overflow_by_push(sign: Sign) -> None:
    bench = Bench()
    for author in range(1, 71):
        bench.store.put(sign(author), NOW)
    reply = bench.ask(Watch(NET, b"k"), WATCHER)
    assert isinstance(reply.answer, Found) and len(reply.answer.records) == 64
    assert reply.effects == [TellWatcher(WATCHER)]


def test_too_many_watchers_are_refused() -> None:
    bench = Bench(Limits(watchers=0))
    assert bench.ask(Watch(NET, b"k")) == Reply(Refusal(b"QUOTA"))


def test_pushes_are_taken_for_watched_keys_and_answered_with_the_others(sign: Sign) -> None:
    bench = Bench(watched={b"k"})
    wanted, other = sign(key="k"), sign(key="l")
    reply = bench.ask(Push(NET, [wanted.raw, b"junk", other.raw]))
    assert reply == Reply(Received([b"l"]), [Saw(wanted)])


def test_far_keys_are_refused(sign: Sign) -> None:
    bench = Bench()
    bench.knows(peers(2_000))
    far = near = None
    for number in range(2_000):
        reach = bench.table.nearer_than_own(point_of_key(NET, b"key%d" % number))
        far = number if reach >= 60 else far
        near = number if reach < 60 else near
    assert far is not None and near is not None
    reply = bench.ask(PutRecords(NET, [sign(key=f"key{n}").raw for n in (far, near)]))
    assert reply.answer == Taken([b"QUOTA", b""])
    assert point_of_peer(OWN) == bench.table.own_point
