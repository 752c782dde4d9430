"""Calling one place again and again, from the listening port or another, until a connection stands."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID

from moshgrid.p2p.calling_port import connect_from
from moshgrid.p2p.errors import MoshgridError
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.libp2p_calling import Caller
from moshgrid.p2p.libp2p_raw_bytes import ChannelBroken
from moshgrid.p2p.libp2p_tcp import over_tcp
from moshgrid.p2p.libp2p_upgrade import Upgrade
from moshgrid.p2p.libp2p_yamux import YamuxConnection

__all__ = ["HANDSHAKE_SECONDS", "Insisting"]

_log = logging.getLogger("moshgrid.p2p")

HANDSHAKE_SECONDS = 5.0
_RETRY_SECONDS = 0.2


class Insisting:
    """``begin`` takes each connection that was secured with the right peer."""

    def __init__(
        self,
        nursery: trio.Nursery,
        caller: Caller,
        upgrade: Upgrade,
        begin: Callable[[YamuxConnection], Awaitable[None]],
    ) -> None:
        self._nursery = nursery
        self._caller = caller
        self._upgrade = upgrade
        self._begin = begin

    async def call(
        self,
        peer: PeerId,
        place: tuple[str, int],
        *,
        as_client: bool,
        plain: bool,
        connected: Callable[[], None],
    ) -> None:
        """Returns when there is a connection with ``peer`` at ``place``; else goes on until cancelled.

        ``as_client``: the role in what runs over it. ``plain``: not from the listening port. ``connected``
        is called each time that a socket is connected and a handshake begins, which cancelling does not end:
        the other side may have chosen this connection already.
        """
        source = None if plain else self._caller.ports.towards(place[0])
        self._caller.contacts.called(place[0])
        while True:
            try:
                stream = await connect_from(source, *place)
            except OSError as error:
                # Also when the other side's call came first: then it is accepted where we listen.
                _log.debug("%s: %s port %d: %s", peer, *place, error)
            else:
                connected()
                stands, done = [False], trio.Event()
                self._nursery.start_soon(self._secure, stream, peer, as_client, stands, done)
                await done.wait()
                if stands[0]:
                    return
            await trio.sleep(_RETRY_SECONDS)

    async def _secure(
        self, stream: trio.SocketStream, peer: PeerId, as_client: bool, stands: list[bool], done: trio.Event
    ) -> None:
        try:
            with trio.move_on_after(HANDSHAKE_SECONDS):
                stands[0] = await self._shake_hands(stream, peer, as_client)
        finally:
            if not stands[0]:
                stream.socket.close()
            done.set()

    async def _shake_hands(self, stream: trio.SocketStream, peer: PeerId, as_client: bool) -> bool:
        raw = over_tcp(stream, as_client)
        try:
            connection = await self._upgrade.connect(raw, ID.from_base58(peer) if as_client else None)
        except (BaseLibp2pError, MoshgridError, ChannelBroken, OSError) as error:
            _log.debug("%s: a punched connection was not secured: %r", peer, error)
            return False
        with trio.CancelScope(shield=True):
            if connection.peer != peer:
                await connection.close()
                return False
            await self._begin(connection)
        return True
