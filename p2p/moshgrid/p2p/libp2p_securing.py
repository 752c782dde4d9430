"""What both handshakes share: a deadline, exact reads, one kind of error, and the check of who answered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from libp2p.peer.id import ID
from libp2p.security.exceptions import HandshakeFailure

from moshgrid.p2p.errors import MoshgridError
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.libp2p_raw_bytes import ChannelBroken, RawBytes
from moshgrid.p2p.secure_channel import RecordError

__all__ = [
    "HANDSHAKE_SECONDS",
    "HandshakeRefused",
    "PeerMismatch",
    "RawReader",
    "check_peer",
    "handshake_bounds",
]

HANDSHAKE_SECONDS = 10.0


class HandshakeRefused(MoshgridError, HandshakeFailure):
    """A connection was not secured and is closed; the text says why."""


class PeerMismatch(HandshakeRefused):
    """Somebody else answered than the peer that was called."""


@asynccontextmanager
async def handshake_bounds(raw: RawBytes) -> AsyncIterator[None]:
    """Gives the block 10 s; whatever goes wrong in it closes the connection and is HandshakeRefused."""
    done = False
    try:
        with trio.fail_after(HANDSHAKE_SECONDS):
            yield
        done = True
    except trio.TooSlowError as error:
        raise HandshakeRefused(f"no handshake within {HANDSHAKE_SECONDS:g} s") from error
    except ChannelBroken as error:
        raise HandshakeRefused(f"the handshake broke off: {error}") from error
    except RecordError as error:
        raise HandshakeRefused(f"the handshake failed: the peer {error}") from error
    finally:
        if not done:
            with trio.CancelScope(shield=True):
                await raw.close()


def check_peer(expected: ID | None, found: PeerId) -> None:
    """Raises PeerMismatch when ``found`` is not whom we called."""
    if expected is not None and expected.to_base58() != found:
        raise PeerMismatch(f"peer id mismatch: called {expected.to_base58()}, and {found} answered")


class RawReader:
    """Reads exactly what is asked for and nothing beyond: the rest belongs to the session."""

    def __init__(self, raw: RawBytes) -> None:
        self._raw = raw

    async def exactly(self, size: int) -> bytes:
        """``size`` bytes. Raises ChannelBroken when the connection ends before."""
        data = memoryview(bytearray(size))
        filled = 0
        while filled < size:
            await self._raw.wait()
            got = self._raw.read_into(data[filled:])
            if got == 0:
                raise ChannelBroken("the peer ended the connection")
            filled += got or 0
        return bytes(data)
