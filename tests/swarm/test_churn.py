"""Training under churn, with real processes: it never stands still, does not leak, and all agree."""

import json
import sys
from itertools import pairwise

import pytest
from churn import churn
from members import Members

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def check(tmp_path, seconds, seed, megabytes_a_minute):
    with Members(tmp_path) as members:
        result = churn(members, seconds, seed)
    figures = result.figures()
    print(json.dumps(figures))
    assert {"killed", "frozen", "added"} <= set(figures), figures
    assert figures["longest_gap_seconds"] < 60, figures
    assert figures["memory_slope_MiB_per_minute"] < megabytes_a_minute, figures
    losses = result.losses(5)
    # Down all the way to where the noise of the gradients keeps it.
    assert losses[-1] < losses[0] / 2, figures
    assert all(later < max(1.1 * earlier, 0.02) for earlier, later in pairwise(losses)), figures
    assert figures["agreed_final_rounds"] >= 1, figures


@pytest.mark.timeout(300)
def test_a_minute_of_churn(tmp_path):
    check(tmp_path, 60, seed=1, megabytes_a_minute=6)


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("seed", [2])
def test_twenty_minutes_of_churn(tmp_path, seed):
    check(tmp_path, 1200, seed=seed, megabytes_a_minute=1.0)
