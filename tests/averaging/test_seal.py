"""The seal, one transition at a time: three members, two parts, fake signatures."""

import pytest

from moshgrid.averaging.effects import Commit, Emit, Send
from moshgrid.averaging.exchange import Exchange
from moshgrid.averaging.messages import (
    Decided,
    Fetch,
    Learn,
    NotHeld,
    Prepare,
    Promise,
    Propose,
    Sealed,
    TooLow,
    Vote,
)
from moshgrid.averaging.seal import Seal
from moshgrid.averaging.votes import Votes, value_digest

GROUP = bytes(32)
FIRST, OTHER = (b"a" * 32, b"b" * 32), (b"a" * 32, b"c" * 32)


def sign(message):
    return b"signed " + message[-8:]


def verify(member, signature, message):
    return signature == sign(message)


def seal(me=0, hold=FIRST, members=3):
    exchange = Exchange(me, members, (1, 2), frozenset(range(members)), frozenset(range(members)))
    machine = Seal(me, members, GROUP, exchange, sign, verify)
    for part, digest in enumerate(hold):
        exchange.result_arrived(1, part, digest)
    return machine, exchange


def vote(ballot=0, value=FIRST, voter=1):
    return Votes(3, GROUP, sign, verify).cast(voter, ballot, value)


def to_others(me, message):
    return [Send(member, message) for member in range(3) if member != me]


def test_the_leader_proposes_without_asking_and_votes():
    machine, _ = seal(me=0)
    assert machine.advance(0.0) == [*to_others(0, Propose(0, FIRST)), *to_others(0, vote(voter=0))]
    assert machine.advance(0.0) == []


def test_the_leader_waits_for_every_part():
    machine, exchange = seal(me=0, hold=FIRST[:1])
    assert machine.advance(0.0) == []
    exchange.result_arrived(2, 1, FIRST[1])
    assert Send(1, Propose(0, FIRST)) in machine.advance(0.1)


def test_a_member_votes_when_it_holds_the_bytes():
    machine, _ = seal(me=1)
    assert machine.propose(0, Propose(0, FIRST)) == []
    assert machine.advance(0.0) == to_others(1, vote())


def test_a_member_fetches_another_version_before_it_votes():
    machine, exchange = seal(me=1)
    machine.propose(0, Propose(0, OTHER))
    assert machine.advance(0.0) == [Send(0, Fetch(1, OTHER[1]))]
    exchange.result_arrived(0, 1, OTHER[1])
    assert machine.advance(0.1) == to_others(1, vote(value=OTHER))


def test_what_should_still_come_by_itself_is_not_fetched_at_once():
    machine, _ = seal(me=1, hold=FIRST[:1])
    machine.propose(0, Propose(0, FIRST))
    assert machine.advance(0.0) == []
    assert machine.deadline == pytest.approx(0.5)
    assert machine.deadline_passed(0.5) == [Send(0, Fetch(1, FIRST[1]))]


def test_a_fetch_goes_elsewhere_when_it_is_refused_lost_or_late():
    machine, _ = seal(me=1)
    machine.propose(0, Propose(0, OTHER))
    machine.advance(0.0)
    assert machine.fetched_in_vain(0, NotHeld(1, OTHER[1]), 0.1) == [Send(2, Fetch(1, OTHER[1]))]
    assert machine.fetched_in_vain(2, NotHeld(1, OTHER[1]), 0.2) == []  # all asked: not in a circle
    assert Send(0, Fetch(1, OTHER[1])) in machine.deadline_passed(1.3)
    assert Send(2, Fetch(1, OTHER[1])) in machine.lost(0, 1.4)


def test_two_of_three_votes_commit_and_are_told():
    machine, _ = seal(me=1)
    machine.propose(0, Propose(0, FIRST))
    machine.advance(0.0)
    assert machine.vote(0, vote()) == []
    assert machine.advance(0.1) == [Emit("sealed", {"ballot": 0}), Commit(0, FIRST), *to_others(1, Sealed(0))]
    assert machine.committed
    assert machine.deadline is None


def test_votes_of_different_ballots_do_not_add_up():
    machine, _ = seal(me=1)
    machine.propose(0, Propose(0, FIRST))
    machine.advance(0.0)
    machine.vote(0, vote(ballot=3))
    assert Commit(0, FIRST) not in machine.advance(0.1)


def test_a_vote_with_a_wrong_signature_does_not_count():
    machine, _ = seal(me=1)
    machine.propose(0, Propose(0, FIRST))
    machine.advance(0.0)
    machine.vote(0, Vote(0, value_digest(FIRST), b"forged"))
    assert machine.advance(0.1) == []


def test_a_decision_about_an_unknown_value_is_asked_for():
    machine, _ = seal(me=1)
    machine.vote(0, vote(value=OTHER))
    assert machine.vote(2, vote(value=OTHER)) == [Send(2, Learn())]
    votes = ((0, vote(value=OTHER).signature), (2, vote(value=OTHER).signature))
    machine.decided_elsewhere(Decided(0, OTHER, votes))
    assert machine.decided
    assert machine.advance(0.1) == [Send(0, Fetch(1, OTHER[1]))]


