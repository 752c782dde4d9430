"""What one end of a measurement asks of the other: 9 bytes at the beginning of a connection or stream."""

from __future__ import annotations

import struct
from dataclasses import dataclass

__all__ = [
    "BOTH",
    "CHUNK_BYTES",
    "ECHO",
    "ORDER_BYTES",
    "PROTOCOL",
    "REQUEST_BYTES",
    "SINK",
    "SOURCE",
    "Order",
]

PROTOCOL = "/moshgrid/bench/1"
SINK, SOURCE, BOTH, ECHO = range(4)
"""Take so many bytes; send so many; do both at the same time; send everything back."""
CHUNK_BYTES = 256 * 1024
REQUEST_BYTES = 64
_FORM = struct.Struct(">BQ")
ORDER_BYTES = _FORM.size


@dataclass(frozen=True, slots=True)
class Order:
    """A kind, and a number of bytes."""

    kind: int
    size: int = 0

    def pack(self) -> bytes:
        """For the other end."""
        return _FORM.pack(self.kind, self.size)

    @classmethod
    def unpack(cls, data: bytes) -> Order:
        """What the other end asked."""
        return cls(*_FORM.unpack(data))
