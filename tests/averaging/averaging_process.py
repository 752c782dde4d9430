"""A peer as a process of its own: averages once when told to, and holds still in a round if asked to.

usage: averaging_process.py BOOTSTRAP SEED HOLD_AT; prints JSON lines; ``step`` on stdin starts a round.
At the event HOLD_AT its loop stands still for good; with ``stop:EVENT`` the process stops until SIGCONT.
"""

import json
import signal
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
    stop_at = hold_at.partition("stop:")[2]
    arrays = [np.random.default_rng(seed).normal(size=5000).astype(np.float32)]
    with (
        Node(listen=["/ip4/127.0.0.1/tcp/0"], bootstrap=[bootstrap]) as node,
        Averager(node, "processes", like=arrays, group_size=4, compression="none") as averager,
    ):

        def hold(entry):
            nonlocal stop_at
            if entry["event"] == "applied":
                tell(event="applied", round=entry["round"], digest=entry["digest"])
            if entry["event"] == stop_at:
                stop_at = ""
                tell(event="holding")
                signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # before this thread goes on
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
