"""State exchange: the state that a training's members share, given to latecomers and taken from others.

An optimizer's shared state travels as named arrays under a name of its own beside the run's averages.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moshgrid.averaging.averager_setup import run_config
from moshgrid.averaging.chunk_transfer import ProgressSink
from moshgrid.averaging.named_arrays import ArraySpec, NamedState, total_bytes
from moshgrid.averaging.part_work import in_threads
from moshgrid.averaging.run_config import run_digest
from moshgrid.averaging.run_state import RunState, StateSnapshot
from moshgrid.averaging.state import NamedDescription
from moshgrid.p2p import Node, PeerId, SchemaMismatch
from moshgrid.swarm.shared_state import CommonState, SharedState

if TYPE_CHECKING:
    import torch

__all__ = ["STATE_PART", "StateExchange", "to_named", "to_tensors"]

STATE_PART = "~shared"
"""What follows the run's name in the name under which its state is served."""

_MAX_DIFFERENCES = 20
_MOST_TIMES = 8
"""The swarm's optimizer may keep so many tensors for each that this peer has so far."""
_SPARE_BYTES = 2**20


class StateExchange:
    """``like``: what the run averages. ``peers()``, called in the network thread: who may have the state."""

    def __init__(
        self,
        node: Node,
        run_id: str,
        like: Sequence[Any],
        peers: Callable[[], Sequence[PeerId]],
        epoch: Callable[[], int],
        authority: str | None = None,
        admission: bytes = b"",
        downloads: str | os.PathLike[str] | None = None,
    ) -> None:
        self._node = node
        named = run_id + STATE_PART
        config = run_config(
            named, like, 2, 2, "none", "moshpit", "mean", None, authority, admission, downloads
        )
        host = node.host

        async def nothing() -> None:
            return None

        self._state = RunState(
            host,
            run_digest(host.network_name, named),
            config,
            in_threads,
            peers=peers,
            refresh=nothing,
            progress=epoch,
            reached=lambda number: None,
        )
        node.call(self._attach)

    def serve(self, shared: SharedState) -> None:
        """Copies the state as it is now and gives it to latecomers until the next call.

        To be called in the thread that trains.
        """
        named = to_named(shared.export_state(), copy=True)
        self._node.call(self._state.serve_async, lambda: named)

    def fetch(self, shared: SharedState, progress: ProgressSink | None = None) -> StateSnapshot | None:
        """Takes the newest state of the swarm; None, and nothing changed, when nobody has one.

        Raises SchemaMismatch, before anything is downloaded, when it is of another model or other settings.
        """
        mine = to_named(shared.export_state(), copy=False)
        snapshot = self._node.call(self._state.fetch, progress, lambda theirs: check_fits(mine, theirs))
        if snapshot is None or snapshot.named is None:
            return None
        tensors, notes = to_tensors(snapshot.named)
        shared.adopt_state(snapshot.named.round, tensors, notes)
        return snapshot

    def close(self) -> None:
        """Serves nobody any more."""
        self._node.call(self._detach)

    async def _attach(self) -> None:
        self._state.attach()

    async def _detach(self) -> None:
        self._state.detach()


def to_named(state: CommonState, copy: bool) -> NamedState:
    """A state as it travels."""
    import torch

    arrays, halves = {}, set()
    for name, tensor in state.tensors.items():
        tensor = tensor.detach()
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.view(torch.int16)
            halves.add(name)
        array = tensor.cpu().numpy()
        if name in halves:
            array = array.view(np.uint16)
        arrays[name] = array.copy() if copy and tensor.device.type == "cpu" else array
    return NamedState(state.epoch, arrays, dict(state.notes), frozenset(halves))


def to_tensors(state: NamedState) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and notes that can be adopted."""
    import torch

    tensors = {}
    for name, array in state.arrays.items():
        tensor = torch.from_numpy(array.view(np.int16) if name in state.bfloat16 else array.copy())
        tensors[name] = tensor.clone().view(torch.bfloat16) if name in state.bfloat16 else tensor
    return tensors, {str(key): str(value) for key, value in state.meta.items()}


def check_fits(mine: NamedState, theirs: NamedDescription) -> None:
    """Raises SchemaMismatch with a line per tensor. An outer optimizer may have no momentum yet here."""
    have = {
        name: ArraySpec(name, "bfloat16" if name in mine.bfloat16 else array.dtype.name, array.shape)
        for name, array in mine.arrays.items()
    }
    there = {spec.name: spec for spec in theirs.arrays}
    offered, expected = total_bytes(theirs.arrays), total_bytes(tuple(have.values()))
    if offered > _MOST_TIMES * expected + _SPARE_BYTES:
        raise SchemaMismatch(
            f"the run's state has {offered:,} bytes, which is too much beside your {expected:,}"
        )
    differences = [
        f"{name}  yours {have[name]}   run {there.get(name, 'nothing')}"
        for name in have
        if name not in there or (have[name].dtype, have[name].shape) != (there[name].dtype, there[name].shape)
    ]
    if differences:
        summary = f"your state differs from the run's in {len(differences)} of {len(have)} tensors"
        raise SchemaMismatch(summary, differences[:_MAX_DIFFERENCES])
