"""Whether a relay still answers, asked every two seconds: one that dies without a word is known in five."""

from __future__ import annotations

import secrets

import trio

from moshgrid.p2p.errors import Closed, RemoteProtocolError, StreamReset, Unreachable
from moshgrid.p2p.framing import read_exactly
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.network import Network, Stream

__all__ = ["PULSE_SECONDS", "RelayPulse"]

PULSE_SECONDS = 2.0
"""Between an answer and the next question."""
_PATIENCE_SECONDS = 3.0
_PING = "/ipfs/ping/1.0.0"
_PING_BYTES = 32


class RelayPulse:
    """Pings one relay as libp2p's specification ``ping`` says, on one stream for as long as that lives.

    A relay that does not speak it answers by saying so.
    """

    def __init__(self, network: Network, relay: PeerId) -> None:
        self._network = network
        self._relay = relay
        self._stream: Stream | None = None

    async def beats(self) -> bool:
        """True when something came back within three seconds."""
        answered = False
        try:
            with trio.move_on_after(_PATIENCE_SECONDS):
                await self._ping()
                answered = True
        except (RemoteProtocolError, StreamReset):
            answered = True
        except (Unreachable, Closed):
            answered = False
        finally:
            if not answered:
                await self.close()
        return answered

    async def _ping(self) -> None:
        if self._stream is None:
            self._stream = await self._network.open_stream(self._relay, _PING)
        try:
            await self._stream.send(secrets.token_bytes(_PING_BYTES))
            await read_exactly(self._stream, _PING_BYTES)
        except StreamReset:
            self._stream = None
            raise

    async def close(self) -> None:
        """Asks no more."""
        stream, self._stream = self._stream, None
        if stream is not None:
            with trio.CancelScope(shield=True):
                await stream.reset()
