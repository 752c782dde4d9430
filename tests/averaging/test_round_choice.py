"""Which round a step is for: the next, or one that is over elsewhere; and never behind for long."""

from moshgrid.averaging.declarations import Declarations
from moshgrid.averaging.round_choice import RoundChoice
from moshgrid.averaging.topology import Place

LINE = frozenset("abcd")


class Known:
    """What a peer's membership tells, of four who belong together under the key of each round."""

    me = "a"

    def __init__(self):
        self.progress, self.declarations = 5, Declarations()

    def at(self, **rounds):
        for peer, number in rounds.items():
            self.declarations.note(f"key{number}", peer, number)
        return self

    def seekers(self, key, number):
        return [peer for peer in self.declarations.seekers(key, number) if peer != self.me]

    def active(self, number):
        return tuple(sorted(LINE))

    def have_gone_on(self, peers, number):
        latest = self.declarations.latest()
        return any(latest.get(peer, 0) > number for peer in peers if peer != self.me)


def choice(known, groups=4):
    made = RoundChoice(known, lambda number: Place(f"key{number}", groups, LINE))
    made.tried = 4
    return made


def test_a_round_that_others_sealed_is_gone_back_to_while_the_own_group_comes_together():
    assert choice(Known().at(b=5, c=5, d=5)).next() == 5
    assert choice(Known().at(b=5, c=5)).next() == 5
    assert choice(Known().at(b=5)).next() == 6  # most of the line are not there any more
    assert choice(Known()).next() == 6


def test_nobody_goes_back_to_what_was_tried_or_where_there_is_one_group_only():
    made = choice(Known().at(b=5, c=5, d=5))
    made.tried = 5
    assert made.next() == 6
    assert choice(Known().at(b=5, c=5, d=5), groups=1).next() == 6


def test_who_was_left_behind_twice_running_goes_on_with_those_who_left():
    known = Known().at(b=5, c=5, d=6)
    made = choice(known)
    assert made.next() == 5
    known.at(b=6, c=6, d=7).progress, made.tried = 6, 5
    assert made.next() == 7
    known.at(b=8, c=8, d=9).progress, made.tried = 8, 7
    assert made.next() == 8, "and counts anew from there"


def test_a_round_that_nobody_had_left_ends_the_count():
    known = Known().at(b=5, c=5, d=6)
    made = choice(known)
    assert made.next() == 5
    known.at(b=6, c=6, d=6).progress, made.tried = 6, 5
    assert made.next() == 6
    known.at(b=7, c=7, d=8).progress, made.tried = 7, 6
    assert made.next() == 7
