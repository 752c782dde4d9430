"""Training under churn, with real processes: it never stands still, does not leak, and all agree."""

import json
import sys
from itertools import pairwise

import pytest
from churn import churn
from members import Members

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

NOISE = 0.02
"""A loss below which the noise of the gradients may move it up and down."""


def check(folder, seconds, seed, most, megabytes_a_minute):
    with Members(folder, pause=0.4) as members:
        result = churn(members, seconds, seed, most)
    figures = result.figures(windows=5)
    print(json.dumps(figures))
    assert {"killed", "frozen", "added"} <= set(figures), figures
    assert figures["longest_gap_seconds"] < 60, figures
    assert figures["memory_slope_MiB_per_minute"] < megabytes_a_minute, figures
    losses = result.losses(windows=5)
    assert all(later < max(earlier, NOISE) for earlier, later in pairwise(losses)), figures
    assert losses[-1] < losses[0] / 2, figures
    assert figures["agreed_final_rounds"] >= 1, figures


@pytest.mark.first
@pytest.mark.timeout(900)
def test_two_minutes_of_churn(tmp_path):
    check(tmp_path, 120, seed=1, most=5, megabytes_a_minute=6)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_twenty_minutes_of_churn(tmp_path):
    check(tmp_path, 1200, seed=2, most=7, megabytes_a_minute=1)
