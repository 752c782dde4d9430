"""Our own streams under measurement: encrypted, authenticated, multiplexed."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack

import trio

from moshgrid.p2p.errors import StreamReset
from moshgrid.p2p.framing import read_exactly
from moshgrid.p2p.identity import Identity, PeerId
from moshgrid.p2p.libp2p_network import open_libp2p_network
from moshgrid.p2p.network import Network, Stream
from moshgrid.swarm.bench.order import (
    BOTH,
    CHUNK_BYTES,
    ECHO,
    ORDER_BYTES,
    PROTOCOL,
    REQUEST_BYTES,
    SINK,
    Order,
)

__all__ = ["PING", "Streams", "serve_streams"]

PING = "/ipfs/ping/1.0.0"
_PING_BYTES = 32


class Streams:
    """The dialling end; ``addr`` is a full multiaddr."""

    def __init__(self, addr: str) -> None:
        self._addr = addr
        self._peer = PeerId(addr.rpartition("/p2p/")[2])

    async def transfer(self, size: int, both: bool) -> float:
        """Seconds for ``size`` bytes in each direction that is used."""
        async with open_libp2p_network(Identity.generate(), []) as network:
            stream = await self._open(network, PROTOCOL)
            began = time.perf_counter()
            await stream.send(Order(BOTH if both else SINK, size).pack())
            if both:
                await _both_ways(stream, size)
            else:
                await _send(stream, size)
            await read_exactly(stream, 1)
            return time.perf_counter() - began

    async def requests(self, count: int, protocol: str = PROTOCOL) -> list[float]:
        """Seconds that each of ``count`` small requests took; with ``PING`` any libp2p peer answers."""
        async with open_libp2p_network(Identity.generate(), []) as network:
            stream = await self._open(network, protocol)
            request = bytes(_PING_BYTES if protocol == PING else REQUEST_BYTES)
            if protocol == PROTOCOL:
                await stream.send(Order(ECHO).pack())
            times = []
            for _ in range(count):
                began = time.perf_counter()
                await stream.send(request)
                await read_exactly(stream, len(request))
                times.append(time.perf_counter() - began)
            return times

    async def set_ups(self, count: int, protocol: str = PROTOCOL) -> list[float]:
        """Seconds from nothing to a first answer, ``count`` times, each as a new peer."""
        times = []
        for _ in range(count):
            async with open_libp2p_network(Identity.generate(), []) as network:
                began = time.perf_counter()
                stream = await self._open(network, protocol)
                request = bytes(_PING_BYTES) if protocol == PING else Order(ECHO).pack() + b"x"
                await stream.send(request)
                await read_exactly(stream, _PING_BYTES if protocol == PING else 1)
                times.append(time.perf_counter() - began)
        return times

    async def hold(self, count: int, meanwhile: trio.Event, held: trio.Event) -> None:
        """Keeps ``count`` idle connections from when ``held`` is set until ``meanwhile`` is."""
        async with AsyncExitStack() as stack:
            for _ in range(count):
                network = await stack.enter_async_context(open_libp2p_network(Identity.generate(), []))
                await network.dial(self._addr)
            held.set()
            await meanwhile.wait()

    async def _open(self, network: Network, protocol: str) -> Stream:
        await network.dial(self._addr)
        return await network.open_stream(self._peer, protocol)


async def serve_streams(stream: Stream) -> None:
    """Does what an order at the beginning of the stream says."""
    order = Order.unpack(await read_exactly(stream, ORDER_BYTES))
    if order.kind == ECHO:
        while data := await stream.receive():
            await stream.send(data)
    else:
        if order.kind == BOTH:
            await _both_ways(stream, order.size)
        else:
            await _receive(stream, order.size)
        await stream.send(b"!")


async def _both_ways(stream: Stream, size: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send, stream, size)
        await _receive(stream, size)


async def _send(stream: Stream, size: int) -> None:
    data = memoryview(bytes(CHUNK_BYTES))
    for start in range(0, size, CHUNK_BYTES):
        await stream.send(data[: min(CHUNK_BYTES, size - start)])


async def _receive(stream: Stream, size: int) -> None:
    buffer, left = memoryview(bytearray(CHUNK_BYTES)), size
    while left:
        count = await stream.receive_into(buffer[: min(left, CHUNK_BYTES)])
        if not count:
            raise StreamReset(stream.peer, [(stream.protocol, "it ended early")])
        left -= count
