"""Drives one round: performs the effects of its machine over the links and in worker threads.

Awaits, and decides nothing about the protocol. ``run`` returns when the round is committed or aborted;
the driver then goes on in the background until the machine has finished, to answer members behind.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import trio

from moshgrid.averaging.effects import (
    Abort,
    Commit,
    Emit,
    Finish,
    Heard,
    LinkDown,
    MemberLost,
    Received,
    Reduce,
    ResultTaken,
    RoundEffect,
    RoundEvent,
    Send,
    SendPart,
    SendResult,
)
from moshgrid.averaging.flat_arrays import FlatArrays
from moshgrid.averaging.group_round import GroupRound
from moshgrid.averaging.links import Links
from moshgrid.averaging.manifest import SignedManifest, countersign, is_countersigned
from moshgrid.averaging.messages import Decline, GroupMessage, PartData, Ready, ResultData
from moshgrid.averaging.part_memory import Payload
from moshgrid.averaging.part_work import Offload
from moshgrid.averaging.round_parts import RoundParts, RoundResult
from moshgrid.averaging.suspicion import PaceBook
from moshgrid.averaging.wire import Frame, encode_frame
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import public_key_of, verify
from moshgrid.p2p.machine import DeadlinePassed

__all__ = ["RoundDriver"]

_MAX_INBOX = 65536

_log = logging.getLogger("moshgrid.averaging")


class RoundDriver:
    """One member's side of one round over ``arrays``."""

    def __init__(
        self,
        host: Host,
        links: Links,
        signed: SignedManifest,
        arrays: FlatArrays,
        book: PaceBook,
        offload: Offload,
    ) -> None:
        self._host = host
        self._links = links
        self.signed = signed
        self._me = signed.peers.index(host.peer_id)
        self._index = {peer: index for index, peer in enumerate(signed.peers)}
        self._machine = GroupRound(signed, self._me, host.identity.sign, self._verify, book, host.clock.now())
        self.accused = self._machine.standing.accused
        self._parts = RoundParts(signed, self._me, arrays, links.memory, offload, self._put, self._send)
        self._outbox, self._inbox = trio.open_memory_channel[RoundEvent](_MAX_INBOX)
        self._scope = trio.CancelScope()
        self._over = trio.Event()
        self._applying = False
        self.finished = trio.Event()
        """Set when nobody needs this driver any more."""
        self.result = self._parts.result

    @property
    def lost(self) -> dict[int, str]:
        """Roster indices of the members lost so far, with the reason."""
        return self._machine.standing.lost

    async def run(self) -> RoundResult:
        """Takes part until the round is decided here; the arrays must not change meanwhile.

        When it is cancelled, this member leaves the round.
        """
        self._host.nursery.start_soon(self._drive)
        try:
            await self._over.wait()
        finally:
            with trio.CancelScope(shield=True):
                if self._applying:
                    await self._over.wait()  # never half of an average
            self._parts.close()
            if not self._over.is_set():
                self._leave()
        return self.result

    def _leave(self) -> None:
        for member in range(len(self.signed.peers)):
            if member != self._me:
                self._send(member, Decline("its step was cancelled"))
        self._scope.cancel()

    def arrived(self, peer: str, frame: Frame) -> None:
        """A frame of this group came. Frames that the manifest does not allow cost the sender its seat."""
        member = self._index.get(peer)  # type: ignore[call-overload]
        if member is None or self.finished.is_set():
            return
        event = self._event_of(member, frame)
        if event is not None:
            self._put(event)

    def heard(self, peer: str, count: int) -> None:
        """``count`` bytes came from a peer, of whatever."""
        if (member := self._index.get(peer)) is not None:  # type: ignore[call-overload]
            self._put(Heard(member, count))

    def link_down(self, peer: str, seconds: float) -> None:
        """The link to a peer broke, and may go on."""
        if (member := self._index.get(peer)) is not None:  # type: ignore[call-overload]
            self._put(LinkDown(member, seconds))

    def lost_link(self, peer: str, reason: str) -> None:
        """The link to a peer ended."""
        if (member := self._index.get(peer)) is not None:  # type: ignore[call-overload]
            self._put(MemberLost(member, reason))

    def _put(self, event: RoundEvent) -> None:
        # Over, or flooded: a member that floods is not owed an answer.
        with suppress(trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            self._outbox.send_nowait(event)

    # What came in -----------------------------------------------------------------------------------

    def _event_of(self, member: int, frame: Frame) -> RoundEvent | None:
        message, payload = frame.message, frame.payload
        match message:
            case PartData() | ResultData():
                self._parts.arrived(member, message, payload)
            case Ready(manifest, signature):
                peer = self.signed.peers[member]
                if manifest != self.signed.raw or not is_countersigned(peer, self.signed.group_id, signature):
                    return MemberLost(member, "countersigned wrongly", refused=True)
                return Received(member, message)
            case _ if isinstance(message, GroupMessage):
                return Received(member, message)
        return None

    def _verify(self, member: int, signature: bytes, message: bytes) -> bool:
        return verify(public_key_of(self.signed.peers[member]), signature, message)

    # The loop ---------------------------------------------------------------------------------------

    async def _drive(self) -> None:
        clock = self._host.clock
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._parts.open(nursery)
                    signature = countersign(self._host.identity, self.signed.group_id)
                    await self._perform(self._machine.start(signature, clock.now()))
                    while not self._machine.finished:
                        event: RoundEvent = DeadlinePassed()
                        deadline = self._machine.deadline
                        with trio.CancelScope(deadline=deadline if deadline is not None else float("inf")):
                            event = await self._inbox.receive()
                        await self._perform(self._machine.handle(event, clock.now()))
                    nursery.cancel_scope.cancel()
        except Exception:  # the root of this round's task: a bug here must not take the node down
            _log.exception("round %d failed", self.signed.manifest.round)
            self.result.reason = "internal error; the log has the details"
        finally:
            if not self._over.is_set():
                self.result.reason = self.result.reason or "the averager was closed"
                self._over.set()
            self._inbox.close()
            self._parts.end()
            self.finished.set()

    async def _perform(self, effects: list[RoundEffect]) -> None:
        for effect in effects:
            match effect:
                case Send(member, message):
                    self._send(member, message)
                case SendPart():
                    self._parts.encode(effect)
                case SendResult(member, part, digest):
                    contributors, data = self._parts.held(part, digest)
                    taken = partial(self._taken, member)
                    self._send(member, ResultData(part, contributors, digest), data, taken)
                case Reduce():
                    self._parts.reduce(effect)
                case Commit(_, value):
                    self._applying = True
                    await self._parts.apply(value)
                    self._over.set()
                case Abort(reason):
                    self.result.reason = reason
                    self._over.set()
                case Emit(event, fields):
                    self.emit(event, **fields)
                case Finish():
                    pass

    def emit(self, event: str, **fields: Any) -> None:
        """Writes to the event log, with the round and the group."""
        manifest = self.signed.manifest
        self._host.events.emit(event, round=manifest.round, group=self.signed.group_id.hex(), **fields)

    def _send(
        self,
        member: int,
        message: GroupMessage,
        payload: Payload = b"",
        sent: Callable[[], None] | None = None,
    ) -> None:
        header = encode_frame(self.signed.manifest.run, self.signed.group_id, message)
        self.result.bytes_sent += len(payload)
        wanted = partial(self._is_wanted, member, isinstance(message, PartData)) if payload else None
        self._links.send(self.signed.peers[member], header, payload, sent, wanted)

    def _taken(self, member: int) -> None:
        if self._over.is_set():
            self._put(ResultTaken(member))

    def _is_wanted(self, member: int, is_own_value: bool) -> bool:
        """False when what waits on a slow link would only keep what comes after it waiting."""
        if self.finished.is_set() or self._machine.standing.is_done_with(member):
            return False
        return not (is_own_value and self._over.is_set())
