"""What theory says of grouped averaging, measured: contraction, lost reducers, drift of the mean.

r groups of N peers shrink the variance by ρ = (r − 1)/(N − 1) a round, drawn without replacement; a reducer
lost with probability q leaves its chunk as it was, so ρ + q(1 − ρ) remain (Ryabinin et al., NeurIPS 2021,
theorem 2, for equal groups).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from moshgrid.swarm.sim.grouped import in_groups, peer_names

__all__ = ["LOSSES", "contraction", "drift", "reducer_loss"]

LOSSES = (0.0, 0.01, 0.05, 0.1, 0.2)


def contraction(peers: int, group_size: int, draws: int, seed: int) -> dict[str, Any]:
    """The mean factor of the variance in a round of random groups of equal size."""
    rng = np.random.default_rng(seed)
    groups = -(-peers // group_size)
    averaging = in_groups("random groups", peer_names(peers), group_size, seed)
    alive = np.ones(peers, bool)
    # 64 elements at once: each is a draw of values of its own.
    factors = []
    for _ in range(draws):
        values = rng.normal(size=(peers, 64))
        factors.append(averaging.round(values, alive, rng).var(axis=0).mean() / values.var(axis=0).mean())
    return _law({"peers": peers, "group_size": group_size}, factors, (groups - 1) / (peers - 1))


def reducer_loss(peers: int, group_size: int, loss: float, draws: int, seed: int) -> dict[str, Any]:
    """The same when each reducer is lost with probability ``loss``, and its chunk stays as it was."""
    rng = np.random.default_rng([seed, round(loss * 1e6)])
    groups = -(-peers // group_size)
    averaging = in_groups("random groups", peer_names(peers), group_size, seed)
    alive = np.ones(peers, bool)
    factors = []
    for _ in range(draws):
        # Eight elements in each of the chunks; a member reduces the chunk of its position.
        values = rng.normal(size=(peers, group_size, 8))
        after = values.copy()
        for group in averaging.form(alive):
            kept = np.flatnonzero(rng.random(len(group)) >= loss)
            chunks = np.concatenate([kept, np.arange(len(group), group_size)])
            cells = np.ix_(np.array(group), chunks)
            after[cells] = values[cells].mean(axis=0)
        factors.append(after.var(axis=0).mean() / values.var(axis=0).mean())
    ratio = (groups - 1) / (peers - 1)
    settings = {"peers": peers, "group_size": group_size, "loss": loss}
    return _law(settings, factors, ratio + loss * (1 - ratio))


def drift(
    peers: int, group_size: int, rounds: int, failure: float, restarts: int, seed: int
) -> dict[str, Any]:
    """Peers lost in the middle of a round: their values count in the average, they do not take it.

    That moves the mean of all, in units of the first standard deviation: the root of the mean square over
    the restarts, and the largest. ``spread`` is the standard deviation at the end, ``expected_spread``
    the same if in each round the share ``failure`` kept what it had and the rest shrank by ρ.
    """
    ratio = (-(-peers // group_size) - 1) / (peers - 1)
    drifts, spreads = [], []
    for restart in range(restarts):
        rng = np.random.default_rng([seed, restart])
        values = rng.normal(size=peers)
        mean, spread = values.mean(), values.std()
        averaging = in_groups("sliding", peer_names(peers), group_size, seed * 1009 + restart)
        everybody = np.ones(peers, bool)
        for _ in range(rounds):
            lost = rng.random(peers) < failure
            values = np.where(lost, values, averaging.round(values, everybody, rng))
        drifts.append(abs(values.mean() - mean) / spread)
        spreads.append(values.std() / spread)
    return {
        "peers": peers,
        "group_size": group_size,
        "rounds": rounds,
        "failure": failure,
        "restarts": restarts,
        "drift": float(np.sqrt(np.mean(np.square(drifts)))),
        "largest_drift": float(max(drifts)),
        "spread": float(np.sqrt(np.mean(np.square(spreads)))),
        "expected_spread": float((failure + (1 - failure) * ratio) ** (rounds / 2)),
    }


def _law(settings: dict[str, Any], factors: list[float], expected: float) -> dict[str, Any]:
    measured = float(np.mean(factors))
    return {**settings, "measured": measured, "expected": expected}
