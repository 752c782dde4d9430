"""When a fragment is averaged and when its result is taken."""

from __future__ import annotations

import pytest

from moshgrid.p2p import ConfigurationError
from moshgrid.swarm.sync_trigger import EverySteps, Take


def _began(trigger: EverySteps, steps: int) -> list[tuple[int, int]]:
    """(step, fragment) of every beginning, where each result comes at once."""
    found = []
    for step in range(1, steps + 1):
        for take in trigger.stepped():
            trigger.taken(take.fragment)
        for fragment in trigger.to_begin():
            found.append((step, fragment))
            take = trigger.begun(fragment)
            if take is not None:
                trigger.taken(take.fragment)
    return found


def test_everything_every_so_many_steps() -> None:
    assert _began(EverySteps(10), 35) == [(10, 0), (20, 0), (30, 0)]


def test_fragments_take_turns() -> None:
    assert _began(EverySteps(6, fragments=3), 12) == [(2, 0), (4, 1), (6, 2), (8, 0), (10, 1), (12, 2)]


def test_a_delay_takes_the_result_after_exactly_so_many_steps() -> None:
    trigger = EverySteps(10, delay=3)
    takes = []
    for step in range(1, 25):
        for take in trigger.stepped():
            takes.append((step, take))
            trigger.taken(take.fragment)
        for fragment in trigger.to_begin():
            assert trigger.begun(fragment) is None
    assert takes == [(13, Take(0, True)), (23, Take(0, True))]


def test_without_a_delay_it_looks_every_step_and_waits_when_the_next_is_due() -> None:
    trigger = EverySteps(4, delay=None)
    waits = []
    for step in range(1, 10):
        waits += [(step, take.wait) for take in trigger.stepped()]
        for fragment in trigger.to_begin():
            trigger.begun(fragment)
        if waits and waits[-1][1]:
            trigger.taken(0)
    assert waits == [(5, False), (6, False), (7, False), (8, True)]


def test_no_group_is_tried_again_soon() -> None:
    trigger = EverySteps(100, delay=0)
    for _ in range(100):
        trigger.stepped()
    assert trigger.to_begin() == [0]
    trigger.begun(0)
    trigger.failed(0)
    for _ in range(9):
        trigger.stepped()
    assert trigger.to_begin() == []
    trigger.stepped()
    assert trigger.to_begin() == [0]


def test_a_saved_trigger_goes_on_where_it_was() -> None:
    one, other = EverySteps(10), EverySteps(10)
    _began(one, 17)
    other.load_state_dict(one.state_dict())
    assert _began(other, 5) == _began(one, 5) == [(3, 0)]
    with pytest.raises(ValueError, match="2 fragments"):
        EverySteps(10, 2).load_state_dict(one.state_dict())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"sync_every": 0}, "at least 1"),
        ({"sync_every": 10, "fragments": 3}, "divisible"),
        ({"sync_every": 10, "fragments": 2, "delay": 5}, "0 to 4 steps"),
    ],
)
def test_numbers_that_make_no_sense(arguments: dict[str, int], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        EverySteps(**arguments)
