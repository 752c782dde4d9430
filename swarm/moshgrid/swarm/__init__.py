"""Swarm: what a volunteer runs. ``Run`` averages a torch model; torch is loaded only when it is used."""

from moshgrid.swarm.local_swarm import LocalSwarm
from moshgrid.swarm.run import Run

__all__ = ["LocalSwarm", "Run"]
