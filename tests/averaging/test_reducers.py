"""Reducers: what each makes of honest and of hostile values, how it is chosen, and that the set is open."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from round_simulation import IDENTITIES

from moshgrid.averaging import reducers
from moshgrid.averaging.flat_arrays import FlatArrays
from moshgrid.averaging.manifest import Manifest, Member, sign_manifest
from moshgrid.averaging.part_memory import PartMemory
from moshgrid.averaging.reducers import Mean, Median, TrimmedMean, get_reducer, register_reducer
from moshgrid.averaging.reduction import average_part, encode_part


def reduced(reducer, vectors, weights):
    out = np.full_like(vectors[0], np.nan)
    reducer.reduce(vectors, weights, out)
    return out


def gathered(n, seed=0, size=500, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return [rng.normal(1.0, 1.0, size).astype(dtype) for _ in range(n)]


def distance(one, other):
    return float(np.linalg.norm(one.astype(np.float64) - other) / np.sqrt(one.size))


@given(st.integers(1, 16), st.integers(0, 2**31), st.sampled_from([np.float32, np.float64]))
def test_each_agrees_with_its_definition(n, seed, dtype):
    vectors = gathered(n, seed, 50, dtype)
    weights = [float(w) for w in np.random.default_rng(seed).uniform(0.1, 9, n)]
    stack = np.stack(vectors).astype(np.float64)
    exact = {
        "mean": np.average(stack, axis=0, weights=weights),
        "median": np.median(stack, axis=0),
        "trimmed_mean": np.sort(stack, axis=0)[cut : n - cut].mean(axis=0)
        if (cut := min(max(1, n // 4), (n - 1) // 2)) < n
        else None,
    }
    for name, expected in exact.items():
        got = reduced(get_reducer(name), vectors, weights)
        assert got.dtype == dtype
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["mean", "median", "trimmed_mean"])
def test_arguments_stay_as_they_are_and_the_same_give_the_same(name):
    vectors = gathered(5)
    before = [vector.copy() for vector in vectors]
    reducer = get_reducer(name)
    first, second = reduced(reducer, vectors, [1.0] * 5), reduced(reducer, vectors, [1.0] * 5)
    assert first.tobytes() == second.tobytes()
    assert all((now == then).all() for now, then in zip(vectors, before, strict=True))


@pytest.mark.parametrize("name", ["mean", "median", "trimmed_mean"])
def test_large_finite_values_do_not_overflow(name):
    vectors = [np.full(4, 3e38, np.float32)] * 4
    with np.errstate(over="raise"):
        np.testing.assert_allclose(reduced(get_reducer(name), vectors, [1.0] * 4), vectors[0], rtol=1e-6)


ATTACKS = {
    "minus a thousand times": lambda honest: -1000 * honest,
    "one direction": lambda honest: np.full_like(honest, 1e6),
    "the largest there are": lambda honest: np.full_like(honest, np.finfo(honest.dtype).max),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(("name", "liars"), [("median", 7), ("trimmed_mean", 1), ("trimmed_mean", 4)])
def test_robust_reducers_withstand_so_many_liars_of_sixteen(name, liars, attack):
    vectors = gathered(16)
    honest = np.mean(vectors[liars:], axis=0, dtype=np.float64)
    for i in range(liars):
        vectors[i] = ATTACKS[attack](vectors[i])
    weights = [1e9] * liars + [1.0] * (16 - liars)  # and a large weight buys nothing
    # In honest standard deviations; seven that all push one way move a median of sixteen by 1.2.
    most = 1.0 if attack == "minus a thousand times" else 1.4
    assert distance(reduced(get_reducer(name), vectors, weights), honest) < most
    assert distance(reduced(Mean(), vectors, [1.0] * 16), honest) > (400 if liars == 7 else 50)


def test_trimming_needs_three():
    two = [np.float32([1, 5]), np.float32([3, 1])]
    assert reduced(TrimmedMean(), two, [1, 1]).tolist() == [2, 3]
    assert reduced(TrimmedMean(), [*two, np.float32([9, 2])], [1, 1, 1]).tolist() == [3, 2]
    assert reduced(Median(), two, [1, 1]).tolist() == [2, 3]


def test_names_say_what_there_is():
    with pytest.raises(KeyError, match="mean, median, trimmed_mean"):
        get_reducer("krum")


class Highest:
    name = "highest"

    def reduce(self, vectors, weights, out):
        np.max(vectors, axis=0, out=out)


def test_a_reducer_of_ones_own_takes_part_in_a_round(monkeypatch):
    monkeypatch.setattr(reducers, "_registry", dict(reducers._registry))
    register_reducer(Highest())
    with pytest.raises(ValueError, match="taken"):
        register_reducer(Highest())
    members = tuple(Member(identity.peer_id, "full", 1.0, 0.5) for identity in IDENTITIES[:2])
    signed = sign_manifest(
        IDENTITIES[0],
        Manifest(
            bytes(16), "0", 1, members, "none", "float32", 4, 2, bytes(32), b"", bytes(16), reducer="highest"
        ),
    )
    one, other = np.float32([1, 5, 0, 0]), np.float32([3, 1, 0, 0])
    one, other, memory = FlatArrays([one], one.dtype), FlatArrays([other], other.dtype), PartMemory()
    inputs = {0: None, 1: encode_part(signed, other, 0, memory)[0]}
    average = average_part(signed, 0, inputs, one, memory)
    assert np.frombuffer(average.data, np.float32).tolist() == [3, 5]
