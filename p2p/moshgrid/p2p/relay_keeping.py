"""Keeping reservations: performs what ``relay_choice`` decides, and says through whom we are reached."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

import trio

from moshgrid.p2p.addresses import relay_of
from moshgrid.p2p.clock import Clock
from moshgrid.p2p.errors import Closed, MoshgridError, RemoteProtocolError, Unreachable
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.machine import DeadlinePassed
from moshgrid.p2p.network import Network
from moshgrid.p2p.relay_asking import RelayRefused, Reservation, reserve
from moshgrid.p2p.relay_choice import RelayChoice
from moshgrid.p2p.relay_events import (
    Advertise,
    Effect,
    Event,
    Found,
    Granted,
    Heard,
    LookFor,
    Lost,
    Refused,
    Release,
    Reserve,
    Silent,
    Wanted,
)
from moshgrid.p2p.relay_pulse import PULSE_SECONDS, RelayPulse

__all__ = ["RelayKeeping", "advertised"]

_log = logging.getLogger("moshgrid.p2p")

_ADDRS_PER_RELAY = 3
_SHORTEST, _LONGEST = 30.0, 3600.0
_LOOKING_SECONDS = 20.0

Finder = Callable[[], Awaitable[list[PeerId]]]
"""Looks for relays; their addresses are learned by the network. Raises MoshgridError."""


class RelayKeeping:
    """Holds reservations while they are wanted. ``relays`` is told at which relays others may ask for us.

    ``advertise`` is told our relayed addresses, ``chance`` gives numbers from 0 to 1.
    """

    def __init__(
        self,
        network: Network,
        clock: Clock,
        relays: set[PeerId],
        advertise: Callable[[tuple[str, ...]], None],
        chance: Callable[[], float],
    ) -> None:
        self.finders: list[Finder] = [self._connected]
        self._network = network
        self._clock = clock
        self._relays = relays
        self._advertise = advertise
        self._chance = chance
        self._choice = RelayChoice()
        self._events: list[Event] = []
        self._stirred = trio.Event()
        self._watched: dict[PeerId, trio.CancelScope] = {}

    @property
    def held(self) -> tuple[PeerId, ...]:
        """The relays where a reservation is."""
        return self._choice.held

    def want(self, wanted: bool) -> None:
        """Reservations are needed from now on, or not any more."""
        self._tell(Wanted(wanted))

    def found(self, relay: PeerId) -> None:
        """``relay`` may be one; its addresses are known to the network."""
        if relay != self._network.peer_id:
            self._tell(Found(relay, self._chance()))

    def needs(self, peer: PeerId) -> bool:
        """True when the connection with ``peer`` must not end for being idle."""
        return peer in self._relays

    async def run(self) -> None:
        """Until cancelled."""
        self._network.on_lost(lambda peer: self._tell(Lost(peer)) if peer in self._relays else None)
        async with trio.open_nursery() as nursery:
            while True:
                events, self._events = self._events, []
                self._stirred = trio.Event()
                now = self._clock.now()
                for event in (*events, DeadlinePassed()):
                    for effect in self._choice.handle(event, now):
                        self._perform(effect, nursery)
                self._watch_those_held(nursery)
                deadline = self._choice.deadline
                wait = float("inf") if deadline is None else max(0.0, deadline - self._clock.now())
                with trio.move_on_after(wait):
                    await self._stirred.wait()

    def _tell(self, event: Event) -> None:
        self._events.append(event)
        self._stirred.set()

    def _perform(self, effect: Effect, nursery: trio.Nursery) -> None:
        if isinstance(effect, Reserve):
            self._relays.add(effect.relay)
            nursery.start_soon(self._reserve, effect.relay)
        elif isinstance(effect, Release):
            self._relays.discard(effect.relay)
        elif isinstance(effect, Advertise):
            self._advertise(effect.addrs)
        else:
            assert isinstance(effect, LookFor)
            for finder in self.finders:
                nursery.start_soon(self._look, finder)

    async def _reserve(self, relay: PeerId) -> None:
        try:
            granted = await reserve(self._network, relay)
        except (Unreachable, RelayRefused, RemoteProtocolError, Closed) as error:
            _log.debug("%s gave no reservation: %s", relay, error)
            if relay not in self._choice.held:
                self._relays.discard(relay)
            self._tell(Refused(relay, never=isinstance(error, RemoteProtocolError)))
            return
        # By the relay's clock: it may be wrong, and what it says is not longer than an hour.
        seconds = granted.expires - self._clock.wall_ms() / 1000
        addrs = advertised(granted, self._network.addrs_of(relay), self._network.peer_id)
        if relay not in self._choice.held:
            _log.info("reachable through the relay %s", relay)
        self._tell(Granted(relay, min(max(seconds, _SHORTEST), _LONGEST), addrs))

    def _watch_those_held(self, nursery: trio.Nursery) -> None:
        held = self._choice.held
        for relay in [relay for relay in self._watched if relay not in held]:
            self._watched.pop(relay).cancel()
        for relay in held:
            if relay not in self._watched:
                scope = self._watched[relay] = trio.CancelScope()
                nursery.start_soon(self._watch, relay, scope)

    async def _watch(self, relay: PeerId, scope: trio.CancelScope) -> None:
        pulse, silent = RelayPulse(self._network, relay), False
        with scope:
            try:
                while True:
                    await trio.sleep(PULSE_SECONDS)
                    if (answers := await pulse.beats()) is not silent:
                        continue  # as before
                    silent = not answers
                    _log.info("the relay %s %s", relay, "does not answer" if silent else "answers again")
                    self._tell(Silent(relay) if silent else Heard(relay))
            finally:
                await pulse.close()

    async def _look(self, finder: Finder) -> None:
        try:
            with trio.move_on_after(_LOOKING_SECONDS):
                for relay in await finder():
                    self.found(relay)
        except MoshgridError as error:
            _log.debug("looking for relays: %s", error)

    async def _connected(self) -> list[PeerId]:
        """Peers that are here anyway come last: whether they are relays shows when they are asked."""
        for peer in self._network.connected():
            if self._network.is_direct(peer):
                self._tell(Found(peer, 1.0 + self._chance()))
        await trio.lowlevel.checkpoint()
        return []


def advertised(granted: Reservation, dialled: tuple[str, ...], peer: PeerId) -> tuple[str, ...]:
    """Our addresses through a relay, at most three: where we found it, and what it says of itself.

    Those of the relay that only its own computer or network can use are left out when it has better ones.
    """
    addrs = dict.fromkeys(addr for addr in (*dialled[:1], *granted.addrs) if relay_of(addr) is None)
    best = max(map(_reach, addrs), default=0)
    chosen = [addr for addr in addrs if _reach(addr) == best][:_ADDRS_PER_RELAY]
    return tuple(f"{addr}/p2p-circuit/p2p/{peer}" for addr in chosen)


def _reach(addr: str) -> int:
    """2 for an address that the world can use, 1 for one of a local network, 0 for one of this computer."""
    _, kind, host, *_ = addr.split("/")
    if not kind.startswith("ip"):
        return 0 if host == "localhost" else 2
    ip = ip_address(host)
    return 0 if ip.is_loopback else 1 if ip.is_private else 2
