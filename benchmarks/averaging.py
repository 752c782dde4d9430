"""Averaging speed of moshgrid, hivemind and gloo: the same vectors, the same number of processes, one run.

usage: python benchmarks/averaging.py [--peers 2,4,8] [--megabytes 16,64,256] [--rounds 5]
           [--systems gloo,moshgrid,hivemind] [--codecs none,float16,int8] [--numpy]
           [--hivemind-python PATH] [--json]

Seconds and CPU seconds include matchmaking; memory is a peer's peak over all its processes, the vector
included. gloo neither encrypts nor tolerates a lost member; it is the limit to be measured against, not a
peer. hivemind takes part with ``--hivemind-python`` (an interpreter that has it; its 8-bit codec is
``uniform8``, and needs numpy < 2.4). With ``--numpy`` moshgrid's processes do not load torch. Linux only.
"""

import argparse
import json
import os
import socket
import statistics
import sys
import time

from peer_process import (
    MemoryWatch,
    PeerProcess,
    bytes_sent,
    cpu_seconds,
    end_workers_when_terminated,
)

CODECS = ("float16", "none", "int8")
PATIENCE = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description="averaging beside hivemind and gloo")
    parser.add_argument("--peers", default="4", help="numbers, with commas between")
    parser.add_argument("--megabytes", default="16", help="numbers, with commas between")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--systems", default="gloo,moshgrid,hivemind")
    parser.add_argument("--codecs", default=",".join(CODECS))
    parser.add_argument("--numpy", action="store_true", help="moshgrid without torch")
    parser.add_argument("--hivemind-python", metavar="PATH")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        kind, rank, peers, where = arguments.worker
        system, _, codec = kind.partition(" ")
        worker = {"gloo": gloo_worker, "moshgrid": moshgrid_worker, "hivemind": hivemind_worker}[system]
        elements = round(float(arguments.megabytes) * 1e6 / 4)
        worker(codec, int(rank), int(peers), where, elements, with_torch=not arguments.numpy)
        return
    end_workers_when_terminated()
    kinds = ["gloo"]
    kinds += [f"moshgrid {codec}" for codec in arguments.codecs.split(",") if "moshgrid" in arguments.systems]
    if arguments.hivemind_python and "hivemind" in arguments.systems:
        kinds += [f"hivemind {codec}" for codec in arguments.codecs.split(",")]
    rows = []
    for peers in map(int, arguments.peers.split(",")):
        for megabytes in map(float, arguments.megabytes.split(",")):
            of_this_size = []
            for kind in kinds:
                of_this_size.append(measure(kind, peers, megabytes, arguments))
                print(json.dumps(of_this_size[-1]), file=sys.stderr, flush=True)
            rows += with_ratios(of_this_size)
            if not arguments.json:
                print(as_table(peers, megabytes, rows[-len(kinds) :]), flush=True)
    if arguments.json:
        result = {"benchmark": "averaging", "rounds": arguments.rounds, "numpy": arguments.numpy}
        print(json.dumps({**result, "load": round(os.getloadavg()[0], 1), "rows": rows}, indent=2))


def measure(kind, peers, megabytes, arguments):
    """Starts a system's processes; a first round warms them up, a last one is watched for its memory."""
    python = arguments.hivemind_python if kind.startswith("hivemind") else sys.executable
    environment = dict(os.environ)
    if kind.startswith("hivemind"):
        environment.pop("PYTHONPATH", None)
    command = [python, os.path.abspath(__file__), "--megabytes", str(megabytes)]
    command += ["--numpy"] if arguments.numpy else []
    where = free_port() if kind == "gloo" else "-"
    running = []
    try:
        for rank in range(peers):
            worker = [*command, "--worker", kind, str(rank), str(peers), where]
            running.append(PeerProcess(worker, rank, environment))
            if rank == 0 and kind != "gloo":
                where = running[0].expect()["address"]
        for peer in running:
            peer.expect()
        rounds, failed = [], 0
        while len(rounds) < arguments.rounds + 1:
            one = one_round(running)
            if one["whole"]:
                rounds.append(one)
            elif (failed := failed + 1) > arguments.rounds:
                raise SystemExit(f"{kind}: {failed} rounds failed")
        before = bytes_sent(running)
        with MemoryWatch(running) as memory:
            one_round(running)
        after = bytes_sent(running)
    finally:
        for peer in running:
            peer.end()
    return {
        "system": kind,
        "peers": peers,
        "megabytes": megabytes,
        "seconds": round(statistics.median(one["seconds"] for one in rounds[1:]), 4),
        "cpu_seconds": round(statistics.mean(one["cpu_seconds"] for one in rounds[1:]), 3),
        "megabytes_sent": None if before is None or after is None else round((after - before) / 1e6, 2),
        "peak_megabytes": round(memory.peak / 1e6, 1),
        "failed_rounds": failed,
    }


