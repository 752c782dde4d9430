"""Big buffers that all connections share: each is borrowed while bytes are handled, never while waiting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["BUFFER_BYTES", "borrow_buffer", "borrowed_buffer", "return_buffer"]

BUFFER_BYTES = 520 * 1024
"""Large enough that a call's fixed cost does not count (and for several Noise messages of 64 KiB), small
enough to stay in a core's cache: 512 KiB, and what encryption adds."""

_MAX_SPARE = 8

_spare: list[memoryview] = []


def borrow_buffer() -> memoryview:
    """A buffer of ``BUFFER_BYTES`` with anything in it."""
    try:
        return _spare.pop()
    except IndexError:
        return memoryview(bytearray(BUFFER_BYTES))


def return_buffer(buffer: memoryview) -> None:
    """Lets others use ``buffer``; nobody may look at it any more."""
    if len(_spare) < _MAX_SPARE:
        _spare.append(buffer)


@contextmanager
def borrowed_buffer() -> Iterator[memoryview]:
    """A buffer for the length of a ``with`` block, which must not wait."""
    buffer = borrow_buffer()
    try:
        yield buffer
    finally:
        return_buffer(buffer)
