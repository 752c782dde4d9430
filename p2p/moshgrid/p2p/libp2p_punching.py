"""Hole punching: from a relayed connection to a direct one, by calling each other at the same moment."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from weakref import WeakKeyDictionary

import trio

from moshgrid.p2p.dcutr import (
    DCUTR,
    MAX_MESSAGE_BYTES,
    Heard,
    HolePunch,
    HolePunching,
    Punch,
    Say,
    places_of,
)
from moshgrid.p2p.delimited import read_delimited, send_delimited
from moshgrid.p2p.errors import RemoteProtocolError, StreamReset, Unreachable
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.libp2p_calling import Caller
from moshgrid.p2p.libp2p_connections import Connections
from moshgrid.p2p.libp2p_insisting import HANDSHAKE_SECONDS, Insisting
from moshgrid.p2p.libp2p_stream import Libp2pStream
from moshgrid.p2p.libp2p_upgrade import Upgrade
from moshgrid.p2p.libp2p_yamux import YamuxConnection
from moshgrid.p2p.machine import DeadlinePassed
from moshgrid.p2p.network import Stream
from moshgrid.p2p.protobuf import Malformed

__all__ = ["Offers", "Puncher"]

_log = logging.getLogger("moshgrid.p2p")

_TRIES = 3
_TALK_SECONDS = 5.0
_PUNCH_SECONDS = 2.5
"""Of one try. Systems repeat an unanswered call after one second: two calls and their answers."""
_THEIRS_SECONDS = 0.5
"""How long who called over the relay leaves it to the other side to begin."""
_AT_ONCE = 64
"""Punches begun here, and as many answered: a group's and a neighbourhood's members may all come at once."""
_SOCKETS = 256
"""For all punches together: strangers can name many places."""
_BUSY_SECONDS = 1.0
"""Before the next try when the other side had no time for this one."""
_LOOK_SECONDS = 1.0

Offers = Callable[[Sequence[str]], Sequence[bytes]]
"""Where this peer was seen, as binary multiaddrs, for one that is at these IP addresses."""


class _Answer:
    """One try that a peer began."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.done = trio.Event()


