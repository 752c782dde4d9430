"""``AsyncAverager``: the same averager for code that runs in asyncio."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

from moshgrid.averaging.averager_setup import Compression, check_step, open_run, run_config, run_named_by
from moshgrid.averaging.chunk_transfer import ProgressSink
from moshgrid.averaging.named_arrays import NamedState
from moshgrid.averaging.pending_step import PendingStep
from moshgrid.averaging.report import RoundReport
from moshgrid.averaging.run_core import RunCore
from moshgrid.averaging.run_state import StateSnapshot
from moshgrid.averaging.state import NamedDescription
from moshgrid.p2p import AsyncNode
from moshgrid.p2p.errors import Closed
from moshgrid.p2p.event_log import EventSink
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.link import Link

__all__ = ["AsyncAverager"]


class AsyncAverager:
    """See ``Averager``: the same arguments and names; ``async with AsyncAverager(...)``, or await it."""

    def __init__(
        self,
        node: AsyncNode,
        run_id: str,
        like: Sequence[Any],
        group_size: int = 16,
        min_group_size: int = 2,
        compression: Compression = "float16",
        topology: str = "moshpit",
        reducer: str = "mean",
        deadline: float | None = None,
        authority: str | None = None,
        admission: bytes = b"",
        downloads: str | os.PathLike[str] | None = None,
        seats_per_block: int | None = None,
    ) -> None:
        self._config = run_config(
            run_id,
            like,
            group_size,
            min_group_size,
            compression,
            topology,
            reducer,
            deadline,
            authority,
            admission,
            downloads,
            seats_per_block,
        )
        self._schema = self._config.schema
        self.node = node
        self.run_id = run_id
        self._owns_node = False
        self._core: RunCore | None = None

    @classmethod
    def join(cls, link: str, run_id: str | None = None, *, like: Sequence[Any], **kwargs: Any) -> Self:
        """An averager over a node of its own; see ``Averager.join``. Starts when entered or awaited."""
        options = {"authority": Link.parse(link).authority, **kwargs}
        averager = cls(AsyncNode.from_link(link), run_named_by(link, run_id), like, **options)
        averager._owns_node = True
        return averager

    async def _start(self) -> Self:
        if self._core is None:
            if self._owns_node:
                await self.node
            try:
                self._core = await self.node.call(open_run, self.node.host, self._config)
            except BaseException:
                if self._owns_node:
                    await self.node.close()
                raise
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        return self._start().__await__()

    async def __aenter__(self) -> Self:
        return await self._start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def _running(self) -> RunCore:
        if self._core is None:
            raise Closed("this averager has not been started: use 'async with' or await it")
        return self._core

    @property
    def peer_id(self) -> PeerId:
        """This peer."""
        return self.node.peer_id

    @property
    def round(self) -> int:
        """The highest round known to be sealed in the run; 0 before the first."""
        return self._running.round

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """Everybody known in the run, this peer included."""
        return self._running.peers

    async def step(
        self,
        arrays: Sequence[Any],
        weight: float = 1.0,
        rounds: int = 1,
        reference: Sequence[Any] | None = None,
    ) -> RoundReport:
        """See ``Averager.step``."""
        weight, rounds = check_step(weight, rounds)
        return await self.node.call(self._running.step, arrays, weight, rounds, reference)

    def step_soon(
        self,
        arrays: Sequence[Any],
        weight: float = 1.0,
        rounds: int = 1,
        reference: Sequence[Any] | None = None,
    ) -> PendingStep:
        """See ``Averager.step_soon``; the future can be awaited, too."""
        weight, rounds = check_step(weight, rounds)
        start = self._schema.copy(arrays)
        operation = self.node.soon(self._running.average, start, weight, rounds, reference)
        return PendingStep(operation, partial(self._schema.add_difference, arrays, start))

    async def fetch_state(
        self,
        progress: ProgressSink | None = None,
        fits: Callable[[NamedDescription], None] = lambda description: None,
    ) -> StateSnapshot | None:
        """See ``Averager.fetch_state``."""
        return await self.node.call(self._running.state.fetch, progress, fits)

    async def fetch_rounds(self, after: int) -> list[tuple[int, list[Any]]]:
        """See ``Averager.fetch_rounds``."""
        return await self.node.call(self._running.state.missed, after)

    async def serve_state(self, make: Callable[[], NamedState]) -> None:
        """See ``Averager.serve_state``."""
        await self.node.call(self._running.state.serve_async, make)

    @property
    def is_behind(self) -> bool:
        """See ``Averager.is_behind``."""
        return self._running.state.behind

    def add_event_sink(self, sink: EventSink) -> None:
        """See ``Averager.add_event_sink``."""
        self.node.host.events.add_sink(sink)

    async def close(self) -> None:
        """Leaves the run, and closes the node if ``join`` made it. May be called again."""
        if self._core is not None:
            with suppress(Closed):  # the node may have been closed first, and its layers with it
                await self.node.call(self._core.aclose)
        if self._owns_node:
            await self.node.close()

    def __repr__(self) -> str:
        return f"AsyncAverager({self.run_id!r}, {self.peer_id})"
