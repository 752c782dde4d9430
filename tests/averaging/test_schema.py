"""Schemas: what may be averaged, how arrays become one vector and back, and what differs."""

import numpy as np
import pytest
import trio
from averaging_swarm import swarm

from moshgrid.averaging.match_messages import MAX_OUTLINE, Offer
from moshgrid.averaging.offers import MISFITS, misfit
from moshgrid.averaging.schema import Schema
from moshgrid.p2p.errors import ConfigurationError, SchemaMismatch
from moshgrid.p2p.testing import run_virtual

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


# What two peers tell each other


def offer(*shapes, dtype=np.float32):
    schema = Schema.of([np.zeros(shape, dtype) for shape in shapes])
    return Offer(1.0, 0.0, schema.digest, "none", True, outline=schema.outline(MAX_OUTLINE))


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        (offer((2, 3), (4,)), ""),
        (offer((2, 3), (5,)), "array 1: yours (5,) float32, expected (4,) float32"),
        (offer((2, 3), (4,), dtype=np.float64), "array 0: yours (2, 3) float64, expected (2, 3) float32"),
        (offer((2, 3)), "after the first 1"),
        (offer((2, 3), (4,), ()), "after the first 2"),
        (Offer(1.0, 0.0, bytes(32), "none", True), "in number, shape or dtype"),
    ],
)
def test_who_refuses_the_schema_names_the_first_mismatch(theirs, words):
    ours = offer((2, 3), (4,))
    said = misfit(theirs, ours)
    assert bool(said) == bool(words) and words in said
    assert not said or said.startswith(MISFITS)


def test_an_outline_is_bounded_and_holds_whole_arrays():
    many = Schema.of([np.zeros((7, 8), np.float32)] * 300)
    text = many.outline(MAX_OUTLINE)
    assert MAX_OUTLINE - 20 < len(text) <= MAX_OUTLINE
    assert set(text.split(";")) == {"(7, 8) float32"}
    one = offer(*[(7, 8)] * 300, (1,))
    assert "after the first 34" in misfit(one, offer(*[(7, 8)] * 300, (2,)))
    assert not Offer(1.0, 0.0, bytes(32), "none", True, outline="x" * (MAX_OUTLINE + 1)).is_sound


def test_peers_with_other_tensors_read_in_their_reports_what_differs():
    async def main():
        async with swarm(1, size=24, topology="single") as group:
            await group.add([np.zeros(25, np.float32), np.zeros((3, 2), np.float32)])
            reasons = {}

            async def one(peer):
                reasons[peer.arrays[0].size] = (await peer.core.step(peer.arrays, 1.0, 1)).reason

            async with trio.open_nursery() as nursery:
                for peer in group.peers:
                    nursery.start_soon(one, peer)
            assert "your tensors differ from the group's: array 0: yours (24,) float32" in reasons[24]
            assert "expected (24,) float32" in reasons[25]

    run_virtual(main)
