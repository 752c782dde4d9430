"""An authenticated connection: encrypted records of either protocol over raw bytes, a batch at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import trio
from libp2p.abc import IRawConnection
from libp2p.connection_types import ConnectionType
from libp2p.crypto.ed25519 import Ed25519PublicKey
from libp2p.crypto.keys import PrivateKey
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.security.base_session import BaseSession
from multiaddr import Multiaddr

from moshgrid.p2p.buffer_pool import borrow_buffer, return_buffer
from moshgrid.p2p.identity import PeerId, public_key_of
from moshgrid.p2p.libp2p_raw_bytes import ChannelBroken, RawBytes, SocketBytes
from moshgrid.p2p.secure_channel import Outgoing, RecordError, Records

__all__ = ["SecureSession"]

_GOODBYE_SECONDS = 1.0


class SecureSession(BaseSession):
    """A ``SecureChannel``, and what py-libp2p calls a secure connection.

    Idle it holds no buffer: bytes of an unfinished record at most.
    """

    def __init__(
        self,
        keys: PrivateKey,
        peer: PeerId,
        raw: RawBytes,
        records: Records,
        connection: IRawConnection,
        initiator: bool,
    ) -> None:
        super().__init__(
            local_peer=ID.from_pubkey(keys.get_public_key()),
            local_private_key=keys,
            remote_peer=ID.from_base58(peer),
            remote_permanent_pubkey=Ed25519PublicKey.from_bytes(public_key_of(peer)),
            is_initiator=initiator,
        )
        self._raw = raw
        self._records = records
        self._connection = connection
        self._sending = trio.Lock()
        self._outgoing: Outgoing | None = None
        self._sealing: memoryview | None = None
        self._sealed = memoryview(b"")
        self._socket = raw if isinstance(raw, SocketBytes) else None  # only it takes bytes without waiting
        self._unfinished = b""
        self._unread = memoryview(b"")
        self._lent: memoryview | None = None
        self._over = False
        self._broken: str | None = None

    # SecureChannel.

    async def receive_some(self) -> bytes | memoryview:
        """What has arrived, one byte at least; ``b""`` after the peer's clean end."""
        if self._unread:
            unread, self._unread = self._unread, memoryview(b"")
            return unread
        self._take_back()
        while not self._over:
            self._check()
            try:
                await self._raw.wait()
                received = self._open_records()
            except ChannelBroken as error:
                raise self._break(str(error)) from error
            except RecordError as error:
                await self._raw.close()
                raise self._break(f"the peer {error}") from error
            if received is not None:
                return received
        return b""

    def _open_records(self) -> memoryview | None:
        """Reads once and decrypts what is whole."""
        sealed = borrow_buffer()
        try:
            start = len(self._unfinished)
            sealed[:start] = self._unfinished
            size = self._raw.read_into(sealed[start:])
            if size is None:
                return None
            if size == 0:
                self._end()
                return None
            plain = self._lent = borrow_buffer()
            consumed, produced = self._records.open(sealed[: start + size], plain)
            self._unfinished = bytes(sealed[consumed : start + size])
        finally:
            return_buffer(sealed)
        self._over = self._records.ended
        if produced:
            return plain[:produced]
        self._take_back()
        return None

    def _end(self) -> None:
        if self._unfinished or self._records.must_say_goodbye:
            raise ChannelBroken("the connection was cut short")
        self._over = True

    def _take_back(self) -> None:
        if self._lent is not None:
            return_buffer(self._lent)
            self._lent = None

    async def send_all(self, chunks: Sequence[bytes | bytearray | memoryview]) -> None:
        """Sends the chunks as one run of bytes; cancelled, either not at all or whole."""
        async with self._sending:
            if not self._begin(chunks):
                await self.finish_sending()

    def send_now(self, chunks: Sequence[bytes | bytearray | memoryview]) -> bool:
        """Sends what the socket takes at once; True when that was all. Otherwise: ``finish_sending``."""
        if self._sending.locked():
            raise ChannelBroken("the connection is being closed")
        return self._begin(chunks)

    async def finish_sending(self) -> None:
        """Sends the rest. It cannot be cancelled, but raw bytes give up a peer that takes none."""
        with trio.CancelScope(shield=True):
            try:
                while self._outgoing is not None:
                    if self._socket is None:
                        await self._raw.send(self._sealed)
                        self._sealed = memoryview(b"")
                    else:
                        # Without this wait a full socket takes a little at a time, at the price of much.
                        await self._socket.wait_to_send()
                        self._sealed = self._sealed[self._socket.send_now(self._sealed) :]
                    if not self._sealed:
                        self._seal_and_send()
            except ChannelBroken as error:
                raise self._stop_sending(error) from error

    def _begin(self, chunks: Sequence[bytes | bytearray | memoryview]) -> bool:
        self._check()
        self._outgoing = Outgoing(chunks)
        try:
            return self._seal_and_send()
        except ChannelBroken as error:
            raise self._stop_sending(error) from error

    def _seal_and_send(self) -> bool:
        """Goes on with ``_outgoing`` as far as the socket takes it; True when nothing is left."""
        assert self._outgoing is not None
        buffer = self._sealing or borrow_buffer()
        self._sealing = None
        while self._outgoing.left:
            sealed = buffer[: self._records.seal(self._outgoing, buffer)]
            sent = 0 if self._socket is None else self._socket.send_now(sealed)
            if sent < len(sealed):
                self._sealing, self._sealed = buffer, sealed[sent:]
                return False
        return_buffer(buffer)  # not for idle connections: one that waits for its peer to read keeps it
        self._outgoing = None
        return True

    def _stop_sending(self, error: ChannelBroken) -> ChannelBroken:
        self._outgoing, self._sealing, self._sealed = None, None, memoryview(b"")
        return self._break(str(error))

    async def _say_goodbye(self) -> None:
        async with self._sending:
            self._check()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _GOODBYE_SECONDS) as scope:
                try:
                    await self._raw.send(self._records.goodbye())
                except ChannelBroken as error:
                    raise self._stop_sending(error) from error
            if scope.cancelled_caught:
                raise self._break("the connection is closed")

    def _break(self, reason: str) -> ChannelBroken:
        self._take_back()
        self._broken = self._broken or reason
        return ChannelBroken(self._broken)

    def _check(self) -> None:
        if self._broken is not None:
            raise ChannelBroken(self._broken)

    # What py-libp2p expects of a secure connection.

    async def read(self, n: int | None = None) -> bytes:
        """``n`` bytes, fewer only at the end; without ``n`` what is there."""
        if n == 0:
            return b""
        gathered = bytearray()
        while n is None or len(gathered) < n:
            if not self._unread:
                self._unread = memoryview(bytes(await self.receive_some()))
            if not self._unread:
                break
            piece = self._unread if n is None else self._unread[: n - len(gathered)]
            self._unread = self._unread[len(piece) :]
            gathered += piece
            if n is None:
                break
        if not gathered:
            raise ConnectionClosedError("the peer ended the connection")
        return bytes(gathered)

    async def write(self, data: bytes) -> None:
        """Sends ``data``."""
        await self.send_all([data])

    async def close(self) -> None:
        """Says goodbye, if the protocol has a word for it, and closes the connection."""
        busy = self._sending.locked() or self._outgoing is not None
        if self._records.must_say_goodbye and self._broken is None and not busy:
            with contextlib.suppress(ChannelBroken):  # the peer went first
                await self._say_goodbye()
        self._broken = self._broken or "the connection is closed"
        self._take_back()  # nobody reads any more, and it may be long until this object is collected
        await self._raw.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Where the peer is."""
        return self._connection.get_remote_address()

    def get_transport_addresses(self) -> list[Multiaddr]:
        """Where the peer is, as multiaddrs."""
        return self._connection.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        """Direct or relayed."""
        return self._connection.get_connection_type()
