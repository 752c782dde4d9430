"""A member of a run as a process: trains a little, averages, prints a JSON line for each round.

usage: member_process.py BOOTSTRAP IDENTITY_FILE SEED [SECONDS], which are those between two rounds. A line on
stdin: ``finish`` goes on without training, ``end`` leaves.
"""

import hashlib
import json
import os
import sys
import threading
import time

import numpy as np

from moshgrid.averaging import Averager
from moshgrid.p2p import Node
from moshgrid.swarm.leaving import leave_on_sigterm


def tell(**fields):
    # one write, not print's two: other threads speak too
    sys.stdout.write(json.dumps({"t": time.time(), **fields}) + "\n")
    sys.stdout.flush()


def resident():
    """Bytes of memory in use."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main():
    bootstrap, identity, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
    pause = float(sys.argv[4]) if len(sys.argv) > 4 else 0.1
    size = 20_000
    target = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    rng = np.random.default_rng(seed)
    values = [np.full(size, 3.0, np.float32)]
    orders = {"finish": threading.Event(), "end": threading.Event()}

    def follow():
        for line in sys.stdin:
            if line.strip() in orders:
                orders[line.strip()].set()
        os._exit(1)  # the test is gone

    threading.Thread(target=follow, daemon=True).start()
    with Node(
        listen=["/ip4/127.0.0.1/tcp/0"], bootstrap=[bootstrap] if bootstrap else [], identity=identity
    ) as node:
        averager = Averager(node, "members", like=values, group_size=16, compression="float16")
        leave_on_sigterm(averager)
        averager.add_event_sink(
            lambda entry: entry["event"] == "late_message" and tell(event="late", sender=entry["sender"])
        )
        tell(event="ready", peer=node.peer_id, addr=node.addrs[0])
        began = time.monotonic()
        snapshot = averager.fetch_state()
        if snapshot is not None:
            values[0][:] = snapshot.arrays[0]
        tell(
            event="synced",
            round=snapshot.round if snapshot else 0,
            seconds=time.monotonic() - began,
            behind=averager.is_behind,
        )
        while not orders["end"].is_set():
            if not orders["finish"].is_set():
                for _ in range(4):
                    gradient = values[0] - target + rng.standard_normal(size).astype(np.float32)
                    values[0] -= 0.005 * gradient
                orders["end"].wait(pause)
            report = averager.step(values)
            tell(
                event="round",
                round=report.round,
                committed=report.committed,
                reason=report.reason,
                group=list(report.group),
                counted=report.contributors.get(node.peer_id, 0.0),
                dropped=report.dropped,
                seconds=report.seconds_matching + report.seconds_reducing,
                loss=float(np.mean((values[0] - target) ** 2)),
                values=hashlib.blake2s(values[0].tobytes()).hexdigest(),
                finishing=orders["finish"].is_set(),
                resident=resident(),
            )
        averager.close()
    tell(event="left")


main()
