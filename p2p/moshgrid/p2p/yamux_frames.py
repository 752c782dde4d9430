"""yamux frames: the twelve bytes before each, and what they may say."""

from __future__ import annotations

import struct

__all__ = [
    "ACK",
    "DATA",
    "FIN",
    "GO_AWAY",
    "HEADER",
    "HEADER_SIZE",
    "INITIAL_WINDOW",
    "MAX_PAYLOAD",
    "NORMAL",
    "PING",
    "PROTOCOL_ERROR",
    "RST",
    "SYN",
    "TURN_PAYLOAD",
    "WINDOW_UPDATE",
    "find_fault",
    "pack_header",
]

DATA, WINDOW_UPDATE, PING, GO_AWAY = 0, 1, 2, 3
SYN, ACK, FIN, RST = 1, 2, 4, 8
NORMAL, PROTOCOL_ERROR = 0, 1

HEADER = struct.Struct("!BBHII")
"""Version, type, flags, stream id, and length: of the payload, or the credit, or an opaque value."""

HEADER_SIZE = HEADER.size
INITIAL_WINDOW = 256 * 1024
TURN_PAYLOAD = 64 * 1024
"""The longest payload that we send while other streams wait for their turn."""
MAX_PAYLOAD = INITIAL_WINDOW
"""The longest that we send at all: every peer must be ready for it on a new stream."""


def pack_header(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    """The header of a frame."""
    return HEADER.pack(0, kind, flags, stream_id, length)


def find_fault(version: int, kind: int, flags: int, stream_id: int) -> str | None:
    """What no yamux peer may say; None when the header is in order."""
    if version != 0:
        return f"sent a frame of yamux version {version}"
    if kind > GO_AWAY:
        return f"sent a frame of unknown type {kind}"
    if flags > 15:
        return f"sent a frame with unknown flags {flags:#x}"
    if kind <= WINDOW_UPDATE:
        if stream_id == 0:
            return "sent a stream's frame without a stream"
        if flags & SYN and flags & ACK:
            return "opened a stream and accepted it in one frame"
        return None
    if stream_id != 0:
        return "sent a connection's frame for one stream"
    if kind == PING and flags not in (SYN, ACK):
        return "sent a ping that neither asks nor answers"
    return None
