"""Training together beside hivemind: the same model, data, peers and batch, one system after the other.

usage: python benchmarks/training.py [--peers 6] [--epochs 8] [--hivemind-python PYTHON] [--json]

Each peer is a process that accumulates gradients until the swarm has seen the target batch, and then steps
with the others; hivemind 1.1.12 needs a virtual environment of its own (``pip install hivemind torch``),
whose python is given. Both have Adam, float16 gradients, uncompressed parameters once per epoch, and at most
3 s to find a group. Then once more, with two peers killed (SIGKILL) in the middle.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time

BATCH = 32
FEATURES, WIDTH, CLASSES = 32, 256, 10
MATCHMAKING, TIMEOUT = 3.0, 15.0
KILLED = 2
PATIENCE = 200.0


def main() -> None:
    parser = argparse.ArgumentParser(description="training together, beside hivemind")
    parser.add_argument("--peers", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--target-batch", type=int, default=8192)
    parser.add_argument("--hivemind-python", metavar="PYTHON", help="of its virtual environment")
    parser.add_argument("--faults", default="none,kill", help="of none, kill")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", nargs=3, metavar=("SYSTEM", "NUMBER", "WHERE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        system, number, where = arguments.worker
        worker(system, int(number), where, arguments)
        return
    systems = {"moshgrid": sys.executable}
    if arguments.hivemind_python:
        systems["hivemind"] = arguments.hivemind_python
    rows = []
    for fault in arguments.faults.split(","):
        for system, python in systems.items():
            rows.append(measure(system, python, fault, arguments))
            print(json.dumps(rows[-1]), file=sys.stderr)
    result = {
        "benchmark": "training",
        "peers": arguments.peers,
        "epochs": arguments.epochs,
        "target_batch": arguments.target_batch,
        "load": round(os.getloadavg()[0], 1),
        "rows": rows,
        "ratios": ratios(rows),
    }
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{arguments.peers} peers, {arguments.epochs} epochs of {arguments.target_batch} samples")
    for row in rows:
        print(
            f"  {row['system']:10}{row['fault']:6}{row['samples_per_second']:10.0f} samples/s"
            f"{row['seconds_per_sync']:8.2f} s per synchronisation (longest {row['longest_sync']:.2f} s)   "
            f"loss {row['loss']:.4f}   {row['finished']} of {row['survivors']} finished"
        )
    for fault, ratio in result["ratios"].items():
        print(f"  {fault}: {ratio['samples_per_second']:.2f} × hivemind's samples/s")


def ratios(rows: list[dict]) -> dict[str, dict[str, float]]:
    """moshgrid ÷ hivemind, for each fault that both were measured with."""
    found = {(row["system"], row["fault"]): row for row in rows}
    answer = {}
    for fault in dict.fromkeys(row["fault"] for row in rows):
        ours, theirs = found.get(("moshgrid", fault)), found.get(("hivemind", fault))
        if ours and theirs and theirs["finished"]:
            keys = ("samples_per_second", "seconds_per_sync", "loss")
            answer[fault] = {key: round(ours[key] / theirs[key], 4) for key in keys}
    return answer


def measure(system: str, python: str, fault: str, arguments: argparse.Namespace) -> dict:
    """One training: starts the peers, kills two if need be, and gathers what the others say."""
    command = [python, os.path.abspath(__file__), "--epochs", str(arguments.epochs)]
    command += ["--peers", str(arguments.peers), "--target-batch", str(arguments.target_batch), "--worker"]
    environment = dict(os.environ)
    if system == "hivemind":
        environment.pop("PYTHONPATH", None)

    def start(number: int, where: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*command, system, str(number), where], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL, env=environment, start_new_session=True,
        )  # fmt: skip

    first = start(0, "-")
    processes = [first]
    try:
        where = json.loads(first.stdout.readline())["where"]
        processes += [start(number, where) for number in range(1, arguments.peers)]
        for process in processes[1:]:
            process.stdout.readline()
        for process in processes:
            with contextlib.suppress(BrokenPipeError):  # it could not start: it will not have finished
                process.stdin.write("begin\n")
                process.stdin.flush()
        killed: list[subprocess.Popen] = []
        if fault == "kill":
            for line in first.stdout:
                if json.loads(line).get("epoch", 0) >= arguments.epochs // 2:
                    break
            killed = processes[-KILLED:]
            for process in killed:
                os.killpg(process.pid, signal.SIGKILL)
        survivors = [process for process in processes if process not in killed]
        results = [result for process in survivors if (result := result_of(process)) is not None]
    finally:
        for process in processes:  # and what they started: hivemind's peers are several processes each
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    syncs = [seconds for result in results for seconds in result["syncs"]]
    wall = max((result["seconds"] for result in results), default=PATIENCE)
    return {
        "system": system,
        "fault": fault,
        "survivors": len(survivors),
        "finished": len(results),
        "samples_per_second": round(arguments.epochs * arguments.target_batch / wall, 2),
        "seconds": round(wall, 3),
        "seconds_per_sync": round(statistics.mean(syncs), 4) if syncs else PATIENCE,
        "longest_sync": round(max(syncs, default=PATIENCE), 4),
        "loss": round(statistics.mean(r["loss"] for r in results), 6) if results else 1e9,
    }


def result_of(process: subprocess.Popen) -> dict | None:
    """The last line of a peer; None when it does not come."""
    until = time.monotonic() + PATIENCE
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError()))
    signal.alarm(max(1, round(until - time.monotonic())))
    try:
        for line in process.stdout:
            said = json.loads(line)
            if "loss" in said:
                return said
    except (TimeoutError, ValueError):
        pass
    finally:
        signal.alarm(0)
    return None


def worker(system: str, number: int, where: str, arguments: argparse.Namespace) -> None:
    """One peer."""
    import torch
    from torch import nn
    from torch.nn import functional

    torch.set_num_threads(1)
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(FEATURES, 64), nn.Tanh(), nn.Linear(64, CLASSES))
    model = nn.Sequential(
        nn.Linear(FEATURES, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES)
    )

    def batch(size: int, chance: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(size, FEATURES, generator=chance)
        with torch.no_grad():
            return x, (3 * teacher(x)).argmax(dim=1)

    build = build_moshgrid if system == "moshgrid" else build_hivemind
    address, optimizer, epoch_of, close = build(model, where, arguments)
    print(json.dumps({"where": address}), flush=True)
    sys.stdin.readline()
    chance = torch.Generator().manual_seed(100 + number)
    started, syncs = time.monotonic(), []
    epoch = epoch_of()
    while epoch < arguments.epochs:
        x, y = batch(BATCH, chance)
        functional.cross_entropy(model(x), y).backward()
        before = time.monotonic()
        optimizer.step()
        optimizer.zero_grad()
        if epoch_of() != epoch:
            epoch = epoch_of()
            syncs.append(time.monotonic() - before)
            print(json.dumps({"epoch": epoch}), flush=True)
    seconds = time.monotonic() - started
    with torch.no_grad():
        x, y = batch(4096, torch.Generator().manual_seed(1))
        loss = functional.cross_entropy(model(x), y).item()
    print(json.dumps({"loss": loss, "seconds": seconds, "syncs": syncs}), flush=True)
    sys.stdin.readline()  # others may still need this peer
    close()


def build_moshgrid(model, where, arguments):
    """A run and its ``Optimizer``."""
    import torch

    from moshgrid.p2p import Node
    from moshgrid.swarm import Optimizer, Run

    bootstrap = [] if where == "-" else [where]
    node = Node(listen=["/ip4/127.0.0.1/tcp/0"], bootstrap=bootstrap, network="benchmark")
    run = Run(node, "benchmark", model, progress=False)
    optimizer = Optimizer(
        run,
        torch.optim.Adam(model.parameters(), 1e-3),
        target_batch_size=arguments.target_batch,
        batch_size_per_step=BATCH,
        matchmaking_time=MATCHMAKING,
        averaging_timeout=TIMEOUT,
    )
    return node.addrs[0], optimizer, lambda: optimizer.epoch, run.close


def build_hivemind(model, where, arguments):
    """hivemind's ``Optimizer`` with the same settings."""
    import hivemind
    import torch

    initial = [] if where == "-" else [where]
    dht = hivemind.DHT(
        initial_peers=initial, host_maddrs=["/ip4/127.0.0.1/tcp/0"], start=True, use_auto_relay=False
    )
    optimizer = hivemind.Optimizer(
        dht=dht,
        run_id="benchmark",
        params=list(model.parameters()),
        optimizer=lambda parameters: torch.optim.Adam(parameters, 1e-3),
        target_batch_size=arguments.target_batch,
        batch_size_per_step=BATCH,
        matchmaking_time=MATCHMAKING,
        averaging_timeout=TIMEOUT,
        grad_compression=hivemind.compression.Float16Compression(),
        verbose=False,
    )

    def close() -> None:
        optimizer.shutdown()
        dht.shutdown()

    return str(dht.get_visible_maddrs()[0]), optimizer, lambda: optimizer.local_epoch, close


if __name__ == "__main__":
    main()
