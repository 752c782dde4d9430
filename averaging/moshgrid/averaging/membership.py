"""What a peer knows of its run from the DHT: who takes part, how far it is, who seeks a group. Awaits.

Four kinds of keys: members (kept alive by each peer), progress (put by the leader of each sealed
round, with the grid plan it follows), plan (put by who draws a new one), and one key per group, where a
peer declares the round for which it is or will be there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import trio

from moshgrid.averaging.attendance import Attendance
from moshgrid.averaging.declarations import Declarations, round_in
from moshgrid.averaging.topology import LOBBY, Place
from moshgrid.dht import DHTNode, Record
from moshgrid.p2p.errors import MoshgridError
from moshgrid.p2p.identity import PeerId

__all__ = ["Membership"]

MAX_ATTENDED = 8
"""Up to so many groups all group keys are followed; beyond, group sizes are estimated."""

_MEMBER_TTL = 60.0
_DECLARATION_TTL = 60.0
_PROGRESS_TTL = 3600.0
_PLAN_TTL = 600.0
_RETRY_SECONDS = 2.0
_RECENT_ROUNDS = 2
_JOIN_SECONDS = 10.0
_MAX_REMEMBERED = 16384

_log = logging.getLogger("moshgrid.averaging")


class Membership:
    """A live view of a run's records, and this peer's own."""

    def __init__(
        self,
        dht: DHTNode,
        run_id: str,
        nursery: trio.Nursery,
        seekers_changed: Callable[[], None],
        progressed: Callable[[], None],
        plan_seen: Callable[[Any, PeerId], None],
        peers_changed: Callable[[], None],
    ) -> None:
        self._dht = dht
        self._prefix = f"avg/{run_id}"
        self._nursery = nursery
        self._seekers_changed = seekers_changed
        self._progressed = progressed
        self._plan_seen = plan_seen
        self._peers_changed = peers_changed
        self._me = dht.host.peer_id
        self._members: dict[PeerId, int] = {}
        self._declarations = Declarations()
        self._newest: dict[PeerId, int] = {}
        self._gone: dict[PeerId, int] = {}
        """Peers whose connection was lost, and their newest record then: no older one brings them back."""
        self._began_ms = dht.host.clock.wall_ms()
        self._heard: set[PeerId] = set()
        """Who was there after this peer came: it spoke, or made a record since."""
        self._watched: dict[str, trio.CancelScope] = {}
        self._attendance = Attendance()
        self._declared: tuple[str, int, float] | None = None
        self._progress = 0
        self._told = 0
        self._kept: Any = None
        self.declare_to_watch: float | None = None
        """Seconds from this peer's last declaration to its arrival over the watch; None before any."""

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """Everybody in the run, this peer included."""
        now_ms = self._dht.host.clock.wall_ms()
        self._members = {peer: until for peer, until in self._members.items() if until > now_ms}
        self._heard &= self._members.keys()
        return tuple({*self._members, self._me})

    @property
    def doubtful(self) -> frozenset[PeerId]:
        """Peers known by nothing but records from before this peer came: they may be gone since."""
        return frozenset(self._members.keys() - self._heard - {self._me})

    @property
    def progress(self) -> int:
        """The highest sealed round that a record tells of."""
        return self._progress

    @property
    def is_untold(self) -> bool:
        """Whether no record tells of the last sealed round: who was to put it is lost."""
        return self._told < self._progress

    def seekers(self, group_key: str, round_number: int) -> list[PeerId]:
        """Who is declared under a key for that round and for no later one anywhere, this peer excluded."""
        return [peer for peer in self._declarations.seekers(group_key, round_number) if peer != self._me]

    def awaits(self, place: Place, round_number: int) -> bool:
        """Whether somebody who took part lately may yet come to ``place``.

        Where keys tell who belongs there, only those count; where all groups are followed, who is
        declared in another is not awaited; else the group's size is estimated. To the lobby may come
        who has not gone on to the next round.
        """
        active = self.active(round_number)
        if place.key == LOBBY:
            latest, came = self._declarations.latest(), self.seekers(place.key, round_number)
            return any(latest.get(peer) == round_number for peer in set(active) - {*came, self._me})
        if place.expected is None and place.groups > MAX_ATTENDED:
            here = len(self.seekers(place.key, round_number)) + 1
            return here < len(active) // place.groups
        latest = self._declarations.latest()
        return any(
            latest.get(peer, 0) < round_number and (place.expected is None or peer in place.expected)
            for peer in active
            if peer != self._me
        )

    def may_yet_fill(self, place: Place, round_number: int) -> bool:
        """Whether as many of those who took part lately are declared nowhere for that round or a later one
        as a group at ``place`` has beside this peer. False where not all groups are followed."""
        if place.groups > MAX_ATTENDED:
            return False
        active, latest = self.active(round_number), self._declarations.latest()
        to_come = sum(latest.get(peer, 0) < round_number for peer in active if peer != self._me)
        return to_come >= max(1, len(active) // place.groups - 1)

    def present(self, round_number: int) -> tuple[PeerId, ...]:
        """Peers as they are to be counted: all but the doubtful ones that were left behind by others."""
        latest, doubtful = self._declarations.latest(), self.doubtful
        left = {peer for peer in doubtful if latest.get(peer, round_number) < round_number}
        return tuple(peer for peer in self.peers if peer not in left)

    def active(self, round_number: int) -> tuple[PeerId, ...]:
        """Peers that may come to that round: all but those last declared for one long over."""
        latest = self._declarations.latest()
        return tuple(
            peer
            for peer in self.present(round_number)
            if peer == self._me or latest.get(peer, round_number) >= round_number - _RECENT_ROUNDS
        )

    def is_declared_elsewhere(self, group_key: str, round_number: int) -> bool:
        """Whether this peer's declaration for that round names another key."""
        mine = self._declared
        return mine is not None and mine[0] != group_key and mine[1] == round_number

    def lost(self, peer: PeerId) -> None:
        """The connection to a peer is gone: the records there are no longer say that it is there."""
        self._gone[peer] = self._newest.get(peer, 0)
        self._heard.discard(peer)
        self._members.pop(peer, None)
        if self._declarations.forget(peer):
            self._seekers_changed()

    def seen(self, peer: PeerId) -> None:
        """A peer of this run spoke: it is there, whatever the records say."""
        self._gone.pop(peer, None)
        self._heard.add(peer)
        self._members.setdefault(peer, self._dht.host.clock.wall_ms() + round(_MEMBER_TTL * 1000))

    async def start(self) -> None:
        """Joins the run: reads what is known, then announces this peer."""
        await self._dht.joined(_JOIN_SECONDS)
        self._watch(self._key("members"), self._member_changed)
        self._watch(self._key("progress"), self._progress_changed)
        self._watch(self._key("plan"), self._plan_changed)
        self._kept = self._dht.keep(self._key("members"), {}, ttl=_MEMBER_TTL)
        await self.refresh()

    async def refresh(self) -> None:
        """Reads who takes part and how far the run is, besides what the watches bring."""
        try:
            for record in (await self._dht.get_all(self._key("members"))).values():
                self._member_changed(record)
            for path in ("progress", "plan"):
                for record in (await self._dht.get_all(self._key(path))).values():
                    self._progress_changed(record)
        except MoshgridError as error:
            _log.warning("the run's records cannot be read yet: %s", error)

    async def declare(self, group_key: str, round_number: int) -> None:
        """Says that this peer is, or will be, under ``group_key`` for that round, and nowhere else."""
        now = self._dht.host.clock.now()
        before, self._declared = self._declared, (group_key, round_number, now)
        if before is not None:
            key, at, when = before
            if (key, at) == (group_key, round_number) and now < when + _DECLARATION_TTL / 2:
                self._declared = before
                return
        await self._dht.put(self._key("group", group_key), {"round": round_number}, ttl=_DECLARATION_TTL)
        if before is not None and key != group_key and self._declared[0] != key:
            # Whoever waits there for this peer would wait in vain.
            await self._dht.put(self._key("group", key), {"round": 0}, ttl=_DECLARATION_TTL)

    def attend(self, group_key: str) -> None:
        """Follows who is declared under ``group_key`` from now on, and for some rounds."""
        self._watch(self._key("group", group_key), lambda record: self._seeker_changed(group_key, record))
        for left in self._attendance.ask(group_key, self._progress):
            self._watched.pop(self._key("group", left)).cancel()
            self._declarations.retire(left, self._members)

    def sealed(self, round_number: int) -> None:
        """This peer sealed a round."""
        self._progress = max(self._progress, round_number)

    async def publish_progress(self, round_number: int, plan: Any = None) -> None:
        """Tells the run that a round was sealed, and under which plan; for the leader."""
        value = {"round": round_number} if plan is None else {"round": round_number, "plan": plan}
        await self._dht.put(self._key("progress"), value, ttl=_PROGRESS_TTL)

    async def publish_plan(self, plan: Any) -> None:
        """Tells the run of a grid plan."""
        await self._dht.put(self._key("plan"), {"plan": plan}, ttl=_PLAN_TTL)

    async def leave(self) -> None:
        """Takes this peer's records back, and follows nothing any more."""
        for scope in self._watched.values():
            scope.cancel()
        if self._kept is not None:
            await self._kept.aclose()
            await self._dht.delete(self._key("members"))
        if self._declared is not None:
            await self._dht.delete(self._key("group", self._declared[0]))

    # Records ----------------------------------------------------------------------------------------

    def _key(self, *path: str) -> str:
        return "/".join((self._prefix, *path))

    def _watch(self, key: str, changed: Callable[[Record], None]) -> None:
        if key not in self._watched:
            scope = self._watched[key] = trio.CancelScope()
            self._nursery.start_soon(self._follow, key, scope, changed)

    async def _follow(self, key: str, scope: trio.CancelScope, changed: Callable[[Record], None]) -> None:
        with scope:
            while True:
                with suppress(MoshgridError):
                    async with self._dht.watch(key) as records:
                        async for record in records:
                            changed(record)
                await trio.sleep(_RETRY_SECONDS)

    def _is_stale(self, record: Record) -> bool:
        """Whether a record is of a time before its author was lost. Sequence numbers are its author's."""
        newest = max(record.seq, self._newest.pop(record.author, 0))
        self._newest[record.author] = newest  # the last heard of are the last to be forgotten
        for memory in (self._newest, self._gone):
            while len(memory) > _MAX_REMEMBERED:
                del memory[next(iter(memory))]
        if newest > self._gone.get(record.author, newest):
            del self._gone[record.author]
        return record.author in self._gone

    def _member_changed(self, record: Record) -> None:
        was_known = record.author in self._members
        if record.deleted or self._is_stale(record):
            self._members.pop(record.author, None)
        else:
            self._date(record, _MEMBER_TTL)
            self._members[record.author] = round(record.expires_at * 1000)
        if was_known != (record.author in self._members):
            self._peers_changed()

    def _progress_changed(self, record: Record) -> None:
        number = round_in(record)
        self._told = max(self._told, number)
        if number > self._progress:
            self._progress = number
            self._progressed()
        self._plan_changed(record)

    def _plan_changed(self, record: Record) -> None:
        if not record.deleted and isinstance(record.value, dict) and "plan" in record.value:
            self._plan_seen(record.value["plan"], record.author)

    def _seeker_changed(self, group_key: str, record: Record) -> None:
        mine = self._declared
        if record.author == self._me and mine is not None and mine[:2] == (group_key, round_in(record)):
            self.declare_to_watch = self._dht.host.clock.now() - mine[2]
        if record.deleted or self._is_stale(record):
            self._declarations.take_back(group_key, record.author)
        else:
            self._date(record, _DECLARATION_TTL)
            self._declarations.note(group_key, record.author, round_in(record))
        self._seekers_changed()

    def _date(self, record: Record, ttl: float) -> None:
        """Takes note of a record that was made after this peer came, by whatever clock its author has."""
        if (record.expires_at - ttl) * 1000 > self._began_ms:
            self._heard.add(record.author)
