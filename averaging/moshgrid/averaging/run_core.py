"""A run at one peer, inside the event loop: declares, matches, averages, applies, and serves state.

Awaits; what to do is decided by the machines it drives and by the topology.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import trio

from moshgrid.averaging.leading import compose_manifest
from moshgrid.averaging.links import Links
from moshgrid.averaging.manifest import SignedManifest, open_manifest, sign_manifest
from moshgrid.averaging.match_driver import MatchDriver
from moshgrid.averaging.matchmaking import Formed, Matchmaking, NoGroup, PeerLost, Told
from moshgrid.averaging.membership import Membership
from moshgrid.averaging.patience import Patience
from moshgrid.averaging.reduction import Vector
from moshgrid.averaging.report import RoundReport, report_of
from moshgrid.averaging.round_driver import Offload, RoundDriver, RoundResult, check_finite, in_threads
from moshgrid.averaging.schema import Schema
from moshgrid.averaging.state import Description, SealedState, StateSnapshot
from moshgrid.averaging.state_transfer import StateServer, fetch_state
from moshgrid.averaging.suspicion import PaceBook
from moshgrid.averaging.topology import LOBBY, Topology
from moshgrid.averaging.wire import (
    Accepted,
    Begin,
    Decline,
    Disbanded,
    Frame,
    Join,
    Leave,
    MatchMessage,
    Offer,
    Ready,
    Refused,
    encode_frame,
)
from moshgrid.compression import get_codec
from moshgrid.dht import DHTNode
from moshgrid.p2p.errors import Closed, ConfigurationError, MoshgridError, RemoteProtocolError
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId

__all__ = ["RunConfig", "RunCore", "run_digest"]

_MAX_EARLY = 64
_MAX_ROUNDS_KEPT = 4
_LOBBY_SECONDS = 1.0

_log = logging.getLogger("moshgrid.averaging")


def run_digest(network: str, run_id: str) -> bytes:
    """The 16 bytes that name a run on the wire."""
    return hashlib.sha256(f"{network}\x00{run_id}".encode()).digest()[:16]


@dataclass(frozen=True)
class RunConfig:
    """What the members of a run agree on beforehand."""

    run_id: str
    schema: Schema
    topology: Topology
    group_size: int
    min_group_size: int
    codec: str
    deadline: float | None = None
    """Seconds that a step may look for a group in all; None adapts."""


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
        self._membership = Membership(dht, config.run_id, host.nursery, self._seekers_changed)
        self._book = PaceBook()
        self._patience = Patience()
        self._stepping = trio.Lock()
        self._matching: MatchDriver | None = None
        self._early: dict[PeerId, Join] = {}
        self._rounds: dict[bytes, RoundDriver] = {}
        self._forming: SignedManifest | None = None
        self._held_frames: list[tuple[PeerId, Frame]] = []
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
        await self._membership.refresh()
        others = [peer for peer in self.peers if peer != self._host.peer_id]
        snapshot = await fetch_state(self._host, self._run, self._config.schema, others)
        if snapshot is not None:
            self._membership.sealed(snapshot.round)
        return snapshot

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
        async with self._stepping:
            views = self._config.schema.check(arrays)
            report: RoundReport | None = None
            for _ in range(rounds):
                if self._closed:
                    raise Closed("the averager was closed")
                vector = await self._offload(self._config.schema.flatten, views, self._dtype)
                if not await self._offload(check_finite, vector):
                    raise ConfigurationError(
                        "the arrays hold NaN or infinite values, which would spoil everybody's average; "
                        "they were not sent"
                    )
                one, result = await self._one_round(vector, weight)
                if result is not None and result.vector is not None:
                    await self._offload(self._config.schema.scatter, result.vector, views)
                    self._host.events.emit(
                        "applied", round=one.round, digest=one.digest, completeness=one.completeness
                    )
                report = one if report is None else report.followed_by(one)
            assert report is not None
            return report

    async def _one_round(self, vector: Vector, weight: float) -> tuple[RoundReport, RoundResult | None]:
        began = self._host.clock.now()
        topology = self._config.topology
        number = self._membership.progress + 1
        report = RoundReport(number, codec=self._config.codec)
        reasons = []
        for group_key in (topology.group_key(self._host.peer_id, self.peers), LOBBY):
            number = max(number, self._membership.progress + 1)
            matched = await self._match(group_key, number, vector, weight)
            if isinstance(matched, str):
                reasons.append(matched)
                continue
            matched_at = self._host.clock.now()
            driver, signed = matched
            result = await driver.run()
            report = replace(
                report_of(signed, driver.lost, result),
                seconds_matching=matched_at - began,
                seconds_reducing=self._host.clock.now() - matched_at,
            )
            if result.committed:
                self._seal(signed, result)
                return report, result
            reasons.append(result.reason)
        reason = "; then in the lobby: ".join(reasons)
        self._host.events.emit("no_group", round=number, reason=reason)
        return replace(report, round=number, reason=reason), None

    async def _match(
        self, group_key: str, number: int, vector: Vector, weight: float
    ) -> tuple[RoundDriver, SignedManifest] | str:
        """A group's round under ``group_key``, begun; or why there is none."""
        began = self._host.clock.now()
        offer = Offer(weight, 0.0, self._config.schema.digest, self._config.codec, True)
        self._membership.attend(group_key)
        machine = Matchmaking(
            self._host.peer_id, group_key, number, offer, self._config.group_size,
            self._config.min_group_size, began,
            patience=self._patience_for(group_key),
        )  # fmt: skip
        matching = MatchDriver(machine, group_key, number, self._host.clock, self._tell)
        self._matching = matching
        self._host.nursery.start_soon(self._declare, group_key, number)
        self._seekers_changed(group_key)
        self._take_early_joins(matching)
        outcome = await matching.run()
        if isinstance(outcome, NoGroup):
            return outcome.reason
        if isinstance(outcome, Formed):
            signed = sign_manifest(
                self._host.identity,
                compose_manifest(
                    self._run, group_key, number, outcome.members, self._config.schema, self._codec,
                    self._host.rng,
                ),
            )  # fmt: skip
        else:
            signed = outcome
        self._patience.observed(self._host.clock.now() - began)
        driver = RoundDriver(self._host, self._links, signed, vector, self._book, self._offload)
        self._keep_driver(signed.group_id, driver)
        driver.emit("manifest", members=list(signed.peers), leader=signed.leader)
        if isinstance(outcome, Formed):
            for peer in signed.peers[1:]:
                self._tell(peer, Begin(signed.raw))
        held, self._held_frames, self._forming = self._held_frames, [], None
        for peer, frame in held:
            driver.arrived(peer, frame)
        return driver, signed

    def _patience_for(self, group_key: str) -> float:
        if self._config.deadline is not None:
            return self._config.deadline
        # Who comes to the lobby has waited already, and so have the others there.
        return _LOBBY_SECONDS if group_key == LOBBY else self._patience.seconds

    def _seal(self, signed: SignedManifest, result: RoundResult) -> None:
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
        if signed.leader == self._host.peer_id:
            self._host.nursery.start_soon(self._publish_progress, number)
        next_key = self._config.topology.group_key(self._host.peer_id, self.peers)
        self._membership.attend(next_key)
        self._host.nursery.start_soon(self._declare, next_key, number + 1)

    async def _declare(self, group_key: str, number: int) -> None:
        try:
            await self._membership.declare(group_key, number)
        except MoshgridError as error:
            _log.warning("round %d could not be declared: %s", number, error)

    async def _publish_progress(self, number: int) -> None:
        try:
            await self._membership.publish_progress(number)
        except MoshgridError as error:
            _log.warning("round %d could not be published: %s", number, error)

    # What the links bring ---------------------------------------------------------------------------

    def frame_arrived(self, peer: PeerId, frame: Frame) -> None:
        """Hands a frame to the round or the search that it belongs to."""
        if frame.group:
            driver = self._rounds.get(frame.group)
            if driver is not None:
                driver.arrived(peer, frame)
            elif self._forming is not None and frame.group == self._forming.group_id:
                self._hold(peer, frame)
            elif isinstance(frame.message, Ready):
                # A member that the leader told first; the manifest it brings is as good as the leader's.
                self._begin(peer, frame.message.manifest, (peer, frame))
            return
        message = frame.message
        self._membership.seen(peer)
        match message:
            case Begin(manifest):
                self._begin(peer, manifest, None)
            case Join(key, number) if not self._is_matching(key, number):
                self._join_elsewhere(peer, message)
            case Join(key, number) | Accepted(key, number) | Refused(key, number) | Leave(key, number) | Disbanded(
                key, number
            ):
                if self._matching is not None and self._is_matching(key, number):
                    self._matching.feed(Told(peer, message))
            case _:
                pass

    def bytes_arrived(self, peer: PeerId) -> None:
        """Something came from a peer."""
        for driver in self._rounds.values():
            driver.heard(peer)

    def link_lost(self, peer: PeerId, reason: str) -> None:
        """A link ended: whatever waits for that peer is told."""
        self._membership.lost(peer)
        self._early.pop(peer, None)
        for driver in self._rounds.values():
            driver.lost_link(peer, reason)
        if self._matching is not None:
            self._matching.feed(PeerLost(peer))

    def _begin(self, sender: PeerId, raw: bytes, held: tuple[PeerId, Frame] | None) -> None:
        try:
            signed = open_manifest(raw, sender)
            self._check_manifest(signed, sender)
        except RemoteProtocolError as error:
            _log.warning("%s", error)
            return
        if signed.group_id in self._rounds or self._forming is not None:
            return
        matching = self._matching
        manifest = signed.manifest
        if matching is None or not matching.would_follow(signed.leader):
            self._decline(signed, "it follows another leader, or none")
            return
        if (matching.group_key, matching.round) != (manifest.group_key, manifest.round):
            self._decline(signed, "it seeks a group for another round")
            return
        self._forming = signed
        if held is not None:
            self._hold(*held)
        matching.began(signed)

    def _check_manifest(self, signed: SignedManifest, sender: PeerId) -> None:
        manifest = signed.manifest
        if self._host.peer_id not in signed.peers or manifest.run != self._run:
            raise RemoteProtocolError(sender, "sent a manifest of others")
        if manifest.schema != self._config.schema.digest or manifest.elements != self._config.schema.elements:
            raise RemoteProtocolError(sender, "sent a manifest for other tensors")
        if manifest.codec != self._config.codec or manifest.dtype != self._dtype.name or manifest.reference:
            raise RemoteProtocolError(sender, "sent a manifest with another codec or reference")
        if len(signed.peers) > self._config.group_size:
            raise RemoteProtocolError(sender, f"sent a manifest of {len(signed.peers)} members")

    def _decline(self, signed: SignedManifest, reason: str) -> None:
        for peer in signed.peers:
            if peer != self._host.peer_id:
                self._links.send(peer, encode_frame(self._run, signed.group_id, Decline(reason)))

    def _hold(self, peer: PeerId, frame: Frame) -> None:
        if len(self._held_frames) < 4 * _MAX_EARLY:
            self._held_frames.append((peer, frame))

    def _is_matching(self, group_key: str, number: int) -> bool:
        matching = self._matching
        return matching is not None and (matching.group_key, matching.round) == (group_key, number)

    def _join_elsewhere(self, peer: PeerId, join: Join) -> None:
        """A request to lead a round that this peer is not seeking: kept if it may yet come to that."""
        if join.round > self._membership.progress and (peer in self._early or len(self._early) < _MAX_EARLY):
            self._early[peer] = join
        else:
            reason = f"round {join.round} is over here"
            self._tell(peer, Refused(join.group_key, join.round, reason, "", ()))

    def _take_early_joins(self, matching: MatchDriver) -> None:
        early, self._early = self._early, {}
        for peer, join in early.items():
            if self._is_matching(join.group_key, join.round):
                matching.feed(Told(peer, join))
            elif join.round > matching.round:
                self._early[peer] = join
            else:
                reason = "this peer seeks another group in that round"
                self._tell(peer, Refused(join.group_key, join.round, reason, "", ()))

    def _tell(self, peer: PeerId, message: MatchMessage) -> None:
        self._links.send(peer, encode_frame(self._run, b"", message))

    def _seekers_changed(self, group_key: str) -> None:
        matching = self._matching
        if matching is not None and matching.group_key == group_key:
            matching.seekers_are(self._membership.seekers(group_key, matching.round))

    def _keep_driver(self, group_id: bytes, driver: RoundDriver) -> None:
        self._rounds[group_id] = driver
        for old in [key for key, one in self._rounds.items() if one.finished.is_set()]:
            del self._rounds[old]
        while len(self._rounds) > _MAX_ROUNDS_KEPT:
            del self._rounds[next(iter(self._rounds))]
