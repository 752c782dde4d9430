"""The experiment of Moshpit SGD, §4.1: rounds until the peers' values agree, while peers miss rounds.

Values are drawn from N(0, 1); in every round each peer is missing with probability p; the error is the
population variance over all peers (Ryabinin et al., NeurIPS 2021).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from moshgrid.swarm.sim.grouped import Alive, Values, in_groups, peer_names
from moshgrid.swarm.sim.others import AllReduce, GossipRing, ParameterServer, PushSum

__all__ = ["GROUPED", "METHODS", "TARGETS", "Outcome", "converge", "summary"]

GROUPED = ("grid", "sliding", "random grid", "random groups")
METHODS = (*GROUPED, "all-reduce", "parameter server", "push-sum", "gossip ring")
TARGETS = (1e-4, 1e-9)


class _Method(Protocol):
    def round(self, values: Values, alive: Alive, rng: np.random.Generator) -> Values: ...


@dataclass(frozen=True)
class Outcome:
    """One restart."""

    errors: tuple[float, ...]
    """The variance before the first round and after each."""
    drift: float
    """How far the mean of all peers moved, in standard deviations of the start."""

    def rounds_to(self, target: float, most: int) -> int:
        """Rounds until the variance is below ``target``; ``most`` when it never is."""
        return next((t for t, error in enumerate(self.errors) if error < target), most)


def converge(
    method: str, peers: int, group_size: int, rounds: int, failure: float, restarts: int, seed: int
) -> Iterator[Outcome]:
    """One outcome for each restart. A restart ends early when everybody agrees."""
    names = peer_names(peers)
    for restart in range(restarts):
        rng = np.random.default_rng([seed, restart, peers])
        values = rng.normal(size=peers)
        mean, spread = values.mean(), values.std()
        averaging = _make(method, names, group_size, failure, values, seed * 100_003 + restart)
        errors = [float(values.var())]
        while len(errors) <= rounds and errors[-1] >= TARGETS[-1]:
            alive = rng.random(peers) >= failure
            values = averaging.round(values, alive, rng)
            errors.append(float(values.var()))
        yield Outcome(tuple(errors), float(abs(values.mean() - mean) / spread))


def summary(outcomes: list[Outcome], rounds: int) -> dict[str, Any]:
    """Mean rounds to each target, and the mean error after each round."""
    longest = max(len(outcome.errors) for outcome in outcomes)
    curve = [float(np.mean([o.errors[min(t, len(o.errors) - 1)] for o in outcomes])) for t in range(longest)]
    return {
        "rounds_to_1e-4": float(np.mean([o.rounds_to(1e-4, rounds) for o in outcomes])),
        "rounds_to_1e-9": float(np.mean([o.rounds_to(1e-9, rounds) for o in outcomes])),
        "reached": sum(o.errors[-1] < TARGETS[-1] for o in outcomes),
        "curve": curve,
    }


def _make(method: str, names: Any, group_size: int, failure: float, values: Values, seed: int) -> _Method:
    match method:
        case "all-reduce":
            return AllReduce()
        case "parameter server":
            return ParameterServer(failure)
        case "gossip ring":
            return GossipRing()
        case "push-sum":
            return PushSum(values)
    return in_groups(method, names, group_size, seed)