def test_a_decision_without_enough_valid_votes_is_not_believed():
    machine, _ = seal(me=1)
    machine.decided_elsewhere(Decided(0, OTHER, ((0, vote(value=OTHER).signature), (2, b"forged"), (9, b""))))
    assert not machine.decided


def test_a_promise_tells_what_was_accepted_and_binds():
    machine, _ = seal(me=1)
    machine.propose(0, Propose(0, FIRST))
    machine.advance(0.0)
    assert machine.prepare(2, Prepare(2)) == [Send(2, Promise(2, 0, FIRST, FIRST))]
    assert machine.propose(0, Propose(0, OTHER)) == [Send(0, TooLow(0, 2))]
    assert machine.prepare(2, Prepare(2)) == [Send(2, TooLow(2, 2))]
    assert machine.prepare(0, Prepare(5)) == [Send(0, TooLow(5, 2))]  # ballot 5 is member 2's


def test_when_the_leader_is_lost_the_next_begins_and_proposes_what_was_accepted():
    machine, _ = seal(me=1)
    effects = machine.lost(0, 1.0)
    assert effects == []
    assert machine.deadline == pytest.approx(1.0)
    assert machine.deadline_passed(1.0) == to_others(1, Prepare(1))
    machine.promise(2, Promise(1, 0, OTHER, OTHER))
    effects = machine.advance(1.1)
    assert effects[:2] == to_others(1, Propose(1, OTHER))  # bound by the acceptance, though it holds FIRST
    assert Fetch(1, OTHER[1]) in [effect.message for effect in effects]


def test_without_an_acceptance_the_new_proposer_is_free():
    machine, _ = seal(me=1)
    machine.lost(0, 1.0)
    machine.deadline_passed(1.0)
    machine.promise(2, Promise(1, -1, (), (b"", b"")))
    assert to_others(1, Propose(1, FIRST))[0] in machine.advance(1.1)


def test_of_two_acceptances_the_one_of_the_higher_ballot_binds():
    machine, _ = seal(me=1, members=5)
    machine.lost(0, 1.0)
    machine.deadline_passed(1.0)
    newer = (b"d" * 32, b"e" * 32)
    machine.promise(2, Promise(1, 0, OTHER, OTHER))
    machine.promise(3, Promise(1, 0, newer, newer))
    machine.promise(3, Promise(1, -1, (), (b"", b"")))
    machine.promise(4, Promise(1, 7, newer, newer))
    proposals = [e.message for e in machine.advance(1.1) if isinstance(e.message, Propose)]
    assert set(proposals) == {Propose(1, newer)}


def test_two_of_four_promises_are_not_a_majority():
    machine, _ = seal(me=1, members=4)
    machine.lost(0, 1.0)
    machine.deadline_passed(1.0)
    machine.promise(2, Promise(1, -1, (), FIRST))
    assert machine.advance(1.1) == []
    machine.promise(3, Promise(1, -1, (), FIRST))
    assert Send(0, Propose(1, FIRST)) in machine.advance(1.2)


def test_a_value_is_not_voted_for_after_a_higher_promise():
    machine, exchange = seal(me=1, hold=FIRST[:1])
    machine.propose(0, Propose(0, FIRST))
    machine.prepare(2, Prepare(2))
    exchange.result_arrived(2, 1, FIRST[1])
    assert machine.advance(0.1) == []


def test_a_leader_that_promised_a_higher_ballot_does_not_propose_its_own():
    machine, exchange = seal(me=0, hold=FIRST[:1])
    machine.prepare(1, Prepare(1))
    exchange.result_arrived(2, 1, FIRST[1])
    assert machine.advance(0.1) == []


def test_members_take_turns_at_higher_ballots():
    second, _ = seal(me=2)
    second.lost(0, 1.0)
    assert second.deadline == pytest.approx(2.0)  # member 1 comes first
    second.lost(1, 1.5)
    assert second.deadline == pytest.approx(1.5)


def test_a_member_that_was_outbid_waits_before_it_tries_again():
    machine, _ = seal(me=1)
    machine.lost(0, 1.0)
    machine.deadline_passed(1.0)
    machine.too_low(TooLow(1, 3), 1.1)
    assert machine.deadline > 3.0


def test_who_comes_late_is_told_what_it_missed():
    leader, _ = seal(me=0)
    leader.advance(0.0)
    assert leader.repeat_for(2) == [Send(2, Propose(0, FIRST))]
    leader.vote(1, vote())
    leader.advance(0.1)
    (told,) = leader.repeat_for(2)
    assert isinstance(told.message, Decided)
    assert [told] == leader.learn(2) == leader.prepare(2, Prepare(2)) == leader.propose(2, Propose(2, OTHER))
    other, _ = seal(me=2)
    assert other.sealed_elsewhere(0) == [Send(0, Learn())]
