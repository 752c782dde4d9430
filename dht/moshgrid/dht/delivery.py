"""Delivery: sending records to their storers, what several records have for one storer in one message."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

import trio

from moshgrid.dht.asking import Asker
from moshgrid.dht.placement import Placement
from moshgrid.dht.shortlists import Shortlists
from moshgrid.dht.wire import PutRecords, Taken, batches
from moshgrid.p2p.errors import RemoteProtocolError, Unreachable
from moshgrid.p2p.identity import PeerId

__all__ = ["Delivery", "Job"]

_AT_ONCE = 16
"""Messages of a put of many records that wait for their answer; storers take long over many signatures."""
_UNBOUNDED = 1 << 30
_SECONDS, _SECONDS_EACH = 5.0, 0.1


class Job:
    """One record under way."""

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.enough = trio.Event()
        """Set when as many hold it as the caller wants to wait for."""
        self.searched = False
        """Whether storers were looked for that the first round did not find."""
        self.searching = False
        self.due = math.inf
        """When its placement wants to be told how late it is."""

    @property
    def is_finished(self) -> bool:
        """True when nobody is left to be asked."""
        placement = self.placement
        return placement.is_over and not placement.waiting and not self.searching

    def check(self) -> None:
        """Sets ``enough`` when it is."""
        if len(self.placement.stored_at) >= self.placement.acks or self.is_finished:
            self.enough.set()


@dataclass(frozen=True, slots=True)
class _Taken:
    peer: PeerId
    jobs: Sequence[Job]
    codes: Sequence[str]
    closer: Sequence[PeerId]


@dataclass(frozen=True, slots=True)
class _Lost:
    peer: PeerId
    jobs: Sequence[Job]
    why: str


@dataclass(frozen=True, slots=True)
class _More:
    job: Job
    peers: Sequence[PeerId]


_Outcome = _Taken | _Lost | _More


class Delivery:
    """Performs what placements decide."""

    def __init__(self, network: bytes, asker: Asker, shortlists: Shortlists, nursery: trio.Nursery) -> None:
        self._network = network
        self._asker = asker
        self._shortlists = shortlists
        self._nursery = nursery

    async def run(self, jobs: Sequence[Job]) -> None:
        """Until every storer of every job answered or failed."""
        send, receive = trio.open_memory_channel[_Outcome](math.inf)
        wanted: dict[PeerId, list[Job]] = {}
        unfinished = dict.fromkeys(jobs)
        at_once = trio.Semaphore(_AT_ONCE if len(jobs) > 1 else _UNBOUNDED)
        for job in jobs:
            _want(wanted, job, job.placement.start(trio.current_time()))
        changed: Iterable[Job] = jobs
        while True:
            for peer, theirs in wanted.items():
                self._nursery.start_soon(self._put_to, peer, theirs, at_once, send)
            wanted.clear()
            for job in dict.fromkeys(changed):
                self._search(job, send)
                job.check()
                deadline = job.placement.deadline
                job.due = math.inf if deadline is None else deadline
                if job.is_finished:
                    unfinished.pop(job, None)
            if not unfinished:
                return
            changed = await self._wait(unfinished, receive, wanted)

    async def _wait(
        self,
        unfinished: Iterable[Job],
        receive: trio.MemoryReceiveChannel[_Outcome],
        wanted: dict[PeerId, list[Job]],
    ) -> list[Job]:
        """Waits for one outcome or a deadline, and tells the jobs that it concerns."""
        first = min(unfinished, key=attrgetter("due"))
        outcome: _Outcome | None = None
        with trio.move_on_at(first.due):
            outcome = await receive.receive()
        now = trio.current_time()
        match outcome:
            case _Taken(peer, jobs, codes, closer):
                for job, code in zip(jobs, codes, strict=True):
                    _want(wanted, job, job.placement.answered(peer, code, closer, now))
                return list(jobs)
            case _Lost(peer, jobs, why):
                for job in jobs:
                    _want(wanted, job, job.placement.lost(peer, why, now))
                return list(jobs)
            case _More(job, peers):
                job.searching = False
                _want(wanted, job, job.placement.more(peers))
                return [job]
        _want(wanted, first, first.placement.passed(now))
        return [first]

    async def _put_to(
        self, peer: PeerId, jobs: list[Job], at_once: trio.Semaphore, send: trio.MemorySendChannel[_Outcome]
    ) -> None:
        async with at_once:
            await self._put_all_to(peer, jobs, send)

    async def _put_all_to(
        self, peer: PeerId, jobs: list[Job], send: trio.MemorySendChannel[_Outcome]
    ) -> None:
        while jobs:
            part = jobs[: len(batches(job.placement.record.raw for job in jobs)[0])]
            envelopes = [job.placement.record.raw for job in part]
            also = [job.placement.also() for job in part]
            try:
                taken = await self.put_at(peer, envelopes, also)
            except (Unreachable, RemoteProtocolError) as error:
                send.send_nowait(_Lost(peer, jobs, str(error)))
                return
            codes = [code.decode("ascii", "replace") for code in taken.codes]
            closer = [entry.peer for entry in taken.closer]
            send.send_nowait(_Taken(peer, part, codes, closer))
            jobs = jobs[len(part) :]

    async def put_at(self, peer: PeerId, envelopes: list[bytes], also: list[bytes]) -> Taken:
        """Puts what fits into one message. Raises as ``Asker.ask`` does."""
        seconds = _SECONDS + _SECONDS_EACH * len(envelopes)
        answer = await self._asker.ask(peer, PutRecords(self._network, envelopes, also), seconds)
        if not isinstance(answer, Taken) or len(answer.codes) != len(envelopes):
            raise RemoteProtocolError(peer, f"answered a put with {type(answer).__name__}")
        return answer

    def _search(self, job: Job, send: trio.MemorySendChannel[_Outcome]) -> None:
        """When the nearest have answered: remembers them, and looks for storers that are missing."""
        closest = job.placement.closest
        if closest is None or job.searched:
            return
        key, placement = job.placement.record.key, job.placement
        crowded = self._shortlists.is_crowded(key, list(closest))
        if crowded or placement.lacks:
            job.searched = job.searching = True
            self._shortlists.forget(key)
            self._nursery.start_soon(self._find_more, job, send)
        elif not placement.waiting:
            self._shortlists.keep(key, list(closest))

    async def _find_more(self, job: Job, send: trio.MemorySendChannel[_Outcome]) -> None:
        key, peers = job.placement.record.key, list[PeerId]()
        try:
            if job.placement.is_elsewhere:
                peers = await self._shortlists.closest(key)
            else:  # whoever was named so far may be of one mind
                point = self._shortlists.point(key)
                peers = list((await self._asker.find_closest(point, disjoint=True)).closest)
        finally:
            send.send_nowait(_More(job, peers))


def _want(wanted: dict[PeerId, list[Job]], job: Job, peers: Iterable[PeerId]) -> None:
    for peer in peers:
        wanted.setdefault(peer, []).append(job)
