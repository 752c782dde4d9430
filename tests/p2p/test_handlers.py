"""Whatever a stream handler does wrong stays with its stream: over both networks."""

from __future__ import annotations

import logging

import pytest
import trio
from echoing import ECHO, echo

from moshgrid.p2p.errors import Closed, RemoteProtocolError, StreamReset, Unreachable
from moshgrid.p2p.network import Stream

BAD = "/test/bad/1"


class OfItsOwn(Exception):
    """What no library knows of."""


async def in_a_task(stream: Stream) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        raise OfItsOwn


async def too_slow(stream: Stream) -> None:
    with trio.fail_after(0.01):
        await trio.sleep_forever()


def raising(error: Exception):
    async def handler(stream: Stream) -> None:
        raise error

    return handler


BUGS = {
    "an error of its own": raising(OfItsOwn()),
    "a wrong key": raising(KeyError("x")),
    "an assertion": raising(AssertionError()),
    "the operating system": raising(OSError(28, "No space left on device")),
    "memory": raising(MemoryError()),
    "recursion": raising(RecursionError()),
    "a generator's end": raising(StopAsyncIteration()),
    "a broken resource": raising(trio.BrokenResourceError()),
    "a group": raising(ExceptionGroup("several", [OfItsOwn(), ValueError()])),
    "in a task of its own": in_a_task,
    "its own deadline": too_slow,
}
RULES = {"a peer that broke the rules": raising(RemoteProtocolError("12D3", "sent nonsense"))}
NO_EVENTS = {
    "a stream that was lost": raising(StreamReset("12D3")),
    "the end of a layer": raising(Closed("closed")),
}


@pytest.mark.parametrize(
    ("handler", "level"),
    [
        *((handler, logging.ERROR) for handler in BUGS.values()),
        *((handler, logging.WARNING) for handler in RULES.values()),
        *((handler, None) for handler in NO_EVENTS.values()),
    ],
    ids=[*BUGS, *RULES, *NO_EVENTS],
)
def test_a_failure_is_logged_once_with_the_peer_and_resets_one_stream(world, caplog, handler, level):
    names: list[str] = []

    async def scenario(mesh):
        a, b = await mesh.pair()
        names.append(a.peer_id)
        b.serve(ECHO, echo)
        b.serve(BAD, handler)
        lost: list[str] = []
        for network in (a, b):
            network.on_lost(lost.append)
        healthy = await a.open_stream(b.peer_id, ECHO)
        with pytest.raises(Unreachable):  # while it opens, or when it is used
            stream = await a.open_stream(b.peer_id, BAD)
            assert await stream.receive()
        await healthy.send(b"still here")
        assert await healthy.receive() == b"still here"
        assert lost == []

    with caplog.at_level(logging.WARNING, "moshgrid.p2p"):
        world.run(scenario)
    records = [record for record in caplog.records if record.name.startswith("moshgrid")]
    assert [record.levelno for record in records] == ([level] if level else [])
    assert all(names[0] in record.getMessage() and BAD in record.getMessage() for record in records)


def test_a_hundred_failures_at_once_leave_a_hundred_good_streams_alone(world, caplog):
    async def scenario(mesh):
        a, b = await mesh.pair()
        b.serve(ECHO, echo)
        b.serve(BAD, in_a_task)

        async def bad() -> None:
            with pytest.raises(Unreachable):
                stream = await a.open_stream(b.peer_id, BAD)
                assert await stream.receive()

        async def good() -> None:
            stream = await a.open_stream(b.peer_id, ECHO)
            for _ in range(5):
                await stream.send(b"hello")
                assert await stream.receive() == b"hello"
            await stream.close()

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(bad)
                nursery.start_soon(good)

    with caplog.at_level(logging.CRITICAL, "moshgrid.p2p"):
        world.run(scenario)
