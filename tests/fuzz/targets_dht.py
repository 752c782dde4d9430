"""Fuzz targets of the DHT: the record decoder, and every kad message up to what a node does with it.

``python tests/fuzz/targets_dht.py`` writes the corpus anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from fuzzing import Target

from moshgrid.dht.keys import peer_bytes, point_of_peer, point_prefix
from moshgrid.dht.limits import Limits
from moshgrid.dht.namespaces import Namespaces
from moshgrid.dht.rates import Rates
from moshgrid.dht.record import DOMAIN, PAYLOAD_TYPE, Author, RecordReader, check_times
from moshgrid.dht.responder import Responder
from moshgrid.dht.routing import RoutingTable
from moshgrid.dht.store import RecordStore
from moshgrid.dht.values import view
from moshgrid.dht.watchers import Watchers
from moshgrid.dht.wire import (
    KAD,
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
    entry_of,
)
from moshgrid.p2p import envelope
from moshgrid.p2p.canonical import encode_fields
from moshgrid.p2p.decoding import Unreadable, decode
from moshgrid.p2p.errors import RecordRejected
from moshgrid.p2p.host import network_id
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.peer_record import make_peer_record, open_peer_record

NOW = 1_700_000_000_000
NETWORK = network_id("fuzz")
OWN, ASKER, OTHER = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2, 3))
_FRESH_AFTER = 2_000


@contextmanager
def unchecked_signatures() -> Iterator[None]:
    """Mutations seldom keep a signature good: meanwhile every one is, so that what is inside gets read."""
    real = envelope.verify
    envelope.verify = lambda public_key, signature, message: True
    try:
        yield
    finally:
        envelope.verify = real


def read_record(data: bytes) -> None:
    RecordReader(NETWORK, remember=0).read(data)


def read_unchecked_record(data: bytes) -> None:
    """As a reader and a storer do, up to the value."""
    with unchecked_signatures():
        record = RecordReader(NETWORK, remember=0).read(data, b"k")
        check_times(record, NOW)
        Namespaces().check(record, NOW)
        view(record, lambda: NOW)


def read_payload(data: bytes) -> None:
    """``data`` is what was signed: the envelope around it is whole."""
    fields: dict[int, int | bytes] = {
        1: encode_fields({1: 1, 2: OWN.public_key}), 2: PAYLOAD_TYPE, 3: data, 5: bytes([7]) * 64,
    }  # fmt: skip
    read_unchecked_record(encode_fields(fields))


class _Node:
    """What a node answers with; made anew now and then, so that its store is not always full."""

    def __init__(self) -> None:
        self._runs = 0
        self._make()

    def _make(self) -> None:
        limits = Limits(puts_per_second=1e9, puts_at_once=1e9, bad_signatures_per_minute=1e9, floors=999)
        table = RoutingTable(OWN.peer_id)
        for number in range(40):
            table.answered(Identity.from_seed(bytes([number + 50]) * 32).peer_id, 0.0)
        self._responder = Responder(
            NETWORK, RecordReader(NETWORK), Namespaces(), RecordStore(OWN.peer_id, limits), table,
            Watchers(limits), lambda peer: entry_of(peer, ()), (), lambda key: key == b"k", Rates(limits),
        )  # fmt: skip

    def answer(self, data: bytes) -> None:
        """Reads a query, answers it, and encodes the answer, as the node does."""
        query = decode(KAD.query_decoder, data)
        self._runs += 1
        if self._runs % _FRESH_AFTER == 0:
            self._make()
        with unchecked_signatures():
            reply = self._responder.answer(query, ASKER.peer_id, NOW + self._runs)
        assert len(msgspec.msgpack.encode(reply.answer)) <= KAD.max_answer


def read_answer(data: bytes) -> None:
    """Reads an answer and all that is in it, as whoever asked does."""
    answer = decode(KAD.answer_decoder, data)
    reader = RecordReader(NETWORK, remember=0)
    entries = answer.closer if isinstance(answer, Found) else [answer.me] if isinstance(answer, Pong) else []
    for entry in entries:
        point_of_peer(entry.peer)
        assert all(isinstance(addr, str) for addr in entry.multiaddrs)
        if entry.record:
            _or_refused(lambda record=entry.record: open_peer_record(record))  # type: ignore[misc]
    for raw in answer.records if isinstance(answer, Found) else []:
        _or_refused(lambda raw=raw: reader.read(raw, b"k"))  # type: ignore[misc]


def _or_refused(read: Callable[[], object]) -> None:
    with suppress(RecordRejected):
        read()


_node = _Node()
QUERIES = ("ping", "find", "get", "put", "watch", "push")
ANSWERS = ("pong", "found", "taken", "received", "refused")

TARGETS: dict[str, Target] = {
    "dht-record": Target(read_record, (RecordRejected,)),
    "dht-record-unchecked": Target(read_unchecked_record, (RecordRejected,)),
    "dht-record-payload": Target(read_payload, (RecordRejected,)),
    **{f"dht-{kind}": Target(_node.answer, (Unreadable,)) for kind in QUERIES},
    **{f"dht-{kind}": Target(read_answer, (Unreadable,)) for kind in ANSWERS},
}


def corpus() -> dict[str, list[bytes]]:
    """One good input of each shape, by target."""
    author = Author(ASKER, NETWORK)
    records = [
        author.sign(b"k", b"\x81\xa1a\x01", 600_000, NOW),
        author.sign(b"k", b"\x01", 600_000, NOW, "suffix/\u00fc"),
        author.sign(b"k", b"", 600_000, NOW, deleted=True),
        author.sign(b"services/x", bytes(900), 3_600_000, NOW),
        Author(OWN, NETWORK).sign(b"k", b"\xc0", 30_000, NOW),
    ]
    signed = make_peer_record(OTHER, ["/ip4/1.2.3.4/tcp/5", "/dns4/example.org/tcp/443/wss"], 7)
    me = entry_of(ASKER.peer_id, ["/ip4/10.0.0.1/tcp/1", "/memory/2"])
    other = entry_of(OTHER.peer_id, (), signed)
    prefixes = b"".join(point_prefix(point_of_peer(each.peer_id)) for each in (OWN, OTHER))
    messages: list[Query | Answer] = [
        Ping(NETWORK, None), Ping(NETWORK, me), Ping(NETWORK, other),
        FindNode(NETWORK, me, bytes(32)), FindNode(NETWORK, None, b"\xff" * 32, prefixes),
        GetRecords(NETWORK, b"k"), GetRecords(NETWORK, b"k", peer_bytes(OTHER.peer_id), False),
        PutRecords(NETWORK, records), PutRecords(NETWORK, records[:2], [prefixes, b""]),
        PutRecords(NETWORK, []), FindNode(NETWORK, None, bytes(32), known=prefixes),
        GetRecords(NETWORK, b"k", known=prefixes, since=NOW),
        Watch(NETWORK, b"k"), Watch(NETWORK, b"services/x", False),
        Push(NETWORK, records), Push(NETWORK, [b"junk", *records[:1]]),
        Pong(me), Pong(PeerEntry(me.id, me.addrs, signed), NOW),
        Found(), Found(records, [me, other], True), Found(closer=[other] * 20),
        Found(records[:1], split=True, stamp=NOW), Taken([b"FULL"], [other]), Push(NETWORK, [], [b"k"]),
        Taken([]), Taken([b"", b"QUOTA", b"OLD_SEQ"]), Received(), Received([b"k", b"l"]),
        Refusal(b"WRONG_NETWORK"), Refusal(b"CLIENT"),
    ]  # fmt: skip
    by_kind: dict[str, list[bytes]] = {name: [] for name in TARGETS}
    for message in messages:
        tag = type(message).__struct_config__.tag
        by_kind[f"dht-{tag}"].append(msgspec.msgpack.encode(message))
    by_kind["dht-record"] = by_kind["dht-record-unchecked"] = records
    payloads = [envelope.open_envelope(raw, DOMAIN, PAYLOAD_TYPE, 1536).payload for raw in records]
    by_kind["dht-record-payload"] = payloads
    # What the readers of keys and values must not stumble over.
    odd = {1: NETWORK, 2: b"\xff\xfe", 3: peer_bytes(OWN.peer_id), 4: NOW, 5: NOW + 60_000, 6: b"\x91" * 99}
    by_kind["dht-record-payload"] += [encode_fields(odd), encode_fields({**odd, 2: b"k"})]
    by_kind["dht-get"].append(msgspec.msgpack.encode(GetRecords(NETWORK, b"\xff" * 128)))
    return by_kind


def main() -> None:
    home = Path(__file__).parent / "corpus"
    for name, inputs in corpus().items():
        (home / name).mkdir(parents=True, exist_ok=True)
        for old in (home / name).iterdir():
            old.unlink()
        for data in inputs:
            (home / name / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)


if __name__ == "__main__":
    main()
