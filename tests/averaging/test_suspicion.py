"""Suspicion: silence and lateness, each by the member's own usual pace."""

import pytest

from moshgrid.averaging.suspicion import PaceBook, Suspicion

PEERS = ("me", "quick", "slow")


def watch(book=None, now=0.0, size=1000):
    return Suspicion(book or PaceBook(), PEERS, 0, [size] * 3, now)


def test_a_silent_member_is_suspected_after_four_of_its_usual_gaps():
    book = PaceBook()
    for _ in range(200):
        book.observed_gap("quick", 0.1)
    assert book.silence_limit("quick") == pytest.approx(0.4)
    machine = watch(book)
    machine.heard(1, 1.0)
    machine.heard(2, 1.0)
    assert machine.suspects(1.3) == []
    assert machine.suspects(1.4) == [(1, "silent for 0.4 s")]


def test_the_limit_never_falls_below_a_quarter_of_a_second():
    book = PaceBook()
    for _ in range(200):
        book.observed_gap("quick", 0.001)
    assert book.silence_limit("quick") == 0.25


def test_a_larger_gap_is_learned_at_once_and_forgotten_slowly():
    book = PaceBook()
    book.observed_gap("slow", 2.0)
    assert book.silence_limit("slow") == 8.0
    book.observed_gap("slow", 0.1)
    assert book.silence_limit("slow") == pytest.approx(7.2)


def test_a_slow_member_gets_three_times_what_its_own_rate_says():
    book = PaceBook()
    book.observed_rate("slow", 1000, 10.0)
    book.observed_gap("slow", 100.0)
    machine = watch(book, size=1000)
    machine.waiting(frozenset({2}), 5.0)
    machine.heard(1, 34.9)
    assert machine.suspects(34.9) == []
    assert machine.suspects(35.0) == [(2, "too slow: not done after 30.0 s")]


def test_lateness_counts_from_when_the_waiting_began():
    machine = watch()
    machine.waiting(frozenset({1}), 0.0)
    machine.waiting(frozenset(), 1.0)
    machine.waiting(frozenset({2}), 29.0)
    for now in range(60):
        machine.heard(1, now)
        machine.heard(2, now)
        found = machine.suspects(now)
        assert found == ([] if now < 59 else [(2, "too slow: not done after 30.0 s")])


def test_the_deadline_is_when_the_next_becomes_suspect():
    machine = watch()
    assert machine.deadline == pytest.approx(3.0)
    machine.heard(1, 1.0)
    assert machine.deadline == pytest.approx(3.0)
    machine.forget(2)
    assert machine.deadline == pytest.approx(4.0)
    machine.forget(1)
    assert machine.deadline is None


def test_a_round_teaches_the_next_one():
    book = PaceBook()
    machine = watch(book)
    machine.heard(1, 1.5)
    machine.heard(1, 1.6)
    machine.close()
    assert book.silence_limit("quick") == 6.0
