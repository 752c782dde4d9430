"""Canonical protobuf: the one encoding a signed message may have, and a parser that accepts no other.

Fields ascend, each occurs at most once (those of type ``list``: repeated byte strings, side by side),
no unknown fields, no default values, minimal varints, nothing trailing. Only what signed records need:
unsigned varints and byte strings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moshgrid.p2p.errors import RecordRejected

__all__ = ["encode_fields", "encode_uvarint", "parse_fields", "read_uvarint"]

_VARINT, _BYTES = 0, 2
_SHORT = [bytes([value]) for value in range(0x80)]


def encode_uvarint(value: int) -> bytes:
    """Unsigned LEB128, minimal."""
    if 0 <= value < 0x80:
        return _SHORT[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_uvarint(data: bytes, at: int) -> tuple[int, int]:
    """The varint at offset ``at`` and the offset after it.

    Raises RecordRejected MALFORMED (cut off, over 64 bits) or NONCANONICAL (not minimal).
    """
    value = shift = 0
    start = at
    while True:
        if at >= len(data):
            raise RecordRejected("MALFORMED", "a varint is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and at - start > 1:
                raise RecordRejected("NONCANONICAL", "a varint is not minimal")
            if value >= 1 << 64:
                raise RecordRejected("MALFORMED", "a varint exceeds 64 bits")
            return value, at
        shift += 7
        if shift > 63:
            raise RecordRejected("MALFORMED", "a varint exceeds 64 bits")


def encode_fields(fields: Mapping[int, int | bytes | Sequence[bytes]]) -> bytes:
    """Encodes fields by number; zeros and empty strings are left out, as proto3 does."""
    out = bytearray()
    for number in sorted(fields):
        value = fields[number]
        if not value:
            continue
        if isinstance(value, int):
            out += encode_uvarint(number << 3 | _VARINT) + encode_uvarint(value)
        else:
            for item in [value] if isinstance(value, bytes) else value:
                out += encode_uvarint(number << 3 | _BYTES) + encode_uvarint(len(item)) + item
    return bytes(out)


def parse_fields(data: bytes, types: Mapping[int, type]) -> dict[int, Any]:
    """Parses a canonical message whose fields are ``types`` (number to int, bytes or list of bytes).

    Raises RecordRejected MALFORMED or NONCANONICAL. Fields with default values are absent.
    """
    fields: dict[int, Any] = {}
    at = last = 0
    end = len(data)
    while at < end:
        tag, at = (data[at], at + 1) if data[at] < 0x80 else read_uvarint(data, at)
        number, wire = tag >> 3, tag & 7
        kind = types.get(number)
        if kind is None:
            raise RecordRejected("NONCANONICAL", f"unknown field {number}")
        if number < last or (number == last and kind is not list):
            raise RecordRejected("NONCANONICAL", f"field {number} is repeated or out of order")
        last = number
        if wire != (_VARINT if kind is int else _BYTES):
            raise RecordRejected("MALFORMED", f"field {number} has the wrong type")
        value, at = (data[at], at + 1) if at < end and data[at] < 0x80 else read_uvarint(data, at)
        if value == 0 and kind is not list:
            raise RecordRejected("NONCANONICAL", f"field {number} holds its default value")
        if wire == _VARINT:
            fields[number] = value
            continue
        if value > end - at:
            raise RecordRejected("MALFORMED", f"field {number} is cut off")
        item = data[at : at + value]
        at += value
        if kind is list:
            fields.setdefault(number, []).append(item)
        else:
            fields[number] = item
    return fields
