"""A swarm whose members all stop and are resumed from their checkpoints goes on along the same loss curve."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from moshgrid.swarm import DiLoCo, LocalSwarm, Run

SYNC_EVERY = 4


class Member:
    def __init__(self, node, number, folder=None):
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
        self.chance = torch.Generator().manual_seed(number)
        if folder is None:
            self.run = Run(node, "r", self.model, progress=False)
        else:
            self.run = Run.load(folder / f"{number}", node, model=self.model, progress=False)
        inner = torch.optim.AdamW(self.model.parameters(), 1e-2)
        self.optimizer = DiLoCo(self.run, inner, sync_every=SYNC_EVERY, overlap=False)
        if folder is not None:
            self.chance.set_state(self.run.resume())

    def train(self, steps, others):
        losses = []
        (fragment,) = self.optimizer.fragments
        pause = threading.Event()
        for _ in range(200):
            if len(fragment.averager.peers) >= others.parties:
                break
            pause.wait(0.1)
        for step in range(steps):
            if step % SYNC_EVERY == 0:
                others.wait(60)
            x = torch.randn(32, 6, generator=self.chance)
            loss = ((self.model(x) - x.sum(1, keepdim=True)) ** 2).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return losses


def session(steps, folder=None, keep=None):
    """Two members train in a swarm of their own; resumed from ``folder``, saved to ``keep``."""
    with LocalSwarm(2, network="resumed") as swarm, ThreadPoolExecutor(2) as threads:
        members = [Member(node, number, folder) for number, node in enumerate(swarm)]
        others = threading.Barrier(2)
        losses = list(threads.map(lambda member: member.train(steps, others), members))
        epochs = [member.optimizer.epoch for member in members]
        if keep is not None:
            for number, member in enumerate(members):
                assert member.run.save(keep / f"{number}", position=member.chance.get_state())
        for member in members:
            member.run.close()
    assert min(epochs) >= 1, epochs
    return torch.tensor(losses).mean(0)


def test_the_loss_goes_on_where_it_was(tmp_path):
    whole = session(32)
    session(16, keep=tmp_path)
    resumed = session(16, folder=tmp_path)
    assert whole[-4:].mean() < whole[:4].mean() / 1.2
    assert resumed[-4:].mean().item() == pytest.approx(whole[-4:].mean().item(), rel=0.1)
    assert resumed[:4].mean().item() == pytest.approx(whole[16:20].mean().item(), rel=0.1)
