"""The hash table's speed: many nodes in one process, over loopback, beside hivemind's DHT in the same run.

usage: python benchmarks/dht.py [--nodes 64] [--operations 200] [--keys 1000] [--hivemind PYTHON] [--json]

``--hivemind`` names the interpreter of a virtual environment that has hivemind; without it ours runs alone.
Both run their nodes in one process and one event loop; hivemind adds one p2pd process for each node.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time

LOOPBACK = "/ip4/127.0.0.1/tcp/0"


def main() -> None:
    parser = argparse.ArgumentParser(description="the DHT beside hivemind's")
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--operations", type=int, default=200)
    parser.add_argument("--keys", type=int, default=1000)
    parser.add_argument("--pause", type=float, default=20, help="seconds in which new nodes look around")
    parser.add_argument("--hivemind", metavar="PYTHON", help="interpreter of hivemind's virtual environment")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        run = hivemind if arguments.worker == "hivemind" else moshgrid
        print(json.dumps(asyncio.run(run(arguments))))
        return
    systems = {"moshgrid": measure(sys.executable, "moshgrid", arguments)}
    if arguments.hivemind:
        systems["hivemind"] = measure(arguments.hivemind, "hivemind", arguments)
    result = {
        "benchmark": "dht",
        "nodes": arguments.nodes,
        "operations": arguments.operations,
        "keys": arguments.keys,
        "systems": systems,
    }
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{arguments.nodes} nodes, median of {arguments.operations} operations one after the other")
    for row, text in ROWS.items():
        cells = [f"{name} {system[row]:8.2f}" for name, system in systems.items() if row in system]
        if len(cells) == 2:
            cells.append(f"ratio {systems['hivemind'][row] / systems['moshgrid'][row]:6.1f}")
        print(f"  {text:44}{'   '.join(cells)}")


ROWS = {
    "get_ms": "get, ms",
    "get_p99_ms": "get, 99th percentile, ms",
    "store_5_ms": "store until 5 copies are acknowledged, ms",
    "store_20_ms": "store until 20 copies are acknowledged, ms",
    "many_seconds": "the keys, dealt out to all nodes, s",
}


def measure(python: str, worker: str, arguments: argparse.Namespace) -> dict[str, float]:
    command = [python, __file__, "--worker", worker, "--nodes", str(arguments.nodes)]
    command += ["--operations", str(arguments.operations), "--keys", str(arguments.keys)]
    command += ["--pause", str(arguments.pause)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


async def timed(times: list[float], operation) -> object:
    began = time.perf_counter()
    result = await operation
    times.append((time.perf_counter() - began) * 1000)
    return result


def summary(gets: list[float], fives: list[float], twenties: list[float], many: float) -> dict[str, float]:
    found = {
        "get_ms": statistics.median(gets),
        "get_p99_ms": sorted(gets)[int(len(gets) * 0.99)],
        "store_5_ms": statistics.median(fives),
        "many_seconds": many,
    }
    if twenties:
        found["store_20_ms"] = statistics.median(twenties)
    return {name: round(value, 3) for name, value in found.items()}


async def moshgrid(arguments: argparse.Namespace) -> dict[str, float]:
    from contextlib import AsyncExitStack

    from moshgrid.dht import AsyncDHT
    from moshgrid.p2p import AsyncNode

    chance = random.Random(0)
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(AsyncNode([LOOPBACK], network="bench"))]
        dhts = [await stack.enter_async_context(AsyncDHT(nodes[0]))]
        for _ in range(arguments.nodes - 1):
            dhts.append(await stack.enter_async_context(AsyncDHT.join(nodes[0].link, listen=[LOOPBACK])))
        await asyncio.sleep(arguments.pause)
        gets: list[float] = []
        fives: list[float] = []
        twenties: list[float] = []
        for number in range(arguments.operations):
            writer, reader = chance.sample(dhts, 2)
            await timed(fives, writer.put(f"five-{number}", number))
            await asyncio.sleep(0.02)  # the rest of the twenty follow in the background
            await timed(twenties, writer.put(f"twenty-{number}", number, acks=20))
            record = await timed(gets, reader.get(f"twenty-{number}"))
            assert record is not None and record.value == number
        began = time.perf_counter()

        async def put(at: int) -> None:
            values = {f"many-{key}": key for key in range(at, arguments.keys, len(dhts))}
            reports = await dhts[at].put_many(values)
            assert all(len(report.stored_at) >= min(5, len(dhts)) for report in reports.values())

        await asyncio.gather(*(put(at) for at in range(min(len(dhts), arguments.keys))))
        many = time.perf_counter() - began
    return summary(gets, fives, twenties, many)


async def hivemind(arguments: argparse.Namespace) -> dict[str, float]:
    from hivemind.dht.node import DHTNode
    from hivemind.utils import get_dht_time

    chance = random.Random(0)
    nodes = [await DHTNode.create(num_replicas=5)]
    for _ in range(arguments.nodes - 1):
        nodes.append(await DHTNode.create(initial_peers=await nodes[0].get_visible_maddrs(), num_replicas=5))
    await asyncio.sleep(arguments.pause)
    gets: list[float] = []
    fives: list[float] = []
    for number in range(arguments.operations):
        writer, reader = chance.sample(nodes, 2)
        await timed(fives, writer.store(f"five-{number}", number, get_dht_time() + 600))
        assert (await timed(gets, reader.get(f"five-{number}", latest=True))).value == number
    began = time.perf_counter()
    at_once = asyncio.Semaphore(32)

    async def put(key: int) -> None:
        async with at_once:
            assert await nodes[key % len(nodes)].store(f"many-{key}", key, get_dht_time() + 600)

    await asyncio.gather(*(put(key) for key in range(arguments.keys)))
    many = time.perf_counter() - began
    await asyncio.gather(*(node.shutdown() for node in nodes))
    return summary(gets, fives, [], many)


if __name__ == "__main__":
    main()
