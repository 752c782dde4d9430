"""A volunteer's node: started by path with whom to join through, prints what it says of how others reach it.

One JSON line for each verdict: {"verdict", "why", "improve", "cpu_seconds"}. Ends when stdin ends.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from moshgrid.p2p import Node


def main() -> None:
    def hear(event: Mapping[str, Any]) -> None:
        if event["event"] == "reachability":
            said = {key: event[key] for key in ("verdict", "why", "improve")}
            print(json.dumps({**said, "cpu_seconds": round(time.process_time(), 2)}), flush=True)

    with Node(listen=["/ip4/0.0.0.0/tcp/0"], bootstrap=sys.argv[1:]) as node:
        node.host.events.add_sink(hear)
        sys.stdin.read()


if __name__ == "__main__":
    main()
