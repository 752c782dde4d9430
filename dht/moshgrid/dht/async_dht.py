"""``AsyncDHT``: the hash table for code that runs in asyncio."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any

from moshgrid.dht.config import DHTConfig
from moshgrid.dht.dht_node import DHTNode
from moshgrid.dht.inspecting import Inspection
from moshgrid.dht.keeping import Keep
from moshgrid.dht.namespaces import Validator
from moshgrid.dht.values import Record
from moshgrid.dht.watching import OpenWatch
from moshgrid.dht.writing import ENOUGH, PutReport
from moshgrid.p2p.async_node import AsyncNode
from moshgrid.p2p.errors import Closed
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.link import Link

__all__ = ["AsyncDHT", "AsyncKept", "AsyncRecordWatch"]


class AsyncDHT:
    """See ``DHT``: the same names and arguments; ``async with AsyncDHT.join(link) as dht``, or await it."""

    def __init__(self, node: AsyncNode, config: DHTConfig | None = None) -> None:
        self.node = node
        self._config = config
        self._owns_node = False
        self._join_timeout: float | None = None
        self._inner: DHTNode | None = None

    @classmethod
    def join(
        cls, link: str | Link, *, timeout: float = 15.0, config: DHTConfig | None = None, **kwargs: Any
    ) -> AsyncDHT:
        """Joins the network of ``link`` when awaited or entered; ``kwargs`` are those of ``AsyncNode``.

        Raises Unreachable when none of its addresses answers within ``timeout`` seconds.
        """
        dht = cls(AsyncNode.from_link(link, **kwargs), config)
        dht._owns_node = True
        dht._join_timeout = timeout
        return dht

    async def _start(self) -> AsyncDHT:
        if self._inner is None:
            try:
                await self.node
                self._inner = await self.node.call(_node_of, self.node, self._config)
                if self._join_timeout is not None:
                    await self.node.call(self._inner.join, self._join_timeout)
            except BaseException:
                await self.close()
                raise
        return self

    def __await__(self) -> Generator[Any, None, AsyncDHT]:
        return self._start().__await__()

    async def __aenter__(self) -> AsyncDHT:
        return await self._start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def _running(self) -> DHTNode:
        if self._inner is None:
            raise Closed("this DHT has not been started: use 'async with' or await it")
        return self._inner

    @property
    def peer_id(self) -> PeerId:
        """This peer, the author of what is put here."""
        return self.node.peer_id

    async def put(
        self, key: str, value: Any, ttl: float = 600, suffix: str = "", *, acks: int = ENOUGH
    ) -> PutReport:
        """Stores ``value`` as this peer's record under ``key`` for ``ttl`` seconds (1 to 3,600)."""
        put = partial(self._running.put, acks=acks)
        return await self.node.call(put, key, value, ttl, suffix)

    async def put_many(
        self, values: Mapping[str, Any], ttl: float = 600, suffix: str = "", *, acks: int = ENOUGH
    ) -> dict[str, PutReport]:
        """``put`` for many keys, with one message to each storer of several of them."""
        put_many = partial(self._running.put_many, acks=acks)
        return await self.node.call(put_many, values, ttl, suffix)

    async def get(self, key: str, author: PeerId | None = None) -> Record | None:
        """The newest record under ``key``, of ``author`` when given; None when there is none."""
        return await self.node.call(self._running.get, key, author)

    async def get_many(self, keys: Iterable[str]) -> dict[str, Record | None]:
        """``get`` for many keys at once."""
        return await self.node.call(self._running.get_many, tuple(keys))

    async def get_all(self, key: str) -> dict[str, Record]:
        """Every live record under ``key``, by the author's peer id, or ``author/suffix``."""
        return await self.node.call(self._running.get_all, key)

    async def delete(self, key: str, suffix: str = "") -> PutReport:
        """Takes this peer's record back."""
        return await self.node.call(self._running.delete, key, suffix)

    async def keep(self, key: str, value: Any, ttl: float = 600, suffix: str = "") -> AsyncKept:
        """Puts a record and refreshes it until the returned handle is closed."""
        return AsyncKept(self.node, await self.node.call(self._running.kept, key, value, ttl, suffix))

    async def watch(self, key: str) -> AsyncRecordWatch:
        """An async iterator over the records under ``key``: what is stored first, then each change."""
        return AsyncRecordWatch(self.node, await self.node.call(self._running.open_watch, key))

    async def inspect(self, key: str) -> Inspection:
        """Whom a lookup of ``key`` asks, how far and how long away they are, and what each holds."""
        return await self.node.call(self._running.inspect, key)

    async def register(self, validator: Validator) -> None:
        """Holds others' records in the validator's namespace, those that it lets pass.

        It runs in the event loop's thread.
        """
        await self.node.call(_now, self._running.register, validator)

    async def open_namespace(self, namespace: str) -> None:
        """Holds any value under keys that begin with ``namespace/``, this peer's own and others'.

        Each storer decides for itself, so the other peers of the network have to do the same.
        """
        await self.node.call(_now, self._running.open_namespace, namespace)

    async def close(self) -> None:
        """Closes the node when ``join`` made it; otherwise the node goes on."""
        if self._owns_node:
            await self.node.close()


class AsyncKept:
    """A record that is refreshed until it is closed."""

    def __init__(self, node: AsyncNode, keep: Keep) -> None:
        self._node = node
        self._keep = keep

    async def update(self, value: Any) -> PutReport:
        """Puts ``value`` at once and refreshes it from now on."""
        return await self._node.call(self._keep.update, value)

    async def close(self) -> None:
        """Stops refreshing; the record stays until it expires."""
        await self._node.call(self._keep.aclose)

    async def __aenter__(self) -> AsyncKept:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncRecordWatch:
    """Iterates over the changes of a key; ends when it is closed."""

    def __init__(self, node: AsyncNode, watch: OpenWatch) -> None:
        self._node = node
        self._watch = watch
        self._ready: deque[Record] = deque()

    def __aiter__(self) -> AsyncIterator[Record]:
        return self

    async def __anext__(self) -> Record:
        if not self._ready:
            self._ready.extend(await self._node.call(self._watch.next_batch))
        if not self._ready:
            raise StopAsyncIteration
        return self._ready.popleft()

    async def close(self) -> None:
        """Ends the watch."""
        await self._node.call(self._watch.aclose)

    async def __aenter__(self) -> AsyncRecordWatch:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def _node_of(node: AsyncNode, config: DHTConfig | None) -> DHTNode:
    return await DHTNode.of(node.host, config)


async def _now(change: Callable[[Any], None], argument: Any) -> None:
    change(argument)
