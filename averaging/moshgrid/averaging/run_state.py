"""A run's state at one peer: kept and served for latecomers, and fetched when this peer is one. Awaits."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import trio

from moshgrid.averaging.chunk_transfer import ProgressSink
from moshgrid.averaging.flat_arrays import Vector
from moshgrid.averaging.kept_download import KeptDownload
from moshgrid.averaging.landing import Landing
from moshgrid.averaging.manifest import SignedManifest
from moshgrid.averaging.named_arrays import NamedState
from moshgrid.averaging.part_work import Offload
from moshgrid.averaging.round_parts import RoundResult
from moshgrid.averaging.run_config import RunConfig
from moshgrid.averaging.state import NamedDescription, plain_state, sealed_state
from moshgrid.averaging.state_service import DonatedRun, StateServer
from moshgrid.averaging.state_transfer import StateClient
from moshgrid.averaging.vouching import Trust
from moshgrid.compression import CodecError
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId

__all__ = ["RunState", "StateSnapshot"]

_ATTEMPTS = 4
_RETRY_SECONDS = 0.5
_CHASES = 3
"""Times that a newer state is fetched because the run went on meanwhile and the rounds cannot be had."""

Array = npt.NDArray[Any]

_log = logging.getLogger("moshgrid.averaging")


@dataclass(frozen=True, slots=True)
class StateSnapshot:
    """A downloaded and verified state."""

    round: int
    """The last round that is part of it, ``rounds`` included."""
    arrays: list[Array]
    """The newest average, in the run's shapes and dtypes; empty when there is a ``named`` state."""
    donors: tuple[PeerId, ...]
    named: NamedState | None = None
    """What the layer above the donors serves, in the place of the average."""
    rounds: tuple[tuple[int, list[Array]], ...] = field(default=())
    """The averages of the rounds that were sealed after ``named``, to be applied in this order."""


class RunState:
    """``peers()``: who takes part; ``refresh()`` reads it anew; ``progress()``: the last sealed round.

    ``reached(round)`` is told what was fetched.
    """

    def __init__(
        self,
        host: Host,
        run: bytes,
        config: RunConfig,
        offload: Offload,
        peers: Callable[[], Sequence[PeerId]],
        refresh: Callable[[], Awaitable[None]],
        progress: Callable[[], int],
        reached: Callable[[int], None],
    ) -> None:
        self._host = host
        self._run = run
        self._config = config
        self._offload = offload
        self._peers = peers
        self._refresh = refresh
        self._progress = progress
        self._reached = reached
        file = None if config.downloads is None else config.downloads / f"{run.hex()}.download"
        self._kept = None if file is None else KeptDownload(file)
        self._donated = DonatedRun(config.schema.digest, config.admission, offload=offload)
        self._fetching = False
        self._fetched: int | None = None

    @property
    def behind(self) -> bool:
        """True while a state is being fetched, and while the run is known to be ahead of what was: weight 0.

        The next average that this peer takes on, or the rounds that it missed, put it where the run is.
        """
        return self._fetching or (self._fetched is not None and self._progress() > self._fetched)

    def attach(self) -> None:
        """Serves latecomers from now on."""
        StateServer.of(self._host).attach(self._run, self._donated)

    def detach(self) -> None:
        """Serves nobody any more."""
        StateServer.of(self._host).detach(self._run)

    def serve(self, make: Callable[[], NamedState]) -> None:
        """Latecomers get what ``make()`` returns when the first of them asks, in the place of the average."""
        self._donated.serve_named(make)

    async def serve_async(self, make: Callable[[], NamedState]) -> None:
        """``serve``, called from another thread."""
        self.serve(make)

    async def sealed(self, signed: SignedManifest, result: RoundResult, plain: Vector | None) -> None:
        """A round was sealed and applied here.

        ``plain``: the new values, where what was averaged was their difference to a reference.
        """
        manifest = signed.manifest
        if plain is not None:
            state = await self._offload(plain_state, manifest.round, manifest.schema, plain)
        else:
            state = sealed_state(manifest, result.value, result.results)
        now = self._host.clock.now()
        self._donated.sealed(state, now, StateServer.of(self._host).is_followed(now))
        self._fetched = None

    async def fetch(
        self,
        progress: ProgressSink | None = None,
        fits: Callable[[NamedDescription], None] = lambda description: None,
    ) -> StateSnapshot | None:
        """The newest state, from several peers; None when nobody has one.

        ``fits`` raises for a named state that is of no use here.
        """
        client = StateClient(
            self._host,
            self._run,
            Trust(self._host.network_name, self._config.authority),
            self._config.schema.digest,
            self._peers,
            fits,
            self._kept,
            self._offload,
        )
        self._fetching = True
        try:
            for attempt in range(_ATTEMPTS):
                if attempt:
                    await trio.sleep(_RETRY_SECONDS)  # a newcomer may look before the records are there
                await self._refresh()
                snapshot = await self._fetch(client, progress)
                if snapshot is not None:
                    if self._kept is not None:
                        await self._offload(self._kept.discard)
                    self._reached(snapshot.round)
                    self._fetched = snapshot.round
                    return snapshot
                if len(self._peers()) > 1 and self._progress() == 0:
                    break  # they have none either
        finally:
            self._fetching = False
        return None

    async def missed(self, after: int) -> list[tuple[int, list[Array]]]:
        """The averages of the rounds that follow ``after`` without a gap, as far as peers keep them."""
        trust = Trust(self._host.network_name, self._config.authority)
        client = StateClient(self._host, self._run, trust, self._config.schema.digest, self._peers)
        await self._refresh()
        rounds = await self._decoded(await client.rounds_after(after))
        if rounds and self._fetched is not None:
            self._fetched = max(self._fetched, rounds[-1][0])
        return rounds

    async def _fetch(self, client: StateClient, progress: ProgressSink | None) -> StateSnapshot | None:
        landing: Landing | None = None
        for _ in range(_CHASES):
            found = await client.newest(progress, landing)
            if found is None:
                break
            landing, donors = found
            number = landing.description.round
            if not isinstance(landing.description, NamedDescription):
                return await self._average(landing, donors)
            rounds = await self._decoded(await client.rounds_after(number))
            reached = rounds[-1][0] if rounds else number
            await self._refresh()
            if self._progress() <= reached:
                break
        if landing is None:
            return None
        named = landing.named()
        self._donated.give_on(landing.kept())
        return StateSnapshot(reached, [], donors, named, tuple(rounds))

    async def _average(self, landing: Landing, donors: tuple[PeerId, ...]) -> StateSnapshot | None:
        number = landing.description.round
        try:
            arrays = await self._offload(landing.arrays, self._config)
        except CodecError as error:
            _log.warning("the state of round %d cannot be used: %s", number, error)
            return None
        mine = self._donated.keeping.last_sealed
        if mine is None or mine.description.round < number:
            self._donated.sealed(landing.kept(), self._host.clock.now(), followed=False)
        return StateSnapshot(number, arrays, donors)

    async def _decoded(self, rounds: Sequence[Landing]) -> list[tuple[int, list[Array]]]:
        decoded = []
        for landing in rounds:
            try:
                arrays = await self._offload(landing.arrays, self._config)
            except CodecError as error:
                _log.warning("the average of round %d is of no use: %s", landing.description.round, error)
                break
            decoded.append((landing.description.round, arrays))
        return decoded
