"""Shared state: what all members of a training hold in common after a round, beside what is their own.

An optimizer that keeps such a state gives it to its ``Run`` (``run.follow(self)``), which takes it out for
checkpoints and for peers that come late, and puts it in when this peer is the one that is behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

__all__ = ["CommonState", "SharedState"]


@dataclass(frozen=True, slots=True)
class CommonState:
    """A state at one point of a training. Equal, byte for byte, at all members that are up to date."""

    epoch: int
    """The round (or virtual epoch) after which it holds; 0 before the first."""
    tensors: dict[str, torch.Tensor]
    """By name, for example ``anchor.layer.weight`` or ``outer.momentum_buffer.layer.weight``."""
    notes: dict[str, str] = field(default_factory=dict)
    """Small things that are no tensors."""


class SharedState(Protocol):
    """Called in the thread that trains, between two steps."""

    def export_state(self) -> CommonState:
        """The state now. Its tensors are the optimizer's own: copy them before the next step."""
        ...

    def adopt_state(self, epoch: int, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, str]) -> None:
        """Goes on from a state that another member exported: parameters, momentum and round.

        Raises SchemaMismatch when names or shapes are not those of this model and these settings.
        """
        ...
