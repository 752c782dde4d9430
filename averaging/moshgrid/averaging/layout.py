"""The layout of the flat vector: which codec its stretches travel with, and where it is cut into parts.

Tensors of one codec stand together, so that a part has one codec. A layout is written as the codec's
name, or as ``float16*1200+int8*98000`` where there are several; the text is what offers, manifests and
descriptions of states carry, and members agree when their texts are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moshgrid.compression import Codec, fallback_codec, get_codec

__all__ = [
    "MAX_PART_BYTES",
    "Stretch",
    "arrange",
    "codecs_of",
    "cut",
    "largest_part",
    "stretches",
    "without_reference",
]

MAX_PART_BYTES = 512 * 1024
_WHOLE_PART = 128 * 1024
"""Elements of a part whose codec is decoded as a whole: all members' values then stay in a core's cache."""
_MAX_STRETCHES = 16
_MAX_TEXT = 512
_ALIGNMENT = 128


@dataclass(frozen=True, slots=True)
class Stretch:
    """Elements ``start`` to ``stop`` of the flat vector, all encoded by ``codec``."""

    start: int
    stop: int
    codec: Codec


def arrange(names: Sequence[str], sizes: Sequence[int]) -> tuple[str, tuple[int, ...]]:
    """The layout's text for tensors of those codecs and sizes, and the order the tensors stand in.

    Raises ValueError when there are more codecs than a layout may have.
    """
    distinct = list(dict.fromkeys(names))
    if len(distinct) == 1:
        return distinct[0], tuple(range(len(names)))
    if len(distinct) > _MAX_STRETCHES:
        raise ValueError(f"at most {_MAX_STRETCHES} codecs can be mixed, not {len(distinct)}")
    order = sorted(range(len(names)), key=lambda index: distinct.index(names[index]))
    totals = dict.fromkeys(distinct, 0)
    for name, size in zip(names, sizes, strict=True):
        totals[name] += size
    return "+".join(f"{name}*{total}" for name, total in totals.items() if total), tuple(order)


def stretches(text: str, elements: int) -> tuple[Stretch, ...]:
    """What a layout's text says of ``elements`` values.

    Raises ValueError (or KeyError, for a codec that there is not) when it is not a layout of so many.
    """
    if "*" not in text:
        return (Stretch(0, elements, get_codec(text)),)
    items = text.split("+")
    if len(text) > _MAX_TEXT or len(items) > _MAX_STRETCHES:
        raise ValueError("the layout is too long")
    found: list[Stretch] = []
    at = 0
    for item in items:
        name, _, digits = item.partition("*")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 12 and int(digits) > 0):
            raise ValueError(f"{item!r} is not a codec and a number of elements")
        found.append(Stretch(at, at + int(digits), get_codec(name)))
        at += int(digits)
    if at != elements:
        raise ValueError(f"the layout is of {at} elements, not {elements}")
    return tuple(found)


def cut(text: str, elements: int, part_elements: int, dtype: np.dtype[Any], most: int) -> tuple[Stretch, ...]:
    """The parts, each a stretch of at most ``part_elements`` within one codec.

    Raises ValueError or KeyError for what is no layout, for a dtype that a codec does not take, parts
    of more than 512 KiB, or more than ``most`` parts.
    """
    whole = stretches(text, elements)
    if sum(-(-(one.stop - one.start) // part_elements) for one in whole) > most:
        raise ValueError(f"there are more than {most} parts")
    for one in whole:
        if dtype.name not in one.codec.dtypes:
            raise ValueError(f"the codec {one.codec.name} does not take {dtype}")
        if one.codec.encoded_bytes(min(part_elements, one.stop - one.start), dtype) > MAX_PART_BYTES:
            raise ValueError(f"a part is larger than {MAX_PART_BYTES} bytes")
    return tuple(
        Stretch(start, min(start + part_elements, one.stop), one.codec)
        for one in whole
        for start in range(one.start, one.stop, part_elements)
    )


def largest_part(text: str, elements: int, dtype: np.dtype[Any], sharers: int) -> int:
    """How many elements a part should have: at most 512 KiB encoded, and a part for each of ``sharers``."""
    codecs = [one.codec for one in stretches(text, elements)]
    in_pieces = all(codec.properties.elementwise for codec in codecs)
    largest = MAX_PART_BYTES if in_pieces else _WHOLE_PART
    while any(codec.encoded_bytes(largest, dtype) > MAX_PART_BYTES for codec in codecs):
        largest //= 2
    share = -(-elements // sharers)
    if share > _ALIGNMENT:
        share = -(-share // _ALIGNMENT) * _ALIGNMENT  # whole blocks
    return max(1, min(largest, share, elements))


def codecs_of(text: str) -> tuple[str, ...]:
    """The names of the codecs in a layout."""
    return tuple(item.partition("*")[0] for item in text.split("+"))


def without_reference(text: str) -> str:
    """The layout of a round whose members do not share a reference."""
    if "*" not in text:
        return fallback_codec(text)
    merged: list[tuple[str, int]] = []
    for item in text.split("+"):
        name, _, digits = item.partition("*")
        name = fallback_codec(name)
        if merged and merged[-1][0] == name:
            merged[-1] = (name, merged[-1][1] + int(digits))
        else:
            merged.append((name, int(digits)))
    if len(merged) == 1:
        return merged[0][0]
    return "+".join(f"{name}*{count}" for name, count in merged)
