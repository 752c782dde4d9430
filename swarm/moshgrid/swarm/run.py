"""A training run: a torch model whose parameters a swarm of volunteers averages."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from moshgrid.averaging import Averager, RoundReport, StateSnapshot
from moshgrid.averaging.averager_setup import Compression, run_named_by
from moshgrid.p2p import ConfigurationError, Link, Node

if TYPE_CHECKING:
    import torch

__all__ = ["Run"]


class Run:
    """Averages a model's floating-point parameters with the other volunteers of one training.

    ``step`` replaces the optimizer's usual gradient exchange: train locally for a while, then call it.
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
    ) -> None:
        self._parameters = [p for p in model.parameters() if p.is_floating_point()]
        if not self._parameters:
            raise ConfigurationError("the model has no floating-point parameters to average")
        self._owned_node: Node | None = None
        self.node = node
        self.run_id = run_id
        self.averager = Averager(
            node,
            run_id=run_id,
            like=self._staged(),
            group_size=group_size,
            min_group_size=min_group_size,
            compression=compression,
        )

    @classmethod
    def join(
        cls,
        link: str | Link,
        run_id: str | None = None,
        *,
        model: torch.nn.Module,
        group_size: int = 16,
        min_group_size: int = 2,
        compression: Compression = "float16",
    ) -> Self:
        """A run over a node of its own, made from a ``moshgrid://NETWORK[/RUN]@…`` link.

        ``run_id`` may be left out when the link names the run.
        """
        named = run_named_by(link, run_id)
        node = Node.from_link(link)
        try:
            run = cls(
                node,
                named,
                model,
                group_size=group_size,
                min_group_size=min_group_size,
                compression=compression,
            )
        except BaseException:
            node.close()
            raise
        run._owned_node = node
        return run

    @property
    def round(self) -> int:
        """The highest round that is known to be sealed; 0 before the first."""
        return self.averager.round

    def step(self, weight: float = 1.0, rounds: int = 1) -> RoundReport:
        """Averages the model with a group of peers, in place. Never raises because a peer died.

        ``weight`` says how much this model counts, for example the number of samples behind it.
        ``rounds=2`` averages twice, with different groups.
        """
        staged = self._staged()
        report = self.averager.step(staged, weight=weight, rounds=rounds)
        self._adopt(staged)
        return report

    def sync(self) -> StateSnapshot | None:
        """Loads the swarm's newest sealed state into the model, verified, from several peers.

        For those who come late. Returns None, and leaves the model alone, when no peer has a state yet.
        """
        snapshot = self.averager.fetch_state()
        if snapshot is not None:
            import torch

            self._adopt([torch.as_tensor(array) for array in snapshot.arrays])
        return snapshot

    def close(self) -> None:
        """Leaves the run, and closes the node when ``join`` made it."""
        self.averager.close()
        if self._owned_node is not None:
            self._owned_node.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _staged(self) -> list[torch.Tensor]:
        """The parameters where the averager can work on them: themselves when they are on the CPU."""
        return [p.data.cpu() for p in self._parameters]

    def _adopt(self, tensors: list[torch.Tensor]) -> None:
        for parameter, tensor in zip(self._parameters, tensors, strict=True):
            if parameter.data.data_ptr() != tensor.data_ptr():
                parameter.data.copy_(tensor)
