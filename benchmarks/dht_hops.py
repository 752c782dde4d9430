"""Hops and questions of a lookup by network size, with the production lookup in a simulation.

usage: python benchmarks/dht_hops.py [--sizes 100 1000 10000] [--lookups 200] [--png FILE] [--json]
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests/support"))

from dht_simulation import World, run_world

from moshgrid.dht.asking import closer_of
from moshgrid.dht.wire import Answer, FindNode
from moshgrid.p2p.identity import PeerId


def main() -> None:
    parser = argparse.ArgumentParser(description="hops and questions of a lookup")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--lookups", type=int, default=200)
    parser.add_argument("--png", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = [measure(size, arguments.lookups) for size in arguments.sizes]
    if arguments.png:
        draw(rows, arguments.png)
    if arguments.json:
        print(json.dumps({"benchmark": "dht-hops", "lookups": arguments.lookups, "sizes": rows}, indent=2))
        return
    print(f"{'nodes':>8}{'hops':>8}{'at most':>9}{'questions':>11}{'at most':>9}")
    for row in rows:
        print(
            f"{row['nodes']:8}{row['hops']:8.2f}{row['most_hops']:9}{row['questions']:11.1f}"
            f"{row['most_questions']:9}"
        )


def measure(size: int, lookups: int) -> dict[str, float]:
    (hops, questions), _ = run_world(lambda world: look_up(world, size, lookups), seed=size)
    return {
        "nodes": size,
        "hops": round(statistics.mean(hops), 3),
        "most_hops": max(hops),
        "questions": round(statistics.mean(questions), 2),
        "most_questions": max(questions),
    }


async def look_up(world: World, size: int, lookups: int) -> tuple[list[int], list[int]]:
    """For each lookup how many peers in turn had to be asked to reach the nearest, and how many at all."""
    peers = world.add_many(size)
    world.settle()
    hops, questions = [], []
    hop: dict[PeerId, int] = {}

    def answered(asker: PeerId, peer: PeerId, query: object, answer: Answer | None) -> None:
        if isinstance(query, FindNode):
            for named in closer_of(answer) if answer is not None else []:
                hop.setdefault(named, hop.get(peer, 1) + 1)

    world.listener = answered
    for _ in range(lookups):
        hop.clear()
        before = world.asked
        done = await world.node(world.rng.choice(peers))._asker.find_closest(world.rng.getrandbits(256))
        hops.append(hop.get(done.closest[0], 1))
        questions.append(world.asked - before)
    return hops, questions


def draw(rows: list[dict[str, float]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for axis, name in zip(axes, ("hops", "questions"), strict=True):
        sizes = [row["nodes"] for row in rows]
        axis.plot(sizes, [row[name] for row in rows], "o-", label="mean")
        axis.plot(sizes, [row[f"most_{name}"] for row in rows], "o:", label="most")
        axis.set(xscale="log", xlabel="nodes", ylabel=f"{name} of a lookup", ylim=(0, None))
        axis.legend()
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
