"""What codecs do to averages in the long run: errors by what is encoded, and error feedback under churn."""

import numpy as np

from moshgrid.compression import EF14, EF21, EF21M, Codec

PEERS, SIDE = 64, 8
MODES = ("value", "own delta", "reference")
METHODS = ("none", "no feedback", "ef14", "ef21", "ef21m", "ef21m resync")


def round_trip(codec: Codec, values):
    values = np.ascontiguousarray(values, np.float32)
    return codec.decode(codec.encode(values).data, values.size, values.dtype)


def error_after(codec, mode, spread, rounds, elements=8192, seed=0):
    """Errors of 64 peers that average in the rows and columns of an 8 × 8 grid in turn.

    They hold a common state of normal values, each with a deviation of ``spread``. ``value``: values are
    encoded on both ways. ``own delta``: values to the reducer, average − own value back (hivemind's way).
    ``reference``: differences to the common state on both ways. Returns, for each of ``rounds``, the rms
    error to the true mean and the rms disagreement between peers, in units of ``spread``.
    """
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(elements).astype(np.float32)
    held = (common + spread * rng.standard_normal((PEERS, elements))).astype(np.float32)
    mean = held.mean(axis=0, dtype=np.float64)
    base = common if mode == "reference" else np.float32(0)
    found = {}
    for number in range(1, max(rounds) + 1):
        grid = np.arange(PEERS).reshape(SIDE, SIDE)
        for group in grid if number % 2 else grid.T:
            sent = [round_trip(codec, held[peer] - base) for peer in group]
            average = np.mean(sent, axis=0, dtype=np.float64).astype(np.float32)
            if mode == "own delta":
                for peer in group:
                    held[peer] += round_trip(codec, average - held[peer])
            else:
                held[group] = base + round_trip(codec, average)
        if number in rounds:
            error = np.sqrt(np.mean((held - mean) ** 2))
            apart = np.sqrt(np.mean((held - held.mean(axis=0, dtype=np.float64)) ** 2))
            found[number] = (float(error / spread), float(apart / spread))
    return found


def distance_after(method, absent, steps=1500, seed=0):
    """Distance to the optimum, relative to its norm, of ten peers that minimise differing quadratics.

    Each step every peer is absent with probability ``absent``: it neither sends nor hears. The others
    send the tenth of the rows whose mean has the most energy (ARC-Top-K with exact energies).
    """
    rng = np.random.default_rng(seed)
    peers, rows, columns, kept, rate = 10, 40, 5, 4, 0.015
    curvature = rng.uniform(0.5, 2, (peers, rows, columns))
    centre = rng.standard_normal((rows, columns)) + 4 * rng.standard_normal((peers, rows, columns))
    optimum = (curvature * centre).mean(axis=0) / curvature.mean(axis=0)
    size = rows * columns
    make = {"ef14": EF14, "ef21": EF21}.get(method, lambda size: EF21M(size, eta=0.2))
    memories = [make(size) for _ in range(peers)] if method.startswith("ef") else []
    point = np.zeros((rows, columns))
    for step in range(1, steps + 1):
        noise = 0.1 * rng.standard_normal(curvature.shape)
        gradients = (curvature * (point - centre) + noise).reshape(peers, size).astype(np.float32)
        there = np.flatnonzero(rng.random(peers) >= absent)
        outgoing = gradients
        if memories:
            outgoing = np.array([m.outgoing(g) for m, g in zip(memories, gradients, strict=True)])
        if not there.size:
            continue
        mean = outgoing[there].mean(axis=0)
        if method != "none":
            energy = (mean.reshape(rows, columns) ** 2).sum(axis=1)
            dropped = np.argsort(-energy, kind="stable")[kept:]
            outgoing.reshape(peers, rows, columns)[:, dropped] = 0
            mean = outgoing[there].mean(axis=0)
        directions = []
        for peer, memory in enumerate(memories):
            memory.sent(outgoing[peer]) if peer in there else memory.lost()
            directions.append(memory.received(mean))
        if method == "ef21m resync" and step % 20 == 0:
            shared = np.mean([memory.local for memory in memories], axis=0)
            for memory in memories:
                memory.resync(shared)
        point -= rate * (directions[0] if directions else mean).reshape(rows, columns)
    return float(np.linalg.norm(point - optimum) / np.linalg.norm(optimum))
