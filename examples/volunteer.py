"""A volunteer in a swarm that trains a torch model: train locally, average, repeat.

    python examples/volunteer.py            # three volunteers in this process, as a try-out
    python examples/volunteer.py LINK       # one volunteer of the swarm behind LINK

A link to start from is printed by ``moshgrid node``.
"""

import sys

import torch
from torch.nn import functional

from moshgrid.p2p import Node
from moshgrid.swarm import LocalSwarm, Run

ROUNDS = 8
RULE = torch.tensor([[2.0], [-3.0], [0.5], [1.0]])  # what the swarm is to find out


def train(run: Run, model: torch.nn.Module, seed: int) -> None:
    """Trains on data of its own; what ``run.step`` averages is the model."""
    run.sync()  # late join: verified state from several peers
    chance = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    while run.round < ROUNDS:
        for _ in range(20):
            x = torch.randn(32, 4, generator=chance)
            loss = functional.mse_loss(model(x), x @ RULE)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"loss {loss.item():.5f}  {run.step(weight=32)}")


def try_out() -> None:
    """Three volunteers that find each other on this computer."""
    with LocalSwarm(3) as swarm:

        def volunteer(i: int, node: Node) -> None:
            model = torch.nn.Linear(4, 1)
            with Run(node, "try-out", model) as run:
                train(run, model, seed=i)

        swarm.each(volunteer)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        model = torch.nn.Linear(4, 1)
        with Run.join(sys.argv[1], "try-out", model=model) as run:
            train(run, model, seed=0)
    else:
        try_out()
