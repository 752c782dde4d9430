"""Rounds over real processes that are killed, stopped, cut off or slowed down in the middle of them.

``benchmarks/faults.py`` does it and tells what each peer holds; values reveal whose mean they are.
"""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "faults.py"
SCHEMA = json.loads((ROOT / "docs" / "schemas" / "benchmark-faults.schema.json").read_text())

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def rows(*arguments, timeout=280):
    command = [sys.executable, str(SCRIPT), "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    jsonschema.validate(said, SCHEMA)
    return {row["fault"]: row for row in said["rows"]}


def check(row):
    """All that nothing was done to hold the same bytes, every element of them a mean of them all."""
    assert row["returned"] == row["say_success"] == row["survivors"], row
    assert row["different_results"] == 1, row
    assert row["least_averaged"] == 1.0, row


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", ["kill", "stop", "cut"])
def test_five_peers_survive(fault):
    row = rows("--peers", "5", "--megabytes", "4", "--faults", fault)[fault]
    check(row)
    assert row["fewest_in_an_average"] >= 3, row
    # A slow computer's woken peers may come too late for the first round, and its survivors do not wait.
    assert 1 <= row["rounds_until_whole"] <= 3, row
    if fault == "stop":
        assert row["woken_hold_something_else"] == 0, row
    if fault == "cut":
        assert row["connections_severed"] > 0, row


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", ["kill", "stop", "cut"])
def test_eight_peers_with_64_megabytes_survive(fault):
    row = rows("--peers", "8", "--megabytes", "64", "--faults", fault, timeout=800)[fault]
    check(row)
    assert row["fewest_in_an_average"] >= 6, row
    if fault == "kill":
        assert row["seconds"] <= row["allowed_seconds"], row


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_peer_at_a_twentieth_of_the_rate_takes_part():
    row = rows("--peers", "5", "--megabytes", "4", "--faults", "slow", "--rounds", "20", timeout=1100)["slow"]
    check(row)
    assert row["rounds_with_the_slow_peer"] >= 18, row
