"""A swarm in one process, over real libp2p on loopback: for tests, notebooks and first steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

from moshgrid.averaging import Averager
from moshgrid.p2p import Node

__all__ = ["LocalSwarm"]

T = TypeVar("T")

_LOOPBACK = "/ip4/127.0.0.1/tcp/0"


class LocalSwarm:
    """``n`` peers that know the first one's address and find each other.

    ``with LocalSwarm(4) as swarm: swarm.each(lambda i, node: …)``
    """

    def __init__(self, n: int, network: str = "local") -> None:
        if n < 1:
            raise ValueError(f"a swarm has at least one peer, not {n}")
        self.network = network
        self._closing = ExitStack()
        self._nodes: list[Node] = []
        try:
            for _ in range(n):
                self.add_peer()
        except BaseException:
            self.close()
            raise

    @property
    def link(self) -> str:
        """What another process on this computer joins with."""
        return self._nodes[0].link

    def add_peer(self) -> Node:
        """One more peer, as a newcomer would join."""
        bootstrap = list(self._nodes[0].addrs) if self._nodes else []
        node = Node(listen=[_LOOPBACK], bootstrap=bootstrap, network=self.network)
        self._closing.callback(node.close)
        self._nodes.append(node)
        return node

    def averagers(self, run_id: str, like: list[Any], **options: Any) -> list[Averager]:
        """One averager per peer, closed together with the swarm."""
        made = []
        for node in self._nodes:
            averager = Averager(node, run_id=run_id, like=like, **options)
            self._closing.callback(averager.close)
            made.append(averager)
        return made

    def each(self, act: Callable[[int, Node], T]) -> list[T]:
        """Calls ``act(i, node)`` for all peers at once, each in a thread, and returns what they returned.

        Averaging waits for other peers, so peers that share a process must not take turns.
        """
        with ThreadPoolExecutor(len(self._nodes)) as threads:
            return list(threads.map(act, range(len(self._nodes)), self._nodes))

    def close(self) -> None:
        """Closes every averager and node, the latest first."""
        self._closing.close()
        self._nodes.clear()

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes)

    def __getitem__(self, i: int) -> Node:
        return self._nodes[i]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
