"""A ``Stream`` over a yamux stream, with honest ends: only the peer's own end is a clean one."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from moshgrid.p2p.errors import LocalProtocolError, StreamReset
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.network import Buffer
from moshgrid.p2p.yamux_driver import Waiters, YamuxDriver
from moshgrid.p2p.yamux_stream import StreamState

__all__ = ["YamuxDuplex"]

_COPIED = 64 * 1024
"""Up to here a copy costs less than waiting until the sender's memory is free again."""
_AHEAD = 256 * 1024
_TURN = 512 * 1024
"""Bytes that a task moves, or 64 calls, before the others get their turn."""


class YamuxDuplex:
    """Awaits what its session decides. ``protocol`` is set once it was negotiated."""

    def __init__(self, driver: YamuxDriver, state: StreamState) -> None:
        self.state = state
        self.protocol = ""
        self._driver = driver
        self._session = driver.session
        self._unrested = 0

    @property
    def peer(self) -> PeerId:
        """The authenticated peer at the other end."""
        return self._driver.peer

    async def send(self, data: Buffer | Sequence[Buffer]) -> None:
        """Sends all of ``data``, from where it is; only what is little is copied, when it has to wait."""
        await self._take_turn()
        chunks = [data] if isinstance(data, (bytes, bytearray, memoryview)) else data
        views = [chunk if isinstance(chunk, bytes) else memoryview(chunk).cast("B") for chunk in chunks]
        total = sum(map(len, views))
        state = self.state
        self._check_sending()
        self._unrested += total
        if total <= _COPIED and state.queued + total <= _AHEAD and self._driver.waits:
            self._session.send(state, [b"".join(views)])
            self._driver.spread()
            return
        self._session.send(state, views)
        self._driver.spread()
        self._check_alive()
        if not (state.queued or state.in_flight):
            return
        self._unrested = 0
        try:
            while state.queued or state.in_flight:
                await self._waiters.writer.wait()
                self._check_alive()
        finally:
            state.withdraw(total)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """What has arrived, or ``b""`` after the peer's clean end."""
        await self._take_turn()
        while True:
            if data := self._session.read(self.state, max_bytes, trio.current_time()):
                self._unrested += len(data)
                self._driver.spread()
                return data
            if self._ended():
                return b""
            self._unrested = 0
            await self._waiters.reader.wait()

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        """Puts what arrives straight into ``buffer``; 0 after the peer's clean end."""
        await self._take_turn()
        view = memoryview(buffer).cast("B")
        if not view:
            raise LocalProtocolError("receive_into with an empty buffer")
        if count := self._session.read_into(self.state, view, trio.current_time()):
            self._unrested += count
            self._driver.spread()
            return count
        self.state.open_sink(view)
        self._unrested = 0
        try:
            while not self.state.sunk and not self._ended():
                await self._waiters.reader.wait()
        finally:
            count = self.state.close_sink()
        return count

    async def _take_turn(self) -> None:
        """A checkpoint. The other tasks get their turn only after much was moved: it costs a system call."""
        if self._unrested < _TURN:
            self._unrested += _TURN // 64
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            self._unrested = 0
            await trio.lowlevel.checkpoint()

    async def close_write(self) -> None:
        """Tells the peer that nothing more comes."""
        await trio.lowlevel.checkpoint()
        self._check_alive()
        if not self.state.end_queued:
            self._session.end_sending(self.state)
            self._driver.spread()

    async def close(self) -> None:
        """Ends both directions in good order.

        What the peer still sends is dropped, at most for some seconds: a stream left half open would hold
        up the peer's sending and keep its place on the connection.
        """
        if not self.state.discarding and self.state.lost is None:
            self._session.close(self.state, trio.current_time())
            self.state.discarding = True
            self._wake()
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        """Aborts both directions; does nothing to a stream that was closed or reset."""
        if not self.state.discarding and self.state.lost is None:
            self._session.reset(self.state)
            self._wake()
        await trio.lowlevel.checkpoint()

    def _wake(self) -> None:
        self._session.readable[self.state] = self._session.writable[self.state] = None
        self._driver.spread()

    @property
    def _waiters(self) -> Waiters:
        assert isinstance(self.state.owner, Waiters)
        return self.state.owner

    def _ended(self) -> bool:
        if self.state.ended_there and not self.state.discarding:
            return True
        self._check_alive()
        return False

    def _check_sending(self) -> None:
        self._check_alive()
        if self.state.end_queued:
            raise LocalProtocolError("send after close_write")

    def _check_alive(self) -> None:
        reason = self.state.lost or self._session.over or ("closed here" if self.state.discarding else None)
        if reason is not None:
            raise StreamReset(self.peer, [(self.protocol or "a new stream", reason)])
