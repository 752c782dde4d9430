"""Training under churn, with real processes: it never stands still, does not leak, and all agree."""

import json
import sys
from itertools import pairwise

import pytest
from churn import churn
from members import Members

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def check(tmp_path, seconds, seed, pieces=5, megabytes_a_minute=None):
    with Members(tmp_path) as members:
        result = churn(members, seconds, seed)
    figures = result.figures(pieces)
    print(json.dumps(figures))
    assert {"killed", "frozen", "added"} <= set(figures), figures
    assert figures["longest_gap_seconds"] < 60, figures
    if megabytes_a_minute is not None:
        assert figures["memory_slope_MiB_per_minute"] < megabytes_a_minute, figures
    losses = result.losses(pieces)
    # Down all the way to where the noise of the gradients keeps it; not far in a short run.
    assert losses[-1] < (losses[0] / 2 if seconds >= 120 else max(losses[0], 0.02)), figures
    assert all(later < max(1.1 * earlier, 0.02) for earlier, later in pairwise(losses)), figures
    assert figures["agreed_final_rounds"] >= 1, figures


@pytest.mark.timeout(300)
def test_some_seconds_of_churn(tmp_path):
    check(tmp_path, 16, seed=1, pieces=2)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_minutes_of_churn(tmp_path):
    check(tmp_path, 120, seed=1, megabytes_a_minute=6)


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("seed", [2])
def test_twenty_minutes_of_churn(tmp_path, seed):
    check(tmp_path, 1200, seed=seed, megabytes_a_minute=1.0)
