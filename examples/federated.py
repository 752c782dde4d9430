"""Federated learning without a server: numpy only, each hospital keeps its patients' data.

python examples/federated.py            # three hospitals in this process, as a try-out
python examples/federated.py LINK       # one hospital of the network behind LINK
"""

import sys

import numpy as np

from moshgrid.averaging import Averager
from moshgrid.swarm import LocalSwarm

ROUNDS = 5
FEATURES = 6


def train(averager: Averager, seed: int) -> None:
    """Logistic regression on data that never leaves this function; only W and b are averaged."""
    chance = np.random.default_rng(seed)
    truth = np.array([1.0, -2.0, 0.5, 0.0, 1.5, -1.0])
    x = chance.normal(size=(200 + 100 * seed, FEATURES))
    y = (x @ truth > 0).astype(np.float64)
    W, b = np.zeros(FEATURES, np.float32), np.zeros(1, np.float32)
    for _ in range(ROUNDS):
        for _ in range(50):
            error = 1 / (1 + np.exp(-(x @ W + b))) - y
            W -= (0.3 * x.T @ error / len(x)).astype(np.float32)
            b -= np.float32(0.3 * error.mean())
        report = averager.step([W, b], weight=len(x))  # in place
        print(f"hospital {seed}: right on {((x @ W + b > 0) == y).mean():.1%}  {report}")


def try_out() -> None:
    """Three hospitals that find each other on this computer."""
    with LocalSwarm(3) as swarm:
        averagers = swarm.averagers(
            "logreg-v1", like=[np.zeros(FEATURES, np.float32), np.zeros(1, np.float32)]
        )
        swarm.each(lambda i, node: train(averagers[i], seed=i))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        like = [np.zeros(FEATURES, np.float32), np.zeros(1, np.float32)]
        with Averager.join(sys.argv[1], run_id="logreg-v1", like=like) as averager:
            train(averager, seed=0)
    else:
        try_out()
