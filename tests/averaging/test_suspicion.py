"""Suspicion: silence and lateness, each by the member's own usual pace."""

import pytest

from moshgrid.averaging.suspicion import PaceBook, Suspicion

PEERS = ("me", "quick", "slow")


def watch(book=None, now=0.0, size=1000):
    return Suspicion(book or PaceBook(), PEERS, 0, [size] * 3, now)


def test_a_silent_member_is_suspected_after_four_of_its_usual_gaps():
    book = PaceBook()
    for _ in range(200):
        book.observed_gap("quick", 0.1, 5.0)
    assert book.silence_limit("quick") == pytest.approx(0.4)
    machine = watch(book)
    machine.heard(1, 1.0)
    machine.heard(2, 1.0)
    assert machine.suspects(1.3) == []
    assert machine.suspects(1.4) == [(1, "silent for 0.4 s")]


def test_the_limit_never_falls_below_a_quarter_of_a_second():
    book = PaceBook()
    for _ in range(200):
        book.observed_gap("quick", 0.001, 5.0)
    assert book.silence_limit("quick") == 0.25


def test_a_larger_gap_is_learned_at_once_and_forgotten_slowly():
    book = PaceBook()
    book.observed_gap("slow", 2.0, 5.0)
    assert book.silence_limit("slow") == 8.0
    book.observed_gap("slow", 0.1, 5.0)
    assert book.silence_limit("slow") == pytest.approx(7.2)
    book.observed_gap("slow", 60.0, 5.0)
    assert book.silence_limit("slow") == 10.0


def test_many_short_rounds_say_as_little_of_a_members_pauses_as_few_long_ones():
    """A computer that stops a process for half a second once a minute does so in one of a thousand rounds."""
    short, long = PaceBook(), PaceBook()
    for book in (short, long):
        book.observed_gap("usual", 0.5, 5.0)
    for _ in range(1000):
        short.observed_gap("usual", 0.001, 0.02)
    for _ in range(4):
        long.observed_gap("usual", 0.001, 5.0)
    assert short.silence_limit("usual") == pytest.approx(long.silence_limit("usual"))
    assert short.silence_limit("usual") > 1.3


def test_the_gap_of_who_was_suspected_wrongly_counts_too():
    book = PaceBook()
    for _ in range(200):
        book.observed_gap("quick", 0.1, 5.0)
        book.observed_gap("slow", 0.1, 5.0)
    machine = watch(book)
    machine.heard(1, 1.0)
    machine.heard(2, 1.0)
    machine.forget(1, 2.0)
    machine.forget(2, 2.0)
    machine.heard(1, 2.5)
    machine.close(3.0)
    assert book.silence_limit("quick") == 6.0
    assert book.silence_limit("slow") == pytest.approx(0.4)  # nothing was learned of it


NOBODY = frozenset()


def alive_until(machine, end, members=(1, 2)):
    """The first suspicion while all members are heard every second, or None."""
    for now in range(end):
        for member in members:
            machine.heard(member, float(now))
        if found := machine.suspects(float(now)):
            return now, found
    return None


def test_a_slow_member_gets_three_times_what_its_own_rate_says():
    book = PaceBook()
    book.observed_rate("slow", 1000, 10.0)
    machine = watch(book, size=1000)
    machine.waiting(frozenset({2}), NOBODY, 5.0)
    assert alive_until(machine, 60) == (35, [(2, "too slow: not done after 30.0 s")])


def test_who_became_slower_is_given_time_as_long_as_its_bytes_come():
    book = PaceBook()
    book.observed_rate("slow", 1000, 1.0)
    machine = watch(book, size=1000)
    machine.waiting(frozenset({2}), NOBODY, 0.0)
    for now in range(1, 20):  # a twentieth of its usual rate
        machine.heard(2, float(now), 50)
        machine.heard(1, float(now))
        assert machine.suspects(float(now)) == []
    # 950 of 1,000 bytes in 19 s: 3 × 20 s in all, if nothing more comes
    assert alive_until(machine, 100) == (60, [(2, "too slow: not done after 60.0 s")])


def test_nobody_gets_longer_than_leaves_time_to_go_on_without_it():
    book = PaceBook()
    book.observed_rate("slow", 1, 1.0)
    machine = Suspicion(book, PEERS, 0, [1000] * 3, 0.0, 40.0)
    machine.waiting(frozenset({2}), NOBODY, 0.0)
    assert alive_until(machine, 100) == (40, [(2, "too slow: not done after 40.0 s")])


