"""Averaging speed beside gloo's all-reduce: the same vectors, the same number of processes, one run.

usage: python benchmarks/averaging.py [--peers 4] [--megabytes 16] [--rounds 5] [--json]

gloo neither encrypts nor tolerates a lost member; it is the limit to be measured against, not a peer.
"""

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import time

CODECS = ("float16", "none")


def main() -> None:
    parser = argparse.ArgumentParser(description="averaging beside gloo")
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--megabytes", type=float, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        kind, rank, peers, where = arguments.worker
        elements = round(arguments.megabytes * 1e6 / 4)
        worker = gloo_worker if kind == "gloo" else moshgrid_worker
        worker(kind, int(rank), int(peers), where, elements)
        return
    result = {
        "benchmark": "averaging",
        "peers": arguments.peers,
        "megabytes": arguments.megabytes,
        "rounds": arguments.rounds,
        "systems": {},
    }
    for kind in ("gloo", *CODECS):
        name = kind if kind == "gloo" else f"moshgrid {kind}"
        result["systems"][name] = measure(kind, arguments)
    gloo = result["systems"]["gloo"]["seconds"]
    for system in result["systems"].values():
        system["times_gloo"] = round(system["seconds"] / gloo, 2)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(
        f"{arguments.peers} processes, {arguments.megabytes:g} MB each, median of {arguments.rounds} rounds"
    )
    for name, system in result["systems"].items():
        print(
            f"  {name:18}{system['seconds']:8.3f} s  {system['cpu_seconds']:7.2f} CPU s  "
            f"{system['times_gloo']:6.1f} × gloo"
        )


def measure(kind: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Runs all processes of one system; seconds are the slowest member's, median over the rounds."""
    node = None
    if kind == "gloo":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            where = str(probe.getsockname()[1])
    else:
        from moshgrid.dht import DHT
        from moshgrid.p2p import Node

        node = Node(listen=["/ip4/127.0.0.1/tcp/0"])
        DHT(node)
        where = node.addrs[0]
    command = [sys.executable, __file__, "--megabytes", str(arguments.megabytes)]
    command += ["--rounds", str(arguments.rounds), "--worker", kind]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(arguments.peers), where],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(arguments.peers)
    ]
    try:
        for process in processes:
            process.stdout.readline()  # ready
        good, failed = [], 0
        while len(good) < arguments.rounds + 1:
            for process in processes:
                process.stdin.write("go\n")
                process.stdin.flush()
            answers = [json.loads(process.stdout.readline()) for process in processes]
            if all(whole for whole, _, _ in answers):
                good.append((max(answer[1] for answer in answers), sum(answer[2] for answer in answers)))
            elif (failed := failed + 1) > arguments.rounds:
                raise SystemExit(f"{failed} rounds failed")
        seconds, cpu = zip(*good[1:], strict=True)  # the first was a warm-up
    finally:
        for process in processes:
            process.kill()
            process.wait()
        if node is not None:
            node.close()
    return {
        "seconds": round(statistics.median(seconds), 4),
        "cpu_seconds": round(statistics.median(cpu), 3),
        "failed_rounds": failed,
    }


def serve(average) -> None:
    """Averages when told to, and says whether all took part, the seconds and the CPU seconds."""
    print("ready", flush=True)
    for _ in sys.stdin:
        before, began = cpu_seconds(), time.perf_counter()
        whole = average()
        print(json.dumps([whole, time.perf_counter() - began, cpu_seconds() - before]), flush=True)
    os._exit(0)


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def moshgrid_worker(codec: str, rank: int, peers: int, where: str, elements: int) -> None:
    import numpy as np
    import torch  # noqa: F401  (its kernels are used when it is loaded, as in a training)

    from moshgrid.averaging import Averager
    from moshgrid.p2p import Node

    vector = np.random.default_rng(rank).normal(size=elements).astype(np.float32)
    node = Node(listen=["/ip4/127.0.0.1/tcp/0"], bootstrap=[where])
    averager = Averager(node, "benchmark", like=[vector], group_size=peers, compression=codec)
    while len(averager.peers) < peers:
        time.sleep(0.01)

    def average() -> bool:
        report = averager.step([vector])
        if report.committed and len(report.contributors) == peers:
            return True
        print(report, file=sys.stderr)
        return False

    serve(average)


def gloo_worker(_: str, rank: int, peers: int, where: str, elements: int) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{where}", rank=rank, world_size=peers)
    vector = torch.randn(elements)

    def average() -> bool:
        dist.all_reduce(vector)
        vector.div_(peers)
        return True

    serve(average)


if __name__ == "__main__":
    main()
