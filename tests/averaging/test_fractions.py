"""Who reduces how much: water-filling against the linear programme, and what a claim may win."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from round_simulation import IDENTITIES

from moshgrid.averaging.averager_setup import run_config
from moshgrid.averaging.fractions import fair_fractions, water_filling
from moshgrid.averaging.leading import compose_manifest
from moshgrid.averaging.messages import Offer
from moshgrid.averaging.throughput import Throughput


def slowest(bandwidths, shares):
    n = len(bandwidths)
    return max((1 + (n - 2) * w) / b for w, b in zip(shares, bandwidths, strict=True) if w > 0)


def by_linear_programme(bandwidths):
    """The least time t with (1 + (n - 2)·wᵢ) ≤ bᵢ·t for all who reduce at all: the oracle."""
    optimize = pytest.importorskip("scipy.optimize")
    n, best = len(bandwidths), np.inf
    order = sorted(range(n), key=lambda i: -bandwidths[i])
    for k in range(1, sum(b > 0 for b in bandwidths) + 1):  # only the k quickest reduce
        chosen = [bandwidths[i] for i in order[:k]]
        limits = np.hstack([(n - 2) * np.eye(k), -np.array(chosen)[:, None]])
        found = optimize.linprog(
            [0] * k + [1], A_ub=limits, b_ub=-np.ones(k), A_eq=[[1] * k + [0]], b_eq=[1], bounds=(0, None)
        )
        if found.success:
            best = min(best, found.fun)
    return best


KNOWN = {
    (100,) * 8: 0.0175,
    (100,) * 4 + (10,) * 4: 0.1 / 4,
    (1000, 100, 100, 50, 20, 10, 5, 1): 0.007,
}


@pytest.mark.parametrize("bandwidths", KNOWN, ids=str)
def test_known_divisions(bandwidths):
    assert slowest(bandwidths, water_filling(bandwidths)) == pytest.approx(KNOWN[bandwidths])


def test_equal_bandwidths_get_equal_shares_and_slow_peers_nothing_when_that_is_quicker():
    assert water_filling([100.0] * 8) == pytest.approx([1 / 8] * 8)
    assert water_filling([100.0] * 4 + [10.0] * 4) == pytest.approx([0.25] * 4 + [0.0] * 4)


def test_two_peers_share_by_bandwidth_and_clients_reduce_nothing():
    assert water_filling([300.0, 100.0]) == pytest.approx([0.75, 0.25])
    assert water_filling([100.0, 0.0, 100.0]) == pytest.approx([0.5, 0.0, 0.5])
    with pytest.raises(ValueError, match="nobody"):
        water_filling([0.0, 0.0])


@pytest.mark.parametrize("seed", range(60))
def test_the_closed_form_equals_the_linear_programme(seed):
    rng = random.Random(seed)
    bandwidths = [10 ** rng.uniform(0, 3) for _ in range(rng.randint(3, 16))]
    if seed % 3 == 0:
        bandwidths[0] = 0.0  # a client
    shares = water_filling(bandwidths)
    assert sum(shares) == pytest.approx(1)
    assert min(shares) >= 0
    assert slowest(bandwidths, shares) == pytest.approx(by_linear_programme(bandwidths), rel=1e-6)


@given(st.lists(st.floats(1, 100), min_size=3, max_size=16), st.integers(0, 2**31))
def test_no_other_division_is_quicker(bandwidths, seed):
    best = slowest(bandwidths, water_filling(bandwidths))
    rng = np.random.default_rng(seed)
    for _ in range(30):
        other = rng.dirichlet(np.ones(len(bandwidths)))
        assert slowest(bandwidths, other) >= best * (1 - 1e-9)


@pytest.mark.parametrize("n", range(2, 17))
@pytest.mark.parametrize("claim", [500.0, 1e9, 1e15])
def test_nobody_can_claim_more_than_four_times_the_median_share(n, claim):
    shares = fair_fractions([claim] + [100.0] * (n - 1))
    assert sum(shares) == pytest.approx(1)
    assert shares[0] <= 4 * sorted(shares)[n // 2] * (1 + 1e-6)
    assert shares[0] >= max(shares[1:])


@given(st.lists(st.one_of(st.none(), st.just(0.0), st.floats(1, 1e12)), min_size=2, max_size=16))
def test_any_claims_give_shares_within_the_limit(claims):
    if all(claim is None for claim in claims):
        with pytest.raises(ValueError, match="nobody"):
            fair_fractions(claims)
        return
    shares = fair_fractions(claims)
    known = sorted(claim for claim in claims if claim)
    usual = claims.index(known[len(known) // 2] if known else 0.0)
    assert sum(shares) == pytest.approx(1)
    assert max(shares) <= 4 * shares[usual] * (1 + 1e-6)
    assert all(share == 0 for share, claim in zip(shares, claims, strict=True) if claim is None)


def test_who_does_not_know_its_bandwidth_counts_as_the_median():
    assert fair_fractions([0.0] * 4) == pytest.approx([0.25] * 4)
    assert fair_fractions([200.0, 100.0, 0.0, 100.0]) == fair_fractions([200.0, 100.0, 100.0, 100.0])


def test_a_manifest_follows_the_measured_bandwidths_and_bounds_a_lie():
    config = run_config("run", [np.zeros(100_000, np.float32)], 4, 2, "none", "single", "mean", None)
    schema = config.schema

    def fractions(*bandwidths):
        members = [
            (identity.peer_id, Offer(1.0, bandwidth, schema.digest, "none", True))
            for identity, bandwidth in zip(IDENTITIES, bandwidths, strict=False)
        ]
        rng = random.Random(1)
        manifest = compose_manifest(bytes(16), "0", 1, members, config, rng)
        share = {member.peer: member.fraction for member in manifest.members}
        return [share[peer] for peer, _ in members]

    assert fractions(100.0, 100.0, 100.0, 5.0)[3] == 0.0
    honest = fractions(100.0, 100.0, 100.0, 1e9)
    assert honest[3] <= 4 * honest[0] * (1 + 1e-6)


# Measuring it


def moved(count, seconds, rate, start=0.0, step=0.05):
    """A throughput that moved ``rate`` both ways, told every ``step`` seconds."""
    throughput = Throughput()
    for burst in range(count):
        at = start + burst * (seconds + 10)
        for i in range(int(seconds / step) + 1):
            throughput.sent(int(rate * step), at + (i - 1) * step, at + i * step)
            throughput.received(int(rate * step), at + i * step)
    return throughput.bandwidth


@pytest.mark.parametrize("rate", [1e5, 3e6, 5e7])
def test_a_steady_rate_is_measured_within_a_power_of_two(rate):
    assert rate / 1.5 <= moved(2, 3.0, rate) <= rate * 1.5


def test_bursts_shorter_than_half_a_second_say_nothing():
    assert moved(100, 0.3, 1e9) == 0.0


def test_small_rounds_that_follow_each_other_say_nothing():
    throughput = Throughput()
    for round_number in range(100):
        at = round_number * 0.2
        throughput.sent(10_000, at, at + 0.001)
        throughput.received(10_000, at + 0.02)
    assert throughput.bandwidth == 0.0


def test_a_slow_link_is_measured_by_what_takes_long_to_send():
    throughput = Throughput()
    for i in range(4):
        throughput.sent(512_000, i * 4.0, (i + 1) * 4.0)
    assert throughput.bandwidth == pytest.approx(128_000, rel=0.5)


def test_the_weaker_direction_counts():
    throughput = Throughput()
    for i in range(40):
        throughput.sent(1000, (i - 1) * 0.05, i * 0.05)
        throughput.received(100_000, i * 0.05)
    assert throughput.bandwidth == pytest.approx(20_000, rel=0.3)


def test_waiting_for_a_slow_member_does_not_lower_the_estimate():
    throughput = Throughput()
    for i in range(20):
        throughput.sent(1_000_000, (i - 1) * 0.05, i * 0.05)
        throughput.received(1_000_000, i * 0.05)
    before = throughput.bandwidth
    for i in range(20, 60):
        throughput.sent(1000, (i - 1) * 0.05, i * 0.05)
        throughput.received(1000, i * 0.05)
    assert throughput.bandwidth >= before / 2