def test_a_reducer_is_given_the_time_of_the_slowest_sender_on_top_of_its_own():
    book = PaceBook()
    book.observed_rate("slow", 1000, 10.0)
    book.observed_rate("quick", 1000, 2.0)
    machine = watch(book, size=1000)
    machine.waiting(NOBODY, frozenset({1}), 0.0)
    assert alive_until(machine, 100) == (36, [(1, "too slow: not done after 36.0 s")])


def test_what_was_learned_of_a_suspect_counts_in_the_next_round():
    book = PaceBook()
    book.observed_rate("slow", 1000, 1.0)
    machine = watch(book, size=1000)
    machine.waiting(frozenset({2}), NOBODY, 0.0)
    machine.heard(2, 10.0, 10)
    machine.forget(2, 10.0)
    assert book.expected("slow", 1000) > 1.4


def test_the_time_this_peer_stood_still_is_nobodys_silence():
    machine = watch()
    machine.waiting(frozenset({1}), NOBODY, 0.0)
    machine.stood_still(20.0)
    assert machine.suspects(22.9) == []
    assert {member for member, _ in machine.suspects(23.0)} == {1, 2}
    machine.close(23.0)


def test_lateness_counts_from_when_the_waiting_began():
    machine = watch()
    machine.waiting(frozenset({1}), NOBODY, 0.0)
    machine.waiting(NOBODY, NOBODY, 1.0)
    machine.waiting(frozenset({2}), NOBODY, 29.0)
    assert alive_until(machine, 100) == (59, [(2, "too slow: not done after 30.0 s")])


def test_the_deadline_is_when_the_next_becomes_suspect():
    machine = watch()
    assert machine.deadline == pytest.approx(3.0)
    machine.heard(1, 1.0)
    assert machine.deadline == pytest.approx(3.0)
    machine.forget(2, 2.0)
    assert machine.deadline == pytest.approx(4.0)
    machine.forget(1, 2.0)
    assert machine.deadline == 22.0  # when it takes itself to be cut off


def test_a_round_teaches_the_next_one():
    book = PaceBook()
    machine = watch(book)
    machine.heard(1, 1.5)
    machine.heard(1, 1.6)
    machine.close(3.0)
    assert book.silence_limit("quick") == 6.0


def test_who_hears_no_majority_for_long_is_alone():
    machine = watch()
    machine.forget(1, 5.0)
    assert not machine.is_alone(100.0)
    machine.forget(2, 6.0)
    assert machine.deadline == 26.0
    assert not machine.is_alone(25.9)
    assert machine.is_alone(26.0)
    machine.heard(1, 25.0)
    assert not machine.is_alone(100.0)


def test_who_is_sought_over_another_relay_is_not_suspected_meanwhile():
    machine = watch()
    machine.waiting(frozenset({1, 2}), frozenset({1, 2}), 0.0)
    for member in (1, 2):
        machine.heard(member, 1.0)
    machine.bear_with(1, 6.0, 1.0)
    assert [member for member, _ in machine.suspects(5.9)] == [2]
    assert machine.borne_until({1, 2}, 5.9) == 6.0
    assert machine.borne_until({2}, 5.9) is None
    assert {member for member, _ in machine.suspects(6.0)} == {1, 2}


def test_the_time_until_another_way_was_found_is_no_usual_gap_and_no_lateness():
    book = PaceBook()
    for _ in range(200):
        book.observed_gap("quick", 0.1, 5.0)
    machine = watch(book)
    machine.waiting(frozenset({1}), frozenset(), 0.0)
    machine.heard(1, 0.0)
    machine.bear_with(1, 5.0, 0.0)
    machine.heard(1, 4.0)
    machine.close(4.0)
    assert book.silence_limit("quick") == pytest.approx(0.4, rel=0.1)


def test_nobody_is_borne_with_for_ever():
    machine = watch()
    for broken in range(10):
        machine.bear_with(1, 5.0 * (broken + 1), 5.0 * broken)
    machine.heard(2, 15.0)
    assert machine.borne_until({1}, 14.9) == 15.0
    assert [member for member, _ in machine.suspects(15.0)] == [1]
