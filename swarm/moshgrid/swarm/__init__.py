"""Swarm: what a volunteer runs. ``Run`` averages a torch model; ``LocalSwarm`` is many peers in one process.

Names are loaded when they are first used, so that the ``moshgrid`` command starts at once.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moshgrid.swarm.local_swarm import LocalSwarm
    from moshgrid.swarm.run import Run

__all__ = ["LocalSwarm", "Run"]


def __getattr__(name: str) -> Any:
    if name == "Run":
        from moshgrid.swarm.run import Run

        return Run
    if name == "LocalSwarm":
        from moshgrid.swarm.local_swarm import LocalSwarm

        return LocalSwarm
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
