"""How long peers that know each other take to become a group: from the last ``step`` call to the manifest.

usage: python benchmarks/matchmaking.py [--rounds 10] [--group-size 8] [--peers 8,4] [--pause 0.5] [--json]

Every peer is a process on loopback. With as many peers as a group holds the group closes when it is full;
with fewer it closes when nobody else is known to be coming. Rounds before the first one timed are warm-up.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

WARM_UP = 2


def main() -> None:
    parser = argparse.ArgumentParser(description="from the last step call to the manifest")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--peers", default="8,4", help="numbers of peers, with commas between")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between rounds")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker[0], int(arguments.worker[1]), arguments.group_size)
        return
    counts = [int(count) for count in arguments.peers.split(",")]
    result = {
        "benchmark": "matchmaking",
        "group_size": arguments.group_size,
        "rounds": arguments.rounds,
        "rows": [measure(count, arguments) for count in counts],
    }
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    for row in result["rows"]:
        print(
            f"{row['peers']} peers, groups of {arguments.group_size}: {row['seconds']:.3f} s to the manifest,"
            f" {row['seconds_last']:.3f} s until the last has it (medians of {arguments.rounds}); "
            f"most {row['seconds_most']:.3f} s; {row['whole_groups']} of {arguments.rounds} groups whole"
        )


def measure(peers: int, arguments: argparse.Namespace) -> dict[str, float]:
    from moshgrid.dht import DHT
    from moshgrid.p2p import Node

    command = [sys.executable, __file__, "--group-size", str(arguments.group_size)]
    with Node(listen=["/ip4/127.0.0.1/tcp/0"]) as node, DHT(node):
        processes = [
            subprocess.Popen(
                [*command, "--worker", node.addrs[0], str(peers)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(peers)
        ]
        try:
            for process in processes:
                process.stdout.readline()  # ready
            rounds = []
            for _ in range(arguments.rounds + WARM_UP):
                time.sleep(arguments.pause)
                for process in processes:
                    process.stdin.write("go\n")
                    process.stdin.flush()
                rounds.append([json.loads(process.stdout.readline()) for process in processes])
        finally:
            for process in processes:
                process.kill()
                process.wait()
    first, last, whole = [], [], 0
    for told in rounds[WARM_UP:]:
        called = max(one["called"] for one in told)
        whole += all(one["group"] == peers for one in told)
        manifests = [one["manifest"] - called for one in told if one["manifest"]]
        if manifests:
            first.append(min(manifests))
            last.append(max(manifests))
    return {
        "peers": peers,
        "seconds": round(statistics.median(first), 4),
        "seconds_last": round(statistics.median(last), 4),
        "seconds_most": round(max(last), 4),
        "whole_groups": whole,
    }


def worker(where: str, peers: int, group_size: int) -> None:
    import numpy as np

    from moshgrid.averaging import Averager
    from moshgrid.p2p import Node

    vector = np.random.default_rng(os.getpid()).normal(size=1000).astype(np.float32)
    node = Node(listen=["/ip4/127.0.0.1/tcp/0"], bootstrap=[where])
    averager = Averager(node, "benchmark", like=[vector], group_size=group_size)
    manifests = []

    def note(entry: dict) -> None:
        if entry["event"] == "manifest":
            manifests.append(time.perf_counter())

    averager.add_event_sink(note)
    while len(averager.peers) < peers:
        time.sleep(0.01)
    print("ready", flush=True)
    for _ in sys.stdin:
        manifests.clear()
        called = time.perf_counter()  # CLOCK_MONOTONIC: the same clock in all processes
        report = averager.step([vector])
        manifest = manifests[0] if manifests else None
        print(json.dumps({"called": called, "manifest": manifest, "group": len(report.group)}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
