"""What kad messages look like on the wire, and how large they may be.

Every query names the network; a peer of another network answers ``Refusal(WRONG_NETWORK)``. Addresses
travel as bytes and are decoded here, so that no message can smuggle in text that is not text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec

from moshgrid.dht.keys import peer_bytes, peer_of
from moshgrid.dht.lookup import MAX_SKIP
from moshgrid.dht.record import MAX_ENVELOPE, MAX_KEY, MAX_SUBKEY, NETWORK_BYTES
from moshgrid.p2p.errors import RecordRejected
from moshgrid.p2p.identity import PEER_ID_BYTES, PeerId
from moshgrid.p2p.peer_record import MAX_PEER_RECORD_BYTES
from moshgrid.p2p.requests import Service

__all__ = [
    "KAD",
    "MAX_CLOSER",
    "MAX_RECORDS",
    "MAX_RECORD_BYTES",
    "Answer",
    "FindNode",
    "Found",
    "GetRecords",
    "PeerEntry",
    "Ping",
    "Pong",
    "Push",
    "PutRecords",
    "Query",
    "Received",
    "Refusal",
    "Taken",
    "Watch",
    "batches",
    "entry_of",
    "fitting",
]

MAX_CLOSER = 20
MAX_ADDRS = 16
MAX_ADDR_BYTES = 2048
MAX_QUERY = 16 * 1024
MAX_ANSWER = 128 * 1024
MAX_RECORDS = 64
MAX_RECORD_BYTES = 64 * 1024
"""Of the envelopes in one answer; the closer peers need the rest of it."""
_FRAMING = 8
"""Bytes that msgpack adds to an envelope and its prefixes, at most."""

NetworkId = Annotated[bytes, msgspec.Meta(min_length=NETWORK_BYTES, max_length=NETWORK_BYTES)]
Key = Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_KEY)]
Envelope = Annotated[bytes, msgspec.Meta(max_length=MAX_ENVELOPE)]
Keys = Annotated[list[Key], msgspec.Meta(max_length=MAX_RECORDS)]
Stamp = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
Envelopes = Annotated[list[Envelope], msgspec.Meta(max_length=MAX_RECORDS)]
Code = Annotated[bytes, msgspec.Meta(max_length=32)]
Prefixes = Annotated[bytes, msgspec.Meta(max_length=4 * MAX_CLOSER)]
"""Point prefixes of the nearest peers that the sender knows, four bytes each, in any order."""


class PeerEntry(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A peer and where it can be dialled. A peer that speaks of itself may do so without a signature."""

    id: Annotated[bytes, msgspec.Meta(min_length=PEER_ID_BYTES, max_length=PEER_ID_BYTES)]
    addrs: Annotated[
        list[Annotated[bytes, msgspec.Meta(max_length=512)]], msgspec.Meta(max_length=MAX_ADDRS)
    ] = []
    record: Annotated[bytes, msgspec.Meta(max_length=MAX_PEER_RECORD_BYTES)] = b""
    """The same in the peer's own hand: a libp2p signed peer record. Nothing else is passed on."""

    def __post_init__(self) -> None:
        if sum(map(len, self.addrs)) > MAX_ADDR_BYTES:
            raise ValueError(f"addresses exceed {MAX_ADDR_BYTES} bytes")
        peer_of(self.id)
        for addr in self.addrs:
            addr.decode("ascii")

    @property
    def peer(self) -> PeerId:
        """Whom this is about."""
        return peer_of(self.id)

    @property
    def multiaddrs(self) -> tuple[str, ...]:
        """Full multiaddrs."""
        return tuple(addr.decode("ascii") for addr in self.addrs)


Closer = Annotated[list[PeerEntry], msgspec.Meta(max_length=MAX_CLOSER)]


class Ping(msgspec.Struct, tag="ping", frozen=True):
    """Are you there? ``me`` is who asks and where it listens, if it answers questions itself."""

    network: NetworkId
    me: PeerEntry | None


class FindNode(msgspec.Struct, tag="find", frozen=True):
    """Whom do you know near ``target``, other than those whose point prefixes are in ``skip``, or as near
    as ``known`` and missing there?"""

    network: NetworkId
    me: PeerEntry | None
    target: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    skip: Annotated[bytes, msgspec.Meta(max_length=4 * MAX_SKIP)] = b""
    known: Prefixes = b""


