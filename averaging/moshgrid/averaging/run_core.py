"""A run at one peer, inside the event loop: declares, matches, averages, applies, and serves state.

Awaits; what to do is decided by the machines it drives and by the topology.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import trio

from moshgrid.averaging.group_finder import GroupFinder
from moshgrid.averaging.links import Links
from moshgrid.averaging.manifest import SignedManifest
from moshgrid.averaging.membership import Membership
from moshgrid.averaging.messages import Decline
from moshgrid.averaging.past_rounds import PastRounds
from moshgrid.averaging.pending_step import Averaged
from moshgrid.averaging.reduction import Vector
from moshgrid.averaging.report import RoundReport, report_of
from moshgrid.averaging.round_driver import Offload, RoundDriver, RoundResult, in_threads
from moshgrid.averaging.run_config import RunConfig
from moshgrid.averaging.state import Description, SealedState, StateSnapshot
from moshgrid.averaging.state_transfer import StateServer, fetch_state
from moshgrid.averaging.suspicion import PaceBook
from moshgrid.averaging.tensors import is_finite
from moshgrid.averaging.topology import LOBBY
from moshgrid.averaging.wire import Frame, encode_frame
from moshgrid.compression import get_codec
from moshgrid.dht import DHTNode
from moshgrid.p2p.errors import Closed, ConfigurationError, MoshgridError
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId

__all__ = ["RunCore", "run_digest"]

_MAX_ROUNDS_KEPT = 4
_ATTEMPTS = 5
_STATE_ATTEMPTS = 4
_STATE_RETRY_SECONDS = 0.5
_NEWS_SECONDS = 1.0

_log = logging.getLogger("moshgrid.averaging")

Apply = Callable[[Vector], Awaitable[None]]
"""What is done with an average as soon as it is sealed."""


async def _keep(_: Vector) -> None:
    """Leaves it to the caller."""


def run_digest(network: str, run_id: str) -> bytes:
    """The 16 bytes that name a run on the wire."""
    return hashlib.sha256(f"{network}\x00{run_id}".encode()).digest()[:16]


class RunCore:
    """One run at one host. ``step`` one at a time."""

    def __init__(self, host: Host, dht: DHTNode, config: RunConfig, offload: Offload = in_threads) -> None:
        self._host = host
        self._config = config
        self._run = run_digest(host.network_name, config.run_id)
        self._links = Links.of(host)
        self._offload = offload
        self._codec = get_codec(config.codec)
        self._dtype = config.schema.wire_dtype(self._codec.dtypes)
        self._membership = Membership(
            dht,
            config.run_id,
            host.nursery,
            seekers_changed=lambda key: self._finder.seekers_changed(key),
            progressed=lambda: self._finder.progressed(),
        )
        self._finder = GroupFinder(host, self._links, self._membership, self._run, config, self._leader_gone)
        self._book = PaceBook()
        self._stepping = trio.Lock()
        self._rounds: dict[bytes, RoundDriver] = {}
        self._past = PastRounds()
        self._sealed: SealedState | None = None
        self._closed = False

    @property
    def round(self) -> int:
        """The highest round known to be sealed in the run."""
        return self._membership.progress

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """Everybody known in the run, this peer included."""
        return self._membership.peers

    async def start(self) -> None:
        """Joins the run. Raises ConfigurationError when this host takes part in it already."""
        try:
            self._links.attach(self._run, self)
        except ValueError as error:
            raise ConfigurationError(f"run {self._config.run_id!r}: {error}") from error
        StateServer.of(self._host).attach(self._run, lambda: self._sealed)
        await self._membership.start()
        self._host.events.emit("joined", run=self._config.run_id, peers=len(self.peers))

    async def fetch_state(self) -> StateSnapshot | None:
        """The newest sealed state, from several peers; None when nobody has one."""
        for attempt in range(_STATE_ATTEMPTS):
            if attempt:
                await trio.sleep(_STATE_RETRY_SECONDS)  # a newcomer may look before the records are there
            await self._membership.refresh()
            others = [peer for peer in self.peers if peer != self._host.peer_id]
            snapshot = await fetch_state(self._host, self._run, self._config.schema, others)
            if snapshot is not None:
                self._membership.sealed(snapshot.round)
                return snapshot
            if others and self._membership.progress == 0:
                break  # they have none either
        return None

    async def aclose(self) -> None:
        """Leaves the run."""
        if self._closed:
            return
        self._closed = True
        self._links.detach(self._run)
        StateServer.of(self._host).detach(self._run)
        with trio.move_on_after(1.0):
            try:
                await self._membership.leave()
            except MoshgridError as error:
                _log.info("could not take the run's records back: %s", error)

    # A step -----------------------------------------------------------------------------------------

    async def step(self, arrays: Sequence[Any], weight: float, rounds: int) -> RoundReport:
        """Averages ``arrays`` in place, ``rounds`` times in different groups; reports on the last."""
        self._config.schema.check(arrays)
        report, _ = await self._average(arrays, weight, rounds, partial(self._write, arrays))
        return report

    async def average(self, arrays: Sequence[Any], weight: float, rounds: int) -> Averaged:
        """As ``step``, but leaves ``arrays`` alone and returns the last average beside the report."""
        self._config.schema.check(arrays)
        return await self._average(arrays, weight, rounds, _keep)

    async def _write(self, arrays: Sequence[Any], vector: Vector) -> None:
        await self._offload(self._config.schema.scatter, vector, arrays)

    async def _average(self, arrays: Sequence[Any], weight: float, rounds: int, apply: Apply) -> Averaged:
        async with self._stepping:
            vector = await self._offload(self._config.schema.flatten, arrays, self._dtype)
            average: Vector | None = None
            report: RoundReport | None = None
            for _ in range(rounds):
                if self._closed:
                    raise Closed("the averager was closed")
                one, new = await self._one_round(vector, weight, apply)
                if new is not None:
                    vector = average = new
                report = one if report is None else report.followed_by(one)
            assert report is not None
            return report, average

    async def _one_round(self, vector: Vector, weight: float, apply: Apply) -> Averaged:
        if not await self._offload(is_finite, vector):
            raise ConfigurationError(
                "the arrays hold NaN or infinite values, which would spoil everybody's average; "
                "they were not sent"
            )
        began = self._host.clock.now()
        reasons: list[str] = []
        report: RoundReport | None = None
        lobby = False
        for _ in range(_ATTEMPTS):
            number = self._membership.progress + 1
            topology = self._config.topology
            group_key = LOBBY if lobby else topology.group_key(self._host.peer_id, self.peers)
            signed = await self._finder.find(group_key, number, weight)
            if isinstance(signed, SignedManifest):
                report, average = await self._take_part(signed, vector, began, apply)
                if report.committed:
                    return report, average
                reasons.append(report.reason)
            else:
                reasons.append(signed)
                if not lobby and self._membership.progress >= number:
                    continue  # others went on without this peer: on to the round where they are
            if lobby:
                break
            if report is not None:  # its group went on without it, or fell apart: where is the run now?
                with trio.move_on_after(_NEWS_SECONDS):
                    await self._membership.refresh()
                if self._membership.progress >= number:
                    continue
            lobby = True
        reason = "; then: ".join(dict.fromkeys(reasons))
        self._host.events.emit("no_group", round=number, reason=reason)
        report = report or RoundReport(number, codec=self._config.codec)
        return replace(report, round=number, reason=reason), None

    async def _take_part(
        self, signed: SignedManifest, vector: Vector, began: float, apply: Apply
    ) -> Averaged:
        """A round of a group that came together, up to the applied result."""
        matched = self._host.clock.now()
        driver = self._begin(signed, vector)
        result = await driver.run()
        report = report_of(signed, driver.lost, driver.accused, result)
        if result.vector is not None:
            await apply(result.vector)
            driver.emit("applied", digest=report.digest, completeness=report.completeness)
            self._seal(signed, result, driver.lost.keys())
        reduced = self._host.clock.now()
        report = replace(report, seconds_matching=matched - began, seconds_reducing=reduced - matched)
        return report, result.vector

    def _seal(self, signed: SignedManifest, result: RoundResult, lost: Collection[int]) -> None:
        """The round is sealed here: moves on, tells the run, and keeps the state for latecomers."""
        number = signed.manifest.round
        self._membership.sealed(number)
        self._config.topology.averaged(signed.group_id, signed.peers, self._host.peer_id)
        manifest = signed.manifest
        self._sealed = SealedState(
            Description(
                round=number, codec=manifest.codec, dtype=manifest.dtype, elements=manifest.elements,
                part_elements=manifest.part_elements, schema=manifest.schema, digests=result.value,
            ),
            tuple(result.results),
        )  # fmt: skip
        first = next(peer for index, peer in enumerate(signed.peers) if index not in lost)
        if first == self._host.peer_id:  # the leader, unless it is lost
            self._host.nursery.start_soon(self._publish_progress, number)
        next_key = self._config.topology.group_key(self._host.peer_id, self.peers)
        self._membership.attend(next_key)
        self._host.nursery.start_soon(self._finder.declare, next_key, number + 1)

    async def _publish_progress(self, number: int) -> None:
        try:
            await self._membership.publish_progress(number)
        except MoshgridError as error:
            _log.warning("round %d could not be published: %s", number, error)

    # What the links bring ---------------------------------------------------------------------------

    def frame_arrived(self, peer: PeerId, frame: Frame) -> None:
        """Hands a frame to the round or the search that it belongs to."""
        if not frame.group:
            self._membership.seen(peer)
            self._finder.match_frame(peer, frame.message)
        elif (driver := self._rounds.get(frame.group)) is not None and not driver.finished.is_set():
            driver.arrived(peer, frame)
        elif driver is not None or frame.group in self._past:
            self._forget_finished()
            self._too_late(peer, frame)
        else:
            self._finder.group_frame(peer, frame)

    def _leader_gone(self, leader: PeerId, group_id: bytes, reason: str) -> None:
        if (driver := self._rounds.get(group_id)) is not None:
            driver.lost_link(leader, reason)

    def _too_late(self, peer: PeerId, frame: Frame) -> None:
        """A message of a round that is over here is used by nobody; its sender need not wait for more."""
        if self._past.is_to_be_told(frame.group, peer, frame.message):
            self._host.events.emit("late_message", sender=peer, group=frame.group.hex())
            over = Decline("that round is over here")
            self._links.send(peer, encode_frame(self._run, frame.group, over))

    def bytes_arrived(self, peer: PeerId, count: int) -> None:
        """``count`` bytes came from a peer."""
        for driver in self._rounds.values():
            driver.heard(peer, count)

    def link_lost(self, peer: PeerId, reason: str) -> None:
        """A link ended: whatever waits for that peer is told."""
        self._membership.lost(peer)
        for driver in self._rounds.values():
            driver.lost_link(peer, reason)
        self._finder.lost(peer)

    def _begin(self, signed: SignedManifest, vector: Vector) -> RoundDriver:
        driver = RoundDriver(self._host, self._links, signed, vector, self._book, self._offload)
        self._rounds[signed.group_id] = driver
        for peer, frame in self._finder.held_frames():
            driver.arrived(peer, frame)
        driver.emit("manifest", members=list(signed.peers), leader=signed.leader)
        self._forget_finished()
        while len(self._rounds) > _MAX_ROUNDS_KEPT:
            del self._rounds[next(iter(self._rounds))]
        return driver

    def _forget_finished(self) -> None:
        for group_id, driver in list(self._rounds.items()):
            if driver.finished.is_set():
                self._past.add(group_id, driver.signed.peers)
                del self._rounds[group_id]
