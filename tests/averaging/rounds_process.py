"""A peer as a process of its own that averages many times over, and tells what ever went wrong.

usage: rounds_process.py BOOTSTRAP RANK PEERS ROUNDS; prints a JSON line when it has met all others, begins
at a line on stdin, and prints another at the end.
"""

import json
import sys
import threading
from collections import Counter

import numpy as np

from moshgrid.averaging import Averager
from moshgrid.p2p import Node

ELEMENTS = 1000


def main():
    bootstrap, rank, peers, rounds = sys.argv[1], *map(int, sys.argv[2:])
    vector = np.zeros(ELEMENTS, np.float32)
    events, wrong = Counter(), []
    with (
        Node(listen=["/ip4/127.0.0.1/tcp/0"], bootstrap=[bootstrap]) as node,
        Averager(node, "many", like=[vector], group_size=peers, compression="none", deadline=15) as averager,
    ):
        averager.add_event_sink(lambda entry: events.update([entry["event"]]))
        everybody = threading.Event()
        while len(averager.peers) < peers:
            everybody.wait(0.02)
        print(json.dumps({"ready": node.peer_id}), flush=True)
        sys.stdin.readline()
        for number in range(rounds):
            vector[:] = 4 * number + rank
            report = averager.step([vector])
            expected = 4 * number + (peers - 1) / 2
            if report.dropped or report.completeness < 1 or len(report.group) < peers:
                wrong.append(str(report))
            elif not (vector == expected).all():
                wrong.append(f"round {number}: {vector[0]} in the place of {expected}")
        print(json.dumps({"events": events, "wrong": wrong}), flush=True)
        sys.stdin.readline()  # nobody leaves while others average


main()
