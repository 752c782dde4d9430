"""A run at one peer, inside the event loop: declares, matches, averages, applies, and serves state.

Awaits; what to do is decided by the machines it drives and by the topology.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import trio

from moshgrid.averaging.flat_arrays import FlatArrays, Vector
from moshgrid.averaging.group_finder import GroupFinder
from moshgrid.averaging.layout import codecs_of
from moshgrid.averaging.links import Links
from moshgrid.averaging.manifest import SignedManifest
from moshgrid.averaging.membership import Membership
from moshgrid.averaging.part_work import Offload, in_threads
from moshgrid.averaging.pending_step import Averaged
from moshgrid.averaging.plan_exchange import PlanExchange
from moshgrid.averaging.reference import Difference, Reference
from moshgrid.averaging.report import RoundReport, report_of
from moshgrid.averaging.round_driver import RoundDriver
from moshgrid.averaging.round_parts import RoundResult
from moshgrid.averaging.run_config import RunConfig, run_digest
from moshgrid.averaging.run_rounds import RunRounds
from moshgrid.averaging.run_state import RunState
from moshgrid.averaging.run_values import RunValues
from moshgrid.averaging.steps import Steps
from moshgrid.averaging.suspicion import PaceBook
from moshgrid.averaging.topology import LOBBY, Place, View
from moshgrid.averaging.wire import Frame
from moshgrid.dht import DHTNode
from moshgrid.p2p.errors import ConfigurationError, MoshgridError
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId

__all__ = ["RunCore"]

_ATTEMPTS = 5
_NEWS_SECONDS = 1.0
_ROUNDS_BACK = 2

_log = logging.getLogger("moshgrid.averaging")


class RunCore:
    """One run at one host. ``step`` one at a time."""

    def __init__(self, host: Host, dht: DHTNode, config: RunConfig, offload: Offload = in_threads) -> None:
        self._host = host
        self._config = config
        self._run = run_digest(host.network_name, config.run_id)
        self._links = Links.of(host)
        self._offload = offload
        self._membership = Membership(
            dht,
            config.run_id,
            host.nursery,
            seekers_changed=lambda: self._finder.seekers_changed(),
            progressed=lambda: self._finder.progressed(),
            plan_seen=lambda value, author: self._plans.seen(value, author),
            peers_changed=self._look_ahead,
        )
        self._plans = PlanExchange(host, self._membership, config.group_size, self._look_ahead)
        self._rounds = RunRounds(host, self._links, self._run)
        self.bytes_arrived, self.link_down = self._rounds.bytes_arrived, self._rounds.link_down
        self._finder = GroupFinder(
            host, self._links, self._membership, self._run, config, self._rounds.leader_gone
        )
        self._book = PaceBook()
        self._steps = Steps()
        self.state = RunState(
            host,
            self._run,
            config,
            offload,
            peers=lambda: self.peers,
            refresh=self._membership.refresh,
            progress=lambda: self.round,
            reached=self._membership.sealed,
        )
        self.only_after: int | None = None  # what is averaged is for the round after that one only
        self._tried = 0

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
        self.state.attach()
        await self._membership.start()
        self._host.events.emit("joined", run=self._config.run_id, peers=len(self.peers))

    async def aclose(self) -> None:
        """Leaves the run."""
        if self._steps.closed:
            return
        with trio.move_on_after(1.0):
            await self._steps.aclose()
        self._links.detach(self._run)
        self.state.detach()
        with trio.move_on_after(1.0):
            try:
                await self._membership.leave()
            except MoshgridError as error:
                _log.info("could not take the run's records back: %s", error)

    # A step -----------------------------------------------------------------------------------------

    async def step(
        self, arrays: Sequence[Any], weight: float, rounds: int, reference: Sequence[Any] | None = None
    ) -> RoundReport:
        """Averages ``arrays`` in place, ``rounds`` times in different groups; reports on the last.

        ``reference``: arrays that all members share; what is encoded is the difference to them.
        """
        self._config.schema.check(arrays)
        async with self._steps.one():
            values = await self._offload(RunValues, self._config, arrays)
            return await self._average(values, weight, rounds, reference)

    async def average(
        self, arrays: Sequence[Any], weight: float, rounds: int, reference: Sequence[Any] | None = None
    ) -> Averaged:
        """As ``step``, but leaves ``arrays`` alone and returns the last average beside the report."""
        self._config.schema.check(arrays)
        async with self._steps.one():
            values = await self._offload(RunValues, self._config, arrays, True)
            report = await self._average(values, weight, rounds, reference)
            return report, values.averages

    async def _average(
        self, values: RunValues, weight: float, rounds: int, reference: Sequence[Any] | None
    ) -> RoundReport:
        shared = None if reference is None else await self._offload(Reference, self._config, reference)
        report: RoundReport | None = None
        for _ in range(rounds):
            one = await self._one_round(values, weight, shared)
            report = one if report is None else report.followed_by(one)
        assert report is not None
        return report

    async def _one_round(self, values: RunValues, weight: float, shared: Reference | None) -> RoundReport:
        if not await self._offload(values.flat.is_finite):
            raise ConfigurationError(
                f"the arrays hold NaN or infinite values (as {self._config.dtype}), which would spoil "
                "everybody's average; they were not sent"
            )
        difference = await self._offload(shared.subtracted_from, values.flat) if shared else None
        began = self._host.clock.now()
        reasons: list[str] = []
        report: RoundReport | None = None
        number, lobby = 0, False
        for _ in range(_ATTEMPTS):
            number = number if lobby else self._next_round()
            if self.only_after is not None and number > self.only_after + 1:
                break
            place = Place(LOBBY) if lobby else self._place(number)
            self._tried = number
            counts = 0.0 if self.state.behind else weight
            signed = await self._finder.find(place, number, counts, shared.digest if shared else b"")
            if isinstance(signed, SignedManifest):
                used = difference if signed.manifest.reference else None
                report = await self._take_part(signed, values, used, began)
                if report.committed:
                    if lobby:  # where the others come to this round now, it is there once more, not ahead
                        self._tried = number - 1
                    return report
                reasons.append(report.reason)
                with trio.move_on_after(_NEWS_SECONDS):  # its group fell apart: where is the run now?
                    await self._membership.refresh()
            else:
                reasons.append(signed.reason)
                if self._membership.is_untold:  # newcomers would look for a group in that round for ever
                    self._host.nursery.start_soon(self._publish_progress, self._membership.progress)
                if signed.is_final:
                    break
            if lobby:
                break
            # Who is left over where there are other groups may find company of its kind in the lobby, in
            # the same round. On to the next it would run ahead of all others, and stay ahead of them.
            is_left_over = report is None and place.groups > 1
            lobby = is_left_over or self._membership.progress < number
        reason = "; then: ".join(dict.fromkeys(reasons)) or "the run went on without this peer"
        self._host.events.emit("no_group", round=number, reason=reason)
        report = report or RoundReport(number, codec="+".join(codecs_of(self._config.layout)))
        return replace(report, round=number, reason=reason)

    async def _take_part(
        self, signed: SignedManifest, values: RunValues, difference: Difference | None, began: float
    ) -> RoundReport:
        """A round of a group that came together, up to the applied result.

        ``difference`` to the reference is averaged in the place of the values when there is one.
        """
        matched = self._host.clock.now()
        driver = self._begin(signed, difference.values if difference else values.flat)
        result = await driver.run()
        report = report_of(signed, driver.lost, driver.accused, result)
        if result.committed:
            with trio.CancelScope(shield=True):  # all of the arrays take the average on, or none
                plain = await self._offload(difference.write_to, values.flat) if difference else None
                await self._offload(values.changed)
            driver.emit("applied", digest=report.digest, completeness=report.completeness)
            await self._seal(signed, result, driver.lost.keys(), plain)
            result.results.clear()  # whose memory the next round wants, before anybody collects the garbage
        matching, reducing = matched - began, self._host.clock.now() - matched
        return replace(report, seconds_matching=matching, seconds_reducing=reducing)

    async def _seal(
        self, signed: SignedManifest, result: RoundResult, lost: Collection[int], plain: Vector | None
    ) -> None:
        """The round is sealed here: moves on, tells the run, and keeps the state for latecomers.

        ``plain``: the new values, where what was averaged was their difference to a reference.
        """
        number = signed.manifest.round
        self._membership.sealed(number)
        self._config.topology.averaged(signed.group_id, signed.peers, self._host.peer_id)
        await self.state.sealed(signed, result, plain)
        first = next(peer for index, peer in enumerate(signed.peers) if index not in lost)
        if first == self._host.peer_id:  # the leader, unless it is lost
            self._host.nursery.start_soon(self._publish_progress, number)
        if self._config.topology.plans:
            self._host.nursery.start_soon(self._plans.publish_if_due, number + 1)
        following = self._place(number + 1)
        self._finder.attend(following)
        self._host.nursery.start_soon(self._finder.declare, following.key, number + 1)

    def _next_round(self) -> int:
        """1 + the last sealed round; or an earlier one, where this peer's group for it is still open."""
        last = self._membership.progress
        first = max(self._tried, self.only_after or 0) + 1
        for number in range(max(first, last - _ROUNDS_BACK), last + 1):
            if self._finder.is_open(self._place(number), number):
                return number
        return last + 1

    def _place(self, number: int) -> Place:
        peers, plan = sorted(self._membership.present(number)), self._plans.in_force(number)
        return self._config.topology.place(self._host.peer_id, View(number, tuple(peers), plan))

    def _look_ahead(self) -> None:
        """Who takes part has changed: this peer's next group may be elsewhere than it declared."""
        number = self.round + 1
        place = self._place(number)
        self._finder.attend(place)
        is_ahead = number > self._tried and not self._steps.closed
        if is_ahead and self._membership.is_declared_elsewhere(place.key, number):
            self._host.nursery.start_soon(self._finder.declare, place.key, number)

    async def _publish_progress(self, number: int) -> None:
        plan = self._plans.in_force(number)
        try:
            await self._membership.publish_progress(number, plan and plan.record.to_value())
        except MoshgridError as error:
            _log.warning("round %d could not be published: %s", number, error)

    # What the links bring ---------------------------------------------------------------------------

    def frame_arrived(self, peer: PeerId, frame: Frame) -> None:
        """Hands a frame to the round or the search that it belongs to."""
        if not frame.group:
            self._membership.seen(peer)
            self._finder.match_frame(peer, frame.message)
        elif not self._rounds.frame_arrived(peer, frame):
            self._finder.group_frame(peer, frame)

    def link_lost(self, peer: PeerId, reason: str) -> None:
        """A link ended: whatever waits for that peer is told."""
        self._membership.lost(peer)
        self._rounds.link_lost(peer, reason)
        self._finder.lost(peer)
        self._look_ahead()

    def _begin(self, signed: SignedManifest, values: FlatArrays) -> RoundDriver:
        self._links.memory.keep(self._run, 2 * signed.total_bytes)
        driver = RoundDriver(self._host, self._links, signed, values, self._book, self._offload)
        self._rounds.add(driver)
        for peer, frame in self._finder.held_frames():
            driver.arrived(peer, frame)
        driver.emit("manifest", members=list(signed.peers), leader=signed.leader)
        return driver
