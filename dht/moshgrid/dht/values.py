"""What users put in and get out: values as msgpack, and the public view of a record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from moshgrid.dht.record import MAX_KEY, MAX_SUFFIX, MAX_TTL_MS, MAX_VALUE, SignedRecord
from moshgrid.dht.shards import MARK, base_of
from moshgrid.p2p.clock import Clock
from moshgrid.p2p.decoding import Unreadable, decode
from moshgrid.p2p.errors import ConfigurationError, RecordRejected
from moshgrid.p2p.identity import PeerId

__all__ = ["MIN_TTL", "Record", "check_suffix", "check_ttl", "encode_key", "encode_value", "view"]

MIN_TTL = 1.0
"""Seconds. Below half a minute, storers whose clocks are ahead by as much refuse a record as expired."""
MAX_TTL = MAX_TTL_MS / 1000


@dataclass(frozen=True, slots=True)
class Record:
    """One author's current value under a key, verified."""

    author: PeerId
    """Who signed it."""
    key: str
    suffix: str
    """What tells apart several records of one author under one key; usually empty."""
    value: Any
    """What was put; None when ``deleted``."""
    seq: int
    """Unix milliseconds at signing; higher replaces lower."""
    expires_at: float
    """Unix seconds."""
    deleted: bool = False
    """True for a tombstone: the author took the record back."""
    _wall_ms: Callable[[], int] = field(default=Clock().wall_ms, repr=False, compare=False, kw_only=True)

    @property
    def expires_in(self) -> float:
        """Seconds that are left, by this computer's clock; 0 when it has expired."""
        return max(0.0, self.expires_at - self._wall_ms() / 1000)

    @property
    def subkey(self) -> str:
        """``author``, or ``author/suffix``: what ``get_all`` files the record under."""
        return f"{self.author}/{self.suffix}" if self.suffix else self.author


def view(record: SignedRecord, wall_ms: Callable[[], int]) -> Record:
    """The public view. Raises RecordRejected SCHEMA when the value is not msgpack."""
    return Record(
        author=record.author,
        key=base_of(record.key).decode(),
        suffix=record.suffix,
        value=None if record.deleted else _decode_value(record.value),
        seq=record.seq,
        expires_at=record.expires / 1000,
        deleted=record.deleted,
        _wall_ms=wall_ms,
    )


_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder()


def _decode_value(data: bytes) -> Any:
    try:
        return decode(_decoder, data)
    except Unreadable as error:
        raise RecordRejected("SCHEMA", f"the value is not msgpack: {error}") from None


def encode_value(value: Any) -> bytes:
    """Msgpack of ``value``; raises ConfigurationError or RecordRejected TOO_LARGE."""
    try:
        data = msgspec.msgpack.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise ConfigurationError(
            f"a {type(value).__name__} cannot be stored: {error}. Values are what msgpack can hold: None, "
            "bool, int, float, str, bytes, and lists and dicts of these."
        ) from error
    if len(data) > MAX_VALUE:
        raise RecordRejected(
            "TOO_LARGE",
            f"the value has {len(data)} bytes encoded; at most {MAX_VALUE}. Put a hash or an address of "
            "the data here and serve the data itself, or spread it over several suffixes.",
        )
    return data


def encode_key(key: str) -> bytes:
    """The key's bytes; raises ConfigurationError."""
    data = _encode_text("key", key, 1, MAX_KEY)
    if MARK in data:
        raise ConfigurationError(f"a key does not contain the control character {MARK.decode()!r}: {key!r}")
    return data


def check_suffix(suffix: str) -> str:
    """``suffix`` when it is usable; raises ConfigurationError."""
    _encode_text("suffix", suffix, 0, MAX_SUFFIX)
    return suffix


def check_ttl(ttl: float) -> int:
    """``ttl`` seconds as milliseconds; raises ConfigurationError."""
    if not MIN_TTL <= ttl <= MAX_TTL:
        raise ConfigurationError(
            f"ttl={ttl!r} is not allowed: a record lives {MIN_TTL:g} to {MAX_TTL:g} seconds. Use keep() for "
            "something that should stay longer: it refreshes the record until you close it."
        )
    return round(ttl * 1000)


def _encode_text(what: str, text: str, least: int, most: int) -> bytes:
    try:
        data = text.encode()
    except (UnicodeEncodeError, AttributeError):
        raise ConfigurationError(f"a {what} is text, not {text!r}") from None
    if not least <= len(data) <= most:
        raise ConfigurationError(f"a {what} has {least} to {most} bytes of UTF-8; this one has {len(data)}")
    return data
