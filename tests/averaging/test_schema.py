"""Schemas: what may be averaged, how arrays become one vector and back, and what differs."""

import numpy as np
import pytest

from moshgrid.averaging.schema import Schema
from moshgrid.p2p.errors import ConfigurationError, SchemaMismatch

ARRAYS = [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(7.0, np.float64), np.ones(2, np.float16)]


def test_the_digest_follows_shapes_and_dtypes():
    assert Schema.of(ARRAYS).digest == Schema.of([array.copy() for array in ARRAYS]).digest
    assert (
        Schema.of([np.zeros((3, 2), np.float32)]).digest != Schema.of([np.zeros((2, 3), np.float32)]).digest
    )
    assert Schema.of([np.zeros(3, np.float32)]).digest != Schema.of([np.zeros(3)]).digest


def test_float64_travels_as_such_only_where_the_codec_takes_it():
    schema = Schema.of(ARRAYS)
    assert schema.wire_dtype(("float32", "float64")) == np.float64
    assert schema.wire_dtype(("float32",)) == np.float32
    assert Schema.of(ARRAYS[:1]).wire_dtype(("float32", "float64")) == np.float32


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ([], "at least one"),
        (np.zeros(3), "a list"),
        ([np.arange(3)], "array 0: it is int64; only floating point"),
        (["x"], "numpy array or torch tensor"),
    ],
)
def test_what_cannot_be_averaged_is_refused_in_words(arrays, words):
    with pytest.raises(ConfigurationError, match=words):
        Schema.of(arrays)


def test_a_mismatch_names_each_difference():
    schema = Schema.of(ARRAYS)
    with pytest.raises(SchemaMismatch) as caught:
        schema.check([np.zeros((2, 3), np.float32), np.zeros(2), np.ones(2, np.float16), np.zeros(1)])
    assert len(caught.value.diff) == 2
    assert "array 1: yours (2,) float64, expected () float64" in caught.value.diff
    assert "array 3: yours (1,) float64, expected nothing" in caught.value.diff
