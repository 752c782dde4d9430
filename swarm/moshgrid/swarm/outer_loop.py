"""The outer loop of DiLoCo (Douillard et al. 2023) for one fragment: shared state, outer step, what is sent.

Arithmetic on torch tensors, no network. The members of a run hold the same *anchors*, the parameters after
the last round; each trains on from them. The average of where they got to is taken as a step along
``anchors - average`` by the outer optimizer, and what it changes is added to the parameters, so that inner
steps taken meanwhile are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from moshgrid.averaging.tensors import read_into, write_from
from moshgrid.compression import EF14, Codec
from moshgrid.swarm.merge_rule import Merge
from moshgrid.swarm.state_tensors import check_tensors, load_optimizer, optimizer_tensors

__all__ = ["OuterLoop", "is_plain_average"]

Vectors = Sequence[np.ndarray[Any, np.dtype[np.floating[Any]]]]


def is_plain_average(outer: torch.optim.Optimizer) -> bool:
    """True where an outer step leads exactly to the average: SGD with lr 1 and nothing else."""
    return isinstance(outer, torch.optim.SGD) and all(
        float(group["lr"]) == 1.0
        and not group["momentum"]
        and not group["weight_decay"]
        and not group["maximize"]
        for group in outer.param_groups
    )


class OuterLoop:
    """The shared state of some of a model's parameters, ``named``, at one member.

    ``outer`` is an optimizer over (at least) these parameters. ``alpha`` is how much of the member's own
    place it keeps where a result is applied, 0 … 1. ``codec`` remembers what it leaves out (EF14).
    """

    def __init__(
        self,
        named: Mapping[str, torch.nn.Parameter],
        outer: torch.optim.Optimizer,
        *,
        alpha: float = 0.0,
        codec: Codec | None = None,
        backup_device: torch.device | str | None = None,
    ) -> None:
        self.named = dict(named)
        self.parameters = list(named.values())
        self.outer = outer
        self.alpha = alpha
        self.applied: int | None = None
        """The round whose result the anchors are; 0 for a common beginning, None when it is not known."""
        self._backup_device = backup_device
        self._codec = codec
        self._feedback = EF14(sum(p.numel() for p in self.parameters)) if codec is not None else None
        self._sent: np.ndarray[Any, Any] | None = None
        self.anchors = [self._kept(p.detach().clone()) for p in self.parameters]

    # A round ----------------------------------------------------------------------------------------

    def start(self) -> list[torch.Tensor]:
        """A copy of the parameters as they are now."""
        return [p.detach().clone() for p in self.parameters]

    def outgoing(self, start: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """What to send of ``start``: itself, or with what earlier encodings left out."""
        if self._feedback is None:
            return start
        self._sent = self._feedback.outgoing(_flat(self._progress(start)))
        parts = _cut(self._sent, start)
        return [a.to(s.device) + part for a, s, part in zip(self.anchors, start, parts, strict=True)]

    def take(
        self, start: Sequence[torch.Tensor], average: Vectors | None, merge: Merge, counted: bool = True
    ) -> None:
        """Applies the outcome of the round that ``start`` was sent to.

        ``average``: a flat vector per parameter. ``counted``: this member's values are in it.
        """
        if self._feedback is not None:
            self._settle(merge is Merge.OUTER_STEP and counted)
        if merge is Merge.NOTHING or average is None:
            return
        self._advance(average, merge)
        for parameter, anchor, then in zip(self.parameters, self.anchors, start, strict=True):
            now, target = parameter.data, anchor.to(parameter.device)
            then = then.to(now.device)
            moved = now + (1.0 - self.alpha) * (target - then)
            if not self.alpha:  # without rounding where no step was taken meanwhile
                moved = torch.where(now == then, target, moved)
            parameter.data.copy_(moved)

    def replay(self, average: Vectors) -> None:
        """Applies a round that went without this member, which begins anew from its result.

        Progress made from an older state would draw the others back; to drop it converges better.
        """
        self._advance(average, Merge.OUTER_STEP)
        self.revert()

    def follow(self, average: Vectors) -> None:
        """Takes an average for the shared state, for want of a better one."""
        self._advance(average, Merge.UNITE)
        self.revert()

    def revert(self) -> None:
        """Back to the shared state."""
        for parameter, anchor in zip(self.parameters, self.anchors, strict=True):
            parameter.data.copy_(anchor)

    def is_finite(self) -> bool:
        """Whether all parameters are numbers."""
        return all(bool(torch.isfinite(p.detach()).all()) for p in self.parameters)

    def _progress(self, start: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [then - anchor.to(then.device) for then, anchor in zip(start, self.anchors, strict=True)]

    def _advance(self, average: Vectors, merge: Merge) -> None:
        """Moves the anchors on by one round."""
        means = []
        for parameter, vector in zip(self.parameters, average, strict=True):
            mean = torch.empty_like(parameter.data)
            write_from(np.ascontiguousarray(vector).reshape(-1), mean)
            means.append(mean)
        if merge is Merge.UNITE:
            for parameter in self.parameters:
                self.outer.state.pop(parameter, None)
        if merge is Merge.UNITE or is_plain_average(self.outer):
            self.anchors = [self._kept(mean) for mean in means]
            return
        self._outer_step(means)

    def _outer_step(self, means: Sequence[torch.Tensor]) -> None:
        """Lets the outer optimizer see the anchors in the parameters' place."""
        everything = [p for group in self.outer.param_groups for p in group["params"]]
        gradients = [p.grad for p in everything]
        places = [p.data for p in self.parameters]
        try:
            for p in everything:
                p.grad = None
            for parameter, anchor, mean in zip(self.parameters, self.anchors, means, strict=True):
                parameter.data = anchor.to(mean.device).clone()
                parameter.grad = parameter.data - mean
                _bring_state(self.outer, parameter)
            self.outer.step()
            self.anchors = [self._kept(p.data) for p in self.parameters]
        finally:
            for parameter, place in zip(self.parameters, places, strict=True):
                parameter.data = place
            for p, gradient in zip(everything, gradients, strict=True):
                p.grad = gradient

    def _settle(self, counted: bool) -> None:
        assert self._feedback is not None and self._codec is not None
        if counted and self._sent is not None:
            sent = np.ascontiguousarray(self._sent)
            encoded = self._codec.encode(sent)
            self._feedback.sent(self._codec.decode(encoded.data, sent.size, sent.dtype))
        else:
            self._feedback.lost()
        self._sent = None

    def _kept(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if self._backup_device is None else tensor.to(self._backup_device)

    # What is saved ----------------------------------------------------------------------------------

    def shared_tensors(self) -> dict[str, torch.Tensor]:
        """What all members hold in common: anchors and the outer optimizer's tensors, by name."""
        tensors = {f"anchor.{name}": a for name, a in zip(self.named, self.anchors, strict=True)}
        return {**tensors, **optimizer_tensors(self.named, self.outer, "outer")}

    def load_shared(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """The inverse; the parameters follow. Raises SchemaMismatch."""
        check_tensors(self.named, tensors, "anchor")
        self.anchors = [
            self._kept(tensors[f"anchor.{name}"].to(p.device, p.dtype).clone())
            for name, p in self.named.items()
        ]
        load_optimizer(self.named, self.outer, tensors, "outer")
        self.revert()

    def own_state(self) -> dict[str, Any]:
        """For ``state_dict``: shared tensors, round, and the memory of error feedback."""
        return {
            "applied": self.applied,
            "shared": {name: tensor.clone() for name, tensor in self.shared_tensors().items()},
            "feedback": None if self._feedback is None else self._feedback.state_dict(),
        }

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """The inverse; the parameters stay as they are, they are the model's to load."""
        places = [p.data.clone() for p in self.parameters]
        self.load_shared(state["shared"])
        for parameter, place in zip(self.parameters, places, strict=True):
            parameter.data.copy_(place)
        self.applied = state["applied"]
        if self._feedback is not None and state["feedback"] is not None:
            self._feedback.load_state_dict(state["feedback"])


def _bring_state(outer: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> None:
    """The model may have been moved to another device since."""
    state = outer.state.get(parameter, {})
    for key, value in state.items():
        if isinstance(value, torch.Tensor) and value.ndim and value.device != parameter.device:
            state[key] = value.to(parameter.device)


def _flat(tensors: Sequence[torch.Tensor]) -> np.ndarray[Any, Any]:
    out = np.empty(sum(t.numel() for t in tensors), np.float32)
    at = 0
    for tensor in tensors:
        read_into(out[at : at + tensor.numel()], tensor)
        at += tensor.numel()
    return out


def _cut(vector: np.ndarray[Any, Any], like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    parts, at = [], 0
    for tensor in like:
        part = torch.empty_like(tensor)
        write_from(np.ascontiguousarray(vector[at : at + tensor.numel()]), part)
        parts.append(part)
        at += tensor.numel()
    return parts
