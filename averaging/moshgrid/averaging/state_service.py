"""Serves states to latecomers: what is asked over the wire, and the donor's side of it. Awaits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
import trio

from moshgrid.averaging.named_arrays import NamedState
from moshgrid.averaging.part_work import Offload, in_threads
from moshgrid.averaging.state import (
    MAX_CHUNKS,
    Brief,
    Chunk,
    Description,
    KeptState,
    NamedDescription,
    brief_of,
    keep_named,
)
from moshgrid.averaging.state_keeping import LEASE_SECONDS, StateKeeping, Uploads
from moshgrid.averaging.vouching import MAX_ADMISSION_BYTES
from moshgrid.p2p.errors import MoshgridError
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.requests import Service

__all__ = ["STATE", "Busy", "DonatedRun", "GetChunk", "GetDescription", "GetState", "Offer", "StateServer"]

MAX_UPLOADS = 4
"""Peers that are served at once; others are told to come back."""
_ROUNDS_AT_ONCE = 8
_OFFERED_SECONDS = 5.0
_LAYER = "state"

Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
RunDigest = Annotated[bytes, msgspec.Meta(max_length=16)]


class GetState(msgspec.Struct, frozen=True, tag=True):
    """Asks what the newest state is; or (``after`` ≥ 0) for the averages of the rounds after that one; or
    whether the state of that ``id`` is there."""

    run: RunDigest
    after: Annotated[int, msgspec.Meta(ge=-1, lt=2**40)] = -1
    id: Annotated[bytes, msgspec.Meta(max_length=32)] = b""


class GetDescription(msgspec.Struct, frozen=True, tag=True):
    """Asks what the state of that id consists of."""

    run: RunDigest
    state: Digest


class GetChunk(msgspec.Struct, frozen=True, tag=True):
    """Asks for one chunk of the state of that id."""

    run: RunDigest
    state: Digest
    part: Annotated[int, msgspec.Meta(ge=0, lt=MAX_CHUNKS)]


class Offer(msgspec.Struct, frozen=True, tag=True):
    """What a peer has, and by what right it speaks."""

    state: Brief | None = None
    rounds: Annotated[tuple[Brief, ...], msgspec.Meta(max_length=_ROUNDS_AT_ONCE)] = ()
    admission: Annotated[bytes, msgspec.Meta(max_length=MAX_ADMISSION_BYTES)] = b""


class Busy(msgspec.Struct, frozen=True, tag=True):
    """The donor serves as many peers as it will; ask again after ``seconds``."""

    seconds: float


Query = GetState | GetDescription | GetChunk
Answer = Offer | Description | NamedDescription | Chunk | Busy

STATE: Service[Query, Answer] = Service(
    "/moshgrid/state/2",
    Query,
    Answer,
    max_query=1024,
    max_answer=5 * 1024 * 1024,
    deadline=30.0,
    concurrency=32,
)


@dataclass
class DonatedRun:
    """What a peer gives of one run."""

    schema: bytes
    admission: bytes = b""
    keeping: StateKeeping = field(default_factory=StateKeeping)
    offload: Offload = in_threads
    _make: Callable[[], NamedState] | None = None
    _made: KeptState | None = None
    _making: trio.Lock = field(default_factory=trio.Lock)

    def sealed(self, state: KeptState, now: float, followed: bool) -> None:
        """A round was sealed with this average. ``followed``: somebody is downloading a named state here."""
        self.keeping.sealed(state, now, followed)

    def serve_named(self, make: Callable[[], NamedState]) -> None:
        """From now on the newest state is what ``make()`` returns, called in a thread when somebody asks."""
        self._make, self._made = make, None

    def give_on(self, state: KeptState) -> None:
        """Serves a named state that was downloaded here, until there is another."""
        self._make, self._made = _never_called, state

    async def newest(self) -> KeptState | None:
        """The state for who comes now: the named one where there is one, else the last average."""
        if self._make is None:
            return self.keeping.last_sealed
        async with self._making:
            if self._made is None:
                make = self._make
                made: KeptState = await self.offload(lambda: keep_named(make(), self.schema))
                if make is not self._make:
                    return made
                self._made = made
            return self._made

    def find(self, state_id: bytes, now: float) -> KeptState | None:
        """The state of that id, when it is still here."""
        if self._made is not None and self._made.description.id == state_id:
            return self._made
        return self.keeping.find(state_id, now)


def _never_called() -> NamedState:
    raise AssertionError("a state that was given on is there already")


class StateServer:
    """Answers for all runs of a host; get it with ``StateServer.of``."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._runs: dict[bytes, DonatedRun] = {}
        self._uploads = Uploads(MAX_UPLOADS)
        self._followed_until = float("-inf")
        host.requests.serve(STATE, self._answer)

    @classmethod
    def of(cls, host: Host) -> StateServer:
        """The server of ``host``, made on the first call."""
        server = host.layers.get(_LAYER)
        if server is None:
            server = host.layers[_LAYER] = cls(host)
        assert isinstance(server, StateServer)
        return server

    def attach(self, run: bytes, donated: DonatedRun) -> None:
        """Serves ``donated`` to who asks for ``run``."""
        self._runs[run] = donated

    def detach(self, run: bytes) -> None:
        """Serves nothing of ``run`` any more."""
        self._runs.pop(run, None)

    def is_followed(self, now: float) -> bool:
        """Whether somebody downloads a named state here, and may need the averages sealed meanwhile."""
        return now < self._followed_until

    async def _answer(self, peer: PeerId, query: Query) -> Answer:
        donated = self._runs.get(query.run)
        if donated is None:
            raise MoshgridError("this peer does not take part in that run")
        if isinstance(query, GetState):
            return await self._offer(donated, query)
        now = self._host.clock.now()
        state = donated.find(query.state, now)
        if state is None:
            raise MoshgridError("that state is not kept any more")
        if isinstance(query, GetDescription):
            return state.description
        if wait := self._uploads.admit(peer, now):
            return Busy(wait)
        donated.keeping.lease(state, now)
        if isinstance(state.description, NamedDescription):
            self._followed_until = now + LEASE_SECONDS
        return state.chunk(query.part)

    async def _offer(self, donated: DonatedRun, query: GetState) -> Offer:
        if query.after >= 0:
            rounds = donated.keeping.rounds_after(query.after)[:_ROUNDS_AT_ONCE]
            return Offer(None, tuple(brief_of(each) for each in rounds), donated.admission)
        if query.id:
            found = donated.find(query.id, self._host.clock.now())
            return Offer(brief_of(found.description) if found is not None else None, (), donated.admission)
        newest = await donated.newest()
        if newest is not None:
            # Who was told of it is about to ask for it.
            donated.keeping.lease(newest, self._host.clock.now(), _OFFERED_SECONDS)
        return Offer(brief_of(newest.description) if newest is not None else None, (), donated.admission)