class Puncher:
    """Upgrades relayed connections to direct ones, begun by either side."""

    def __init__(
        self,
        nursery: trio.Nursery,
        caller: Caller,
        upgrade: Upgrade,
        connections: Connections,
        begin: Callable[[YamuxConnection], Awaitable[None]],
        open_on: Callable[[YamuxConnection, str], Awaitable[Libp2pStream]],
        offers: Offers,
    ) -> None:
        self._nursery = nursery
        self._insisting = Insisting(nursery, caller, upgrade, begin)
        self._connections = connections
        self._open_on = open_on
        self._offers = offers
        self._under_way: dict[PeerId, trio.Event] = {}
        self._room = trio.CapacityLimiter(_AT_ONCE)
        self._sockets = trio.CapacityLimiter(_SOCKETS)
        self._answering: dict[PeerId, _Answer] = {}
        self._relayed_since: WeakKeyDictionary[YamuxConnection, float] = WeakKeyDictionary()
        self._clients: dict[str, PeerId] = {}
        """Whose calls from these hosts are met as a client does: a punch with them is under way."""
        connections.on_relayed(self._relayed)
        connections.on_began(self._began)

    def expected_at(self, host: str) -> PeerId | None:
        """The peer that we punch with as its client, and that may call from ``host``."""
        return self._clients.get(host)

    def _relayed(self, connection: YamuxConnection) -> None:
        """A relayed connection is up. Who was called begins."""
        self._relayed_since[connection] = trio.current_time()
        if not connection.is_initiator:
            self._nursery.start_soon(self.punch, connection.peer)

    async def race(self, peer: PeerId, dial: Callable[[], Awaitable[None]]) -> None:
        """Punches and dials at once, until either leads to a direct connection or both fail."""

        async def try_dialling() -> None:
            with suppress(Unreachable):
                await dial()
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(try_dialling)
            if await self.punch(peer):
                nursery.cancel_scope.cancel()

    def _began(self, connection: YamuxConnection) -> None:
        """A connection is up. A direct one, however it came about, makes relayed ones superfluous."""
        if connection.is_relayed:
            return
        for relayed in self._connections.usable(connection.peer):
            if relayed.is_relayed:
                self._nursery.start_soon(self._leave_when_idle, relayed)

    async def punch(self, peer: PeerId) -> bool:
        """Tries up to three times, over a relayed connection with ``peer``; True when there is a direct one.

        Those who want the same peer at the same time share the tries.
        """
        if (others := self._under_way.get(peer)) is not None:
            await others.wait()
            return self._connections.is_direct(peer)
        done = self._under_way[peer] = trio.Event()
        try:
            async with self._room:
                await self._try_thrice(peer)
        finally:
            del self._under_way[peer]
            done.set()
        return self._connections.is_direct(peer)

    async def _try_thrice(self, peer: PeerId) -> None:
        for number in range(1, _TRIES + 1):
            relayed = [each for each in self._connections.usable(peer) if each.is_relayed]
            if self._connections.is_direct(peer) or not relayed:
                return
            if relayed[0].is_initiator and await self._they_begin(relayed[0]):
                return
            try:
                await self._try(relayed[0])
            except (StreamReset, Unreachable, RemoteProtocolError, Malformed) as error:
                _log.debug("%s: try %d of a hole punch: %s", peer, number, error)
                if isinstance(error, RemoteProtocolError):
                    return  # it does not speak the protocol
                await trio.sleep(_BUSY_SECONDS)

    async def _they_begin(self, connection: YamuxConnection) -> bool:
        """Lets the other side try first, as it was called; True when that led to a direct connection."""
        since = self._relayed_since.get(connection, 0.0)
        await trio.sleep_until(since + _THEIRS_SECONDS)
        while (trying := self._answering.get(connection.peer)) is not None:
            await trying.done.wait()
        return self._connections.is_direct(connection.peer)

    async def _try(self, connection: YamuxConnection) -> None:
        stream = await self._open_on(connection, DCUTR)
        machine = HolePunching(self._offers(()), begins=True, called=not connection.is_initiator)
        try:
            with trio.fail_after(_TALK_SECONDS):
                effects: Sequence[Say | Punch] = machine.begin(trio.current_time())
                punch = await self._talk(stream, machine, effects)
        except trio.TooSlowError:
            raise Unreachable(connection.peer, [(DCUTR, f"no answer within {_TALK_SECONDS:g} s")]) from None
        finally:
            with trio.CancelScope(shield=True):
                await stream.reset()  # nothing after the last word
        _log.debug(
            "%s: punching, round trip %.3f s: %s",
            connection.peer,
            machine.round_trip,
            places_of(punch.addrs, True),
        )
        await self._call(connection.peer, punch)

    async def _talk(self, stream: Stream, machine: HolePunching, effects: Sequence[Say | Punch]) -> Punch:
        while True:
            for effect in effects:
                if isinstance(effect, Punch):
                    return effect
                await send_delimited(stream, effect.message.encode())
            if machine.deadline is not None:
                await trio.sleep_until(machine.deadline)
                effects = machine.handle(DeadlinePassed(), trio.current_time())
                continue
            message = HolePunch.decode(await read_delimited(stream, MAX_MESSAGE_BYTES))
            if machine.theirs is None:
                hosts = [host for host, _ in places_of(message.addrs)]
                machine.own_are(self._offers(hosts))
            effects = machine.handle(Heard(message), trio.current_time())

    async def answer(self, stream: Stream) -> None:
        """Serves one try that the other side began; it ends the one before of the same peer."""
        assert isinstance(stream, Libp2pStream)
        connection, peer = stream.connection, stream.peer
        if not connection.is_relayed:
            raise RemoteProtocolError(peer, "wants to punch a hole over a connection that is direct")
        if peer not in self._answering and len(self._answering) >= _AT_ONCE:
            _log.debug("%s: no hole punched, as %d are", peer, _AT_ONCE)
            await stream.reset()
            return
        if (before := self._answering.get(peer)) is not None:
            before.scope.cancel()
        this = self._answering[peer] = _Answer()
        try:
            with this.scope:
                if (punch := await self._hear(stream)) is not None:
                    await self._call(peer, punch)
        finally:
            this.done.set()
            if self._answering.get(peer) is this:
                del self._answering[peer]

    async def _hear(self, stream: Libp2pStream) -> Punch | None:
        """What to do when the other side begins; None when it does not go on, as it may have other work."""
        machine = HolePunching((), begins=False, called=not stream.connection.is_initiator)
        try:
            with trio.fail_after(_TALK_SECONDS):
                return await self._talk(stream, machine, [])
        except Malformed as error:
            raise RemoteProtocolError(stream.peer, f"hole punching: {error}") from None
        except trio.TooSlowError:
            _log.debug("%s began a hole punch and did not go on", stream.peer)
            return None

    async def _call(self, peer: PeerId, punch: Punch) -> None:
        """Calls all the places until there is a direct connection, whoever's call it was."""
        places = places_of(punch.addrs)
        hosts = [host for host, _ in places] if punch.as_client else []
        self._clients.update(dict.fromkeys(hosts, peer))
        arrived = trio.Event()

        def began(connection: YamuxConnection) -> None:
            if connection.peer == peer and not connection.is_relayed:
                arrived.set()

        forget = self._connections.on_began(began)
        try:
            with trio.move_on_after(_PUNCH_SECONDS) as window:

                def connected() -> None:
                    window.deadline = max(window.deadline, trio.current_time() + HANDSHAKE_SECONDS)

                async def call(place: tuple[str, int], *, as_client: bool, plain: bool) -> None:
                    async with self._sockets:
                        await self._insisting.call(
                            peer, place, as_client=as_client, plain=plain, connected=connected
                        )

                async with trio.open_nursery() as nursery:
                    for place in places:
                        nursery.start_soon(partial(call, place, as_client=punch.as_client, plain=False))
                    if not punch.as_client:
                        # It may be open to everybody, or stand beside us: then a plain call will do.
                        for place in places_of(punch.addrs, home_too=self._is_neighbour(places)):
                            nursery.start_soon(partial(call, place, as_client=True, plain=True))
                    if not self._connections.is_direct(peer):
                        await arrived.wait()
                    nursery.cancel_scope.cancel()
        finally:
            forget()
            for host in hosts:
                if self._clients.get(host) == peer:
                    del self._clients[host]
        if self._connections.is_direct(peer):
            _log.info("%s: connected directly, by hole punching", peer)

    def _is_neighbour(self, places: Sequence[tuple[str, int]]) -> bool:
        """True when one of the hosts is where we were seen ourselves: the peer is behind our router."""
        ours = {host for host, _ in places_of(self._offers(()))}
        return any(host in ours for host, _ in places)

    async def _leave_when_idle(self, connection: YamuxConnection) -> None:
        """Ends a relayed connection once nothing uses it: new streams take the direct one."""
        while not connection.over.is_set() and self._connections.is_direct(connection.peer):
            streams = connection.streams_ever
            with suppress(trio.TooSlowError), trio.fail_after(_LOOK_SECONDS):
                await connection.over.wait()
            if not connection.open_streams and connection.streams_ever == streams:
                connection.leave("there is a direct connection")
                return
