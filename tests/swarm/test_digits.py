"""How the demo's images are dealt: disjoint, complete, skewed, and safe to lose volunteers from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moshgrid.swarm.demo.digits import CLASSES, MAX_CLASSES_EACH, TEST_IMAGES, Digits, deal, load


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load()


def test_the_test_set_is_fixed_and_stratified(digits: Digits) -> None:
    assert len(digits.test_y) == TEST_IMAGES
    assert len(digits.train_y) + len(digits.test_y) == 1797
    counts = np.bincount(digits.test_y)
    assert counts.min() >= 43 and counts.max() <= 47
    assert np.array_equal(load().test_x, digits.test_x)


@settings(max_examples=60, deadline=None)
@given(peers=st.integers(4, 32), seed=st.integers(0, 2**31 - 1))
def test_every_image_goes_to_one_volunteer_that_holds_few_classes(peers: int, seed: int) -> None:
    labels = load().train_y
    shares = deal(labels, peers, seed)
    assert np.array_equal(np.sort(np.concatenate([s.indices for s in shares])), np.arange(len(labels)))
    for share in shares:
        assert len(set(share.classes)) == MAX_CLASSES_EACH
        assert set(labels[share.indices]) <= set(share.classes)
        assert len(share.indices) >= 1
    holders = np.bincount([label for s in shares for label in s.classes], minlength=CLASSES)
    most_that_fit = peers * MAX_CLASSES_EACH // CLASSES
    assert holders.min() == most_that_fit
    assert holders.min() >= min(4, most_that_fit)


@settings(max_examples=60, deadline=None)
@given(peers=st.integers(4, 32), seed=st.integers(0, 2**31 - 1), data=st.data())
def test_no_class_is_lost_when_the_last_volunteers_are(peers: int, seed: int, data: st.DataObject) -> None:
    kills = data.draw(st.integers(0, peers - 3))
    labels = load().train_y
    survivors = deal(labels, peers, seed)[: peers - kills]
    assert np.bincount(labels[np.concatenate([s.indices for s in survivors])], minlength=CLASSES).min() > 0


@pytest.mark.parametrize("seed", range(5))
def test_amounts_are_uneven_and_enough_remains_after_two_kills(digits: Digits, seed: int) -> None:
    shares = deal(digits.train_y, 8, seed)
    sizes = [len(s.indices) for s in shares]
    assert max(sizes) >= 1.5 * min(sizes)
    left = digits.train_y[np.concatenate([s.indices for s in shares[:6]])]
    assert np.bincount(left, minlength=CLASSES).min() >= 40


def test_the_same_seed_deals_the_same(digits: Digits) -> None:
    first, again, other = (deal(digits.train_y, 8, seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a.indices, b.indices) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a.indices, b.indices) for a, b in zip(first, other, strict=True))
