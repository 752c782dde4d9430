"""The round's promises over many seeds: crashes at every message, double crashes, partitions, freezes.

Minutes of work; ``make simulate`` runs it, the default suite one seed in a hundred.
"""

import os
import subprocess
import sys

import pytest
import round_scenarios as scenarios
from round_simulation import SimulatedGroup

SEEDS = {
    "crash_at_every_message": 100,
    "double_crash": 10_000,
    "partition": 1_000,
    "one_link_cut": 1_000,
    "false_suspicion": 1_000,
    "freeze_and_wake": 1_000,
    "mixture": 2_000,
}
BLOCK = 100


def sample(name):
    """One seed in a hundred, and at least ten of what is quick."""
    return range(max(SEEDS[name] // 100, 1 if name == "crash_at_every_message" else 10))


def blocks(name):
    size = 1 if name == "crash_at_every_message" else BLOCK
    return [(name, first, first + size) for first in range(0, SEEDS[name], size)]


@pytest.mark.parametrize("name", SEEDS)
def test_a_sample_of_each_misfortune(name):
    for seed in sample(name):
        getattr(scenarios, name)(seed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "first", "end"), [block for name in SEEDS for block in blocks(name)])
def test_every_seed(name, first, end):
    for seed in range(first, end):
        getattr(scenarios, name)(seed)


def test_the_misfortunes_do_happen():
    assert sum(scenarios.false_suspicion(seed) for seed in range(20)) > 20
    assert any(scenarios.freeze_and_wake(seed) for seed in range(20))
    outcomes = {
        node.outcome.committed
        for seed in range(30)
        for node in scenarios.partition(seed).nodes
        if node.outcome
    }
    assert outcomes == {True, False}


@pytest.mark.parametrize("victim", [None, 0, 2])
def test_with_real_signatures(victim):
    crash = lambda member, count: "after" if (member, count) == (victim, 9) else None  # noqa: E731
    group = scenarios.run(4, 1, on_send=crash, real_signatures=True)
    group.check()
    assert sum(group.signatures.values()) >= 4


def test_a_round_takes_few_signatures():
    group = scenarios.run(8, 0)
    assert max(group.signatures.values()) <= 2  # its results, and its vote


HISTORY = """
import round_scenarios as scenarios
print(scenarios.partition(5).sim.trace_hash, scenarios.run(5, 3).sim.trace_hash)
"""


def test_the_same_seed_gives_the_same_history_in_every_process():
    histories = {
        subprocess.run(
            [sys.executable, "-c", HISTORY],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(histories) == 1


def test_other_seeds_give_other_histories():
    traces = set()
    for seed in range(5):
        group = SimulatedGroup(4, seed=seed)
        group.begin()
        group.run()
        traces.add(group.sim.trace_hash)
    assert len(traces) == 5
