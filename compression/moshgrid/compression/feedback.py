"""Error feedback: what compression left out of a gradient is remembered and sent later.

* EF14 (Seide et al. 2014): the residual e is added to the next gradient. Needs nothing of the others.
* EF21 (Richtárik et al. 2021): a peer sends how its gradient differs from an estimate h of it that the
  others can follow; everybody keeps H, the mean of all h.
* EF21M (Fatkhullin et al. 2023): the same of a momentum of the gradient, which noise disturbs less.

A round goes ``outgoing`` → encode, average → ``sent`` with what was decoded of one's own bytes (or
``lost``) → ``received`` with the averaged bytes, which returns the direction to step along.

H misses what members sent that were not heard, so that under churn it drifts away from the mean of h. Every
so many rounds average ``h`` uncompressed and give the mean to ``resync``. Absent members' last h still
counts when it is averaged with the others', which repairs the drift and is better than leaving them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from moshgrid.compression.codec import FloatVector

__all__ = ["EF14", "EF21", "EF21M", "ErrorFeedback"]


class ErrorFeedback(Protocol):
    """One peer's memory for one flat float32 vector. Belongs to a run and its shapes; pure arithmetic."""

    def outgoing(self, gradient: FloatVector) -> FloatVector:
        """What to encode this round, a new array. Ends a round that neither ``sent`` nor ``lost`` ended."""
        ...

    def sent(self, decoded: FloatVector) -> None:
        """The peer's contribution counted; ``decoded`` is what its bytes decode to."""
        ...

    def lost(self) -> None:
        """The round came to nothing, or the others did not hear this peer's contribution."""
        ...

    def received(self, mean: FloatVector) -> FloatVector:
        """The direction to step along, given the decoded average of what members sent."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything to go on from: a name and numpy arrays, copied; safe to store as safetensors."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse. Raises ValueError for another kind, another size, or values that are not finite."""
        ...


class _Memory:
    """Named float32 arrays of one size, and how they are saved."""

    kind = ""

    def __init__(self, size: int) -> None:
        self.size = size

    def _arrays(self) -> tuple[str, ...]:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, **{name: getattr(self, name).copy() for name in self._arrays()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state.get("kind") != self.kind:
            raise ValueError(f"this is a memory of kind {self.kind}, not {state.get('kind')!r}")
        if set(state) != {"kind", *self._arrays()}:
            raise ValueError(f"a memory of kind {self.kind} has {', '.join(self._arrays())}")
        arrays = {name: np.asarray(state[name]) for name in self._arrays()}
        for name, array in arrays.items():
            shapes = ((self.size,), (0,)) if name == "momentum" else ((self.size,),)
            if array.dtype != np.float32 or array.shape not in shapes:
                raise ValueError(
                    f"{name} must be {self.size} float32 values, not {array.shape} {array.dtype}"
                )
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds NaN or infinite values")
        for name, array in arrays.items():
            setattr(self, name, array.copy())

    def _check(self, vector: FloatVector) -> None:
        if vector.shape != (self.size,):
            raise ValueError(f"expected {self.size} values, not {vector.shape}")


class EF14(_Memory):
    """The residual. ``decay`` below 1 lets old residuals fade, as SparseLoCo and DeMo do."""

    kind = "ef14"

    def __init__(self, size: int, decay: float = 1.0) -> None:
        super().__init__(size)
        self.decay = decay
        self.residual: FloatVector = np.zeros(size, np.float32)
        self._outgoing: FloatVector | None = None

    def _arrays(self) -> tuple[str, ...]:
        return ("residual",)

    def outgoing(self, gradient: FloatVector) -> FloatVector:
        self._check(gradient)
        self.lost()
        self._outgoing = (np.float32(self.decay) * self.residual + gradient).astype(np.float32)
        return self._outgoing.copy()

    def sent(self, decoded: FloatVector) -> None:
        self._check(decoded)
        if self._outgoing is not None:
            self.residual, self._outgoing = (self._outgoing - decoded).astype(np.float32), None

    def lost(self) -> None:
        if self._outgoing is not None:
            self.residual, self._outgoing = self._outgoing.astype(np.float32), None

    def received(self, mean: FloatVector) -> FloatVector:
        self._check(mean)
        return mean

    def state_dict(self) -> dict[str, Any]:
        self.lost()
        return super().state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._outgoing = None


class EF21(_Memory):
    """``local`` is this peer's h, ``shared`` the H that all members should agree on."""

    kind = "ef21"

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.local: FloatVector = np.zeros(size, np.float32)
        self.shared: FloatVector = np.zeros(size, np.float32)

    def _arrays(self) -> tuple[str, ...]:
        return ("local", "shared")

    def outgoing(self, gradient: FloatVector) -> FloatVector:
        self._check(gradient)
        return (gradient - self.local).astype(np.float32)

    def sent(self, decoded: FloatVector) -> None:
        self._check(decoded)
        self.local = self.local + decoded

    def lost(self) -> None:
        """Nothing was sent, so that h stays what the others know of it."""

    def received(self, mean: FloatVector) -> FloatVector:
        self._check(mean)
        self.shared = self.shared + mean
        return self.shared.copy()

    def resync(self, mean_local: FloatVector) -> None:
        """``mean_local``: the mean of all members' ``local``, averaged without compression."""
        self._check(mean_local)
        self.shared = np.array(mean_local, np.float32)


class EF21M(EF21):
    """EF21 of v ← (1 − eta)·v + eta·gradient; v starts as the first gradient."""

    kind = "ef21m"

    def __init__(self, size: int, eta: float = 0.1) -> None:
        super().__init__(size)
        if not 0 < eta <= 1:
            raise ValueError(f"eta must be above 0 and at most 1, not {eta!r}")
        self.eta = eta
        self.momentum: FloatVector = np.zeros(0, np.float32)
        """Empty before the first gradient."""

    def _arrays(self) -> tuple[str, ...]:
        return ("local", "shared", "momentum")

    def outgoing(self, gradient: FloatVector) -> FloatVector:
        self._check(gradient)
        if self.momentum.size:
            self.momentum = self.momentum + np.float32(self.eta) * (gradient - self.momentum)
        else:
            self.momentum = np.array(gradient, np.float32)
        return super().outgoing(self.momentum)
