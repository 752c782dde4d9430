"""A peer of a grid as a process of its own: two rounds at a time, whenever told to.

usage: grid_process.py BOOTSTRAP SEED PEERS GROUP_SIZE; prints JSON lines; a number on stdin is the seed of
the values to average next.
"""

import json
import sys
import threading

import numpy as np

from moshgrid.averaging import Averager
from moshgrid.p2p import Node

ELEMENTS = 1000


def main():
    bootstrap, rank, peers, group_size = sys.argv[1], *map(int, sys.argv[2:])
    vector = np.zeros(ELEMENTS, np.float32)
    with (
        Node(listen=["/ip4/127.0.0.1/tcp/0"], bootstrap=[bootstrap]) as node,
        # Sixteen processes on a busy computer may take longer to begin than a first patience of 3 s.
        Averager(
            node, "grid", like=[vector], group_size=group_size, compression="none", deadline=15
        ) as averager,
    ):
        everybody = threading.Event()
        while len(averager.peers) < peers:
            everybody.wait(0.02)
        print(json.dumps({"ready": node.peer_id}), flush=True)
        for line in sys.stdin:
            vector[:] = np.random.default_rng([int(line), rank]).normal(size=ELEMENTS)
            reports = [averager.step([vector]) for _ in range(2)]
            print(
                json.dumps(
                    {
                        "groups": [list(report.group) for report in reports],
                        "rounds": [report.round for report in reports],
                        "reasons": [report.reason for report in reports],
                        "vector": vector.tolist(),
                    }
                ),
                flush=True,
            )


main()
