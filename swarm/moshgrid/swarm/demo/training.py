"""Local training in the demo: a small network and plain SGD with momentum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from moshgrid.swarm.demo.digits import CLASSES

__all__ = ["TRAINING", "Learner", "Training", "accuracy_of", "build_model"]


@dataclass(frozen=True)
class Training:
    """How everybody trains: the volunteers, the lone ones they are compared with, and the central one."""

    hidden: int = 64
    learning_rate: float = 0.2
    momentum: float = 0.9
    batch_size: int = 32
    steps_per_round: int = 10

    def learning_rate_at(self, progress: float) -> float:
        """Constant for the first half of the training, then falling to a twentieth."""
        return self.learning_rate * min(1.0, max(0.05, 2.0 * (1.0 - progress)))


TRAINING = Training()


def build_model(seed: int, hidden: int = TRAINING.hidden) -> nn.Module:
    """The network that every volunteer starts from: one hidden layer, about 4,800 parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))


def accuracy_of(
    parameters: npt.NDArray[np.float32], x: npt.NDArray[np.float32], y: npt.NDArray[np.int64]
) -> float:
    """Per cent of the images in ``x`` that the network with these flat parameters names rightly."""
    model = build_model(0)
    nn.utils.vector_to_parameters(torch.from_numpy(parameters), model.parameters())
    with torch.no_grad():
        right = (model(torch.from_numpy(x)).argmax(dim=1) == torch.from_numpy(y)).float().mean()
    return round(100.0 * float(right), 3)


class Learner:
    """A model that trains on one share of the images."""

    def __init__(
        self,
        x: npt.NDArray[np.float32],
        y: npt.NDArray[np.int64],
        *,
        seed: int,
        order: int,
        training: Training = TRAINING,
    ) -> None:
        self.steps = 0
        self.images = len(x)
        self._training = training
        self._x = torch.from_numpy(x)
        self._y = torch.from_numpy(y)
        self.model = build_model(seed, training.hidden)
        self._optimizer = torch.optim.SGD(
            self.model.parameters(), lr=training.learning_rate, momentum=training.momentum
        )
        self._batches = self._shuffled(np.random.default_rng([seed, order]))

    def train(self, steps: int, progress: float) -> float:
        """Takes ``steps`` steps; ``progress`` is how far the training is, 0…1. Returns the mean loss."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._training.learning_rate_at(progress)
        total = 0.0
        for _ in range(steps):
            batch = next(self._batches)
            loss = functional.cross_entropy(self.model(self._x[batch]), self._y[batch])
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types for it
            self._optimizer.step()
            total += loss.item()
        self.steps += steps
        return total / max(1, steps)

    def train_whole(self, steps: int, pieces: int) -> None:
        """The whole training without a swarm, on the same schedule: ``steps`` steps in ``pieces`` rounds."""
        for piece in range(pieces):
            here = steps * (piece + 1) // pieces - steps * piece // pieces
            self.train(here, piece / pieces)

    def parameters(self) -> list[npt.NDArray[np.float32]]:
        """A copy of the model's parameters."""
        return [p.detach().numpy().copy() for p in self.model.parameters()]

    def _shuffled(self, rng: np.random.Generator) -> Iterator[torch.Tensor]:
        size = min(self._training.batch_size, len(self._x))
        while True:
            order = torch.from_numpy(rng.permutation(len(self._x)))
            for start in range(0, len(order) - size + 1, size):
                yield order[start : start + size]
