"""DiLoCo without a network: the production ``OuterLoop`` of many workers, and an exact weighted average.

The toy task of the tests: a small network tells 16 clusters of points in 64 dimensions apart, 4 classes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from moshgrid.swarm.merge_rule import Merge
from moshgrid.swarm.outer_loop import OuterLoop

CLUSTERS, CLASSES, DIMENSIONS = 16, 4, 64
LEARNING_RATE, NOISE = 2e-4, 1.5

Outer = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]


def nesterov(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.7, momentum=0.9, nesterov=True)


def plain(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1.0)


class Task:
    """Points around cluster centres; a worker may see all clusters or two of them."""

    def __init__(self, seed: int, workers: int, iid: bool) -> None:
        chance = np.random.default_rng(seed)
        self.centres = chance.normal(size=(CLUSTERS, DIMENSIONS)).astype(np.float32)
        self.classes = np.arange(CLUSTERS) % CLASSES
        self._chances = [np.random.default_rng([seed, i]) for i in range(workers)]
        self._seen = [
            np.arange(CLUSTERS) if iid else np.array_split(np.arange(CLUSTERS), workers)[i]
            for i in range(workers)
        ]
        self.held_out = self._points(chance, np.arange(CLUSTERS), 2048)

    def batch(self, worker: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._points(self._chances[worker], self._seen[worker], 16)

    def _points(
        self, chance: np.random.Generator, clusters: np.ndarray, count: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        which = chance.choice(clusters, count)
        noise = chance.normal(scale=NOISE, size=(count, DIMENSIONS)).astype(np.float32)
        return torch.from_numpy(self.centres[which] + noise), torch.from_numpy(self.classes[which])


class Worker:
    """A model, its inner optimizer and its outer loop."""

    def __init__(self, seed: int, outer: Outer, alpha: float = 0.0) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(DIMENSIONS, 64), nn.ReLU(), nn.Linear(64, CLASSES))
        self.inner = torch.optim.AdamW(self.model.parameters(), LEARNING_RATE)
        named = dict(self.model.named_parameters())
        self.loop = OuterLoop(named, outer(list(named.values())), alpha=alpha)
        self.loop.applied = 0

    def train(self, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        for x, y in batches:
            self.inner.zero_grad()
            functional.cross_entropy(self.model(x), y).backward()
            self.inner.step()

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> float:
        with torch.no_grad():
            return float(functional.cross_entropy(self.model(x), y))

    def place(self) -> torch.Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.model.parameters()]).clone()


def average(starts: list[list[torch.Tensor]]) -> list[np.ndarray]:
    """The mean of what workers sent, a flat vector per parameter."""
    return [torch.stack(tensors).mean(dim=0).reshape(-1).numpy() for tensors in zip(*starts, strict=True)]


def train_together(
    outer: Outer, *, iid: bool, workers: int = 5, steps: int = 500, every: int = 20, missing: float = 0.0,
    seed: int = 0,
) -> float:  # fmt: skip
    """Held-out loss after ``steps`` inner steps each; ``missing`` of the workers miss each round.

    Who missed a round replays it before the next, as ``DiLoCo`` does.
    """
    task = Task(seed, workers, iid)
    crew = [Worker(seed, outer) for _ in range(workers)]
    chance = np.random.default_rng([seed, 77])
    last: list[np.ndarray] | None = None
    for number in range(1, steps // every + 1):
        for i, worker in enumerate(crew):
            worker.train([task.batch(i) for _ in range(every)])
        absent = set(chance.permutation(workers)[: round(missing * workers)].tolist()) if missing else set()
        present = [worker for i, worker in enumerate(crew) if i not in absent]
        for worker in present:
            if worker.loop.applied == number - 2 and last is not None:
                worker.loop.replay(last)
        starts = [worker.loop.start() for worker in present]
        last_but_one, last = last, average(starts)
        for worker, start in zip(present, starts, strict=True):
            worker.loop.take(start, last, Merge.OUTER_STEP)
            worker.loop.applied = number
        for i in absent:  # who is away for more than one round would reload; here it replays in time
            if crew[i].loop.applied == number - 2 and last_but_one is not None:
                crew[i].loop.replay(last_but_one)
                crew[i].loop.applied = number - 1
    return present[0].loss(*task.held_out)
