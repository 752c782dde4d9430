"""The hash table's speed over loopback, beside hivemind's DHT in the same run.

usage: python benchmarks/dht.py [--nodes 64] [--operations 100] [--keys 1000] [--watch-nodes 16]
                                [--processes 16] [--hivemind-python PYTHON] [--json]

Most rows have all nodes in one process and one event loop, ours and hivemind's, which adds one p2pd
process for each node. ``--hivemind-python`` (or HIVEMIND_PYTHON) names the interpreter of a virtual
environment with hivemind 1.1.12 (python3 -m venv VENV; VENV/bin/pip install torch hivemind==1.1.12
'setuptools<81'); without it ours runs alone. Python's garbage collector runs in both, but passes over what
was there before measuring began (gc.freeze, which any program may call): the objects of 64 nodes, of which a
computer usually has one. The cpu rows hold on a busy machine too.
"""

import argparse
import asyncio
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

LOOPBACK = "/ip4/127.0.0.1/tcp/0"

ROWS = {
    "get_ms": "get, ms",
    "get_p99_ms": "get, 99th percentile, ms",
    "get_cpu_ms": "get, CPU ms of all nodes",
    "store_5_ms": "store until 5 copies are acknowledged, ms",
    "store_20_ms": "store until 20 copies are acknowledged, ms",
    "store_20_cpu_ms": "store of 20 copies, CPU ms of all nodes (hivemind: 5 copies)",
    "many_seconds": "the keys, dealt out to all nodes, s",
    "many_cpu_seconds": "the keys, CPU s of all nodes",
    "watch_ms": "put until a watcher in another node hears, ms",
    "processes_get_ms": "in processes: get, ms",
    "processes_store_5_ms": "in processes: store until 5 copies, ms",
    "processes_watch_ms": "in processes: put until a watcher hears, ms",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="the DHT beside hivemind's")
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--operations", type=int, default=100)
    parser.add_argument("--keys", type=int, default=1000)
    parser.add_argument("--watch-nodes", type=int, default=16)
    parser.add_argument("--processes", type=int, default=16, help="0 leaves these rows out")
    parser.add_argument("--pause", type=float, default=20, help="seconds in which new nodes look around")
    parser.add_argument(
        "--hivemind-python", metavar="PYTHON", default=os.environ.get("HIVEMIND_PYTHON"),
        help="interpreter of a virtual environment with hivemind",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(asyncio.run(WORKERS[arguments.worker](arguments))), flush=True)
        os._exit(0)  # saying goodbye on thousands of connections is not measured
    ours = measure(sys.executable, "moshgrid") | measure(sys.executable, "watch")
    if arguments.processes:
        ours |= measure(sys.executable, "processes")
    systems = {"moshgrid": ours}
    if arguments.hivemind_python:
        systems["hivemind"] = measure(arguments.hivemind_python, "hivemind")
    result = {
        "benchmark": "dht",
        "nodes": arguments.nodes,
        "operations": arguments.operations,
        "keys": arguments.keys,
        "watch_nodes": arguments.watch_nodes,
        "processes": arguments.processes,
        "systems": systems,
    }
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{arguments.nodes} nodes in one process, medians of {arguments.operations} one after the other;")
    print(f"{arguments.keys} keys; watching among {arguments.watch_nodes}; {arguments.processes} processes")
    for row, text in ROWS.items():
        cells = [f"{name} {system[row]:9.2f}" for name, system in systems.items() if row in system]
        if len(cells) == 2:
            cells.append(f"ratio {systems['hivemind'][row] / systems['moshgrid'][row]:6.1f}")
        if cells:
            print(f"  {text:62}{'   '.join(cells)}")


def measure(python: str, worker: str) -> dict[str, float]:
    command = [python, __file__, "--worker", worker, *sys.argv[1:]]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def note(text: str) -> None:
    """Says on standard error how far it is."""
    print(
        f"{time.perf_counter():8.1f} s, CPU {time.process_time():7.1f} s: {text}", file=sys.stderr, flush=True
    )


async def timed(times: list[float], operation) -> object:
    began = time.perf_counter()
    result = await operation
    times.append((time.perf_counter() - began) * 1000)
    return result


def cpu_seconds() -> float:
    """Of this process and its children, p2pd among them."""
    ticks, own = 0, str(os.getpid())
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[1] == own:
            ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def rounded(found: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in found.items()}


def percentile(times: list[float], share: float) -> float:
    return sorted(times)[int(len(times) * share)]


async def open_nodes(stack: AsyncExitStack, count: int) -> list:
    from moshgrid.dht import AsyncDHT
    from moshgrid.p2p import AsyncNode

    first = await stack.enter_async_context(AsyncNode([LOOPBACK], network="bench"))
    dhts = [await stack.enter_async_context(AsyncDHT(first))]
    for _ in range(count - 1):
        join = AsyncDHT.join(first.link, listen=[LOOPBACK], timeout=120)
        dhts.append(await stack.enter_async_context(join))
    return dhts


async def put_all(dhts: list, keys: int, name: str) -> None:
    async def put(at: int) -> None:
        reports = await dhts[at].put_many({f"{name}-{key}": key for key in range(at, keys, len(dhts))})
        assert all(len(report.stored_at) >= min(5, len(dhts)) for report in reports.values())

    await asyncio.gather(*(put(at) for at in range(min(len(dhts), keys))))


