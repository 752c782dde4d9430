"""A volunteer as a script: joins the run behind a link, trains for ever, averages now and then.

usage: training_process.py LINK
"""

import logging
import sys

import torch

from moshgrid.swarm import DiLoCo, Run

logging.basicConfig(level="INFO", format="%(levelname)s %(message)s")
torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
run = Run.join(sys.argv[1], model=model)
opt = DiLoCo(run, torch.optim.SGD(model.parameters(), 1e-3), sync_every=50)
while True:
    x = torch.randn(16, 4)
    opt.zero_grad()
    ((model(x) - x.sum(1, keepdim=True)) ** 2).mean().backward()
    opt.step()
