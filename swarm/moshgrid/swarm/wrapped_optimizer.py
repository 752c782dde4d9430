"""A torch optimizer around another one: what LR schedulers, GradScaler and trainers expect to find."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["WrappedOptimizer"]

_OWN = "moshgrid"


class WrappedOptimizer(torch.optim.Optimizer):
    """Shares ``param_groups`` and ``state`` with ``inner``, so that both show the same learning rates.

    ``state_dict`` is the inner one's with one more entry, ``moshgrid``.
    """

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        if not isinstance(inner, torch.optim.Optimizer):
            raise TypeError(f"expected a torch.optim.Optimizer, not {type(inner).__name__}")
        self.inner: torch.optim.Optimizer | None = None
        super().__init__(inner.param_groups, inner.defaults)
        self.inner = inner
        self._share()

    def _share(self) -> None:
        assert self.inner is not None
        self.param_groups = self.inner.param_groups
        self.state = self.inner.state

    def _inner(self) -> torch.optim.Optimizer:
        assert self.inner is not None
        return self.inner

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters to the inner optimizer. What is averaged does not change."""
        if self.inner is None:  # called while this object is being made
            super().add_param_group(param_group)
        else:
            self.inner.add_param_group(param_group)
            self._share()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As the inner optimizer's."""
        self._inner().zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's state, and under ``moshgrid`` what the training has beside it."""
        return {**self._inner().state_dict(), _OWN: self.own_state()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """The inverse. A state of the bare inner optimizer is taken, too."""
        own = state_dict.get(_OWN)
        inner = {key: value for key, value in state_dict.items() if key != _OWN}
        self._inner().load_state_dict(inner)
        self._share()
        if own is not None:
            self.load_own_state(own)

    def own_state(self) -> dict[str, Any]:
        """What is saved beside the inner optimizer's state."""
        raise NotImplementedError

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``own_state``."""
        raise NotImplementedError
