"""Resuming: what a training needs to go on as if it had not stopped, down to chance and place in the data."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moshgrid.p2p import ConfigurationError
from moshgrid.swarm.checkpoint import CheckpointError

if TYPE_CHECKING:
    import torch

__all__ = ["capture", "restore_chance", "restore_model", "restore_training"]


def capture(
    model: torch.nn.Module, optimizer: Any | None, schedulers: Sequence[Any], position: Any
) -> dict[str, Any]:
    """Everything as a tree of plain values and tensors. ``schedulers``: whatever has a ``state_dict``."""
    return {
        "model": dict(model.state_dict()),
        "optimizer": None if optimizer is None else optimizer.state_dict(),
        "schedulers": [scheduler.state_dict() for scheduler in schedulers],
        "position": position,
        "chance": _chance(),
    }


def restore_model(model: torch.nn.Module, tree: Mapping[str, Any]) -> None:
    """Loads the model's part. Raises CheckpointError when it is of another model; then nothing is changed."""
    saved, mine = tree["model"], model.state_dict()
    differences = [
        f"{name}: yours {_shape(mine.get(name))}, saved {_shape(saved.get(name))}"
        for name in [*mine, *(name for name in saved if name not in mine)]
        if _shape(mine.get(name)) != _shape(saved.get(name))
    ]
    if differences:
        raise CheckpointError(
            f"the checkpoint is of another model; {len(differences)} tensors differ:\n  "
            + "\n  ".join(differences[:20])
        )
    model.load_state_dict(saved)


def restore_training(tree: Mapping[str, Any], optimizer: Any | None, schedulers: Sequence[Any]) -> Any:
    """Loads the rest and returns the data position; the state of chance comes last.

    Raises ConfigurationError when an optimizer or schedulers were saved and others are given.
    """
    if optimizer is not None:
        if tree["optimizer"] is None:
            raise ConfigurationError("the checkpoint was saved without an optimizer; give none to resume")
        optimizer.load_state_dict(tree["optimizer"])
    if len(schedulers) != len(tree["schedulers"]):
        raise ConfigurationError(
            f"the checkpoint holds {len(tree['schedulers'])} schedulers, and {len(schedulers)} were given"
        )
    for scheduler, saved in zip(schedulers, tree["schedulers"], strict=True):
        scheduler.load_state_dict(saved)
    restore_chance(tree["chance"])
    return tree["position"]


def restore_chance(saved: Mapping[str, Any]) -> None:
    """Sets the random number generators of Python, numpy (where it is loaded) and torch, GPUs included."""
    import torch

    random.setstate(saved["python"])
    torch.set_rng_state(saved["torch"])
    if saved["numpy"] is not None:
        import numpy as np

        np.random.set_state(saved["numpy"])
    if saved["cuda"] and torch.cuda.is_available():
        for device, state in enumerate(saved["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, device)


def _chance() -> dict[str, Any]:
    import torch

    numpy = sys.modules.get("numpy")
    return {
        "python": random.getstate(),
        "torch": torch.get_rng_state(),
        "numpy": None if numpy is None else numpy.random.get_state(),
        "cuda": list(torch.cuda.get_rng_state_all()) if torch.cuda.is_available() else [],
    }


def _shape(tensor: Any) -> str:
    if tensor is None:
        return "nothing"
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
