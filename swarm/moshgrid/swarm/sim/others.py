"""What grouped averaging is compared with: all-reduce, gossip on a ring, push-sum, a parameter server.

Each is the plain form from the literature; who is not alive in a round neither sends nor receives.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["AllReduce", "GossipRing", "ParameterServer", "PushSum"]

Values = NDArray[np.float64]
Alive = NDArray[np.bool_]


class AllReduce:
    """One group of all, begun anew whenever somebody is missing: nothing is kept of a broken attempt."""

    def round(self, values: Values, alive: Alive, rng: np.random.Generator) -> Values:
        """The mean at everybody, or nothing."""
        return np.full_like(values, values.mean()) if alive.all() else values


class ParameterServer:
    """A server takes what the living send and returns its mean; it fails as often as anybody."""

    def __init__(self, failure: float) -> None:
        self._failure = failure

    def round(self, values: Values, alive: Alive, rng: np.random.Generator) -> Values:
        """The mean of the living at the living, unless the server is down."""
        if rng.random() < self._failure or not alive.any():
            return values
        return np.where(alive, values[alive].mean(), values)


class GossipRing:
    """Everybody takes the mean of itself and its two neighbours (Xiao & Boyd, 2004, equal weights)."""

    def round(self, values: Values, alive: Alive, rng: np.random.Generator) -> Values:
        """A link counts when both its ends are alive; what a link lacks stays at its ends."""
        link = alive & np.roll(alive, -1)  # from i to i + 1
        flow = np.where(link, (np.roll(values, -1) - values) / 3, 0.0)
        return values + flow - np.roll(flow, 1)


class PushSum:
    """Everybody sends half of its sum and weight to somebody at random (Kempe et al., FOCS 2003)."""

    def __init__(self, values: Values) -> None:
        self._sums = values.copy()
        self._weights = np.ones_like(values)

    def round(self, values: Values, alive: Alive, rng: np.random.Generator) -> Values:
        """The estimates: sums over weights."""
        senders = np.flatnonzero(alive)
        targets = rng.integers(len(values), size=len(senders))
        reached = alive[targets]
        senders, targets = senders[reached], targets[reached]
        for amounts in (self._sums, self._weights):
            half = amounts[senders] / 2
            amounts[senders] -= half
            np.add.at(amounts, targets, half)
        return self._sums / self._weights
