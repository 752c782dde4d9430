"""State tensors: a model's parameters and its optimizer's state under one set of names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from moshgrid.p2p import SchemaMismatch

__all__ = [
    "check_tensors",
    "load_optimizer",
    "load_tensors",
    "optimizer_tensors",
    "schedule_of",
    "tensors_of",
]

Named = Mapping[str, torch.nn.Parameter]


def tensors_of(named: Named, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """``parameter.NAME`` and ``optimizer.KEY.NAME``; the tensors themselves."""
    tensors = {f"parameter.{name}": parameter.data for name, parameter in named.items()}
    return {**tensors, **optimizer_tensors(named, optimizer, "optimizer")}


def load_tensors(named: Named, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """The inverse, by copy. Raises SchemaMismatch, having changed nothing."""
    check_tensors(named, tensors, "parameter")
    for name, parameter in named.items():
        parameter.data.copy_(tensors[f"parameter.{name}"])
    load_optimizer(named, optimizer, tensors, "optimizer")


def check_tensors(named: Named, tensors: Mapping[str, torch.Tensor], kind: str) -> None:
    """Raises SchemaMismatch, with a line per tensor, unless each has its ``KIND.NAME`` in its shape."""
    diff = [
        f"{name}  yours {tuple(p.shape)}  given {tuple(there.shape) if there is not None else 'nothing'}"
        for name, p in named.items()
        if (there := tensors.get(f"{kind}.{name}")) is None or there.shape != p.shape
    ]
    if diff:
        raise SchemaMismatch(f"{len(diff)} of {len(named)} tensors of the state differ", diff)


def optimizer_tensors(named: Named, optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, torch.Tensor]:
    """``PREFIX.KEY.NAME`` for each tensor that the optimizer keeps for a parameter."""
    return {
        f"{prefix}.{key}.{name}": value
        for name, parameter in named.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }


def load_optimizer(
    named: Named, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], prefix: str
) -> None:
    """The inverse, by copy; parameters without tensors start anew."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        kind, _, rest = key.partition(".")
        field, _, owner = rest.partition(".")
        if kind == prefix and owner in named:
            device = named[owner].device if value.ndim else value.device
            found.setdefault(owner, {})[field] = value.to(device).clone()
    for name, parameter in named.items():
        optimizer.state.pop(parameter, None)
        if name in found:
            optimizer.state[parameter] = found[name]


def schedule_of(scheduler: torch.optim.lr_scheduler.LRScheduler) -> dict[str, Any]:
    """What of a scheduler's state are plain values, which is all of it for those that come with torch."""
    plain = (int, float, str, bool, type(None))
    return {
        key: value
        for key, value in scheduler.state_dict().items()
        if isinstance(value, plain)
        or (isinstance(value, list) and all(isinstance(item, plain) for item in value))
    }
