"""Joining: from the bootstrap addresses to a routing table, and back again whenever it is empty."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import suppress

import trio

from moshgrid.dht.asking import Asker
from moshgrid.dht.good_peers import load_addrs, save_addrs
from moshgrid.dht.keys import BITS, point_of_peer
from moshgrid.dht.routing import RoutingTable
from moshgrid.p2p.errors import RemoteProtocolError, Unreachable
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.peer_exchange import introduce

__all__ = ["Joining"]

_BACKOFF = (0.1, 0.3, 1.0, 2.0, 5.0, 10.0, 15.0)
_SELF_LOOKUPS = (2.0, 10.0, 60.0, 600.0)
"""Seconds between lookups of this peer's own point: peers that joined in the same moment may have
missed each other, and near ones come and go."""
_BOOTSTRAP_CHECK = 60.0
_MOST_FAILED = 8
_REFRESH_SECONDS = 600.0
_CLOCKS = 8
_QUIET = 32
_BUSY = 1.0

_log = logging.getLogger("moshgrid.dht")


class Joining:
    """Dials the bootstrap peers, asks who is near, and does so again when everybody is gone."""

    def __init__(
        self,
        host: Host,
        table: RoutingTable,
        asker: Asker,
        peers_file: str | os.PathLike[str] | None = None,
    ) -> None:
        self._host = host
        self._peers_file = peers_file
        saved = load_addrs(peers_file, host.network_name) if peers_file is not None else ()
        self._entrances = tuple(dict.fromkeys((*host.bootstrap, *saved)))
        self._table = table
        self._asker = asker
        self._attempts: dict[str, str] = {}
        self._alone = trio.Event()
        self._named: list[PeerId] = []
        """Whom the bootstrap peers named near this one since it last looked around."""
        self.ready = trio.Event()
        """Set when the peers near this one have been asked, or there is nobody to join."""
        self.first_here = False
        """True when a bootstrap peer is there but knows of nobody else with a DHT."""
        if not self._entrances:
            self.ready.set()
        self._company = trio.Event()
        asker.on_joined.append(lambda peer: self._company.set())
        asker.on_left.append(self._left)

    @property
    def has_entrance(self) -> bool:
        """True when there is anybody to join through."""
        return bool(self._entrances)

    async def run(self) -> None:
        """Joins and keeps joined, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_around)
            if self._entrances:
                await self._keep_bootstrapped()

    async def in_company(self, timeout: float) -> bool:
        """True when there is a live peer, or one comes within ``timeout`` seconds."""
        with trio.move_on_after(timeout):
            await self._company.wait()
        return len(self._table) > 0

    def unreachable(self) -> Unreachable:
        """Why nobody could be joined."""
        attempts = [(addr, self._attempts.get(addr, "not tried yet")) for addr in self._entrances]
        return Unreachable(f"the network {self._host.network_name!r}", attempts)

    async def _keep_bootstrapped(self) -> None:
        failures = 0
        while True:
            self._alone = trio.Event()
            async with trio.open_nursery() as nursery:
                for addr in self._worth_asking():
                    nursery.start_soon(self._bootstrap, addr)
            if len(self._table):
                failures = 0
                if not self.ready.is_set():
                    # Over disjoint paths: one bootstrap peer that lies must not choose our neighbours.
                    await self._asker.find_closest(self._table.own_point, disjoint=True)
                    self.ready.set()
                    self._host.events.emit("joined", peers=len(self._table))
                elif any(self._is_news(peer) for peer in self._named):
                    # It may belong to the other part of a network that fell apart.
                    await self._asker.find_closest(self._table.own_point, self._named)
                self._named.clear()
                with trio.move_on_after(_BOOTSTRAP_CHECK * self._host.rng.uniform(0.8, 1.2)):
                    await self._alone.wait()
            else:
                delay = _BACKOFF[min(failures, len(_BACKOFF) - 1)]
                failures += 1
                await trio.sleep(delay * self._host.rng.uniform(0.8, 1.2))

    def _worth_asking(self) -> list[str]:
        """Every entrance for who is alone; else some that failed, as they may be back, and one other."""
        if not (len(self._table) and self.ready.is_set()):
            return list(self._entrances)
        failed = [addr for addr in self._entrances if addr in self._attempts]
        others = [addr for addr in self._entrances if addr not in self._attempts]
        chance = self._host.rng
        some = chance.sample(failed, min(_MOST_FAILED, len(failed)))
        return some + chance.sample(others, min(1, len(others)))

    async def _bootstrap(self, addr: str) -> None:
        peer = PeerId(addr.rpartition("/p2p/")[2])
        if peer == self._host.peer_id or self._known_live(peer):
            return
        try:
            peer = await self._host.network.dial(addr)
            self._named += await self._asker.find_node(peer, self._table.own_point)
            self._attempts.pop(addr, None)
        except Unreachable as error:
            self._attempts[addr] = "; ".join(outcome for _, outcome in error.attempts) or str(error)
        except RemoteProtocolError as error:
            self._attempts[addr] = error.reason
            await self._ask_around(peer)

    def _is_news(self, peer: PeerId) -> bool:
        """True when ``peer`` is not known to live and would be one of the nearest to this one."""
        if peer == self._host.peer_id or self._table.is_live(peer) or self._table.is_waiting(peer):
            return False
        nearest = self._table.closest(self._table.own_point, self._table.k)
        own = self._table.own_point
        farthest = point_of_peer(nearest[-1]) ^ own if len(nearest) == self._table.k else 1 << BITS
        return point_of_peer(peer) ^ own < farthest

    async def _ask_around(self, peer: PeerId) -> None:
        """A bootstrap peer without a DHT may know others that have one, or that nobody has come yet."""
        try:
            others = await introduce(self._host.network, self._host.requests, peer)
        except (Unreachable, RemoteProtocolError):
            return
        for other in others:
            with suppress(Unreachable, RemoteProtocolError):
                await self._asker.find_node(other, self._table.own_point)
        if not others:
            self.first_here = True
            self._asker.answered.set()
            self.ready.set()

    def _known_live(self, peer: PeerId) -> bool:
        try:
            return self._table.is_live(peer)
        except ValueError:
            return False

    async def _look_around(self) -> None:
        await self._asker.answered.wait()
        for number in range(1_000_000_000):
            delay = _SELF_LOOKUPS[min(number, len(_SELF_LOOKUPS) - 1)]
            await trio.sleep(delay * self._host.rng.uniform(0.8, 1.2))
            while (slack := self._asker.pace.slack) > _BUSY:  # what users wait for comes first
                self._asker.pace.turned(0.0)
                await trio.sleep(slack)
            named = await self._refresh() if number > 0 else []
            await self._asker.find_closest(self._table.own_point, named)
            if number > 0:
                await self._ping_some()
                self.save()

    async def _refresh(self) -> list[PeerId]:
        """Looks up a point in each bucket that was not looked at for long, and others while it is not known
        how near peers usually are; returns whom those that were found there know near this peer."""
        before, named = self._host.clock.now() - _REFRESH_SECONDS, list[PeerId]()
        points = self._table.stale_points(before, self._host.rng)
        if len(self._table) >= self._table.k:
            few = range(len(points), self._asker.density.missing)
            points += [self._host.rng.getrandbits(BITS) for _ in few]
        for point in points:
            done = await self._asker.find_closest(point)
            self._asker.density.saw(point, done.closest)
            named += await self._ask_who_is_near(done.closest)
            # Many may have joined at once, perhaps on one computer.
            await trio.sleep(self._host.rng.uniform(0.0, 2.0) + self._asker.pace.slack)
        return named

    async def _ask_who_is_near(self, peers: Sequence[PeerId]) -> list[PeerId]:
        """Asks one of ``peers``, one that the table has no place for if there is any.

        Two swarms that started apart meet somewhere and become one there. Everywhere else the buckets
        are full of peers of the own swarm, and the nearest to oneself name each other: only who is asked
        from afar tells of the others that are near.
        """
        strangers = [peer for peer in peers if not self._table.is_live(peer)] or peers
        if not strangers:
            return []
        try:
            return await self._asker.find_node(self._host.rng.choice(strangers), self._table.own_point)
        except (Unreachable, RemoteProtocolError):
            return []

    async def _ping_some(self) -> None:
        """To compare clocks, and to find out whether those live that were not heard for longest."""
        live = self._table.live_peers()
        some = dict.fromkeys([*self._host.rng.sample(live, min(len(live), _CLOCKS)), *live[:_QUIET]])
        async with trio.open_nursery() as nursery:
            for peer in some:
                nursery.start_soon(self._asker.ping, peer)
        if self._asker.clocks.is_off:
            _log.warning("%s; set it, for example by NTP", self._asker.clocks)

    def save(self) -> None:
        """Remembers who is live, for the next start."""
        if self._peers_file is None:
            return
        network = self._host.network
        newest = reversed(self._table.live_peers())
        addrs = [addr for peer in newest for addr in network.addrs_of(peer)[:1]]
        if addrs:  # who is alone now would rather remember whom it knew
            save_addrs(self._peers_file, self._host.network_name, addrs)

    def _left(self, peer: PeerId) -> None:
        if not len(self._table):
            self._alone.set()
            self._company = trio.Event()
