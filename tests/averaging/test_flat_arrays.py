"""Arrays as one flat vector: views where memory allows, copies elsewhere, and every element in its place."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshgrid.averaging.flat_arrays import FlatArrays

F32 = np.dtype(np.float32)


def arrays():
    return [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.zeros(0, np.float32),
        np.arange(6, 12, dtype=np.float64).reshape(2, 3).T.copy().T,
        np.array(12.0, np.float16),
        np.arange(13, 30, dtype=np.float32),
    ]


@given(st.integers(0, 29), st.integers(0, 29))
def test_reading_any_stretch_gives_the_elements_in_order(one, other):
    start, stop = min(one, other), max(one, other) + 1
    flat = FlatArrays(arrays(), F32)
    assert flat.elements == 30
    values = flat.read(start, stop)
    assert values.dtype == F32
    assert values.tolist() == list(range(start, stop))


@given(st.integers(0, 29), st.integers(0, 29))
def test_writing_any_stretch_changes_those_elements_and_no_others(one, other):
    start, stop = min(one, other), max(one, other) + 1
    mine = arrays()
    flat = FlatArrays(mine, F32)
    flat.write(start, -flat.read(start, stop).copy())
    expected = np.arange(30, dtype=np.float32)
    expected[start:stop] *= -1
    assert np.concatenate([array.reshape(-1) for array in mine]).tolist() == expected.tolist()


def test_a_stretch_within_one_contiguous_array_is_the_callers_own_memory():
    mine = arrays()
    flat = FlatArrays(mine, F32)
    flat.window(13, 20)[...] = 7
    assert (mine[4][:7] == 7).all()
    assert np.shares_memory(flat.read(13, 20), mine[4])
    assert flat.window(5, 7) is None  # crosses into another array
    assert flat.window(6, 8) is None  # another dtype
    mine[0].flags.writeable = False
    assert FlatArrays(mine, F32).window(0, 3) is None


def test_arrays_that_are_not_contiguous_are_written_in_place():
    base = np.zeros((3, 4), np.float32)
    FlatArrays([base[:, ::2]], F32).write(0, np.arange(6, dtype=np.float32))
    assert base.tolist() == [[0, 0, 1, 0], [2, 0, 3, 0], [4, 0, 5, 0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_a_value_that_is_not_finite_on_the_wire_is_found(bad):
    good = [np.ones(300_000, np.float64), np.ones(3, np.float32)]
    assert FlatArrays(good, F32).is_finite()
    good[0][299_999] = bad
    assert not FlatArrays(good, F32).is_finite()
