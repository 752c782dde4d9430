"""``Averager``: averages arrays with the other peers of a run, for blocking code."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from moshgrid.averaging.averager_setup import check_step, open_run, run_config, run_named_by
from moshgrid.averaging.report import RoundReport
from moshgrid.averaging.state import StateSnapshot
from moshgrid.p2p import Node
from moshgrid.p2p.errors import Closed
from moshgrid.p2p.event_log import EventSink
from moshgrid.p2p.identity import PeerId

__all__ = ["Averager"]


class Averager:
    """Takes part in one run over ``node``.

    ``run_id`` names the run within the node's network. ``like``: arrays (numpy, or torch tensors in CPU
    memory; float16, float32 or float64) of the shapes and dtypes that every member averages; their values
    are not used. Groups have ``min_group_size`` to ``group_size`` members. ``compression``: ``none`` or
    ``float16``. ``topology``: ``moshpit`` (a fitted grid, or the sliding chunk index), ``sliding``,
    ``random`` or ``single`` (one group). ``reducer``: ``mean``. ``deadline``: seconds to wait for a group,
    None to adapt (at most 15). Raises ConfigurationError. From asyncio use ``AsyncAverager``.

    A reducer sees the raw values of the parts it averages: there is no secure aggregation yet.
    """

    def __init__(
        self,
        node: Node,
        run_id: str,
        like: Sequence[Any],
        group_size: int = 16,
        min_group_size: int = 2,
        compression: str = "float16",
        topology: str = "moshpit",
        reducer: str = "mean",
        deadline: float | None = None,
    ) -> None:
        config = run_config(
            run_id, like, group_size, min_group_size, compression, topology, reducer, deadline
        )
        self.node = node
        self.run_id = run_id
        self._owns_node = False
        self._core = node.call(open_run, node.host, config)

    @classmethod
    def join(cls, link: str, run_id: str | None = None, *, like: Sequence[Any], **kwargs: Any) -> Self:
        """An averager over a node of its own, made from a ``moshgrid://NETWORK[/RUN]@…`` link.

        ``run_id`` may be left out when the link names the run; other arguments as for the class.
        """
        named = run_named_by(link, run_id)
        node = Node.from_link(link)
        try:
            averager = cls(node, named, like, **kwargs)
        except BaseException:
            node.close()
            raise
        averager._owns_node = True
        return averager

    @property
    def peer_id(self) -> PeerId:
        """This peer."""
        return self.node.peer_id

    @property
    def round(self) -> int:
        """The highest round known to be sealed in the run; 0 before the first."""
        return self._core.round

    @property
    def peers(self) -> tuple[PeerId, ...]:
        """Everybody known in the run, this peer included."""
        return self._core.peers

    def step(self, arrays: Sequence[Any], weight: float = 1.0, rounds: int = 1) -> RoundReport:
        """Averages ``arrays`` in place with a group of peers and says how it went.

        ``arrays`` have the shapes and dtypes of ``like``, else SchemaMismatch; finite values only, else
        ConfigurationError. ``weight`` ≥ 0 scales them, 0 for taking the average without adding to it.
        ``rounds`` averages several times, in different groups. Never raises because a peer died: when
        the report says ``committed=False``, the arrays are unchanged (by the last round).
        """
        check_step(weight, rounds)
        return self.node.call(self._core.step, arrays, weight, rounds)

    def step_soon(self, arrays: Sequence[Any], weight: float = 1.0, rounds: int = 1) -> Future[RoundReport]:
        """Starts ``step`` and returns a future of its report.

        Leave ``arrays`` alone until it is done: they are read at its start and written at its end.
        """
        check_step(weight, rounds)
        return self.node.soon(self._core.step, arrays, weight, rounds)

    def fetch_state(self) -> StateSnapshot | None:
        """The newest average that peers sealed, downloaded from several of them and verified.

        None when the run has none yet. In an open run this trusts the swarm.
        """
        return self.node.call(self._core.fetch_state)

    def add_event_sink(self, sink: EventSink) -> None:
        """Calls ``sink(mapping)`` in the network thread for each event of this node; it must be quick."""
        self.node.host.events.add_sink(sink)

    def close(self) -> None:
        """Leaves the run, and closes the node if ``join`` made it. May be called again."""
        with suppress(Closed):  # the node may have been closed first, and its layers with it
            self.node.call(self._core.aclose)
        if self._owns_node:
            self.node.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Averager({self.run_id!r}, {self.peer_id}, round {self.round})"
