"""Tensors: numpy arrays and torch tensors of any float type, on any device, read and written in place.

numpy arrays may be of any layout; torch tensors may be on the CPU or on a GPU, whose memory is reached
through page-locked buffers, chunk by chunk. torch is imported only when a caller's tensor is one.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from moshgrid.averaging.tensor_staging import Staging
from moshgrid.p2p.errors import ConfigurationError

__all__ = ["add_difference", "check_writable", "clone", "describe", "host_view", "read_into", "write_from"]

Vector = npt.NDArray[np.floating[Any]]

_FLOATS = ("float16", "float32", "float64", "bfloat16")
_BLOCK = 1 << 20
"""Elements that a difference is added to at once."""


def describe(array: Any) -> tuple[tuple[int, ...], str]:
    """Shape and dtype name. Raises ConfigurationError for what is no array of floats."""
    if isinstance(array, np.ma.MaskedArray):
        raise ConfigurationError("it is masked, and its mask would be lost; pass array.filled(value)")
    if isinstance(array, np.ndarray):
        name = "longdouble" if array.dtype == np.longdouble != np.float64 else array.dtype.name
        if name not in _FLOATS and name != "longdouble":
            raise ConfigurationError(f"it is {name}; {_ONLY_FLOATS}")
        return array.shape, name
    if not _is_torch(array):
        raise ConfigurationError(f"expected a numpy array or torch tensor, not {type(array).__name__}")
    name = str(array.dtype).removeprefix("torch.")
    if name not in _FLOATS:
        raise ConfigurationError(f"it is {name}; {_ONLY_FLOATS}")
    if str(array.layout) != "torch.strided" or array.device.type == "meta":
        raise ConfigurationError("sparse tensors and tensors without data cannot be averaged; make it dense")
    return tuple(array.shape), name


_ONLY_FLOATS = "only floating point arrays can be averaged (leave integer buffers out, or convert them)"


def check_writable(array: Any) -> None:
    """Raises ConfigurationError for an array that an average cannot be written into."""
    if isinstance(array, np.ndarray) and not array.flags.writeable:
        raise ConfigurationError("it is read-only, and averages are written in place; pass a copy")


def host_view(array: Any) -> npt.NDArray[Any] | None:
    """A numpy array that shares memory with ``array``; None when there can be none."""
    if isinstance(array, np.ndarray):
        return array.view(np.ndarray)  # a subclass such as np.matrix may have shapes of its own
    if array.device.type != "cpu" or array.dtype == _torch().bfloat16:
        return None
    view: npt.NDArray[Any] = array.detach().numpy()
    return view


def read_into(out: Vector, array: Any) -> None:
    """Fills the flat ``out`` (float32 or float64) with the values of ``array``, in C order."""
    if isinstance(array, np.ndarray):
        out.reshape(array.shape)[...] = array.view(np.ndarray)
        return
    torch, source = _torch(), array.detach()
    target = torch.from_numpy(out)
    if source.device.type == "cpu":
        target.view(source.shape).copy_(source)
    else:
        _staging().read(source, target)


def write_from(vector: Vector, array: Any) -> None:
    """Writes the flat ``vector`` into ``array``, in place."""
    if isinstance(array, np.ndarray):
        array[...] = vector.reshape(array.shape)
        return
    torch, target = _torch(), array.detach()
    source = torch.from_numpy(vector)
    if target.device.type == "cpu":
        target.copy_(source.view(target.shape))
    else:
        _staging().write(source, target)


def clone(array: Any) -> Any:
    """A copy of the values, where ``array`` is."""
    return array.copy() if isinstance(array, np.ndarray) else array.detach().clone()


def add_difference(array: Any, start: Any, average: Vector) -> None:
    """``array += average - start``, in place and rounded once, so that what was added since stays.

    Values that are still as at the start become the average exactly.
    """
    average = average.reshape(start.shape)
    if isinstance(array, np.ndarray):
        array, start = array.view(np.ndarray), start.view(np.ndarray)
        for block in _blocks(array.shape):
            now, then, mean = array[block], start[block], average[block]
            wide = np.promote_types(array.dtype, np.float64)
            moved = now.astype(wide) + (mean.astype(wide) - then.astype(wide))
            array[block] = np.where(now == then, mean, moved)
        return
    torch, target = _torch(), array.detach()
    mean = torch.empty(target.shape, dtype=torch.from_numpy(average[:0]).dtype, device=target.device)
    write_from(average, mean)
    wide = torch.float32 if target.device.type == "mps" else torch.float64  # that device has no wider one
    for block in _blocks(target.shape):
        now, then, there = target[block], start[block], mean[block].to(wide)
        moved = now.to(wide) + (there - then.to(wide))
        target[block] = torch.where(now == then, there, moved).to(target.dtype)


def _blocks(shape: tuple[int, ...]) -> Iterator[Any]:
    """Indices that cut an array along its first axis into blocks of about so many elements."""
    if not shape:
        yield ...
        return
    rows = max(1, _BLOCK * shape[0] // max(1, int(np.prod(shape))))
    for first in range(0, shape[0], rows):
        yield slice(first, first + rows)


def _is_torch(array: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def _torch() -> Any:
    return sys.modules["torch"]


@functools.cache
def _staging() -> Staging:
    torch = _torch()
    return Staging(torch, pinned=torch.cuda.is_available())
