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
    "from_bfloat16",
    "from_float16",
    "to_bfloat16",
    "to_float16",
]

_TILE = 32768

Array = npt.NDArray[Any]


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.copy = np.empty(4 * _TILE, np.uint8)


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
