"""What the members of a run agree on beforehand."""

from __future__ import annotations

from dataclasses import dataclass

from moshgrid.averaging.schema import Schema
from moshgrid.averaging.topology import Topology

__all__ = ["RunConfig"]


@dataclass(frozen=True)
class RunConfig:
    """What the members of a run agree on beforehand."""

    run_id: str
    schema: Schema
    topology: Topology
    group_size: int
    min_group_size: int
    codec: str
    reducer: str = "mean"
    deadline: float | None = None
    """Seconds that a step may look for a group in all; None adapts."""
