"""``Averager``: averages arrays with the other peers of a run, for blocking code."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

from moshgrid.averaging.averager_setup import Compression, check_step, open_run, run_config, run_named_by
from moshgrid.averaging.chunk_transfer import ProgressSink
from moshgrid.averaging.named_arrays import NamedState
from moshgrid.averaging.next_round import average_next
from moshgrid.averaging.pending_step import Averaged, PendingStep
from moshgrid.averaging.report import RoundReport
from moshgrid.averaging.run_state import StateSnapshot
from moshgrid.averaging.state import NamedDescription
from moshgrid.p2p import Node
from moshgrid.p2p.errors import Closed
from moshgrid.p2p.event_log import EventSink
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.link import Link

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
    to wait for a group, None to adapt (at most 15). ``authority``: the key (peer id, hex or base64) that
    admits members; without one the run is open. ``admission``: the token by which it admitted this peer.
    ``downloads``: a folder that keeps what has come of a state, for when this process ends meanwhile and is
    started again. ``seats_per_block``: how many members of a group of eight or more may be seen in one block
    of addresses (/24; /48 of IPv6); None for any number. A run among strangers should set 1, at all members.
    Raises ConfigurationError. From asyncio use ``AsyncAverager``.

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
        authority: str | None = None,
        admission: bytes = b"",
        downloads: str | os.PathLike[str] | None = None,
        seats_per_block: int | None = None,
    ) -> None:
        config = run_config(
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
            averager = cls(node, named, like, **{"authority": Link.parse(link).authority, **kwargs})
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
        weight, rounds = check_step(weight, rounds)
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
        weight, rounds = check_step(weight, rounds)
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
        weight, _ = check_step(weight, 1)
        self._schema.check(arrays)
        return self.node.soon(average_next, self._core, arrays, weight, reference, since)

    def fetch_state(
        self,
        progress: ProgressSink | None = None,
        fits: Callable[[NamedDescription], None] = lambda description: None,
    ) -> StateSnapshot | None:
        """The newest state of the run, downloaded from several peers at once and verified.

        It is the last sealed average, or what peers serve with ``serve_state``. None when the run has none
        yet. With an authority only it and those it admitted are believed; in an open run each address
        block (/24) has one vote. While the run is ahead of what was fetched, ``step`` adds nothing to the
        averages (weight 0). ``progress`` is called with a ``Progress`` after each chunk, in the network
        thread; ``fits`` may raise for a served state that is of no use here, before it is downloaded.
        """
        return self.node.call(self._core.state.fetch, progress, fits)

    def fetch_rounds(self, after: int) -> list[tuple[int, list[Any]]]:
        """Numbers and averages of the rounds sealed after ``after`` without a gap, as far as peers keep them.

        For who missed a round or two: much less than a whole state.
        """
        return self.node.call(self._core.state.missed, after)

    def serve_state(self, make: Callable[[], NamedState]) -> None:
        """Gives latecomers what ``make()`` returns, from now until the next call.

        ``make`` is called once at most, in a thread of its own when the first latecomer asks; what it
        returns is copied before ``make`` could be called again. Call this after each round whose average
        was applied; peers whose state is the same must return the same bytes.
        """
        self.node.call(self._core.state.serve_async, make)

    @property
    def is_behind(self) -> bool:
        """True while the run is known to be ahead of what ``fetch_state`` brought: ``step`` has weight 0."""
        return self._core.state.behind

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
