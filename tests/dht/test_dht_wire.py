"""Messages: what survives the wire, and what is refused before anybody looks at it."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress

import msgspec
import pytest

from moshgrid.dht.wire import (
    KAD,
    MAX_ANSWER,
    MAX_QUERY,
    Answer,
    FindNode,
    Found,
    GetRecords,
    PeerEntry,
    Ping,
    Pong,
    Push,
    PutRecords,
    Query,
    Received,
    Refusal,
    Taken,
    Watch,
    batches,
    entry_of,
    fitting,
)
from moshgrid.p2p.identity import Identity, peer_id_to_bytes

NET = bytes(16)
ADDR = "/ip4/203.0.113.7/tcp/31337/p2p/12D3KooW"


@pytest.fixture
def entry(identity: Callable[[int], Identity]) -> PeerEntry:
    return entry_of(identity(1).peer_id, [ADDR])


def queries(entry: PeerEntry) -> list[Query]:
    return [
        Ping(NET, entry),
        FindNode(NET, entry, bytes(32), b"abcd"),
        GetRecords(NET, b"k", b"after", False),
        PutRecords(NET, [b"r"], [b"abcd"]),
        Watch(NET, b"k", False),
        Push(NET, [b"r", b"s"]),
    ]


def answers(entry: PeerEntry) -> list[Answer]:
    found = Found([b"r"], [entry], True)
    return [Pong(entry), found, Taken([b"", b"OLD_SEQ"]), Received([b"k"]), Refusal(b"QUOTA")]


def test_messages_survive(entry: PeerEntry) -> None:
    for query in queries(entry):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(query), type=Query) == query
    for answer in answers(entry):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(answer), type=Answer) == answer


def test_an_entry_names_its_peer_and_addresses(identity: Callable[[int], Identity], entry: PeerEntry) -> None:
    assert entry.peer == identity(1).peer_id
    assert entry.multiaddrs == (ADDR,)


def test_entries_are_cut_to_the_limits(identity: Callable[[int], Identity]) -> None:
    peer = identity(1).peer_id
    assert len(entry_of(peer, [f"/memory/{n}" for n in range(40)]).addrs) == 16
    assert sum(map(len, entry_of(peer, ["/" + "x" * 499] * 16).addrs)) == 2_000
    assert entry_of(peer, ["/dns/ü", "/" + "x" * 600, ADDR]).multiaddrs == (ADDR,)


@pytest.mark.parametrize(
    "bad",
    [
        Watch(bytes(15), b"k"),
        GetRecords(NET, b""),
        GetRecords(NET, b"k" * 129),
        GetRecords(NET, b"k", bytes(97)),
        PutRecords(NET, [bytes(1537)]),
        PutRecords(NET, [b"r"] * 65),
        PutRecords(NET, [b"r"], [bytes(84)]),
        Watch(NET, b""),
        Push(bytes(17), []),
    ],
)
def test_queries_over_a_limit_are_refused(bad: Query) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(bad), type=Query)


def encoded_entry(peer: bytes, addrs: list[bytes]) -> bytes:
    return msgspec.msgpack.encode({"type": "pong", "me": [peer, addrs]})


def test_bad_entries_are_refused(identity: Callable[[int], Identity], entry: PeerEntry) -> None:
    peer = peer_id_to_bytes(identity(1).peer_id)
    msgspec.msgpack.decode(encoded_entry(peer, [b"/a"] * 16), type=Answer)
    for bad in (
        encoded_entry(peer, [b"/a"] * 17),
        encoded_entry(peer, [bytes(500)] * 5),
        encoded_entry(peer, [b"\xff"]),
        encoded_entry(peer, [bytes(513)]),
        encoded_entry(peer[:-1], []),
        encoded_entry(bytes(38), []),
        msgspec.msgpack.encode(Found(closer=[entry] * 21)),
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(bad, type=Answer)


def test_full_messages_fit_their_limits(identity: Callable[[int], Identity]) -> None:
    fullest = entry_of(identity(1).peer_id, ["/" + "x" * 127] * 16)
    records = fitting([bytes(1536)] * 100)
    assert len(msgspec.msgpack.encode(Found(records, [fullest] * 20, True))) <= MAX_ANSWER
    parts = batches([bytes(1536)] * 100)
    assert sum(map(len, parts)) == 100
    for part in parts:
        assert len(msgspec.msgpack.encode(PutRecords(NET, part, [bytes(80)] * len(part)))) <= MAX_QUERY

    assert [len(part) for part in batches([b"r"] * 100)] == [64, 36]
    assert len(msgspec.msgpack.encode(FindNode(NET, fullest, bytes(32), bytes(160)))) <= MAX_QUERY


def test_the_service_states_the_limits() -> None:
    assert (KAD.protocol, KAD.max_query, KAD.max_answer) == ("/moshgrid/kad/1.0.0", 16 * 1024, 128 * 1024)


def test_mutated_messages_are_read_or_refused_and_nothing_else(entry: PeerEntry) -> None:
    rng = random.Random(5)
    originals = [msgspec.msgpack.encode(m) for m in [*queries(entry), *answers(entry)]]
    for _ in range(20_000):
        mutant = bytearray(rng.choice(originals))
        for _ in range(rng.randint(1, 3)):
            mutant[rng.randrange(len(mutant))] = rng.randrange(256)
        for kind in (Query, Answer):
            # The request layer refuses both, and nothing else may come.
            with suppress(msgspec.DecodeError, UnicodeDecodeError):
                msgspec.msgpack.decode(bytes(mutant), type=kind)
