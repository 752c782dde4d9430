"""The messages of circuit relay v2: between a peer and its relay (hop), a relay and the target (stop).

As in libp2p's specification ``relay/circuit-v2``. Each follows its length, and has at most 4 KiB.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from moshgrid.p2p.identity import PeerId, peer_id_from_bytes, peer_id_to_bytes
from moshgrid.p2p.protobuf import Malformed, encode_message, parse_message

__all__ = [
    "HOP",
    "MAX_MESSAGE_BYTES",
    "STOP",
    "CircuitLimit",
    "HopMessage",
    "HopType",
    "RelayStatus",
    "Reserved",
    "StopMessage",
    "StopType",
]

HOP = "/libp2p/circuit/relay/0.2.0/hop"
STOP = "/libp2p/circuit/relay/0.2.0/stop"
MAX_MESSAGE_BYTES = 4096
_MAX_ADDRS = 16
_MAX_SECONDS = (1 << 32) - 1


class HopType(IntEnum):
    """What a hop message is."""

    RESERVE = 0
    CONNECT = 1
    STATUS = 2


class StopType(IntEnum):
    """What a stop message is."""

    CONNECT = 0
    STATUS = 1


class RelayStatus(IntEnum):
    """How a request ended."""

    UNUSED = 0
    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


@dataclass(frozen=True, slots=True)
class CircuitLimit:
    """How much one circuit may carry; 0 means without a bound."""

    seconds: int = 0
    bytes: int = 0
    """In each direction."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """A relay's promise to pass on to us whoever asks for us."""

    expires: int
    """Unix time in seconds."""
    addrs: tuple[bytes, ...] = ()
    """The relay's own multiaddrs, binary, with or without its peer id."""
    voucher: bytes = b""
    """The same in the relay's own hand; empty when it gives none."""


@dataclass(frozen=True, slots=True)
class HopMessage:
    """RESERVE, CONNECT to ``peer``, or the STATUS that answers one."""

    type: HopType
    peer: PeerId | None = None
    reserved: Reserved | None = None
    limit: CircuitLimit | None = None
    status: int = RelayStatus.UNUSED

    def encode(self) -> bytes:
        """Its bytes, without the length."""
        return encode_message(
            {
                1: self.type,
                2: _encode_peer(self.peer),
                3: _encode_reserved(self.reserved),
                4: _encode_limit(self.limit),
                5: self.status or None,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> HopMessage:
        """Raises Malformed."""
        fields = parse_message(data)
        return cls(
            HopType(_need(fields.number(1, HopType.STATUS))),
            _parse_peer(fields.text(2)),
            _parse_reserved(fields.text(3)),
            _parse_limit(fields.text(4)),
            fields.number(5, 1 << 16) or RelayStatus.UNUSED,
        )


@dataclass(frozen=True, slots=True)
class StopMessage:
    """CONNECT: ``peer`` wants to reach you; or the STATUS that answers it."""

    type: StopType
    peer: PeerId | None = None
    limit: CircuitLimit | None = None
    status: int = RelayStatus.UNUSED

    def encode(self) -> bytes:
        """Its bytes, without the length."""
        return encode_message(
            {
                1: self.type,
                2: _encode_peer(self.peer),
                3: _encode_limit(self.limit),
                4: self.status or None,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> StopMessage:
        """Raises Malformed."""
        fields = parse_message(data)
        return cls(
            StopType(_need(fields.number(1, StopType.STATUS))),
            _parse_peer(fields.text(2)),
            _parse_limit(fields.text(3)),
            fields.number(4, 1 << 16) or RelayStatus.UNUSED,
        )


def _need(kind: int | None) -> int:
    if kind is None:
        raise Malformed("the message does not say what it is")
    return kind


def _encode_peer(peer: PeerId | None) -> bytes | None:
    return None if peer is None else encode_message({1: peer_id_to_bytes(peer)})


def _parse_peer(data: bytes | None) -> PeerId | None:
    if data is None:
        return None
    try:
        return peer_id_from_bytes(parse_message(data).text(1) or b"")
    except Malformed:
        raise
    except ValueError as error:
        raise Malformed(str(error)) from None


def _encode_reserved(reserved: Reserved | None) -> bytes | None:
    if reserved is None:
        return None
    return encode_message({1: reserved.expires, 2: reserved.addrs, 3: reserved.voucher or None})


def _parse_reserved(data: bytes | None) -> Reserved | None:
    if data is None:
        return None
    fields = parse_message(data)
    return Reserved(
        fields.number(1, 1 << 53) or 0, tuple(fields.texts(2)[:_MAX_ADDRS]), fields.text(3) or b""
    )


def _encode_limit(limit: CircuitLimit | None) -> bytes | None:
    if limit is None:
        return None
    return encode_message({1: limit.seconds or None, 2: limit.bytes or None})


def _parse_limit(data: bytes | None) -> CircuitLimit | None:
    if data is None:
        return None
    fields = parse_message(data)
    return CircuitLimit(fields.number(1, _MAX_SECONDS) or 0, fields.number(2) or 0)
