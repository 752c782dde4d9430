"""What conductor and volunteers say to each other arrives as it was said."""

from __future__ import annotations

import io

import numpy as np
import pytest

from moshgrid.swarm.demo.messages import Assignment, pack_floats, unpack_floats

ASSIGNMENT = Assignment(
    number=3,
    bootstrap=("/ip4/127.0.0.1/tcp/1/p2p/x",),
    network="n",
    run_id="r",
    seed=1,
    rounds=6,
    codec="none",
    hold_from_round=4,
)


def test_an_assignment_arrives_with_its_images() -> None:
    x, y = np.ones((5, 64), np.float32), np.arange(5)
    pipe = io.BytesIO()
    ASSIGNMENT.write(pipe, x, y)
    pipe.write(b"begin\n")
    pipe.seek(0)
    assignment, got_x, got_y = Assignment.read(pipe)
    assert assignment == ASSIGNMENT
    assert np.array_equal(got_x, x) and np.array_equal(got_y, y)
    assert pipe.read() == b"begin\n"


@pytest.mark.parametrize("keep", [0, 10, -1])
def test_a_conductor_that_ends_too_early_is_noticed(keep: int) -> None:
    pipe = io.BytesIO()
    ASSIGNMENT.write(pipe, np.ones((5, 64), np.float32), np.arange(5))
    with pytest.raises(EOFError):
        Assignment.read(io.BytesIO(pipe.getvalue()[:keep]))


def test_floats_survive() -> None:
    values = np.array([0.1, -3e38, 1e-40], np.float32)
    assert np.array_equal(unpack_floats(pack_floats(values)), values)