async def moshgrid(arguments: argparse.Namespace) -> dict[str, float]:
    chance = random.Random(0)
    stack = AsyncExitStack()
    dhts = await open_nodes(stack, arguments.nodes)
    note(f"{arguments.nodes} nodes have joined")
    await asyncio.sleep(arguments.pause)
    note("meeting")
    for at in range(len(dhts)):  # everybody meets the storers that it will have: connections are kept
        await dhts[at].put_many({f"warm-{at}-{key}": key for key in range(6)}, acks=20)
    await asyncio.sleep(arguments.pause / 4)
    gc.collect()
    gc.freeze()
    note("measuring")
    gets: list[float] = []
    fives: list[float] = []
    twenties: list[float] = []
    for number in range(arguments.operations):
        await timed(fives, chance.choice(dhts).put(f"five-{number}", number))
        await asyncio.sleep(0.05)  # the rest of the twenty follow in the background
    began = cpu_seconds()
    for number in range(arguments.operations):
        await timed(twenties, chance.choice(dhts).put(f"twenty-{number}", number, acks=20))
    twenty_cpu = (cpu_seconds() - began) * 1000 / arguments.operations
    began = cpu_seconds()
    for number in range(arguments.operations):
        record = await timed(gets, chance.choice(dhts).get(f"twenty-{number}"))
        assert record is not None and record.value == number
    get_cpu = (cpu_seconds() - began) * 1000 / arguments.operations
    note("many keys")
    started, began = time.perf_counter(), cpu_seconds()
    await put_all(dhts, arguments.keys, "many")
    return rounded(
        {
            "many_seconds": time.perf_counter() - started,
            "many_cpu_seconds": cpu_seconds() - began,
            "get_ms": statistics.median(gets),
            "get_p99_ms": percentile(gets, 0.99),
            "get_cpu_ms": get_cpu,
            "store_5_ms": statistics.median(fives),
            "store_20_ms": statistics.median(twenties),
            "store_20_cpu_ms": twenty_cpu,
        }
    )


async def watch(arguments: argparse.Namespace) -> dict[str, float]:
    times: list[float] = []
    dhts = await open_nodes(AsyncExitStack(), arguments.watch_nodes)
    changes = await dhts[-1].watch("watched")
    await dhts[0].put("watched", -1)
    await anext(changes)
    for number in range(arguments.operations):
        began = time.perf_counter()
        put = asyncio.create_task(dhts[number % (len(dhts) - 1)].put("watched", number))
        while (await anext(changes)).value != number:
            pass
        times.append((time.perf_counter() - began) * 1000)
        await put
        await asyncio.sleep(0.03)
    return rounded({"watch_ms": statistics.median(times)})


async def processes(arguments: argparse.Namespace) -> dict[str, float]:
    import tempfile

    sys.path.insert(0, str(Path(__file__).parent.parent / "tests/support"))
    from dht_peer import PeerProcess, kill_all

    chance = random.Random(0)
    gets, fives, watched = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        peers = [PeerProcess(LOOPBACK, f"{folder}/0")]
        try:
            for number in range(1, arguments.processes):
                peers.append(PeerProcess(LOOPBACK, f"{folder}/{number}", peers[0].link))
                assert peers[-1].link
            await asyncio.sleep(arguments.pause / 2)
            peers[-1].ask("watch", "watched")
            for number in range(arguments.operations):
                writer, reader = chance.sample(peers[:-1], 2)
                writer.tell("put", f"five-{number}", number, 5)
                fives.append(writer.answer()["ms"])
                reader.tell("get", f"five-{number}")
                gets.append(reader.answer()["ms"])
                began = time.time()
                writer.tell("put", "watched", number, 5)
                watched.append((peers[-1].hears(number)["at"] - began) * 1000)
                writer.answer()
        finally:
            kill_all(peers)
    return rounded(
        {
            "processes_get_ms": statistics.median(gets),
            "processes_store_5_ms": statistics.median(fives),
            "processes_watch_ms": statistics.median(watched),
        }
    )


async def hivemind(arguments: argparse.Namespace) -> dict[str, float]:
    from hivemind.dht.node import DHTNode
    from hivemind.utils import get_dht_time

    chance = random.Random(0)
    nodes = [await DHTNode.create(num_replicas=5)]
    for _ in range(arguments.nodes - 1):
        nodes.append(await DHTNode.create(initial_peers=await nodes[0].get_visible_maddrs(), num_replicas=5))
    await asyncio.sleep(arguments.pause)
    gc.collect()
    gc.freeze()
    gets: list[float] = []
    fives: list[float] = []
    began = cpu_seconds()
    for number in range(arguments.operations):
        await timed(fives, chance.choice(nodes).store(f"five-{number}", number, get_dht_time() + 600))
    five_cpu = (cpu_seconds() - began) * 1000 / arguments.operations
    began = cpu_seconds()
    for number in range(arguments.operations):
        found = await timed(gets, chance.choice(nodes).get(f"five-{number}"))
        assert found.value == number
    get_cpu = (cpu_seconds() - began) * 1000 / arguments.operations
    started, began = time.perf_counter(), cpu_seconds()
    at_once = asyncio.Semaphore(32)

    async def put(key: int) -> None:
        async with at_once:
            assert await nodes[key % len(nodes)].store(f"many-{key}", key, get_dht_time() + 600)

    await asyncio.gather(*(put(key) for key in range(arguments.keys)))
    found = {
        "many_seconds": time.perf_counter() - started,
        "many_cpu_seconds": cpu_seconds() - began,
        "get_ms": statistics.median(gets),
        "get_p99_ms": percentile(gets, 0.99),
        "get_cpu_ms": get_cpu,
        "store_5_ms": statistics.median(fives),
        "store_20_cpu_ms": five_cpu,
    }
    await asyncio.gather(*(node.shutdown() for node in nodes))
    return rounded(found)


WORKERS = {"moshgrid": moshgrid, "watch": watch, "processes": processes, "hivemind": hivemind}

if __name__ == "__main__":
    main()
