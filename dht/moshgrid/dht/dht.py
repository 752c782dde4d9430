"""``DHT``: the hash table for blocking code. Its node's event loop runs in a background thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.link import Link
from moshgrid.p2p.node import Node

__all__ = ["DHT", "Kept", "RecordWatch"]


class DHT:
    """Signed, expiring records under group keys: every peer may put its own under any key.

    ``DHT(node)`` uses a node that others use too; ``DHT.join(link)`` makes one and closes it. From
    asyncio use ``AsyncDHT``.
    """

    def __init__(self, node: Node, config: DHTConfig | None = None) -> None:
        self.node = node
        self._owns_node = False
        self._inner: DHTNode = node.call(_node_of, node, config)

    @classmethod
    def join(
        cls, link: str | Link, *, timeout: float = 15.0, config: DHTConfig | None = None, **kwargs: Any
    ) -> DHT:
        """Joins the network of ``link``; ``kwargs`` are those of ``Node``.

        Raises Unreachable when none of its addresses answers within ``timeout`` seconds.
        """
        node = Node.from_link(link, **kwargs)
        try:
            dht = cls(node, config)
            node.call(dht._inner.join, timeout)
        except BaseException:
            node.close()
            raise
        dht._owns_node = True
        return dht

    @property
    def peer_id(self) -> PeerId:
        """This peer, the author of what is put here."""
        return self.node.peer_id

    def put(
        self, key: str, value: Any, ttl: float = 600, suffix: str = "", *, acks: int = ENOUGH
    ) -> PutReport:
        """Stores ``value`` as this peer's record under ``key`` for ``ttl`` seconds (1 to 3,600).

        With less than 30 some peers may refuse it: their clocks may be ahead by as much.
        A peer has one record per key and suffix; a second put replaces the first. ``value`` is
        anything msgpack can hold in 1,024 bytes. Returns when ``acks`` peers hold it, or all
        there are; the rest of the twenty nearest follow. Keys without a slash and those that begin
        with ``services/`` are for everybody; see ``open_namespace`` for others. Raises
        ConfigurationError, RecordRejected (too large, or not an open namespace) and Unreachable.
        """
        put = partial(self._inner.put, acks=acks)
        return self.node.call(put, key, value, ttl, suffix)

    def put_many(
        self, values: Mapping[str, Any], ttl: float = 600, suffix: str = "", *, acks: int = ENOUGH
    ) -> dict[str, PutReport]:
        """``put`` for many keys, with one message to each storer of several of them."""
        put_many = partial(self._inner.put_many, acks=acks)
        return self.node.call(put_many, values, ttl, suffix)

    def get(self, key: str, author: PeerId | None = None) -> Record | None:
        """The newest record under ``key``, of ``author`` when given; None when there is none.

        Raises Unreachable when the network cannot be reached.
        """
        return self.node.call(self._inner.get, key, author)

    def get_many(self, keys: Iterable[str]) -> dict[str, Record | None]:
        """``get`` for many keys at once."""
        return self.node.call(self._inner.get_many, tuple(keys))

    def get_all(self, key: str) -> dict[str, Record]:
        """Every live record under ``key``, by the author's peer id, or ``author/suffix``."""
        return self.node.call(self._inner.get_all, key)

    def delete(self, key: str, suffix: str = "") -> PutReport:
        """Takes this peer's record back."""
        return self.node.call(self._inner.delete, key, suffix)

    def keep(self, key: str, value: Any, ttl: float = 600, suffix: str = "") -> Kept:
        """Puts a record and refreshes it until the returned handle is closed."""
        return Kept(self.node, self.node.call(self._inner.kept, key, value, ttl, suffix))

    def watch(self, key: str) -> RecordWatch:
        """An iterator over the records under ``key``: what is stored first, then each change.

        A deletion comes as a Record with ``deleted`` set. Close it when done; it is a context manager.
        """
        return RecordWatch(self.node, self.node.call(self._inner.open_watch, key))

    def inspect(self, key: str) -> Inspection:
        """Whom a lookup of ``key`` asks, how far and how long away they are, and what each holds."""
        return self.node.call(self._inner.inspect, key)

    def register(self, validator: Validator) -> None:
        """Holds others' records in the validator's namespace, those that it lets pass.

        It runs in the event loop's thread.
        """
        self.node.call(_now, self._inner.register, validator)

    def open_namespace(self, namespace: str) -> None:
        """Holds any value under keys that begin with ``namespace/``, this peer's own and others'.

        Each storer decides for itself, so the other peers of the network have to do the same.
        """
        self.node.call(_now, self._inner.open_namespace, namespace)

    def close(self) -> None:
        """Closes the node when ``join`` made it; otherwise the node goes on."""
        if self._owns_node:
            self.node.close()

    def __enter__(self) -> DHT:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"DHT({self.node!r})"


class Kept:
    """A record that is refreshed until it is closed."""

    def __init__(self, node: Node, keep: Keep) -> None:
        self._node = node
        self._keep = keep

    def update(self, value: Any) -> PutReport:
        """Puts ``value`` at once and refreshes it from now on."""
        return self._node.call(self._keep.update, value)

    def close(self) -> None:
        """Stops refreshing; the record stays until it expires."""
        self._node.call(self._keep.aclose)

    def __enter__(self) -> Kept:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RecordWatch:
    """Iterates over the changes of a key; waits for the next one, and ends when it is closed."""

    def __init__(self, node: Node, watch: OpenWatch) -> None:
        self._node = node
        self._watch = watch
        self._ready: deque[Record] = deque()

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        if not self._ready:
            # All that is there crosses the bridge at once.
            self._ready.extend(self._node.call(self._watch.next_batch))
        if not self._ready:
            raise StopIteration
        return self._ready.popleft()

    def close(self) -> None:
        """Ends the watch; a waiting iteration in another thread ends too."""
        self._node.call(self._watch.aclose)

    def __enter__(self) -> RecordWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _node_of(node: Node, config: DHTConfig | None) -> DHTNode:
    return await DHTNode.of(node.host, config)


async def _now(change: Callable[[Any], None], argument: Any) -> None:
    change(argument)
