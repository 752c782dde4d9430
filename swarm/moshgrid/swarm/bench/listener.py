"""The other process of ``moshgrid bench net``: listens with all systems until its standard input ends.

Started by its path. Prints one JSON line: where it listens, and its process id.
"""

from __future__ import annotations

import json
import os
import sys

import trio

from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_network import open_libp2p_network
from moshgrid.swarm.bench.order import PROTOCOL
from moshgrid.swarm.bench.sockets import listen_raw, listen_tls
from moshgrid.swarm.bench.streams import serve_streams


async def main() -> None:
    """Runs until nobody needs it any more."""
    async with open_libp2p_network(Identity.generate()) as network:
        network.serve(PROTOCOL, serve_streams)
        place = {"addr": network.addrs[0], "ssl": listen_tls(), "raw": listen_raw(), "pid": os.getpid()}
        print(json.dumps(place), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
    os._exit(0)  # the threads of the sockets would wait for ever


if __name__ == "__main__":
    trio.run(main)