def one_round(running):
    """All step at once. Seconds of the slowest, CPU seconds of all, and whether all took part."""
    before = cpu_seconds(running)
    for peer in running:
        peer.go()
    told = [peer.expect(PATIENCE) for peer in running]
    return {
        "whole": all(one["whole"] for one in told),
        "seconds": max(one["seconds"] for one in told),
        "cpu_seconds": cpu_seconds(running) - before,
    }


def with_ratios(rows):
    """Each row with its seconds and CPU seconds divided by gloo's and, for the same codec, hivemind's."""
    found = {row["system"]: row for row in rows}
    for row in rows:
        others = {"gloo": found["gloo"]}
        theirs = found.get(row["system"].replace("moshgrid", "hivemind"))
        if theirs is not None and theirs is not row and row is not found["gloo"]:
            others["hivemind"] = theirs
        for name, other in others.items():
            row[f"times_{name}"] = round(row["seconds"] / other["seconds"], 2)
            row[f"cpu_times_{name}"] = round(row["cpu_seconds"] / max(other["cpu_seconds"], 0.01), 2)
    return rows


def as_table(peers, megabytes, rows):
    lines = [f"{peers} processes, {megabytes:g} MB each (load {os.getloadavg()[0]:.1f})"]
    for row in rows:
        lines.append(
            f"  {row['system']:18}{row['seconds']:8.3f} s {row['cpu_seconds']:7.2f} CPU s "
            f"{row['megabytes_sent'] or 0:9.1f} MB sent {row['peak_megabytes']:7.0f} MB a peer   "
            f"× gloo {row['times_gloo']:.1f} (CPU {row['cpu_times_gloo']:.1f})"
            + (f"  × hivemind {row['times_hivemind']:.2f}" if "times_hivemind" in row else "")
            + (f" (CPU {row['cpu_times_hivemind']:.2f})" if "cpu_times_hivemind" in row else "")
        )
    return "\n".join(lines)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


# The workers ----------------------------------------------------------------------------------------


def serve(average) -> None:
    """Averages when told to, and says whether all took part and how long it took."""
    tell(event="ready")
    for _ in sys.stdin:
        began = time.perf_counter()
        whole = average()
        tell(whole=whole, seconds=time.perf_counter() - began)
    os._exit(0)


def tell(**fields) -> None:
    print(json.dumps(fields), flush=True)


def moshgrid_worker(codec, rank, peers, where, elements, *, with_torch):
    import numpy as np

    if with_torch:
        import torch  # noqa: F401  (its kernels are used when it is loaded, as in a training)
    from moshgrid.averaging import Averager
    from moshgrid.p2p import Node

    vector = np.random.default_rng(rank).standard_normal(elements, np.float32)
    node = Node(listen=["/ip4/127.0.0.1/tcp/0"], bootstrap=[where] if rank else [])
    averager = Averager(node, "benchmark", like=[vector], group_size=peers, compression=codec)
    if rank == 0:
        tell(address=node.addrs[0])
    while len(averager.peers) < peers:
        time.sleep(0.01)

    def average():
        report = averager.step([vector])
        if report.committed and len(report.contributors) == peers:
            return True
        print(report, file=sys.stderr)
        return False

    serve(average)


def hivemind_worker(codec, rank, peers, where, elements, *, with_torch):
    import hivemind
    import torch

    torch.set_num_threads(1)
    dht = hivemind.DHT(
        initial_peers=[where] if rank else [],
        host_maddrs=["/ip4/127.0.0.1/tcp/0"],
        use_relay=False,
        start=True,
    )
    codecs = {
        "none": hivemind.compression.NoCompression,
        "float16": hivemind.compression.Float16Compression,
        "int8": hivemind.compression.Uniform8BitQuantization,
    }
    averager = hivemind.DecentralizedAverager(
        [torch.randn(elements)],
        dht,
        prefix="benchmark",
        target_group_size=peers,
        compression=codecs[codec](),
        start=True,
    )
    if rank == 0:
        tell(address=str(dht.get_visible_maddrs()[0]))

    def average():
        try:
            gathered = averager.step(timeout=PATIENCE / 2, allow_retries=False)
        except Exception as error:
            print(repr(error), file=sys.stderr)
            return False
        return bool(gathered) and len(gathered) == peers

    serve(average)


def gloo_worker(_codec, rank, peers, where, elements, *, with_torch):
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{where}", rank=rank, world_size=peers)
    vector = torch.randn(elements)

    def average():
        dist.all_reduce(vector)
        vector.div_(peers)
        return True

    serve(average)


if __name__ == "__main__":
    main()
