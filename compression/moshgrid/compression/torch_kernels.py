"""The kernels in torch. Imported only where torch is loaded already.

Tiles are as large as torch still works on in one thread: a codec then costs one core, and intermediate
values stay in that core's cache.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = [
    "block_peaks",
    "from_bfloat16",
    "from_bytes",
    "from_float16",
    "from_nibbles",
    "to_bfloat16",
    "to_bytes",
    "to_float16",
    "to_nibbles",
]

_ROWS = 256
_BLOCK = 128
_TILE = _ROWS * _BLOCK

Array = npt.NDArray[Any]


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.copy = np.empty(4 * _TILE, np.uint8)
        self.floats = torch.empty((_ROWS, _BLOCK), dtype=torch.float32)
        self.bytes = torch.empty((_ROWS, _BLOCK), dtype=torch.uint8)
        self.pairs = torch.empty((_ROWS, _BLOCK // 2), dtype=torch.int16)


_scratch = _Scratch()

with warnings.catch_warnings():
    # torch warns, once in a process, that it does not protect read-only memory. It is only read here.
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(b"moshgrid", np.uint8))


def _tiles(array: Array, size: int) -> Iterator[torch.Tensor]:
    """Tensors of ``size`` rows each, only to be read."""
    if array.flags.aligned:
        yield from _split(torch.from_numpy(array), size)
        return
    for at in range(0, len(array), size):
        tile = array[at : at + size]
        copy = _scratch.copy[: tile.nbytes].view(tile.dtype).reshape(tile.shape)
        copy[...] = tile
        yield torch.from_numpy(copy)


def _targets(array: Array, size: int) -> tuple[torch.Tensor, ...]:
    return _split(torch.from_numpy(array), size)


def _column(array: Array) -> tuple[torch.Tensor, ...]:
    return _split(torch.from_numpy(array)[:, None], _ROWS)


def _split(tensor: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
    """As ``torch.split`` along the first dimension, of contiguous tensors, at half its cost."""
    if len(tensor) <= size:
        return (tensor,)
    count = len(tensor) // size
    whole = tensor[: count * size].view(count, size, *tensor.shape[1:]).unbind(0)
    return whole if count * size == len(tensor) else (*whole, tensor[count * size :])


def to_float16(values: Array, out: Array) -> None:
    for tile, target in zip(_tiles(values, _TILE), _targets(out.view(np.float16), _TILE), strict=False):
        target.copy_(tile)


def from_float16(halves: Array, out: Array) -> None:
    for tile, target in zip(_tiles(halves.view(np.float16), _TILE), _targets(out, _TILE), strict=False):
        target.copy_(tile)


def to_bfloat16(values: Array, out: Array) -> None:
    for tile, target in zip(_tiles(values, _TILE), _targets(out.view(np.int16), _TILE), strict=False):
        target.view(torch.bfloat16).copy_(tile)


def from_bfloat16(halves: Array, out: Array) -> None:
    for tile, target in zip(_tiles(halves.view(np.int16), _TILE), _targets(out, _TILE), strict=False):
        target.copy_(tile.view(torch.bfloat16))


def block_peaks(blocks: Array, out: Array) -> None:
    for tile, target in zip(_tiles(blocks, _ROWS), _targets(out, _ROWS), strict=False):
        torch.amax(torch.abs(tile, out=_scratch.floats[: len(tile)]), 1, out=target)


def to_bytes(blocks: Array, inverse: Array, out: Array) -> None:
    for tile, factors, target in zip(
        _tiles(blocks, _ROWS), _column(inverse), _targets(out, _ROWS), strict=False
    ):
        target.copy_(_rounded(tile, factors))


def from_bytes(codes: Array, steps: Array, out: Array) -> None:
    for tile, factors, target in zip(
        _tiles(codes, _ROWS), _column(steps), _targets(out, _ROWS), strict=False
    ):
        target.copy_(tile).mul_(factors)


def to_nibbles(blocks: Array, inverse: Array, out: Array) -> None:
    for tile, factors, target in zip(
        _tiles(blocks, _ROWS), _column(inverse), _targets(out, _ROWS), strict=False
    ):
        nibbles = _scratch.bytes[: len(tile)].copy_(_rounded(tile, factors).add_(8))
        pairs = nibbles.view(torch.int16)
        high = torch.bitwise_right_shift(pairs, 4, out=_scratch.pairs[: len(tile)])
        target.copy_(pairs.bitwise_or_(high))


def from_nibbles(pairs: Array, steps: Array, out: Array) -> None:
    for tile, factors, target in zip(
        _tiles(pairs, _ROWS), _column(steps), _targets(out, _ROWS), strict=False
    ):
        wide = _scratch.bytes[: len(tile)].view(torch.int16).copy_(tile)
        high = torch.bitwise_left_shift(wide, 4, out=_scratch.pairs[: len(tile)])
        nibbles = wide.bitwise_or_(high).bitwise_and_(0x0F0F).view(torch.uint8)
        target.copy_(nibbles).sub_(8).mul_(factors)


def _rounded(blocks: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    return torch.mul(blocks, factors, out=_scratch.floats[: len(blocks)]).round_()
