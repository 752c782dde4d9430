"""Every parser that strangers feed, against mutated input: only its own refusal may come out."""

from __future__ import annotations

import itertools
import time

import pytest
from fuzzing import Target, all_targets, check, corpus_of, mutations

TARGETS = all_targets()
SHORT_SECONDS = 0.25
LONG_RUNS = 1_000_000


@pytest.mark.parametrize("name", TARGETS)
def test_only_refusals_come_out(name):
    target = TARGETS[name]
    corpus = corpus_of(name)
    assert corpus, f"tests/fuzz/corpus/{name} has no inputs"
    end = time.monotonic() + SHORT_SECONDS
    for number, data in enumerate(mutations(corpus, seed=1)):
        if number > len(corpus) and time.monotonic() > end:
            break
        check(target, data)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", TARGETS)
def test_only_refusals_come_out_of_a_million(name):
    for data in itertools.islice(mutations(corpus_of(name), seed=2), LONG_RUNS):
        check(TARGETS[name], data)


def test_a_seed_replays_the_same_mutations():
    first, second, other = (list(itertools.islice(mutations([b"abc"], seed), 500)) for seed in (1, 1, 2))
    assert first == second != other


def test_what_a_target_may_not_raise_comes_out():
    def broken(data: bytes) -> None:
        if data[:1] == b"x":
            raise KeyError("x")
        raise ValueError("refused")

    check(Target(broken, (ValueError,)), b"a")
    with pytest.raises(KeyError):
        check(Target(broken, (ValueError,)), b"x")
