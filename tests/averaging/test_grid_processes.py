"""Sixteen processes on a 4 × 4 grid: the mean of all in two rounds, by the sliding index and by a plan."""

from pathlib import Path

import numpy as np
import pytest
from ranked_processes import ranked_processes, said, tell

PEERS, SIDE, ELEMENTS = 16, 4, 1000


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_sixteen_processes_on_a_four_by_four_grid_reach_the_mean_in_two_rounds():
    script = Path(__file__).with_name("grid_process.py")
    with ranked_processes(script, PEERS, SIDE) as processes:
        # At first no plan is there; one drawn after the first round is in force from the fourth on.
        for seed in range(3):
            for process in processes:
                tell(process, str(seed))
            told = [said(process) for process in processes]
            seen = [(one["rounds"], [len(group) for group in one["groups"]], one["reasons"]) for one in told]
            assert {len(group) for one in told for group in one["groups"]} == {SIDE}, (seed, seen)
            assert len({tuple(sorted(one["groups"][0])) for one in told}) == SIDE
            assert {tuple(one["rounds"]) for one in told} == {(2 * seed + 1, 2 * seed + 2)}
            values = [np.random.default_rng([seed, rank]).normal(size=ELEMENTS) for rank in range(PEERS)]
            mean = np.mean(np.float32(values).astype(np.float64), axis=0)
            if seed == 1:
                continue  # the sliding index gives way to the plan in the middle of these two
            for one in told:
                np.testing.assert_allclose(one["vector"], mean, rtol=0, atol=1e-6)
