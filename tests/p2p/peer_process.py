"""A real peer in a process of its own: serves echo and a stream that never answers. Started by path.

Prints its address, then ``connected PEER`` and ``lost PEER`` lines; ends when stdin ends.
"""

from __future__ import annotations

import sys

import trio

from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_network import open_libp2p_network
from moshgrid.p2p.network import Stream


async def echo(stream: Stream) -> None:
    while data := await stream.receive():
        await stream.send(data)


async def say_and_stay(stream: Stream) -> None:
    await stream.send(b"here")
    await trio.sleep_forever()


async def main() -> None:
    async with open_libp2p_network(Identity.generate(), sys.argv[1:] or ["/ip4/127.0.0.1/tcp/0"]) as network:
        network.serve("/test/echo/1", echo)
        network.serve("/test/stay/1", say_and_stay)
        network.on_lost(lambda peer: print("lost", peer, flush=True))
        print(network.addrs[0], flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


trio.run(main)