class GetRecords(msgspec.Struct, tag="get", frozen=True):
    """What do you hold under ``key`` after subkey ``after``, stored by you after your stamp ``since``?
    ``closer``: and whom do you know near it that is missing in ``known``?"""

    network: NetworkId
    key: Key
    after: Annotated[bytes, msgspec.Meta(max_length=MAX_SUBKEY)] = b""
    closer: bool = True
    known: Prefixes = b""
    since: Stamp = 0


class PutRecords(msgspec.Struct, tag="put", frozen=True):
    """Hold these. ``also``, for each record if for any: whom the sender brings it to, you included. You
    need not push to those, and tell the sender whom it missed."""

    network: NetworkId
    records: Envelopes
    also: Annotated[list[Prefixes], msgspec.Meta(max_length=MAX_RECORDS)] = []

    def __post_init__(self) -> None:
        if self.also and len(self.also) != len(self.records):
            raise ValueError("also has one entry for each record, or none")


class Watch(msgspec.Struct, tag="watch", frozen=True):
    """Push me what changes under ``key`` for the next minute. Answered with what you hold, less what
    you told me before unless ``fresh``."""

    network: NetworkId
    key: Key
    fresh: bool = True


class Push(msgspec.Struct, tag="push", frozen=True):
    """Records that changed under keys you watch, and such keys that are ``split`` from now on."""

    network: NetworkId
    records: Envelopes
    split: Keys = []


class Pong(msgspec.Struct, tag="pong", frozen=True):
    """Here I am, this is where I listen, and what my clock shows."""

    me: PeerEntry
    wall_ms: Annotated[int, msgspec.Meta(ge=0, le=1 << 53)] = 0


class Found(msgspec.Struct, tag="found", frozen=True):
    """Records, if any were asked for, and closer peers. ``more``: ask again after the last subkey.
    ``split``: there may be records in the shards below the key. ``stamp``: of the newest record here."""

    records: Envelopes = []
    closer: Closer = []
    more: bool = False
    split: bool = False
    stamp: Stamp = 0


class Taken(msgspec.Struct, tag="taken", frozen=True):
    """What became of each record of a put: empty when it is held, otherwise the reject code. ``closer``:
    peers that are as near to one of the keys as those that the sender named, and were not named."""

    codes: Annotated[list[Code], msgspec.Meta(max_length=MAX_RECORDS)]
    closer: Closer = []


class Received(msgspec.Struct, tag="received", frozen=True):
    """Thanks; ``unwatched`` are keys I no longer want to hear of."""

    unwatched: Keys = []


class Refusal(msgspec.Struct, tag="refused", frozen=True):
    """I do not answer this: ``code`` says why."""

    code: Code


Query = Ping | FindNode | GetRecords | PutRecords | Watch | Push
Answer = Pong | Found | Taken | Received | Refusal

KAD: Service[Query, Answer] = Service(
    protocol="/moshgrid/kad/1.0.0",
    query=Query,
    answer=Answer,
    max_query=MAX_QUERY,
    max_answer=MAX_ANSWER,
    deadline=10.0,
)


def entry_of(peer: PeerId, addrs: Sequence[str], record: bytes = b"") -> PeerEntry:
    """An entry within the limits; addresses that do not fit are left out, the first ones stay."""
    kept: list[bytes] = []
    for addr in addrs[:MAX_ADDRS]:
        data = addr.encode()
        if len(data) <= 512 and sum(map(len, kept)) + len(data) <= MAX_ADDR_BYTES and data.isascii():
            kept.append(data)
    return PeerEntry(peer_bytes(peer), kept, record)


def batches(envelopes: Iterable[bytes]) -> list[list[bytes]]:
    """Splits envelopes so that each part fits into one query."""
    parts: list[list[bytes]] = []
    room = 0
    for raw in envelopes:
        size = len(raw) + 4 * MAX_CLOSER + _FRAMING
        if not parts or room < size or len(parts[-1]) >= MAX_RECORDS:
            parts.append([])
            room = MAX_QUERY - _FRAMING * 8
        parts[-1].append(raw)
        room -= size
    return parts


def fitting(envelopes: Sequence[bytes]) -> list[bytes]:
    """The first envelopes that fit into one answer."""
    taken: list[bytes] = []
    size = 0
    for raw in envelopes[:MAX_RECORDS]:
        size += len(raw)
        if size > MAX_RECORD_BYTES:
            break
        taken.append(raw)
    return taken


def refused_as(error: RecordRejected) -> bytes:
    """The code of a rejection as it travels."""
    return error.code.encode()
