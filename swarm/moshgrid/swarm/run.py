"""A training run: who trains what together, how far they are, and the averagers that carry its values."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from moshgrid.averaging import Averager, RoundReport, StateSnapshot
from moshgrid.averaging.averager_setup import Compression, run_named_by
from moshgrid.averaging.tensors import write_from
from moshgrid.p2p import Closed, ConfigurationError, Link, Node, PeerId
from moshgrid.swarm import log_lines
from moshgrid.swarm.checkpoint import read_checkpoint, write_checkpoint
from moshgrid.swarm.leaving import leave_on_sigterm
from moshgrid.swarm.progress_bar import downloading, waiting
from moshgrid.swarm.progress_tracker import ProgressTracker
from moshgrid.swarm.resume import capture, restore_model, restore_training
from moshgrid.swarm.run_identity import entries_of
from moshgrid.swarm.shared_state import SharedState
from moshgrid.swarm.state_exchange import StateExchange
from moshgrid.swarm.swarm_progress import SwarmView

if TYPE_CHECKING:
    import torch

__all__ = ["Run"]

_MAX_NAME = 48

_log = logging.getLogger("moshgrid.swarm")


class Run:
    """One training of ``model`` by everybody who has joined the run ``run_id`` of the node's network.

    Give it to ``DiLoCo`` or ``Optimizer``; or train locally and call ``step`` now and then, which averages
    the model's floating-point parameters. ``group_size``, ``min_group_size`` and ``deadline`` (seconds to
    wait for a group), ``authority``, ``admission``, ``downloads``, ``seats_per_block`` are ``Averager``'s.
    ``compression`` is for ``step``. ``progress``: whether to show what is waited for; None: on a terminal.

    Raises SchemaMismatch, with a line per tensor, when the others in the run train another model;
    VersionMismatch when they speak another version of the protocol; ConfigurationError.
    """

    def __init__(
        self,
        node: Node,
        run_id: str,
        model: torch.nn.Module,
        *,
        group_size: int = 16,
        min_group_size: int = 2,
        compression: Compression = "float16",
        deadline: float | None = None,
        progress: bool | None = None,
        authority: str | None = None,
        admission: bytes = b"",
        downloads: str | os.PathLike[str] | None = None,
        seats_per_block: int | None = None,
    ) -> None:
        self.named_parameters = {n: p for n, p in model.named_parameters() if p.is_floating_point()}
        self._parameters = list(self.named_parameters.values())
        if not self._parameters:
            raise ConfigurationError("the model has no floating-point parameters to average")
        if not isinstance(run_id, str) or not 1 <= len(run_id.encode()) <= _MAX_NAME or "/" in run_id:
            raise ConfigurationError(f"run_id must be 1 to {_MAX_NAME} bytes of text without '/'")
        self.node = node
        self.run_id = run_id
        self.model = model
        self.group_size = group_size
        self.shows_progress = progress
        self.shared: SharedState | None = None
        """The optimizer that holds what the members have in common, if there is one."""
        self._owned_node: Node | None = None
        self._exchange: StateExchange | None = None
        self._resumed: dict[str, Any] | None = None
        self._cannot_save = ""
        self._given: dict[str, Any] = {"authority": authority, "admission": admission, "downloads": downloads}
        self._compression = compression
        self._grouping = {"group_size": group_size, "min_group_size": min_group_size, "deadline": deadline}
        self._grouping["seats_per_block"] = seats_per_block
        self._averagers: dict[str, Averager] = {}
        self._callbacks: list[Callable[[RoundReport], None]] = []
        self._failures = 0
        with waiting(f"joining {run_id}", progress):
            self.tracker = ProgressTracker(node, run_id, entries_of(self.named_parameters))
        leave_on_sigterm(self)
        view = self.tracker.view()
        _log.info(log_lines.joined(run_id, view.peers, view.epoch, view.behind))

    @classmethod
    def join(
        cls, link: str | Link, run_id: str | None = None, *, model: torch.nn.Module, **options: Any
    ) -> Self:
        """A run over a node of its own, made from a ``moshgrid://NETWORK[/RUN]@…`` link.

        ``run_id`` may be left out when the link names the run. Other arguments as for the class.
        """
        parsed = link if isinstance(link, Link) else Link.parse(link)
        named = run_named_by(parsed, run_id)
        node = Node.from_link(parsed)
        try:
            run = cls(node, named, model, **{"authority": parsed.authority, **options})
        except BaseException:
            node.close()
            raise
        run._owned_node = node
        return run

    # What is averaged -------------------------------------------------------------------------------

    @property
    def averager(self) -> Averager:
        """The averager of ``step``: all parameters. Opened when it is first used."""
        return self.averager_for("", [p.data for p in self._parameters], self._compression)

    def averager_for(
        self, part: str, like: Sequence[Any], compression: Compression, deadline: float | None = None
    ) -> Averager:
        """The averager of one part of the training, such as a fragment; closed with the run.

        Members meet in it when their ``part``, shapes and ``compression`` are the same.
        """
        if part not in self._averagers:
            name = f"{self.run_id}~{part}" if part else self.run_id
            options: dict[str, Any] = {**self._grouping, **self._given}
            options["deadline"] = options["deadline"] or deadline
            self._averagers[part] = Averager(self.node, name, like, compression=compression, **options)
        return self._averagers[part]

    def step(self, weight: float = 1.0, rounds: int = 1) -> RoundReport:
        """Averages the model with a group of peers, in place. Never raises because a peer died.

        ``weight`` says how much this model counts, for example the number of samples behind it.
        ``rounds=2`` averages twice, with different groups.
        """
        with waiting(f"round {self.averager.round + 1}: waiting for the swarm", self.shows_progress):
            report = self.averager.step([p.data for p in self._parameters], weight=weight, rounds=rounds)
        self.completed(report)
        return report

    # How far it is ----------------------------------------------------------------------------------

    @property
    def round(self) -> int:
        """The highest round that is known to be sealed; 0 before the first."""
        return max((averager.round for averager in tuple(self._averagers.values())), default=0)

    @property
    def progress(self) -> SwarmView:
        """What the members of the swarm have done together, and when they synchronise next."""
        return self.tracker.view()

    def on_round(self, callback: Callable[[RoundReport], None]) -> None:
        """Calls ``callback(report)`` after each round of this peer, in the thread that trains."""
        self._callbacks.append(callback)

    def completed(self, report: RoundReport, part: str = "") -> None:
        """A round is over: says so in the log, and to the callbacks. For optimizers."""
        if report.committed:
            self._failures = 0
            _log.info(log_lines.round_done(report, part))
            self._serve_state()
        else:
            self._failures += 1
            _log.info(log_lines.no_group(report, self._failures))
        for callback in self._callbacks:
            callback(report)

    # State ------------------------------------------------------------------------------------------

    def follow(self, shared: SharedState) -> None:
        """``shared`` holds what the members have in common from now on. For optimizers."""
        self.shared = shared

    def sync(self) -> StateSnapshot | None:
        """Takes the swarm's newest state, verified, from several peers at once. For those who come late.

        With an optimizer that keeps a shared state (``DiLoCo``, ``Optimizer``) that is its state, else the
        last average of the model. Returns None, and changes nothing, when no peer has a state yet. Raises
        SchemaMismatch when the swarm's state does not fit.
        """
        with downloading(f"state of {self.run_id}", self.shows_progress) as bar:
            if self.shared is not None:
                snapshot = self._shared_exchange().fetch(self.shared, bar)
                if snapshot is not None:
                    self._serve_state()
            else:
                snapshot = self.averager.fetch_state(bar)
                if snapshot is not None:
                    for parameter, array in zip(self._parameters, snapshot.arrays, strict=True):
                        write_from(array.reshape(-1), parameter.data)
        if snapshot is not None:
            _log.info(log_lines.state_fetched(snapshot.round, bar.last))
        return snapshot

    def newest_average(self, averager: Averager) -> StateSnapshot | None:
        """The last average of one part of the training, downloaded and shown as in ``sync``."""
        with downloading(f"average of {self.run_id}", self.shows_progress) as bar:
            return averager.fetch_state(bar)

    def _shared_exchange(self) -> StateExchange:
        if self._exchange is None:
            like = [p.data for p in self._parameters]
            self._exchange = StateExchange(
                self.node, self.run_id, like, self._peers, lambda: self.tracker.view().epoch, **self._given
            )
        return self._exchange

    def _serve_state(self) -> None:
        if self.shared is not None:
            self._shared_exchange().serve(self.shared)

    def _peers(self) -> list[PeerId]:
        known = {peer for averager in tuple(self._averagers.values()) for peer in averager.peers}
        return sorted(known | set(self.tracker.peers()))

    # Checkpoints ------------------------------------------------------------------------------------

    def save(
        self,
        path: str | os.PathLike[str],
        optimizer: Any | None = None,
        schedulers: Sequence[Any] = (),
        position: Any = None,
    ) -> bool:
        """Writes everything that ``Run.load`` needs to go on as if the training had not stopped.

        To ``path``/checkpoint.safetensors, or ``path`` where it ends so: model, ``optimizer`` (left out: the
        one made with this run), ``schedulers``, random number generators, and ``position``: plain values that
        say where in the data you are. The old file stays until the new one is whole. Where it cannot be
        written the log says so once, False is returned, and training can go on. Raises ConfigurationError.
        """
        optimizer = optimizer if optimizer is not None else self.shared
        tree = {"run_id": self.run_id, **capture(self.model, optimizer, schedulers, position)}
        try:
            write_checkpoint(path, tree)
        except OSError as error:
            if not self._cannot_save:
                _log.warning(log_lines.cannot_save(str(path), error.strerror or str(error)))
            self._cannot_save = str(error)
            return False
        self._cannot_save = ""
        return True

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        link: str | Link | Node,
        run_id: str | None = None,
        *,
        model: torch.nn.Module,
        **options: Any,
    ) -> Self:
        """A run whose ``model`` is as it was saved; then call ``resume`` with the optimizer made for it.

        ``link`` may be a node, too; ``run_id`` is that of the checkpoint when left out. Other arguments as
        for the class. Raises CheckpointError, having joined nothing, for a file that cannot be used.
        """
        tree = read_checkpoint(path).tree
        restore_model(model, tree)
        named = run_id or tree["run_id"]
        if isinstance(link, Node):
            run = cls(link, named, model, **options)
        else:
            run = cls.join(link, named, model=model, **options)
        run._resumed = tree
        return run

    def resume(self, optimizer: Any | None = None, schedulers: Sequence[Any] = ()) -> Any:
        """Restores what else was saved, random number generators last; returns the saved ``position``.

        ``optimizer``: left out, the one that was made with this run. Call it last before training.
        """
        if self._resumed is None:
            raise ConfigurationError("there is nothing to resume: make the run with Run.load(path, link, …)")
        tree, self._resumed = self._resumed, None
        optimizer = optimizer if optimizer is not None else self.shared
        return restore_training(tree, optimizer if tree["optimizer"] is not None else None, schedulers)

    def close(self) -> None:
        """Leaves the run, and closes the node when ``join`` made it. May be called again."""
        for averager in self._averagers.values():
            averager.close()
        with suppress(Closed):  # the node may have been closed first
            if self._exchange is not None:
                self._exchange.close()
            self.tracker.close()
        if self._owned_node is not None:
            self._owned_node.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
