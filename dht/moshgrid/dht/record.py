"""Signed group-key records: who said what under which key, and until when it holds.

A record is a libp2p signed envelope around a canonical protobuf payload. Its subkey begins with the
author's peer id, so nobody can write for another. ``seq`` is the author's wall clock at signing: with
the bound on ``expires - seq`` every record with a lower seq is expired one hour after the highest was
signed, which is what lets a store refuse replays with bounded memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec

from moshgrid.dht.keys import peer_bytes
from moshgrid.p2p.canonical import encode_fields, parse_fields
from moshgrid.p2p.envelope import Envelope, open_envelope, seal
from moshgrid.p2p.errors import RecordRejected
from moshgrid.p2p.identity import PEER_ID_BYTES, Identity, PeerId

__all__ = [
    "DOMAIN",
    "MAX_ENVELOPE",
    "MAX_KEY",
    "MAX_SUFFIX",
    "MAX_TTL_MS",
    "MAX_VALUE",
    "PAYLOAD_TYPE",
    "Author",
    "RecordReader",
    "SignedRecord",
    "check_times",
    "supersedes",
]

PAYLOAD_TYPE = b"/moshgrid/group-record/1"
DOMAIN = "moshgrid-group-record"
MAX_ENVELOPE = 1536
MAX_KEY = 128
MAX_SUBKEY = 96
MAX_SUFFIX = MAX_SUBKEY - PEER_ID_BYTES - 1
MAX_VALUE = 1024
MAX_TTL_MS = 3_600_000
MAX_AHEAD_MS = 60_000
NETWORK_BYTES = 16

_TOMBSTONE = 1
_FIELDS = {1: bytes, 2: bytes, 3: bytes, 4: int, 5: int, 6: bytes, 7: int}


class SignedRecord(msgspec.Struct, frozen=True, gc=False):
    """A record whose form, signature and ownership were checked; its times depend on when one asks."""

    raw: bytes
    """The envelope, verbatim: this is what stores keep and forward."""
    author: PeerId
    key: bytes
    subkey: bytes
    seq: int
    """Unix milliseconds at signing."""
    expires: int
    """Unix milliseconds."""
    value: bytes
    deleted: bool
    payload_hash: bytes

    @property
    def suffix(self) -> str:
        """What follows the author's id in the subkey; empty for the author's main record."""
        return self.subkey[PEER_ID_BYTES + 1 :].decode()

    @property
    def name(self) -> str:
        """The subkey as text: the author's peer id, or ``author/suffix``."""
        return f"{self.author}/{self.suffix}" if len(self.subkey) > PEER_ID_BYTES else self.author


def supersedes(new: SignedRecord, old: SignedRecord) -> bool:
    """True when ``new`` replaces ``old`` of the same key and subkey.

    A total order, so replicas that saw the same records agree in whatever order they came: the higher
    seq wins; of two payloads under one seq, which an honest author never signs, the lower hash.
    """
    if new.seq != old.seq:
        return new.seq > old.seq
    return new.payload_hash < old.payload_hash


def check_times(record: SignedRecord, now_ms: int) -> None:
    """Raises RecordRejected BAD_TTL, FUTURE or EXPIRED."""
    if record.expires <= record.seq or record.expires - record.seq > MAX_TTL_MS:
        raise RecordRejected("BAD_TTL", f"lives {record.expires - record.seq} ms; at most {MAX_TTL_MS}")
    if record.seq > now_ms + MAX_AHEAD_MS:
        raise RecordRejected("FUTURE", f"signed {record.seq - now_ms} ms after this peer's clock")
    if record.expires <= now_ms:
        raise RecordRejected("EXPIRED", f"ended {now_ms - record.expires} ms ago")


