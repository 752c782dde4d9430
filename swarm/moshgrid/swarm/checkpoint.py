"""Checkpoint files: tensors and a tree of plain values in one safetensors file, written whole or not at all.

Nothing is pickled. A digest over everything is part of the file, so that a torn or damaged one is found
out before anything of it is used.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from moshgrid.p2p import ConfigurationError, MoshgridError

if TYPE_CHECKING:
    import torch

__all__ = ["Checkpoint", "CheckpointError", "checkpoint_file", "read_checkpoint", "write_checkpoint"]

_SUFFIX = ".safetensors"
_NAME = "checkpoint.safetensors"
_FORMAT = "moshgrid-checkpoint-1"
_MAX_DEPTH = 64


class CheckpointError(MoshgridError):
    """A checkpoint cannot be used; the text says why and what to do. The file was left as it is."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a file holds. ``tree`` consists of dicts, lists, tuples, plain values and tensors."""

    tree: dict[str, Any]


def checkpoint_file(path: str | os.PathLike[str]) -> Path:
    """The file that ``path`` stands for: itself when it ends in ``.safetensors``, else one in that folder.

    Raises ConfigurationError for a folder's name that belongs to a file, which is thus never overwritten.
    """
    file = Path(path).expanduser()
    if file.suffix == _SUFFIX:
        return file
    if file.exists() and not file.is_dir():
        raise ConfigurationError(
            f"{file} is a file and no checkpoint; it was left as it is. Give a folder, or a name that "
            f"ends in {_SUFFIX}"
        )
    return file / _NAME


def write_checkpoint(path: str | os.PathLike[str], tree: Mapping[str, Any]) -> Path:
    """Writes ``tree`` to the file of ``path``: the old file is there until the new one is whole on disk.

    Raises OSError (disk full, read-only), ConfigurationError for values that have no place in a file.
    """
    from safetensors.torch import save

    file = checkpoint_file(path)
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(_plain(tree, "", tensors, 0), separators=(",", ":"))
    digest = _digest(text, tensors)
    data = save(tensors, metadata={"format": _FORMAT, "tree": text, "blake3": digest})
    write_whole(file, data)
    return file


def write_whole(file: Path, data: bytes) -> None:
    """Replaces ``file`` by ``data`` in one step that also a power cut does not tear. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(draft, file)
    except BaseException:
        os.unlink(draft)
        raise
    _sync_folder(file.parent)


def _sync_folder(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # not every system can open a folder
        return
    try:
        os.fsync(handle)
    except OSError:
        return
    finally:
        os.close(handle)


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads and checks a file. Raises CheckpointError."""
    from safetensors import SafetensorError, safe_open

    file = checkpoint_file(path)
    try:
        with safe_open(str(file), framework="pt") as opened:
            notes = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {file}; start without one, or give its path") from None
    except (SafetensorError, OSError, ValueError, RuntimeError, MemoryError) as error:
        raise _damaged(file, str(error)) from error
    if notes.get("format") != _FORMAT:
        raise _damaged(file, f"it is not of the format {_FORMAT}")
    text = notes.get("tree", "")
    if notes.get("blake3") != _digest(text, tensors):
        raise _damaged(file, "its content is not what was written")
    try:
        tree = _tree(json.loads(text), tensors)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(file, str(error)) from error
    return Checkpoint(tree)


def _damaged(file: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint {file} cannot be used: {why}. It was left as it is. Load an older one, or start "
        "without: run.sync() fetches the newest state from the swarm"
    )


def _digest(text: str, tensors: Mapping[str, torch.Tensor]) -> str:
    import torch

    hasher = blake3(text.encode(errors="surrogatepass"))
    for name in sorted(tensors):
        tensor = tensors[name]
        hasher.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        hasher.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


# A tree as JSON: what JSON has not is written as an object with one key that begins with "$". --------


def _plain(value: Any, path: str, tensors: dict[str, torch.Tensor], depth: int) -> Any:
    import torch

    if depth > _MAX_DEPTH:
        raise ConfigurationError(f"{path} is nested too deeply for a checkpoint")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.Tensor):
        tensors[path or "tensor"] = value.detach().cpu().contiguous().clone()
        return {"$tensor": path or "tensor"}
    if isinstance(value, bytes):
        return {"$bytes": value.hex()}
    if isinstance(value, Mapping):
        items = [
            [
                _plain(key, path, tensors, depth + 1),
                _plain(item, _under(path, key), tensors, depth + 1),
            ]
            for key, item in value.items()
        ]
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {str(key): item for key, item in items}
        return {"$items": items}
    if isinstance(value, list | tuple):
        many = [_plain(item, _under(path, at), tensors, depth + 1) for at, item in enumerate(value)]
        return {"$tuple": many} if isinstance(value, tuple) else many
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a numpy scalar
        return value.item()
    if hasattr(value, "__array__"):
        return {"$numpy": _plain(torch.from_numpy(value.copy()), path, tensors, depth + 1)}
    raise ConfigurationError(
        f"{path or 'the value'} is a {type(value).__name__}, which has no place in a checkpoint: use "
        "tensors, arrays, numbers, text, lists and dicts"
    )


def _under(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _tree(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_tree(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        (key, inner), *_ = value.items()
        match key:
            case "$tensor":
                return tensors[inner]
            case "$bytes":
                return bytes.fromhex(inner)
            case "$tuple":
                return tuple(_tree(item, tensors) for item in inner)
            case "$items":
                return {_tree(name, tensors): _tree(item, tensors) for name, item in inner}
            case "$numpy":
                return _tree(inner, tensors).numpy()
    return {key: _tree(item, tensors) for key, item in value.items()}
