"""Swarm: what a volunteer runs. A ``Run`` is a training; ``DiLoCo`` and ``Optimizer`` step a model in it.

``LocalSwarm`` is many peers in one process.

Names are loaded when they are first used, so that the ``moshgrid`` command starts at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moshgrid.swarm.diloco import DiLoCo
    from moshgrid.swarm.local_swarm import LocalSwarm
    from moshgrid.swarm.optimizer import Optimizer
    from moshgrid.swarm.run import Run

__all__ = ["DiLoCo", "LocalSwarm", "Optimizer", "Run"]

_HOMES = {"DiLoCo": "diloco", "LocalSwarm": "local_swarm", "Optimizer": "optimizer", "Run": "run"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"moshgrid.swarm.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
