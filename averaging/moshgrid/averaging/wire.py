"""The frame that carries a message between members, with its limits.

A frame is a 2-byte header length, the header (run, group, message as msgpack) and, for parts and
results, the encoded bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from moshgrid.averaging.layout import MAX_PART_BYTES
from moshgrid.averaging.manifest import MAX_MANIFEST_BYTES
from moshgrid.averaging.messages import (
    MAX_NAMED,
    Begin,
    Directness,
    Draft,
    Handover,
    Message,
    PartData,
    Ready,
    Refused,
    ResultData,
)
from moshgrid.p2p.decoding import Unreadable, decode
from moshgrid.p2p.errors import RemoteProtocolError
from moshgrid.p2p.identity import PeerId

__all__ = [
    "MAX_FRAME",
    "Frame",
    "Greeting",
    "decode_frame",
    "decode_greeting",
    "encode_frame",
    "encode_greeting",
]

MAX_HEADER = 65535
_ID_BYTES = 16
MAX_FRAME = 2 + MAX_HEADER + MAX_PART_BYTES


class Frame(NamedTuple):
    """A decoded frame. ``group`` is empty for matchmaking."""

    run: bytes
    group: bytes
    message: Message
    payload: memoryview


class Greeting(msgspec.Struct, frozen=True, array_like=True):
    """The first frame of a stream: which link of the sender's it carries."""

    link: bytes
    """16 bytes that the sender drew; another stream with the same ones goes on with the same link."""
    acknowledged: bool
    """Whether the sender is to be told, as 8 bytes, how many frames of the link have come: at once, and after
    each of them."""


class _Header(msgspec.Struct, frozen=True, array_like=True):
    run: bytes
    group: bytes
    message: Message


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Header)
_greeting_decoder = msgspec.msgpack.Decoder(Greeting)


def encode_greeting(greeting: Greeting) -> bytes:
    """The bytes of a stream's first frame."""
    return _encoder.encode(greeting)


def decode_greeting(frame: bytes, sender: PeerId) -> Greeting:
    """Parses a stream's first frame. Raises RemoteProtocolError, blaming ``sender``."""
    try:
        greeting: Greeting = decode(_greeting_decoder, frame)
    except Unreadable as error:
        raise RemoteProtocolError(sender, f"sent a greeting that cannot be read: {error}") from error
    if len(greeting.link) != _ID_BYTES:
        raise RemoteProtocolError(sender, "sent a link id of the wrong length")
    return greeting


def encode_frame(run: bytes, group: bytes, message: Message) -> bytes:
    """The frame's bytes up to the payload, which the caller sends after them."""
    data = _encoder.encode(_Header(run, group, message))
    return len(data).to_bytes(2, "big") + data


def decode_frame(frame: bytes | bytearray | memoryview, sender: PeerId) -> Frame:
    """Parses a frame. Raises RemoteProtocolError, blaming ``sender``."""
    size = int.from_bytes(frame[:2], "big")
    if len(frame) < 2 + size:
        raise RemoteProtocolError(sender, "sent a frame whose header is cut off")
    try:
        header = decode(_decoder, memoryview(frame)[2 : 2 + size])
    except Unreadable as error:
        raise RemoteProtocolError(sender, f"sent a message that cannot be read: {error}") from error
    payload = memoryview(frame)[2 + size :]
    if len(payload) and not isinstance(header.message, PartData | ResultData):
        raise RemoteProtocolError(sender, f"sent bytes after a {type(header.message).__name__}")
    if len(header.run) != _ID_BYTES or len(header.group) not in (0, 32):
        raise RemoteProtocolError(sender, "sent an id of the wrong length")
    if len(_named(header.message)) > MAX_NAMED:
        raise RemoteProtocolError(sender, "named too many peers")
    if isinstance(header.message, Begin | Ready) and len(header.message.manifest) > MAX_MANIFEST_BYTES:
        raise RemoteProtocolError(sender, "sent a manifest that is too large")
    return Frame(header.run, header.group, header.message, payload)


def _named(message: Message) -> Sequence[object]:
    match message:
        case Refused(taken=named) | Draft(members=named) | Directness(direct=named) | Handover(members=named):
            return named
    return ()
