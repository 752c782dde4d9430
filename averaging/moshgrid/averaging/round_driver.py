"""Drives one round: performs the effects of its machine over the links and in worker threads.

Awaits, and decides nothing about the protocol. ``run`` returns when the round is committed or aborted;
the driver then goes on in the background until the machine has finished, to answer members behind.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import trio

from moshgrid.averaging.effects import (
    Abort,
    Commit,
    Emit,
    Finish,
    Heard,
    MemberLost,
    PartArrived,
    Received,
    Reduce,
    Reduced,
    ResultArrived,
    RoundEffect,
    RoundEvent,
    Send,
    SendPart,
    SendResult,
)
from moshgrid.averaging.exchange import MAX_VERSIONS
from moshgrid.averaging.group_round import GroupRound
from moshgrid.averaging.links import Links
from moshgrid.averaging.manifest import SignedManifest, countersign, is_countersigned
from moshgrid.averaging.messages import GroupMessage, PartData, Ready, ResultData
from moshgrid.averaging.reduction import (
    Vector,
    average_part,
    decode_results,
    encode_part,
    relative_error,
    result_digest,
)
from moshgrid.averaging.suspicion import PaceBook
from moshgrid.averaging.wire import Frame, encode_frame
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import public_key_of, verify
from moshgrid.p2p.machine import DeadlinePassed

__all__ = ["Offload", "RoundDriver", "RoundResult", "in_threads", "inline"]

T = TypeVar("T")
Offload = Callable[..., Awaitable[Any]]
"""Runs a plain function and returns its value, without holding up the loop."""

_THREADS = trio.CapacityLimiter(2)
_MAX_INBOX = 65536

_log = logging.getLogger("moshgrid.averaging")


async def in_threads(function: Callable[..., T], *args: Any) -> T:
    """Offloads to worker threads, two at a time."""
    return await trio.to_thread.run_sync(function, *args, limiter=_THREADS)


async def inline(function: Callable[..., T], *args: Any) -> T:
    """Runs at once, in the loop: for virtual time, where threads would be skipped over."""
    await trio.lowlevel.checkpoint()
    return function(*args)


@dataclass
class RoundResult:
    """What the driver leaves behind."""

    committed: bool = False
    reason: str = ""
    vector: Vector | None = None
    digest: str = ""
    value: tuple[bytes, ...] = ()
    """Per part the digest that was sealed."""
    results: list[tuple[int, bytes]] = field(default_factory=list)
    """Per part the contributor bitmap and the encoded bytes that were sealed."""
    bytes_sent: int = 0
    bytes_received: int = 0
    saturated: int = 0
    squared_error: float = 0.0
    squared_norm: float = 0.0

    @property
    def compression_error(self) -> float:
        """Over the parts averaged here."""
        return relative_error(self.squared_error, self.squared_norm)


class RoundDriver:
    """One member's side of one round."""

    def __init__(
        self,
        host: Host,
        links: Links,
        signed: SignedManifest,
        vector: Vector,
        book: PaceBook,
        offload: Offload,
    ) -> None:
        self._host = host
        self._links = links
        self.signed = signed
        self._vector = vector
        self._offload = offload
        self._me = signed.peers.index(host.peer_id)
        self._index = {peer: index for index, peer in enumerate(signed.peers)}
        self._machine = GroupRound(signed, self._me, host.identity.sign, self._verify, book, host.clock.now())
        self.accused = self._machine.accused
        self._inputs: dict[tuple[int, int], memoryview] = {}
        self._results: dict[tuple[int, bytes], tuple[int, bytes]] = {}
        self._versions: Counter[int] = Counter()
        self._outbox, self._inbox = trio.open_memory_channel[RoundEvent](_MAX_INBOX)
        self._over = trio.Event()
        self.finished = trio.Event()
        """Set when nobody needs this driver any more."""
        self.result = RoundResult()

    @property
    def lost(self) -> dict[int, str]:
        """Roster indices of the members lost so far, with the reason."""
        return self._machine.lost

    async def run(self) -> RoundResult:
        """Takes part until the round is decided here."""
        self._host.nursery.start_soon(self._drive)
        await self._over.wait()
        return self.result

    def arrived(self, peer: str, frame: Frame) -> None:
        """A frame of this group came. Frames that the manifest does not allow cost the sender its seat."""
        member = self._index.get(peer)  # type: ignore[call-overload]
        if member is None:
            return
        event = self._event_of(member, frame)
        if event is not None:
            self._put(event)

    def heard(self, peer: str, count: int) -> None:
        """``count`` bytes came from a peer, of whatever."""
        if (member := self._index.get(peer)) is not None:  # type: ignore[call-overload]
            self._put(Heard(member, count))

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
        refused = partial(MemberLost, member, refused=True)
        match message:
            case PartData(part) | ResultData(part) if not 0 <= part < len(self.signed.parts):
                return refused(f"named a part {part} that does not exist")
            case PartData(part) | ResultData(part) if len(payload) != self.signed.part_bytes(part):
                return refused(f"sent {len(payload)} bytes for part {part}")
            case PartData(part):
                if (member, part) in self._inputs:
                    return refused(f"sent its values of part {part} twice")
                if self.signed.manifest.members[member].weight == 0:
                    return refused("sent values, though it has no weight in this round")
                self._inputs[member, part] = payload
                self.result.bytes_received += len(payload)
                return PartArrived(member, part)
            case ResultData(part, contributors, digest):
                if not 0 < contributors < 1 << len(self.signed.peers):
                    return refused(f"named contributors that do not exist for part {part}")
                if result_digest(part, contributors, payload) != digest:
                    return refused(f"sent a result of part {part} that does not fit its digest")
                self.result.bytes_received += len(payload)
                if (part, digest) not in self._results:
                    self._versions[part] += 1
                    if self._versions[part] > MAX_VERSIONS:
                        return refused(f"sent one more result of part {part} than there can be")
                    self._results[part, digest] = (contributors, bytes(payload))
                return ResultArrived(member, part, digest)
            case Ready(manifest, signature):
                peer = self.signed.peers[member]
                if manifest != self.signed.raw or not is_countersigned(peer, self.signed.group_id, signature):
                    return refused("countersigned wrongly")
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
            async with trio.open_nursery() as nursery:
                signature = countersign(self._host.identity, self.signed.group_id)
                await self._perform(self._machine.start(signature, clock.now()), nursery)
                while not self._machine.finished:
                    event: RoundEvent = DeadlinePassed()
                    deadline = self._machine.deadline
                    with trio.CancelScope(deadline=deadline if deadline is not None else float("inf")):
                        event = await self._inbox.receive()
                    await self._perform(self._machine.handle(event, clock.now()), nursery)
                nursery.cancel_scope.cancel()
        except Exception:  # the root of this round's task: a bug here must not take the node down
            _log.exception("round %d failed", self.signed.manifest.round)
            self.result.reason = "internal error; the log has the details"
        finally:
            if not self._over.is_set():
                self.result.reason = self.result.reason or "the averager was closed"
                self._over.set()
            self._inbox.close()
            self._inputs.clear()
            self.finished.set()

    async def _perform(self, effects: list[RoundEffect], nursery: trio.Nursery) -> None:
        for effect in effects:
            match effect:
                case Send(member, message):
                    self._send(member, message)
                case SendPart(member, part):
                    nursery.start_soon(self._send_part, member, part)
                case SendResult(member, part, digest):
                    contributors, data = self._results[part, digest]
                    self._send(member, ResultData(part, contributors, digest), data)
                case Reduce(part, contributors):
                    nursery.start_soon(self._reduce, part, contributors)
                case Commit(_, value):
                    await self._commit(value)
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

    def _send(self, member: int, message: GroupMessage, payload: bytes = b"") -> None:
        header = encode_frame(self.signed.manifest.run, self.signed.group_id, message)
        self.result.bytes_sent += len(payload)
        self._links.send(self.signed.peers[member], header, payload)

    async def _send_part(self, member: int, part: int) -> None:
        data, saturated = await self._offload(encode_part, self.signed, self._vector, part)
        self.result.saturated += saturated
        self._send(member, PartData(part), data)

    async def _reduce(self, part: int, contributors: tuple[int, ...]) -> None:
        inputs = {
            member: None if member == self._me else self._inputs[member, part] for member in contributors
        }
        average = await self._offload(average_part, self.signed, part, inputs, self._vector)
        if average is None:
            for member in contributors:
                self._put(MemberLost(member, "sent values that cannot be used", refused=True))
            self._put(Reduced(part, b"", tuple(contributors)))
            return
        for member, reason in average.refused.items():
            self._put(MemberLost(member, reason, refused=True))
        self._results[part, average.digest] = (average.contributors, average.data)
        self.result.squared_error += average.squared_error
        self.result.squared_norm += average.squared_norm
        self._put(Reduced(part, average.digest, tuple(average.refused)))

    async def _commit(self, value: tuple[bytes, ...]) -> None:
        self.result.value = value
        self.result.results = [self._results[part, digest] for part, digest in enumerate(value)]
        self.result.vector, self.result.digest = await self._offload(
            decode_results, self.signed, [data for _, data in self.result.results]
        )
        self.result.committed = True
        self._over.set()
