"""Which relays a peer holds, as decisions: three, renewed in time, replaced when they are gone."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.machine import DeadlinePassed
from moshgrid.p2p.relay_choice import WANTED, RelayChoice
from moshgrid.p2p.relay_events import (
    Advertise,
    Found,
    Granted,
    Heard,
    LookFor,
    Lost,
    Refused,
    Release,
    Reserve,
    Silent,
    Wanted,
)

A, B, C, D, E = (PeerId(name) for name in "abcde")


def at(relay: PeerId) -> tuple[str, ...]:
    return (f"/at/{relay}",)


class Story:
    """A choice, with relays that grant what they are asked for unless they are down."""

    def __init__(self) -> None:
        self.choice = RelayChoice()
        self.now = 0.0
        self.down: set[PeerId] = set()
        self.told: tuple[str, ...] = ()
        self.asked: list[tuple[float, PeerId]] = []
        self.looks: list[float] = []
        self.released: list[PeerId] = []

    def tell(self, event) -> None:
        answers = []
        for effect in self.choice.handle(event, self.now):
            if isinstance(effect, Advertise):
                self.told = effect.addrs
            elif isinstance(effect, LookFor):
                self.looks.append(self.now)
            elif isinstance(effect, Release):
                self.released.append(effect.relay)
            else:
                assert isinstance(effect, Reserve)
                self.asked.append((self.now, effect.relay))
                down = effect.relay in self.down
                grant = Granted(effect.relay, 3600.0, at(effect.relay))
                answers.append(Refused(effect.relay) if down else grant)
        for answer in answers:
            self.tell(answer)

    def run(self, until: float) -> None:
        while (when := self.choice.deadline) is not None and when <= until:
            self.now = max(self.now, when)
            self.tell(DeadlinePassed())
        self.now = until


def with_relays(*relays: PeerId) -> Story:
    story = Story()
    story.tell(Wanted(True))
    for rank, relay in enumerate(relays):
        story.tell(Found(relay, rank / 10))
    return story


def test_nothing_is_asked_before_it_is_needed():
    story = Story()
    story.tell(Found(A, 0.0))
    assert story.choice.deadline is None and not story.asked
    story.tell(Wanted(True))
    assert story.choice.held == (A,) and story.told == at(A)


def test_three_are_held_and_the_others_left_alone():
    story = with_relays(A, B, C, D, E)
    assert set(story.choice.held) == {A, B, C} and len(story.asked) == 3
    assert story.told == at(A) + at(B) + at(C)
    story.run(2000.0)
    assert len(story.asked) == 3 and len(story.looks) == 1


def test_reservations_are_renewed_before_they_expire():
    story = with_relays(A)
    story.run(10_000.0)
    times = [when for when, _ in story.asked]
    assert [later - earlier for earlier, later in itertools.pairwise(times)] == [pytest.approx(2520.0)] * (
        len(times) - 1
    )
    assert len(times) == 4 and story.told == at(A)


def test_a_renewal_that_fails_is_tried_until_the_reservation_is_gone():
    story = with_relays(A)
    story.run(2500.0)
    story.down = {A}
    story.run(3599.0)
    assert len(story.asked) > 200 and story.told == at(A)
    story.run(3601.0)
    assert story.told == () and story.released[-1] == A


def test_a_relay_that_dies_is_replaced_at_once():
    story = with_relays(A, B, C, D)
    story.run(100.0)
    story.down = {B}
    story.tell(Lost(B))
    assert set(story.choice.held) == {A, C, D} and story.now == 100.0
    assert story.released == [B] and set(story.told) == {*at(A), *at(C), *at(D)}


def test_the_only_relay_is_asked_again_soon_and_others_are_looked_for():
    story = with_relays(A)
    story.run(100.0)
    story.down = {A}
    story.tell(Lost(A))
    assert story.told == () and story.looks[-1] == 100.0
    story.run(105.0)
    story.down = set()
    story.run(108.0)
    assert story.told == at(A)
    story.tell(Lost(A))
    story.tell(Found(B, 0.0))
    assert story.told == at(B)


def test_a_relay_that_falls_silent_is_replaced_but_not_given_up():
    story = with_relays(A, B, C, D)
    story.tell(Silent(A))
    assert set(story.choice.held) == {A, B, C, D} and not story.released
    assert set(story.told) == {*at(B), *at(C), *at(D)}
    story.tell(Heard(A))
    assert set(story.choice.held) == {B, C, D} and story.released == [A]
    story.tell(Silent(B))
    story.tell(Lost(B))
    assert set(story.choice.held) == {A, C, D} and story.released == [A, B]


def test_the_only_relay_is_told_although_it_is_silent_until_there_is_another():
    story = with_relays(A)
    story.run(50.0)
    story.tell(Silent(A))
    assert story.told == at(A) and story.looks[-1] == 50.0
    story.tell(Found(B, 0.0))
    assert story.told == at(B) and set(story.choice.held) == {A, B}
    story.tell(Heard(A))
    assert set(story.told) == {*at(A), *at(B)} and not story.released


def test_so_many_silent_ones_are_kept():
    story = with_relays(A, B, C, D, E, PeerId("f"), PeerId("g"))
    for relay in (A, B, C, D, E):
        story.tell(Silent(relay))
        assert len(story.choice.held) <= 2 * WANTED
    assert story.released == [A, B]


def test_who_is_down_is_asked_less_and_less_often():
    story = Story()
    story.down = {A}
    story.tell(Wanted(True))
    story.tell(Found(A, 0.0))
    story.run(3600.0)
    times = [when for when, _ in story.asked]
    assert times[:6] == [0.0, 1.0, 3.0, 7.0, 15.0, 45.0] and 10 < len(times) < 20
    assert 100 < len(story.looks) < 150  # every half minute


def test_who_is_no_relay_is_not_asked_for_long():
    story = Story()
    story.tell(Wanted(True))
    assert Reserve(A) in story.choice.handle(Found(A, 0.0), 0.0)
    story.choice.handle(Refused(A, never=True), 0.0)
    effects = [
        effect for now in range(1, 600) for effect in story.choice.handle(DeadlinePassed(), float(now))
    ]
    assert Reserve(A) not in effects
    assert Reserve(A) in story.choice.handle(DeadlinePassed(), 600.0)


def test_what_is_not_needed_any_more_is_given_back():
    story = with_relays(A, B)
    story.tell(Wanted(False))
    assert story.told == () and set(story.released) == {A, B} and story.choice.deadline is None
    assert story.choice.handle(Granted(C, 3600.0, at(C)), 0.0) == [Release(C)]  # it was under way
    story.tell(Wanted(True))
    assert story.told == at(A) + at(B) + at(C) or set(story.told) >= {*at(A), *at(B)}


def test_strangers_cannot_make_the_list_grow():
    story = Story()
    story.down = {PeerId(f"peer {number}") for number in range(1000)}
    story.tell(Wanted(True))
    for number in range(1000):
        story.tell(Found(PeerId(f"peer {number}"), 0.5))
    assert len(story.choice._candidates) <= 64
    story.tell(Found(A, 0.9))
    story.run(60.0)
    assert A in story.choice.held


class Anything(RuleBasedStateMachine):
    """Whatever happens: never more than three that answer, the deadline moves, told is held."""

    RELAYS = st.sampled_from([A, B, C, D, E])

    def __init__(self) -> None:
        super().__init__()
        self.choice = RelayChoice()
        self.now = 0.0
        self.told: tuple[str, ...] = ()
        self.asked: set[PeerId] = set()

    def tell(self, event) -> None:
        for effect in self.choice.handle(event, self.now):
            if isinstance(effect, Advertise):
                self.told = effect.addrs
            elif isinstance(effect, Reserve):
                assert effect.relay not in self.asked
                self.asked.add(effect.relay)

    @rule(wanted=st.booleans())
    def want(self, wanted):
        self.tell(Wanted(wanted))

    @rule(relay=RELAYS, rank=st.floats(0, 2))
    def find(self, relay, rank):
        self.tell(Found(relay, rank))

    @rule(relay=RELAYS, granted=st.booleans(), never=st.booleans(), seconds=st.floats(30, 3600))
    def answer(self, relay, granted, never, seconds):
        if relay in self.asked:
            self.asked.discard(relay)
            self.tell(Granted(relay, seconds, at(relay)) if granted else Refused(relay, never))

    @rule(relay=RELAYS)
    def lose(self, relay):
        self.tell(Lost(relay))

    @rule(relay=RELAYS, event=st.sampled_from([Silent, Heard]))
    def listen(self, relay, event):
        self.tell(event(relay))

    @rule(seconds=st.floats(0, 5000))
    def wait(self, seconds):
        until = self.now + seconds
        for _ in range(2000):
            when = self.choice.deadline
            if when is None or when > until:
                break
            self.now = max(self.now, when)
            self.tell(DeadlinePassed())
            assert self.choice.deadline is None or self.choice.deadline > self.now
        self.now = until

    @invariant()
    def holds(self):
        answering = self.choice._answering
        assert len(answering) <= WANTED and len(self.choice.held) <= 2 * WANTED
        assert set(self.told) == {addr for relay in answering or self.choice.held for addr in at(relay)}


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
