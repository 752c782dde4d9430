"""Serves the newest sealed state to latecomers, and downloads it from several peers at once. Awaits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import trio

from moshgrid.averaging.flat_arrays import FlatArrays
from moshgrid.averaging.run_config import RunConfig
from moshgrid.averaging.state import (
    STATE,
    Chunk,
    Description,
    GetChunk,
    GetState,
    SealedState,
    StateSnapshot,
    choose_state,
    decode_state,
    is_chunk_of,
)
from moshgrid.compression import CodecError
from moshgrid.p2p.errors import MoshgridError
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId

__all__ = ["StateServer", "fetch_state"]

_LAYER = "state"
_ASK_SECONDS = 5.0
_CHUNK_SECONDS = 30.0
_AT_ONCE = 8
_MAX_DONORS = 8

_log = logging.getLogger("moshgrid.averaging")


class StateServer:
    """Answers for all runs of a host; get it with ``StateServer.of``."""

    def __init__(self, host: Host) -> None:
        self._sources: dict[bytes, Callable[[], SealedState | None]] = {}
        host.requests.serve(STATE, self._answer)

    @classmethod
    def of(cls, host: Host) -> StateServer:
        """The server of ``host``, made on the first call."""
        server = host.layers.get(_LAYER)
        if server is None:
            server = host.layers[_LAYER] = cls(host)
        assert isinstance(server, StateServer)
        return server

    def attach(self, run: bytes, source: Callable[[], SealedState | None]) -> None:
        """Serves what ``source()`` returns as the newest state of ``run``."""
        self._sources[run] = source

    def detach(self, run: bytes) -> None:
        """Serves nothing of ``run`` any more."""
        self._sources.pop(run, None)

    async def _answer(self, peer: PeerId, query: GetState | GetChunk) -> Description | Chunk:
        source = self._sources.get(query.run)
        if source is None:
            raise MoshgridError("this peer does not take part in that run")
        state = source()
        if state is None:
            return Description(0)
        return state.description if isinstance(query, GetState) else state.chunk(query)


async def fetch_state(
    host: Host, run: bytes, config: RunConfig, peers: Sequence[PeerId]
) -> StateSnapshot | None:
    """Downloads the newest sealed state that ``peers`` have; None when there is none to be had.

    Every part is verified against its digest; parts that a donor fails to give come from another.
    """
    offers: dict[PeerId, Description] = {}

    async def ask(peer: PeerId) -> None:
        try:
            answer = await host.requests.ask(peer, STATE, GetState(run), _ASK_SECONDS)
        except MoshgridError as error:
            _log.info("no state from %s: %s", peer, error)
            return
        if isinstance(answer, Description):
            offers[peer] = answer

    chosen = list(peers)
    host.rng.shuffle(chosen)
    async with trio.open_nursery() as nursery:
        for peer in chosen[:_MAX_DONORS]:
            nursery.start_soon(ask, peer)
    choice = choose_state(offers, config.schema.digest)
    if choice is None:
        return None
    description, donors = choice
    chunks = await _download(host, run, description, donors)
    if chunks is None:
        return None
    arrays = config.schema.empty()
    flat = FlatArrays(config.arranged(arrays), np.dtype(description.dtype))
    try:
        decode_state(description, chunks, flat)
    except CodecError as error:
        _log.warning("the state of round %d cannot be used: %s", description.round, error)
        return None
    return StateSnapshot(description.round, arrays, donors)


async def _download(
    host: Host, run: bytes, description: Description, donors: Sequence[PeerId]
) -> dict[int, Chunk] | None:
    chunks: dict[int, Chunk] = {}
    limit = trio.CapacityLimiter(_AT_ONCE)
    spans = description.parts()

    async def get(part: int) -> None:
        async with limit:
            for turn in range(len(donors)):
                donor = donors[(part + turn) % len(donors)]
                query = GetChunk(run, description.round, part, description.digests[part])
                try:
                    chunk = await host.requests.ask(donor, STATE, query, _CHUNK_SECONDS)
                except MoshgridError as error:
                    _log.info("part %d of the state not from %s: %s", part, donor, error)
                    continue
                if isinstance(chunk, Chunk) and is_chunk_of(description, part, spans[part], chunk):
                    chunks[part] = chunk
                    return
                _log.warning("%s sent a part of the state that does not fit its digest", donor)

    async with trio.open_nursery() as nursery:
        for part in range(len(description.digests)):
            nursery.start_soon(get, part)
    return chunks if len(chunks) == len(description.digests) else None
