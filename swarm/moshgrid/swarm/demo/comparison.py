"""How good the swarm's model is beside what its volunteers, and one central process, reach without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from moshgrid.p2p import Node
from moshgrid.swarm.demo.digits import Digits
from moshgrid.swarm.demo.messages import flatten
from moshgrid.swarm.demo.settings import GROUP_SIZE, DemoSettings
from moshgrid.swarm.demo.training import Learner, accuracy_of, build_model
from moshgrid.swarm.run import Run

__all__ = ["Comparison", "Contender", "compare"]

_CENTRAL = 0
"""Orders the central process's batches; volunteers' numbers start at 1."""


@dataclass(frozen=True)
class Contender:
    """A volunteer, as far as the comparison needs to know it."""

    number: int
    images: npt.NDArray[np.int64]
    """Indices into the training images."""
    steps: int
    final: npt.NDArray[np.float32] | None
    """Its model at the end; None when it was lost on the way."""


@dataclass(frozen=True)
class Comparison:
    """Test accuracies in per cent, and how they came about."""

    swarm: float
    central: float
    alone: dict[int, float]
    peers: dict[int, float]
    """Each survivor's own copy of the swarm's model at the end."""
    central_steps: int
    central_images: int
    donors: int
    """From how many peers the swarm's model was downloaded; 0 when that failed and the mean of the
    survivors' own copies stands in."""


def compare(
    node: Node, settings: DemoSettings, digits: Digits, contenders: Sequence[Contender]
) -> Comparison:
    """Downloads the swarm's model and trains what it is compared with, each from the same start.

    Everybody trains with the same network, optimizer, schedule and batch size: a lone volunteer for
    its own number of steps, the central process on all survivors' images for the sum of theirs.
    """
    torch.set_num_threads(1)  # for so small a network more threads only get in each other's way
    survivors = [c for c in contenders if c.final is not None]
    swarm, donors = _download(node, settings)
    if swarm is None:
        copies = [c.final for c in survivors if c.final is not None]
        swarm = np.stack(copies).mean(axis=0, dtype=np.float32)
    images = np.concatenate([c.images for c in survivors])
    steps = sum(c.steps for c in survivors)
    return Comparison(
        swarm=_accuracy(swarm, digits),
        central=_accuracy(_train(digits, images, steps, _CENTRAL, settings), digits),
        alone={
            c.number: _accuracy(_train(digits, c.images, c.steps, c.number, settings), digits)
            for c in contenders
        },
        peers={c.number: _accuracy(c.final, digits) for c in survivors if c.final is not None},
        central_steps=steps,
        central_images=len(images),
        donors=donors,
    )


def _download(node: Node, settings: DemoSettings) -> tuple[npt.NDArray[np.float32] | None, int]:
    model = build_model(settings.seed)
    with Run(node, "digits", model, group_size=GROUP_SIZE, compression=settings.codec) as run:
        snapshot = run.sync()
    if snapshot is None:
        return None, 0
    return flatten([p.detach().numpy() for p in model.parameters()]), len(snapshot.donors)


def _train(
    digits: Digits, images: npt.NDArray[np.int64], steps: int, order: int, settings: DemoSettings
) -> npt.NDArray[np.float32]:
    x, y = digits.train_x[images], digits.train_y[images]
    learner = Learner(x, y, seed=settings.seed, order=order)
    learner.train_whole(steps, settings.rounds)
    return flatten(learner.parameters())


def _accuracy(flat: npt.NDArray[np.float32], digits: Digits) -> float:
    return accuracy_of(flat, digits.test_x, digits.test_y)
