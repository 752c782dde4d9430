"""Echo: a peer that sends back what it gets, and a check that all of it comes back."""

from __future__ import annotations

import hashlib
import os

import trio

from moshgrid.p2p.network import Network, Stream

__all__ = ["ECHO", "check_echo", "echo"]

ECHO = "/test/echo/1"


async def echo(stream: Stream) -> None:
    """Serves ``ECHO``."""
    while data := await stream.receive():
        await stream.send(data)


async def check_echo(network: Network, peer: str, size: int) -> None:
    """Sends ``size`` random bytes to ``peer``, which serves ``ECHO``, and hears the same."""
    stream = await network.open_stream(peer, ECHO)
    data, heard, left = os.urandom(size), hashlib.sha256(), size
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send, data)
        while left:
            piece = await stream.receive()
            assert piece, "the echo ended early"
            heard.update(piece)
            left -= len(piece)
    await stream.close()
    assert heard.digest() == hashlib.sha256(data).digest()
