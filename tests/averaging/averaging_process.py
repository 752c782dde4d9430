"""A peer as a process of its own: averages once when told to, and holds still in a round if asked to.

usage: averaging_process.py BOOTSTRAP SEED HOLD_AT; prints JSON lines; ``step`` on stdin starts a round.
"""

import json
import sys
import threading

import numpy as np

from moshgrid.averaging import Averager
from moshgrid.p2p import Node


def tell(**fields):
    sys.stdout.write(json.dumps(fields) + "\n")  # one write, not print's two: other threads speak too
    sys.stdout.flush()


def main():
    bootstrap, seed, hold_at = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    arrays = [np.random.default_rng(seed).normal(size=5000).astype(np.float32)]
    with (
        Node(listen=["/ip4/127.0.0.1/tcp/0"], bootstrap=[bootstrap]) as node,
        Averager(node, "processes", like=arrays, group_size=4, compression="none") as averager,
    ):

        def hold(entry):
            if entry["event"] == hold_at:
                tell(event="holding")
                threading.Event().wait()  # in the loop's thread: nothing of this process moves any more

        averager.add_event_sink(hold)
        tell(event="ready", peer=node.peer_id)
        for line in sys.stdin:
            if line.strip() != "step":
                break
            report = averager.step(arrays)
            tell(event="report", report=report.to_dict(), sum=float(arrays[0].sum()), text=str(report))


main()
