"""``moshgrid node``: a node that others join through. It serves the DHT and takes no part in averaging."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moshgrid.dht import DHT, DHTConfig
from moshgrid.p2p import Node
from moshgrid.p2p.identity import Identity

__all__ = ["serve"]

_LOOK_SECONDS = 0.2
"""A signal that comes just before a wait begins is looked at after it."""


def serve(
    listen: list[str], bootstrap: list[str], identity: Path, network: str, relay: bool, as_json: bool
) -> None:
    """Runs until SIGINT or SIGTERM, then leaves politely; a second signal ends it at once."""
    # Not an Event: a signal may arrive in its wait(), which holds the lock that its set() needs.
    asked: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)

    def leave(number: int, frame: object) -> None:
        asked.append(number)
        for each in signals:
            signal.signal(each, signal.SIG_DFL)

    for each in signals:
        signal.signal(each, leave)
    key = Identity.load_or_create(identity)
    # Beside the key: after a restart the node finds its network even if nobody else's address is known.
    config = DHTConfig(peers_file=f"{identity}.peers")
    with (
        Node(listen=listen, bootstrap=bootstrap, identity=key, network=network, relay=relay) as node,
        DHT(node, config),
    ):
        link = node.link
        if as_json:
            addrs = list(node.addrs)
            print(json.dumps({"peer_id": node.peer_id, "addrs": addrs, "link": link}), flush=True)
        else:
            print(f"  peer id     {node.peer_id}   (kept in {identity}: keep this file)")
            for addr in node.addrs:
                print(f"  listening   {addr}")
            if relay:
                print("  relaying    for peers that cannot be reached; this port must be open to the world")
            print(f"  share this: {link}", flush=True)
            node.call(_follow, node)
        while not asked:
            time.sleep(_LOOK_SECONDS)


async def _follow(node: Node) -> None:
    """Prints how others can reach this node, now and whenever that changes."""

    def changed(event: Mapping[str, Any]) -> None:
        if event["event"] == "reachability":
            print(f"  from outside {event['verdict']}: {event['why']}", flush=True)
            if event["improve"]:
                print(f"               {event['improve']}", flush=True)

    node.host.events.add_sink(changed)
