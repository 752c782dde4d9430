"""WebSockets as bytes below everything else: ends, clean or not, replies, cancellation, backpressure."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from wire_pipe import PipeEnd, pipe

from moshgrid.p2p.libp2p_raw_bytes import ChannelBroken, RawBytes, raw_bytes_of
from moshgrid.p2p.libp2p_websocket import accept_websocket, call_websocket
from moshgrid.p2p.testing import run_virtual

PING = b"\x89\x80\0\0\0\0"


async def connected(ends: tuple[PipeEnd, PipeEnd]) -> list[RawBytes]:
    """The caller's bytes and the other side's."""
    opened: list = [None, None]

    async def call() -> None:
        opened[0] = raw_bytes_of(await call_websocket(ends[0], "a.example:80"))

    async def accept() -> None:
        opened[1] = raw_bytes_of(await accept_websocket(ends[1]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        nursery.start_soon(accept)
    return opened


async def read(raw: RawBytes, size: int = 65536) -> bytes:
    """The next bytes, ``b""`` at the end."""
    buffer = memoryview(bytearray(size))
    while True:
        await raw.wait()
        if (count := raw.read_into(buffer)) is not None:
            return bytes(buffer[:count])


def test_a_close_is_a_clean_end_for_the_other_side():
    async def scenario() -> None:
        for closer in (0, 1):
            ends = await connected(pipe())
            await ends[closer].send(b"last words")
            await ends[closer].close()
            assert await read(ends[1 - closer], 4) == b"last"
            assert await read(ends[1 - closer]) == b" words"
            assert await read(ends[1 - closer]) == b""
            with pytest.raises(ChannelBroken, match="closed the WebSocket"):
                await ends[1 - closer].send(b"too late")
            await ends[1 - closer].close()
            await ends[closer].close()

    run_virtual(scenario)


def test_a_cut_is_none():
    async def scenario() -> None:
        wires = pipe()
        ends = await connected(wires)
        await ends[0].send(b"half of it")
        await wires[0].close()
        assert await read(ends[1]) == b"half of it"
        with pytest.raises(ChannelBroken, match="cut short"):
            await read(ends[1])
        await ends[1].close()

    run_virtual(scenario)


def test_a_fault_is_named_and_the_other_side_is_told():
    async def scenario() -> None:
        wires = pipe()
        ends = await connected(wires)
        await wires[0].write(b"\x81\x82\0\0\0\0hi")
        with pytest.raises(ChannelBroken, match="the peer sent text"):
            await read(ends[1])
        await ends[1].close()
        assert (await wires[0].read(100))[:4] == b"\x88\x02\x03\xeb"  # closed: unsupported data

    run_virtual(scenario)


def test_a_ping_is_answered_by_who_waits_and_never_inside_a_message():
    async def scenario() -> None:
        wires = pipe()
        _, called = await connected(wires)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, called)
            await trio.testing.wait_all_tasks_blocked()
            await wires[0].write(PING)
            assert await wires[0].read(100) == b"\x8a\x00"
            nursery.cancel_scope.cancel()
        with trio.move_on_after(1.0):
            await wires[0].write(PING)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, called)
                await called.send(b"x" * 1000)
                nursery.cancel_scope.cancel()
        assert await wires[0].read(5000) in (
            b"\x8a\x00\x82\x7e\x03\xe8" + b"x" * 1000,
            b"\x82\x7e\x03\xe8" + b"x" * 1000 + b"\x8a\x00",
            b"\x82\x7e\x03\xe8" + b"x" * 1000,
        )

    run_virtual(scenario)


def test_who_waits_may_be_cancelled_and_loses_nothing():
    async def scenario() -> None:
        caller, called = await connected(pipe())
        for _ in range(50):
            with trio.move_on_after(0.1):
                await read(called)
            await caller.send(b"word")
            assert await read(called) == b"word"

    run_virtual(scenario)


def test_no_more_is_read_than_is_asked_for_about():
    async def scenario() -> None:
        wires = pipe()
        caller, called = await connected(wires)
        await caller.send(bytes(200_000))
        await called.wait()
        assert called.read_into(memoryview(bytearray(1))) == 1
        assert len(wires[1].incoming.buffer) > 100_000  # the pipe's reads are of 64 KiB; the rest waits

    run_virtual(scenario)


def test_closing_does_not_wait_for_a_sender_that_is_stuck():
    async def scenario() -> None:
        wires = pipe()
        _, called = await connected(wires)

        async def never(data: bytes) -> None:
            await trio.sleep_forever()

        wires[1].write = never
        async with trio.open_nursery() as nursery:
            nursery.start_soon(called.send, b"x")
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(0.5):
                await called.close()
            nursery.cancel_scope.cancel()

    run_virtual(scenario)
