"""Protobuf as other implementations write it: unknown fields are skipped, the last value of a field counts.

For short messages of libp2p's own protocols. What is signed is canonical, and read by ``canonical``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moshgrid.p2p.canonical import encode_uvarint

__all__ = ["Malformed", "ProtobufFields", "encode_message", "parse_message"]

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_FIXED = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}


class Malformed(ValueError):
    """Bytes that are not the message they should be; the text says what is wrong."""


class ProtobufFields:
    """The fields of one message. Each look at a field raises Malformed when it has another type."""

    def __init__(self, values: Mapping[int, Sequence[int | bytes]]) -> None:
        self._values = values

    def number(self, field: int, limit: int = (1 << 64) - 1) -> int | None:
        """An unsigned integer up to ``limit``; None when the field is not there."""
        values = self._values.get(field)
        if values is None:
            return None
        value = values[-1]
        if not isinstance(value, int) or value > limit:
            raise Malformed(f"field {field} is not a number up to {limit}")
        return value

    def text(self, field: int) -> bytes | None:
        """Bytes; None when the field is not there."""
        values = self.texts(field)
        return values[-1] if values else None

    def texts(self, field: int) -> list[bytes]:
        """Every value of a repeated field of bytes."""
        values = [value for value in self._values.get(field, ()) if isinstance(value, bytes)]
        if len(values) != len(self._values.get(field, ())):
            raise Malformed(f"field {field} is a number where bytes are due")
        return values


def encode_message(fields: Mapping[int, int | bytes | Sequence[bytes] | None]) -> bytes:
    """The fields that are not None, in ascending order; zeros are written, as proto2 does."""
    out = bytearray()
    for number in sorted(fields):
        value = fields[number]
        if value is None:
            continue
        if isinstance(value, int):
            out += encode_uvarint(number << 3 | _VARINT) + encode_uvarint(value)
            continue
        for item in [value] if isinstance(value, bytes) else value:
            out += encode_uvarint(number << 3 | _BYTES) + encode_uvarint(len(item)) + item
    return bytes(out)


def parse_message(data: bytes) -> ProtobufFields:
    """The fields of ``data``, whose length the caller has bounded. Raises Malformed."""
    values: dict[int, list[int | bytes]] = {}
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        field, kind = tag >> 3, tag & 7
        if not field:
            raise Malformed("a field has the number 0")
        if kind == _VARINT:
            value, at = _read_varint(data, at)
            values.setdefault(field, []).append(value)
            continue
        if kind == _BYTES:
            size, at = _read_varint(data, at)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise Malformed(f"field {field} has a type that is not used any more")
        if size > len(data) - at:
            raise Malformed(f"field {field} is cut off")
        if kind == _BYTES:
            values.setdefault(field, []).append(data[at : at + size])
        at += size
    return ProtobufFields(values)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise Malformed("a number is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, at
    raise Malformed("a number exceeds 64 bits")
