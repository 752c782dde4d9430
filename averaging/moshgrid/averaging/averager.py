"""``Averager``: averages arrays with the other peers of a run, for blocking code."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

from moshgrid.averaging.averager_setup import Compression, check_step, open_run, run_config, run_named_by
from moshgrid.averaging.next_round import average_next
from moshgrid.averaging.pending_step import Averaged, PendingStep
from moshgrid.averaging.report import RoundReport
from moshgrid.averaging.state import StateSnapshot
from moshgrid.p2p import Node
from moshgrid.p2p.errors import Closed
from moshgrid.p2p.event_log import EventSink
from moshgrid.p2p.identity import PeerId

__all__ = ["Averager"]


class Averager:
    """Takes part in one run over ``node``.

    ``run_id`` names the run within the node's network. ``like``: arrays (numpy, of any float type and
    layout, or dense torch tensors on the CPU or a GPU) of the shapes and dtypes that every member averages;
    their values are not used. Groups have ``min_group_size`` to ``group_size`` members. ``compression``: a
    codec's name (``moshgrid.compression.codec_names()``), one name per array, or a ``CodecPlan``.
    ``topology``: ``moshpit`` (a fitted grid, or the sliding chunk index), ``sliding``, ``random`` or
    ``single`` (one group). ``reducer``: ``mean`` (weighted), ``median`` or ``trimmed_mean`` (which leave
    weights aside and withstand members that lie). These are the same at all members. ``deadline``: seconds
    to wait for a group, None to adapt (at most 15). Raises ConfigurationError. From asyncio use
    ``AsyncAverager``.

    A reducer sees the raw values of the parts it averages: there is no secure aggregation yet.
    """

    def __init__(
        self,
        node: Node,
        run_id: str,
        like: Sequence[Any],
        group_size: int = 16,
        min_group_size: int = 2,
        compression: Compression = "float16",
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
        self._schema = config.schema
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

    def step(
        self,
        arrays: Sequence[Any],
        weight: float = 1.0,
        rounds: int = 1,
        reference: Sequence[Any] | None = None,
    ) -> RoundReport:
        """Averages ``arrays`` in place with a group of peers and says how it went.

        ``arrays`` have the shapes and dtypes of ``like``, else SchemaMismatch; finite values only, else
        ConfigurationError. ``weight`` ≥ 0 scales them, 0 for taking the average without adding to it.
        ``rounds`` averages several times, in different groups. Never raises because a peer died: when
        the report says ``committed=False``, the arrays are unchanged (by the last round).

        ``reference``: arrays of a state that all members share on purpose, such as the run's initial one
        (never your own last result). What is encoded is then the difference to it, which makes the small
        codecs fit for parameters: their error is in proportion to the difference. A round whose members
        do not all give the same reference does without, and sends float16 instead.
        """
        check_step(weight, rounds)
        return self.node.call(self._core.step, arrays, weight, rounds, reference)

    def step_soon(
        self,
        arrays: Sequence[Any],
        weight: float = 1.0,
        rounds: int = 1,
        reference: Sequence[Any] | None = None,
    ) -> PendingStep:
        """Starts averaging the values that ``arrays`` hold now, and returns a future of the report.

        Train on meanwhile: once it is over, the thread that asks the future for its outcome adds to
        ``arrays`` what the average differs by from the values at the start, so that progress made since is
        kept. Costs a copy of the arrays. ``cancel()`` leaves them alone. Raises as ``step``, at once for
        arrays of other shapes or dtypes, else from the future.
        """
        check_step(weight, rounds)
        start = self._schema.copy(arrays)
        operation = self.node.soon(self._core.average, start, weight, rounds, reference)
        return PendingStep(operation, partial(self._schema.add_difference, arrays, start))

    def average_soon(
        self,
        arrays: Sequence[Any],
        weight: float = 1.0,
        reference: Sequence[Any] | None = None,
        since: int | None = None,
    ) -> Future[Averaged]:
        """As ``step_soon`` for one round, but leaves ``arrays`` alone and copies nothing of them.

        They, and ``reference``, must stay as they are until the future is done. It holds the report, and
        where that says ``committed`` the average of each array as a flat float32 or float64 vector, else
        None. ``since``: the round of which these arrays and the reference are the outcome, so that they
        are for the next one only: where the run goes on without this peer, nothing is averaged.
        """
        check_step(weight, 1)
        self._schema.check(arrays)
        return self.node.soon(average_next, self._core, arrays, weight, reference, since)

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
