"""Who broke the rules waits, longer each time, and never for ever."""

from __future__ import annotations

from moshgrid.p2p.penalty_box import PenaltyBox


def wait_of(box: PenaltyBox, name: str, now: float) -> float:
    """For how many tenths of a second from ``now`` it is refused."""
    tenths = 0
    while box.holds(name, now + tenths / 10 + 1e-6):
        tenths += 1
    return tenths / 10


def test_each_wait_is_twice_the_last_up_to_the_longest():
    box = PenaltyBox(0, 1.0, 10.0)
    assert not box.holds("mallory", 0.0)
    waits = []
    for turn in range(6):
        box.offended("mallory", 20.0 * turn)
        waits.append(wait_of(box, "mallory", 20.0 * turn))
    assert waits == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert not box.holds("bob", 100.0)


def test_the_first_ones_are_free_where_others_may_live():
    box = PenaltyBox(2, 1.0, 16.0)
    box.offended("house", 0.0)
    box.offended("house", 0.0)
    assert not box.holds("house", 0.0)
    box.offended("house", 0.0)
    assert wait_of(box, "house", 0.0) == 1.0


def test_what_is_long_ago_is_forgotten():
    box = PenaltyBox(0, 1.0, 10.0)
    for _ in range(5):
        box.offended("mallory", 0.0)
    box.offended("mallory", 81.0)
    assert wait_of(box, "mallory", 81.0) == 1.0


def test_a_thousand_offences_are_no_overflow():
    box = PenaltyBox(0, 1.0, 10.0)
    for _ in range(5000):
        box.offended("mallory", 0.0)
    assert wait_of(box, "mallory", 0.0) == 10.0


def test_the_table_is_bounded_and_the_latest_offenders_stay():
    box = PenaltyBox(0, 1.0, 10.0)
    for number in range(10_000):
        box.offended(str(number), 0.0)
    assert len(box) == 8192
    assert box.holds("9999", 0.5) and not box.holds("0", 0.5)