class Author:
    """Signs one peer's records; no two of them get the same seq."""

    def __init__(self, identity: Identity, network: bytes) -> None:
        self._identity = identity
        self._network = network
        self._id = peer_bytes(identity.peer_id)
        self._last_seq = 0

    def subkey(self, suffix: str = "") -> bytes:
        """The binary subkey of this author's record with ``suffix``."""
        return self._id + b"/" + suffix.encode() if suffix else self._id

    def sign(
        self, key: bytes, value: bytes, ttl_ms: int, now_ms: int, suffix: str = "", deleted: bool = False
    ) -> bytes:
        """The envelope of a new record; ``value`` is empty when and only when ``deleted``."""
        self._last_seq = seq = max(self._last_seq + 1, now_ms)
        fields: dict[int, int | bytes] = {
            1: self._network,
            2: key,
            3: self.subkey(suffix),
            4: seq,
            5: seq + ttl_ms,
            6: value,
            7: _TOMBSTONE if deleted else 0,
        }
        return seal(self._identity, DOMAIN, PAYLOAD_TYPE, encode_fields(fields))

    def saw(self, record: SignedRecord) -> None:
        """Own records found in the network keep later ones above them, also after a restart."""
        if record.author == self._identity.peer_id:
            self._last_seq = max(self._last_seq, record.seq)


class RecordReader:
    """Decodes and verifies envelopes of one network; remembers the last good ones, as copies abound."""

    def __init__(
        self,
        network: bytes,
        *,
        remember: int = 1024,
        opener: Callable[[bytes, str, bytes, int], Envelope] = open_envelope,
    ) -> None:
        self._network = network
        self._opener = opener
        self._remember = remember
        self._known: dict[bytes, SignedRecord] = {}

    def remembers(self, raw: bytes) -> bool:
        """True when reading ``raw`` again costs no signature check."""
        return raw in self._known

    def read(self, raw: bytes, key: bytes | None = None) -> SignedRecord:
        """The record in ``raw``, which must be for ``key`` when that is given.

        Raises RecordRejected: TOO_LARGE, MALFORMED, NONCANONICAL, KEY_TYPE, PAYLOAD_TYPE, BAD_SIG,
        WRONG_NETWORK, WRONG_KEY or NOT_OWNER. Times are for ``check_times``.
        """
        record = self._known.pop(raw, None) or self._verify(raw)
        self._known[raw] = record
        if len(self._known) > self._remember:
            del self._known[next(iter(self._known))]
        if key is not None and record.key != key:
            raise RecordRejected("WRONG_KEY", f"is for {record.key!r}, not {key!r}")
        return record

    def _verify(self, raw: bytes) -> SignedRecord:
        envelope = self._opener(raw, DOMAIN, PAYLOAD_TYPE, MAX_ENVELOPE)
        fields = parse_fields(envelope.payload, _FIELDS)
        network, key, subkey = fields.get(1, b""), fields.get(2, b""), fields.get(3, b"")
        seq, expires, value, flags = fields.get(4, 0), fields.get(5, 0), fields.get(6, b""), fields.get(7, 0)
        if len(network) != NETWORK_BYTES or not key or not seq or not expires or flags > _TOMBSTONE:
            raise RecordRejected("MALFORMED", "a field is missing or has an impossible value")
        if bool(value) == bool(flags):
            raise RecordRejected("MALFORMED", "a record has either a value or the tombstone flag")
        if len(key) > MAX_KEY or len(subkey) > MAX_SUBKEY or len(value) > MAX_VALUE:
            sizes = f"key {len(key)}, subkey {len(subkey)}, value {len(value)} bytes"
            raise RecordRejected("TOO_LARGE", sizes)
        if network != self._network:
            raise RecordRejected("WRONG_NETWORK", "was signed for another network")
        _check_owner(subkey, envelope.author)
        _check_text(key)
        _check_text(subkey[PEER_ID_BYTES:])
        return SignedRecord(
            raw=raw,
            author=envelope.author,
            key=key,
            subkey=subkey,
            seq=seq,
            expires=expires,
            value=value,
            deleted=bool(flags),
            payload_hash=hashlib.sha256(envelope.payload).digest(),
        )


def _check_owner(subkey: bytes, author: PeerId) -> None:
    if not subkey.startswith(peer_bytes(author)):
        raise RecordRejected("NOT_OWNER", "the subkey does not begin with the signer's peer id")
    rest = subkey[PEER_ID_BYTES:]
    if rest and (not rest.startswith(b"/") or len(rest) == 1):
        raise RecordRejected("NOT_OWNER", "the subkey is not the signer's peer id [+ '/' + suffix]")


def _check_text(data: bytes) -> None:
    try:
        data.decode()
    except UnicodeDecodeError:
        raise RecordRejected("MALFORMED", "keys and suffixes are UTF-8") from None
