"""``AsyncNode``: the same peer for code that runs in asyncio. The peer's own loop is in another thread."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Generator, Sequence
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from moshgrid.p2p.errors import Closed
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import Identity, PeerId
from moshgrid.p2p.link import Link
from moshgrid.p2p.node_core import DEFAULT_LISTEN, NodeConfig, NodeCore
from moshgrid.p2p.reachability import Reachability, reachability_of
from moshgrid.p2p.runtime import Operation

__all__ = ["AsyncNode"]

Args = ParamSpec("Args")
Result = TypeVar("Result")


class AsyncNode:
    """See ``Node``: the same arguments and names; ``async with AsyncNode(...) as node``, or await it."""

    def __init__(
        self,
        listen: Sequence[str] = DEFAULT_LISTEN,
        bootstrap: Sequence[str] = (),
        identity: Identity | str | os.PathLike[str] | None = None,
        network: str = "public",
        psk: object = None,
        relay: bool = False,
        use_relays: bool | None = None,
        map_port: bool = True,
    ) -> None:
        self._config = NodeConfig(listen, bootstrap, identity, network, psk, relay, use_relays, map_port)
        self._core: NodeCore | None = None
        self._started: Host | None = None
        self._closed = False

    @classmethod
    def from_link(cls, link: str | Link, **kwargs: Any) -> AsyncNode:
        """A node in the network of ``link``, joining through its addresses."""
        parsed = link if isinstance(link, Link) else Link.parse(link)
        return cls(**{"network": parsed.network, "bootstrap": parsed.bootstrap, **kwargs})

    async def _start(self) -> AsyncNode:
        if self._closed:
            raise Closed("this node is closed")
        if self._core is None:
            core = self._core = NodeCore(self._config)  # the thread starts in milliseconds
            try:
                self._started = await asyncio.shield(asyncio.wrap_future(core.ready))
            except BaseException:
                self._closed = True
                await asyncio.shield(asyncio.to_thread(core.abort))
                raise
        return self

    def __await__(self) -> Generator[Any, None, AsyncNode]:
        return self._start().__await__()

    async def __aenter__(self) -> AsyncNode:
        return await self._start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _running(self) -> NodeCore:
        if self._core is None or self._started is None:
            raise Closed("this node has not been started: use 'async with' or await it")
        return self._core

    @property
    def _known(self) -> Host:
        self._running()
        assert self._started is not None
        return self._started

    @property
    def peer_id(self) -> PeerId:
        """This peer's id; known before the start."""
        return self._config.keys.peer_id

    @property
    def addrs(self) -> tuple[str, ...]:
        """Where others can dial this peer."""
        return self._known.network.addrs

    @property
    def reachability(self) -> Reachability:
        """How others can reach this peer, as far as is known: within 5 s of meeting the first of them."""
        return reachability_of(self._known)

    @property
    def network(self) -> str:
        """The network's name."""
        return self._config.network

    @property
    def link(self) -> str:
        """A ``moshgrid://`` link through which others join."""
        return str(Link(self.network, None, self.addrs))

    @property
    def host(self) -> Host:
        """What layers build on, to be used inside the peer's own event loop only."""
        return self._running().host

    async def call(
        self, fn: Callable[Args, Awaitable[Result]], *args: Args.args, **kwargs: Args.kwargs
    ) -> Result:
        """Runs the async ``fn(*args)`` in the peer's loop; cancelling the caller cancels it."""
        try:
            return await asyncio.wrap_future(self.soon(fn, *args, **kwargs))
        except asyncio.CancelledError:
            if self._closed and not _is_cancelling():
                raise Closed("this node was closed during the call") from None
            raise

    def soon(
        self, fn: Callable[Args, Awaitable[Result]], *args: Args.args, **kwargs: Args.kwargs
    ) -> Future[Result]:
        """Starts the async ``fn(*args)`` in the peer's loop."""
        operation: Operation[Result] = Operation()
        self._running().submit(operation, partial(fn, *args, **kwargs))
        return operation

    async def close(self) -> None:
        """Leaves the network, layers first; at most 5 s; may be called again."""
        self._closed = True
        if self._core is not None:
            await asyncio.shield(asyncio.to_thread(self._core.close))

    def __repr__(self) -> str:
        return f"AsyncNode({self.peer_id}, network={self.network!r})"


def _is_cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
