"""Who trains the same thing, and what a person is told who does not."""

from __future__ import annotations

import pytest

from moshgrid.p2p import SchemaMismatch
from moshgrid.swarm.run_identity import (
    Identity,
    TensorEntry,
    VersionMismatch,
    compare,
    decode_listing,
    listing_of,
    mismatch,
)

OURS = [TensorEntry("body.weight", (4, 4), "float32"), TensorEntry("classifier.weight", (5, 768), "float32")]
THEIRS = [
    TensorEntry("body.weight", (4, 4), "float32"),
    TensorEntry("classifier.weight", (2, 768), "float32"),
]
MINE = Identity.of(listing_of(OURS), 2)
RUN = Identity.of(listing_of(THEIRS), 2)


def test_a_newcomer_follows_the_others_and_members_are_not_troubled_by_a_newcomer() -> None:
    assert compare(MINE, {}) is None
    assert compare(MINE, {"a": MINE}) is None
    assert compare(MINE, {"a": RUN}) == RUN
    assert compare(MINE, {"a": MINE, "b": RUN}) is None
    assert compare(MINE, {"a": MINE, "b": RUN, "c": RUN}) == RUN


def test_the_difference_names_the_tensor_and_both_shapes() -> None:
    error = mismatch("albert", MINE, RUN, OURS, THEIRS)
    assert isinstance(error, SchemaMismatch)
    assert error.diff == ("classifier.weight  yours (5, 768) float32  run (2, 768) float32",)
    assert str(error).startswith("your model differs from run 'albert' in 1 of 2 tensors (hash ")


def test_tensors_that_one_side_lacks_are_named_too() -> None:
    error = mismatch("r", MINE, RUN, OURS, THEIRS[:1])
    assert isinstance(error, SchemaMismatch)
    assert error.diff == ("classifier.weight  yours (5, 768) float32  run nothing",)


def test_a_long_list_is_cut_and_an_order_is_a_difference() -> None:
    many = [TensorEntry(f"t{i}", (i,), "float32") for i in range(30)]
    error = mismatch("r", MINE, RUN, many, [])
    assert isinstance(error, SchemaMismatch)
    assert len(error.diff) == 13 and error.diff[-1] == "… and 18 more"
    error = mismatch("r", MINE, RUN, OURS, OURS[::-1])
    assert isinstance(error, SchemaMismatch)
    assert error.diff == ("the same tensors in another order",)


def test_without_a_list_the_numbers_are_told() -> None:
    assert "yours has 2 tensors, the run's 2" in str(mismatch("r", MINE, RUN, OURS, None))


@pytest.mark.parametrize(("protocol", "advice"), [(2, "pip install -U moshgrid"), (0, "update theirs")])
def test_another_protocol_says_who_has_to_update(protocol: int, advice: str) -> None:
    other = Identity(protocol, MINE.digest, 2)
    error = mismatch("r", MINE, other, OURS, OURS)
    assert isinstance(error, VersionMismatch) and advice in str(error)
    assert f"run 'r' speaks training protocol {protocol}, this is protocol 1" in str(error)


def test_records_and_lists_are_checked() -> None:
    assert Identity.from_value(MINE.to_value()) == MINE
    for value in (None, {}, {"protocol": 1, "schema": b"short", "tensors": 1}, {"protocol": "1"}):
        assert Identity.from_value(value) is None
    assert decode_listing(listing_of(OURS)) == OURS
    with pytest.raises(ValueError):
        decode_listing(b"\xc1")
