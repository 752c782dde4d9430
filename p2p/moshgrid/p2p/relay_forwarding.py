"""Passing bytes on between two streams: what a circuit may carry, as fast as the slower side takes it."""

from __future__ import annotations

from collections.abc import Callable

import trio

from moshgrid.p2p.errors import StreamReset
from moshgrid.p2p.network import Stream

__all__ = ["CircuitExhausted", "forward"]

_PIECE = 128 * 1024


class CircuitExhausted(Exception):
    """A circuit has carried all that it may."""


async def forward(
    asker: Stream,
    target: Stream,
    room: Callable[[int], int],
    spend: Callable[[int, int], float],
) -> None:
    """Copies both ways (direction 0 is towards ``target``) until both sides have ended.

    ``room(direction)`` says how many bytes may still pass, ``spend(direction, count)`` takes them, and
    returns for how many seconds they have to wait. An end of one side is passed on, the other goes on.
    Raises CircuitExhausted at the first byte beyond, StreamReset when a side was reset; the caller resets
    both then.
    """
    problems: list[StreamReset | CircuitExhausted] = []

    async def pump(source: Stream, sink: Stream, direction: int) -> None:
        try:
            while data := await source.receive(min(_PIECE, room(direction)) or 1):
                if not room(direction):
                    raise CircuitExhausted
                if (wait := spend(direction, len(data))) > 0:
                    await trio.sleep(wait)
                await sink.send(data)
            await sink.close_write()
        except (StreamReset, CircuitExhausted) as problem:
            problems.append(problem)
            pumps.cancel_scope.cancel()

    async with trio.open_nursery() as pumps:
        pumps.start_soon(pump, asker, target, 0)
        pumps.start_soon(pump, target, asker, 1)
    if problems:
        raise problems[0]
