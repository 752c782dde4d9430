"""What a round's outcome means for the shared state."""

from __future__ import annotations

import pytest

from moshgrid.swarm.merge_rule import Catching, Merge, how_to_catch_up, how_to_merge


@pytest.mark.parametrize(
    ("committed", "same_state", "one_group", "merge"),
    [
        (False, True, True, Merge.NOTHING),
        (False, False, False, Merge.NOTHING),
        (True, True, True, Merge.OUTER_STEP),
        (True, True, False, Merge.OUTER_STEP),
        (True, False, False, Merge.OUTER_STEP),
        (True, False, True, Merge.UNITE),
    ],
)
def test_merging(committed: bool, same_state: bool, one_group: bool, merge: Merge) -> None:
    assert how_to_merge(committed, same_state, one_group) is merge


@pytest.mark.parametrize(
    ("applied", "sealed", "how"),
    [
        (0, 0, Catching.UP_TO_DATE),
        (None, 0, Catching.UP_TO_DATE),
        (7, 7, Catching.UP_TO_DATE),
        (8, 7, Catching.UP_TO_DATE),
        (6, 7, Catching.REPLAY),
        (0, 1, Catching.REPLAY),
        (5, 7, Catching.RELOAD),
        (None, 1, Catching.RELOAD),
    ],
)
def test_catching_up(applied: int | None, sealed: int, how: Catching) -> None:
    assert how_to_catch_up(applied, sealed) is how
