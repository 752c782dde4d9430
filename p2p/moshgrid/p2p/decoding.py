"""Decoding msgpack that a stranger sent: whatever is wrong with the bytes, one exception says so."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["Unreadable", "decode"]


class Unreadable(ValueError):
    """The bytes are no message of the expected type."""


def decode(decoder: msgspec.msgpack.Decoder[Any], data: bytes | memoryview) -> Any:
    """``decoder.decode(data)``. Raises Unreadable, and nothing else.

    Beside its own errors msgspec lets those of Python through: for text that is not UTF-8, and for
    values nested deeper than the interpreter's limit.
    """
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(str(error)) from None
