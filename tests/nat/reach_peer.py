"""A node that says, one JSON line each, where it is and how it can be reached whenever that changes.

usage: reach_peer.py PORT [BOOTSTRAP…]
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time

from moshgrid.p2p import Node


def main() -> None:
    port, *bootstrap = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(relativeCreated)d %(message)s")
    logging.getLogger("multiaddr").setLevel(logging.WARNING)
    began = time.monotonic()
    with Node(listen=[f"/ip4/0.0.0.0/tcp/{port}"], bootstrap=bootstrap) as node:
        print(json.dumps({"peer_id": node.peer_id, "addrs": node.addrs}), flush=True)
        changed = threading.Event()

        async def listen() -> None:
            node.host.events.add_sink(
                lambda entry: changed.set() if entry["event"] == "reachability" else None
            )

        node.call(listen)
        while True:
            changed.wait()
            changed.clear()
            found = node.reachability
            seconds = round(time.monotonic() - began, 2)
            line = {"verdict": found.verdict, "why": found.why, "seconds": seconds, "addrs": node.addrs}
            print(json.dumps(line), flush=True)


main()
