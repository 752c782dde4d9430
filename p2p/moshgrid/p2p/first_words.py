"""Who is the client where both sides may have called: the one that proposes a protocol before it is asked."""

from __future__ import annotations

import socket

import trio

__all__ = ["proposes_first"]

_SECONDS = 0.3
_LOOK_SECONDS = 0.02


async def proposes_first(stream: trio.SocketStream, greeting_bytes: int) -> bool:
    """True when more than a greeting of ``greeting_bytes`` arrives within 0.3 s. Takes nothing away.

    Raises OSError.
    """
    with trio.move_on_after(_SECONDS):
        while True:
            await trio.lowlevel.wait_readable(stream.socket.fileno())
            heard = await stream.socket.recv(greeting_bytes + 1, socket.MSG_PEEK)
            if len(heard) > greeting_bytes or not heard:
                return True
            await trio.sleep(_LOOK_SECONDS)  # what has arrived would be readable at once, again and again
    return False
