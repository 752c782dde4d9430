"""Gradients of several batches, added up by the samples behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

__all__ = ["GradientAccumulator"]


class GradientAccumulator:
    """The sum over batches of (samples × mean gradient), for each parameter, where the parameter is.

    In float32 at least: in bfloat16 a sum stands still after some 256 batches, in float16 it overflows.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._sums: list[torch.Tensor] | None = None
        self.samples = 0

    def add(self, samples: int) -> None:
        """Adds what is in the parameters' ``grad``, the mean over ``samples``; no gradient counts as 0."""
        if self._sums is None:
            self._sums = [torch.zeros_like(p.data, dtype=_sum_dtype(p)) for p in self._parameters]
        for index, parameter in enumerate(self._parameters):
            total = self._sums[index]
            if total.device != parameter.device:  # the model was moved
                total = self._sums[index] = total.to(parameter.device)
            if parameter.grad is not None:
                total.add_(parameter.grad.to(total.dtype), alpha=samples)
        self.samples += samples

    def mean(self) -> list[torch.Tensor]:
        """The mean over all samples, new tensors; zeros when there were none."""
        if self._sums is None or not self.samples:
            return [torch.zeros_like(p.data) for p in self._parameters]
        means = (total / self.samples for total in self._sums)
        return [mean.to(p.dtype) for mean, p in zip(means, self._parameters, strict=True)]

    def is_finite(self) -> bool:
        """Whether no gradient held NaN or an infinite value."""
        return all(bool(torch.isfinite(total).all()) for total in self._sums or ())

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        sums = None if self._sums is None else [total.clone() for total in self._sums]
        return {"samples": self.samples, "sums": sums}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse."""
        self.samples = state["samples"]
        sums = state["sums"]
        if sums is not None:
            sums = [
                total.to(p.device, _sum_dtype(p)) for total, p in zip(sums, self._parameters, strict=True)
            ]
        self._sums = sums


def _sum_dtype(parameter: torch.Tensor) -> torch.dtype:
    return torch.promote_types(parameter.dtype, torch.float32)
