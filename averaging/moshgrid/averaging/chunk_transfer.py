"""One download of a state: performs what ``state_download`` decides, and tells how far it is. Awaits."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from moshgrid.averaging.landing import Landing
from moshgrid.averaging.state import Chunk, is_chunk_of
from moshgrid.averaging.state_choice import Choice
from moshgrid.averaging.state_download import (
    Arrived,
    Ask,
    DonorFound,
    DonorLost,
    Download,
    Downloaded,
    Event,
    GaveUp,
    WasBusy,
)
from moshgrid.averaging.state_service import STATE, Busy, GetChunk
from moshgrid.p2p.errors import MoshgridError
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.machine import DeadlinePassed

__all__ = ["ChunkTransfer", "Progress", "ProgressSink"]

_CHUNK_SECONDS = 30.0
_NEW_DONORS_SECONDS = 2.0

_log = logging.getLogger("moshgrid.averaging")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a download is."""

    bytes_done: int
    bytes_total: int
    seconds: float
    donors: int
    """Peers that sent something."""
    bytes_before: int = 0
    """Those of ``bytes_done`` that were here already."""

    @property
    def rate(self) -> float:
        """Bytes per second so far."""
        return (self.bytes_done - self.bytes_before) / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At the rate so far; None before there is one."""
        return (self.bytes_total - self.bytes_done) / self.rate if self.rate > 0 else None


ProgressSink = Callable[[Progress], None]
"""Called in the network thread after each chunk; must be quick."""


class ChunkTransfer:
    """Fills ``landing``. ``late_donors(state id)`` looks for more peers that have it.

    ``keep(part, chunk)`` is called after each chunk that came, one call at a time.
    """

    def __init__(
        self,
        host: Host,
        run: bytes,
        landing: Landing,
        choice: Choice,
        progress: ProgressSink | None,
        late_donors: Callable[[bytes], Awaitable[list[PeerId]]],
        keep: Callable[[int, Chunk], Awaitable[None]] | None = None,
    ) -> None:
        self._host = host
        self._run = run
        self._landing = landing
        self._progress = progress
        self._late_donors = late_donors
        self._keep = keep
        self._keeping = trio.Lock()
        self._bytes_before = landing.bytes_here
        self._began = host.clock.now()
        self._senders: set[PeerId] = set()
        self._state = choice.state.id
        wanted, donors = landing.missing, list(choice.donors)
        host.rng.shuffle(wanted)
        host.rng.shuffle(donors)
        self._machine = Download(wanted, donors, self._began)
        self._send, self._events = trio.open_memory_channel[Event](64)

    async def run(self) -> bool:
        """True when every chunk is here."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_for_donors)
            whole = self._perform(self._machine.start(self._began), nursery)
            while whole is None:
                event = await self._next_event()
                whole = self._perform(self._machine.handle(event, self._host.clock.now()), nursery)
            nursery.cancel_scope.cancel()
        return bool(whole)

    async def _next_event(self) -> Event:
        deadline = self._machine.deadline
        wait = float("inf") if deadline is None else max(0.0, deadline - self._host.clock.now())
        with trio.move_on_after(wait):
            return await self._events.receive()
        return DeadlinePassed()

    def _perform(self, effects: Sequence[object], nursery: trio.Nursery) -> bool | None:
        for effect in effects:
            match effect:
                case Ask(donor, part):
                    nursery.start_soon(self._ask, donor, part)
                case Downloaded():
                    return True
                case GaveUp(reason):
                    _log.warning("the state of round %d: %s", self._landing.description.round, reason)
                    return False
        return None

    async def _ask(self, donor: PeerId, part: int) -> None:
        query = GetChunk(self._run, self._state, part)
        try:
            answer = await self._host.requests.ask(donor, STATE, query, _CHUNK_SECONDS)
        except MoshgridError as error:
            _log.info("chunk %d of the state not from %s: %s", part, donor, error)
            await self._send.send(DonorLost(donor))
            return
        if isinstance(answer, Busy):
            await self._send.send(WasBusy(donor, answer.seconds))
        elif isinstance(answer, Chunk) and is_chunk_of(self._landing.description, part, answer):
            self._landing.put(part, answer)
            self._senders.add(donor)
            self._report()
            if self._keep is not None:
                async with self._keeping:
                    await self._keep(part, answer)
            await self._send.send(Arrived(donor, part))
        else:
            _log.warning("%s sent a chunk of the state that does not fit its digest", donor)
            await self._send.send(DonorLost(donor))

    async def _look_for_donors(self) -> None:
        while True:
            await trio.sleep(_NEW_DONORS_SECONDS)
            for donor in await self._late_donors(self._state):
                await self._send.send(DonorFound(donor))

    def _report(self) -> None:
        if self._progress is None:
            return
        total = sum(self._landing.description.lengths)
        seconds = self._host.clock.now() - self._began
        try:
            here, before = self._landing.bytes_here, self._bytes_before
            self._progress(Progress(here, total, seconds, len(self._senders), before))
        except Exception:
            _log.exception("the progress callback failed; the download goes on without it")
            self._progress = None
