"""Our yamux against py-libp2p's own, over an in-memory pipe: several streams at once, both ways."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Sequence

import pytest
import trio
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamEOF, MuxedStreamReset
from libp2p.stream_muxer.yamux.yamux import Yamux
from memory_channel import MemoryChannel, channel_pair

from moshgrid.p2p.errors import StreamReset
from moshgrid.p2p.testing import run_virtual
from moshgrid.p2p.yamux_driver import YamuxDriver
from moshgrid.p2p.yamux_duplex import YamuxDuplex
from moshgrid.p2p.yamux_session import SessionOver

SIZES = [1, 64, 65507, 300_000, 1_500_000, 3_000_000]


class StockPipe:
    """What stock yamux needs of a secured connection."""

    def __init__(self, channel: MemoryChannel, is_initiator: bool) -> None:
        self._channel = channel
        self.is_initiator = is_initiator
        self.close = channel.close

    async def read(self, n: int) -> bytes:
        return await self._channel.into.receive(n)

    async def write(self, data: bytes | Sequence[bytes]) -> None:
        await self._channel.send_all([data])


def data_of(number: int) -> bytes:
    return random.Random(number).randbytes(SIZES[number % len(SIZES)])


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


async def stock_echo(stream) -> None:
    try:
        while True:
            await stream.write(await stream.read(100_000))
    except MuxedStreamEOF:
        await stream.close()
    except MuxedStreamReset:
        pass


async def our_echo(stream: YamuxDuplex) -> None:
    try:
        while data := await stream.receive(100_000):
            await stream.send(data)
        await stream.close()
    except StreamReset:
        pass


async def ask_stock(mux: Yamux, number: int, done: list[int]) -> None:
    stream, data, back = await mux.open_stream(), data_of(number), bytearray()
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            await stream.write(data)
            await stream.close()

        nursery.start_soon(send)
        try:
            while True:
                back += await stream.read(65536)
        except MuxedStreamEOF:
            pass
    assert digest(back) == digest(data)
    done.append(number)


async def ask_ours(driver: YamuxDriver, number: int, done: list[int]) -> None:
    stream, data, back = YamuxDuplex(driver, driver.open()), data_of(number), bytearray()
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            await stream.send(data)
            await stream.close_write()

        nursery.start_soon(send)
        while piece := await stream.receive():
            back += piece
    assert digest(back) == digest(data)
    done.append(number)


@pytest.mark.parametrize("we_dial", [True, False])
@pytest.mark.parametrize("latency", [0.0, 0.03])
def test_streams_both_ways_with_stock_yamux(we_dial, latency):
    async def scenario():
        near, far = channel_pair(latency)
        driver = YamuxDriver(
            "12D3KooWstock",
            near,
            near.close,
            initiator=we_dial,
            failures=(trio.BrokenResourceError,),
            on_over=lambda: None,
        )
        mux = Yamux(StockPipe(far, not we_dial), ID(b"peer"), is_initiator=not we_dial)
        done: list[int] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.run)
            nursery.start_soon(mux.start)
            await mux.event_started.wait()

            async def serve_ours() -> None:
                with contextlib.suppress(SessionOver):
                    while True:
                        nursery.start_soon(our_echo, YamuxDuplex(driver, await driver.accept()))

            async def serve_stock() -> None:
                with contextlib.suppress(MuxedConnUnavailable):
                    while True:
                        nursery.start_soon(stock_echo, await mux.accept_stream())

            nursery.start_soon(serve_ours)
            nursery.start_soon(serve_stock)
            async with trio.open_nursery() as asking:
                for number in range(6):
                    asking.start_soon(ask_ours, driver, number, done)
                    asking.start_soon(ask_stock, mux, number, done)
            assert sorted(done) == sorted([*range(6), *range(6)])
            assert driver.session.over is None
            assert driver.session.pulse.rtt is not None

            # Resets, both ways.
            ours = YamuxDuplex(driver, driver.open())
            await ours.send(b"x")
            assert await ours.receive() == b"x"
            await ours.reset()
            theirs = await mux.open_stream()
            await theirs.write(b"x")
            assert await theirs.read(1) == b"x"
            await theirs.reset()
            await ask_ours(driver, 1, done)
            await trio.sleep(100.0)  # keep-alive is answered
            assert driver.session.over is None

            # And the end of the stock side is an error for what is open.
            last = YamuxDuplex(driver, driver.open())
            await last.send(b"x")
            assert await last.receive() == b"x"
            nursery.start_soon(mux.close)
            with pytest.raises(StreamReset):
                await last.receive()
            await driver.finished.wait()
            nursery.cancel_scope.cancel()

    run_virtual(scenario)
