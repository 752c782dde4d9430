"""Small models that peers of one process train together, each in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from moshgrid.p2p import Node
from moshgrid.swarm import LocalSwarm, Run

RULE = torch.randn(8, 2, generator=torch.Generator().manual_seed(9))


_SEEDING = threading.Lock()  # torch's chance is the process's, and peers make their models at once


def model_of(seed: int = 0) -> nn.Module:
    with _SEEDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))


def loss_on(model: nn.Module, chance: torch.Generator, size: int = 16) -> torch.Tensor:
    """The loss on a batch of a peer's own."""
    device = next(model.parameters()).device
    x = torch.randn(size, 8, generator=chance)
    return ((model(x.to(device)) - (x @ RULE).to(device)) ** 2).mean()


def place_of(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1).cpu() for p in model.parameters()]).clone()


class Peers:
    """``n`` peers; ``Peers(3).train(lambda peer: …)`` runs each in a thread and returns what they return."""

    def __init__(self, n: int) -> None:
        self.barrier = threading.Barrier(n, timeout=60)
        self._n = n

    def train(self, act: Callable[[Peer], Any], **options: Any) -> list[Any]:
        with LocalSwarm(self._n, network="training") as swarm:

            def one(i: int, node: Node) -> Any:
                try:
                    model = model_of()
                    with Run(node, "r", model, progress=False, **options) as run:
                        result = act(Peer(i, run, model, self.barrier))
                        self.barrier.wait()
                        return result
                except BaseException:
                    self.barrier.abort()
                    raise

            return swarm.each(one)


class Peer:
    """One of them."""

    def __init__(self, number: int, run: Run, model: nn.Module, barrier: threading.Barrier) -> None:
        self.number = number
        self.run = run
        self.model = model
        self.barrier = barrier
        self.chance = torch.Generator().manual_seed(number)

    def meet(self, averagers: list[Any], others: int) -> None:
        """Waits until every averager knows so many others."""
        self.barrier.wait()
        tick = threading.Event()
        while any(len(averager.peers) <= others for averager in averagers):
            tick.wait(0.02)
        self.barrier.wait()

    def step(self, optimizer: torch.optim.Optimizer) -> float:
        loss = loss_on(self.model, self.chance)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()
