"""Merge rule of DiLoCo: what a round's outcome means for the state that the members share. Pure.

Members that hold the same state before a round (the same bytes: they name its digest) and apply the same
average hold the same state after it, outer momentum included. Who missed a round can replay it from the
sealed average. Who missed more, or states that grew apart, are united by a round of plain averaging.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["Catching", "Merge", "how_to_catch_up", "how_to_merge"]


class Merge(Enum):
    """What to do with an average."""

    OUTER_STEP = "outer step"
    """The difference between the shared state and the average is the outer optimizer's gradient."""
    UNITE = "unite"
    """The average becomes the shared state, and outer momentum begins anew: the members' states differed."""
    NOTHING = "nothing"
    """Nothing was averaged: everything stays, and training goes on locally."""


class Catching(Enum):
    """What a member does before a round when the run went on without it."""

    UP_TO_DATE = "up to date"
    REPLAY = "replay"
    """Exactly one round was missed: its sealed average is applied as the others applied it."""
    RELOAD = "reload"
    """More were missed: the whole shared state has to come from another member."""


def how_to_merge(committed: bool, same_state: bool, one_group: bool) -> Merge:
    """``same_state``: the members named the same state. ``one_group``: the group may be the whole run.

    In a grid of several groups states are never the same bytes; there the outer step itself draws them
    together (with lr 0.7 and momentum 0.9 a difference halves about every round).
    """
    if not committed:
        return Merge.NOTHING
    return Merge.OUTER_STEP if same_state or not one_group else Merge.UNITE


def how_to_catch_up(applied: int | None, sealed: int) -> Catching:
    """``applied``: the round whose result this member holds, 0 for the common beginning, None for neither.

    ``sealed``: the run's highest round.
    """
    if sealed == 0 or (applied is not None and sealed <= applied):
        return Catching.UP_TO_DATE
    return Catching.REPLAY if applied is not None and sealed == applied + 1 else Catching.RELOAD
