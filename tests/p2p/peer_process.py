"""A real peer in a process of its own: echo, a stream that never answers, one that fails. Started by path.

Prints its addresses, then ``lost PEER`` lines; ends when stdin ends. With ``--strict SECONDS`` as first
arguments it gives loopback no privileges, and handshakes and half-sent requests so many seconds.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import trio

from moshgrid.p2p.connection_limits import ConnectionLimits
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_network import open_libp2p_network
from moshgrid.p2p.network import Stream
from moshgrid.p2p.requests import Requests, Service


async def echo(stream: Stream) -> None:
    while data := await stream.receive():
        await stream.send(data)


async def say_and_stay(stream: Stream) -> None:
    await stream.send(b"here")
    await trio.sleep_forever()


async def fail(stream: Stream) -> NoReturn:
    raise ZeroDivisionError("a handler with a bug")


async def double(peer: str, number: int) -> int:
    return 2 * number


async def main() -> None:
    arguments, limits, seconds = sys.argv[1:], None, 10.0
    if arguments[:1] == ["--strict"]:
        seconds = float(arguments[1])
        limits = ConnectionLimits(
            exempt=(), handshake_seconds=seconds, negotiation_seconds=seconds, orphan_seconds=seconds
        )
        arguments = arguments[2:]
    listen = arguments or ["/ip4/127.0.0.1/tcp/0"]
    async with (
        open_libp2p_network(Identity.generate(), listen, limits=limits) as network,
        trio.open_nursery() as nursery,
    ):
        Requests(network, nursery).serve(
            Service("/test/double/1", int, int, max_query=1024, read_seconds=seconds), double
        )
        network.serve("/test/echo/1", echo)
        network.serve("/test/stay/1", say_and_stay)
        network.serve("/test/fail/1", fail)
        network.on_lost(lambda peer: print("lost", peer, flush=True))
        print(*network.addrs, flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


trio.run(main)
