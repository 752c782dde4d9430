"""Our yamux connections where py-libp2p expects its own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol, cast

import trio
from libp2p.abc import IMuxedConn, IMuxedStream, ISecureConn
from libp2p.connection_types import ConnectionType
from libp2p.io.exceptions import IOException
from libp2p.network.connection.exceptions import RawConnError
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamEOF,
    MuxedStreamError,
    MuxedStreamReset,
)
from multiaddr import Multiaddr

from moshgrid.p2p.circuit_info import CircuitInfo
from moshgrid.p2p.errors import LocalProtocolError, StreamReset
from moshgrid.p2p.identity import PeerId, peer_id_from_bytes
from moshgrid.p2p.secure_channel import SecureChannel
from moshgrid.p2p.yamux_driver import YamuxDriver
from moshgrid.p2p.yamux_duplex import YamuxDuplex
from moshgrid.p2p.yamux_session import SessionOver
from moshgrid.p2p.yamux_stream import StreamState
from moshgrid.p2p.yamux_table import TooManyStreams

__all__ = ["ConnectionWatcher", "YamuxConnection", "YamuxStream"]

_log = logging.getLogger("moshgrid.p2p")

_CLOSING_SECONDS = 2.5
_READ_BYTES = 256 * 1024
_FAILURES = (IOException, RawConnError, OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class ConnectionWatcher(Protocol):
    """Is told when authenticated connections begin and end."""

    def connection_began(self, connection: YamuxConnection) -> None:
        """Streams can be opened from now on."""

    def connection_ended(self, connection: YamuxConnection) -> None:
        """No stream of it lives any more."""


class YamuxConnection(IMuxedConn):
    """A connection as py-libp2p's swarm knows it; the work is its driver's."""

    def __init__(self, secured: ISecureConn, peer: ID, watcher: ConnectionWatcher) -> None:
        self.secured_conn = secured
        self.peer_id = peer
        self.peer: PeerId = peer_id_from_bytes(peer.to_bytes())
        self.event_started = trio.Event()
        self.driver = YamuxDriver(
            self.peer,
            channel_of(secured),
            self._close_channel,
            initiator=secured.is_initiator,
            failures=_FAILURES,
            on_over=self._is_over,
        )
        self.over = self.driver.over
        """Set at once when no stream lives any more."""
        self._watcher = watcher
        self._initiator = secured.is_initiator
        self.is_relayed = secured.get_connection_type() is ConnectionType.RELAYED
        """True when another peer passes the bytes on."""
        self.circuit: CircuitInfo | None = None
        """What is known of that one."""
        self._known = False

    async def start(self) -> None:
        """Runs the connection until it is over."""
        if self.over.is_set():  # closed before it began
            self.event_started.set()
            return
        self._known = True
        self._watcher.connection_began(self)
        self.event_started.set()
        try:
            await self.driver.run()
        except Exception:  # the root of this connection's task: it ends, the node does not
            _log.exception("%s: the connection failed", self.peer)

    def _is_over(self) -> None:
        _log.debug("%s: the connection is over: %s", self.peer, self.driver.session.over)
        if self._known:
            self._watcher.connection_ended(self)

    async def _close_channel(self) -> None:
        try:
            await self.secured_conn.close()
        except _FAILURES as error:
            _log.debug("%s: while closing: %r", self.peer, error)

    async def close(self) -> None:
        """Says goodbye and ends the connection."""
        self.driver.leave("the connection was closed")
        if not self._known:
            await self._close_channel()
            return
        with trio.move_on_after(_CLOSING_SECONDS):
            await self.driver.finished.wait()

    @property
    def fault(self) -> str | None:
        """What the peer did wrong, when that ended it."""
        return self.driver.session.fault

    def leave(self, reason: str) -> None:
        """Says goodbye, and is over soon."""
        self.driver.leave(reason)

    @property
    def open_streams(self) -> int:
        """How many live, whoever opened them."""
        return len(self.driver.session.streams.live)

    @property
    def streams_ever(self) -> int:
        """A number that grows with every stream that either side opens."""
        return self.driver.session.streams.ever

    @property
    def is_ending(self) -> bool:
        """True when it is over, or the other side said that it ends it."""
        return self.driver.session.is_ending

    @property
    def has_room(self) -> bool:
        """False when ``open_stream`` would raise."""
        return not self.driver.session.is_ending and self.driver.session.streams.has_room

    async def open_stream(self) -> YamuxStream:
        """A new stream. Raises MuxedStreamError when all places are taken or the connection is over."""
        await trio.lowlevel.checkpoint()
        try:
            return YamuxStream(self, self.driver.open())
        except (SessionOver, TooManyStreams) as error:
            raise MuxedStreamError(str(error)) from error

    async def accept_stream(self) -> YamuxStream:
        """The next stream that the peer opened."""
        try:
            return YamuxStream(self, await self.driver.accept())
        except SessionOver as error:
            raise MuxedConnUnavailable(str(error)) from error

    @property
    def is_initiator(self) -> bool:
        """True when we dialled."""
        return self._initiator

    @property
    def is_established(self) -> bool:
        """True while streams can be opened."""
        return self.event_started.is_set() and not self.over.is_set()

    @property
    def is_closed(self) -> bool:
        """True when it is over."""
        return self.over.is_set()

    def get_transport_addresses(self) -> list[Multiaddr]:
        """Where the connection goes."""
        return self.secured_conn.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        """Direct or relayed."""
        return self.secured_conn.get_connection_type()

    def get_remote_address(self) -> tuple[str, int] | None:
        """The other end's address and port."""
        return self.secured_conn.get_remote_address()


class YamuxStream(IMuxedStream):
    """A stream as py-libp2p's own protocols (identify, ping) use it."""

    def __init__(self, conn: YamuxConnection, state: StreamState) -> None:
        self.conn = conn
        self.muxed_conn = conn
        self.state = state
        self.stream_id = state.id
        self._duplex = YamuxDuplex(conn.driver, state)

    @classmethod
    def adopt(cls, stream: Any) -> YamuxStream:
        """The stream itself: every stream of our connections is one of these."""
        assert isinstance(stream, cls)
        return stream

    async def read(self, n: int | None = None) -> bytes:
        """Up to ``n`` bytes. Raises MuxedStreamEOF at the end."""
        try:
            data = await self._duplex.receive(n if n is not None and n >= 0 else _READ_BYTES)
        except StreamReset as error:
            raise MuxedStreamReset(str(error)) from error
        if not data:
            raise MuxedStreamEOF("the peer ended the stream")
        return data

    async def write(self, data: bytes) -> None:
        """Sends all of ``data``."""
        try:
            await self._duplex.send(data)
        except (StreamReset, LocalProtocolError) as error:
            raise MuxedStreamReset(str(error)) from error

    async def close(self) -> None:
        """Ends our side."""
        try:
            await self._duplex.close_write()
        except StreamReset as error:
            _log.debug("closing a stream that is gone: %s", error)

    async def reset(self) -> None:
        """Aborts both directions."""
        await self._duplex.reset()

    def set_deadline(self, ttl: int) -> None:
        """Not offered: callers bound their waits themselves."""
        raise NotImplementedError("use a cancel scope")

    def get_remote_address(self) -> tuple[str, int] | None:
        """The other end's address and port."""
        return self.conn.get_remote_address()

    async def __aenter__(self) -> YamuxStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def channel_of(secured: ISecureConn) -> SecureChannel:
    """The fast way in and out where ``secured`` has one."""
    if hasattr(secured, "receive_some") and hasattr(secured, "send_now"):
        return cast(SecureChannel, secured)
    return _PlainChannel(secured)


class _PlainChannel:
    """What any secured connection of py-libp2p offers."""

    def __init__(self, secured: ISecureConn) -> None:
        self._secured = secured
        self._unsent: Sequence[bytes | memoryview] = ()

    async def receive_some(self) -> bytes:
        return await self._secured.read(_READ_BYTES)

    def send_now(self, chunks: Sequence[bytes | memoryview]) -> bool:
        self._unsent = chunks
        return False

    async def finish_sending(self) -> None:
        with trio.CancelScope(shield=True):  # the connection is of no use after half a write
            await self._secured.write(b"".join(self._unsent))
        self._unsent = ()
