"""The verdict on how a peer can be reached: proven or not claimed, said once per change, and asked again."""

from __future__ import annotations

import pytest

from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.machine import DeadlinePassed
from moshgrid.p2p.reachability import (
    Announce,
    Answered,
    AskForCalls,
    ListeningOn,
    Mapped,
    Observed,
    PeerCame,
    PeerLeft,
    Proven,
)
from moshgrid.p2p.reachability_machine import ReachabilityMachine

ME, PORT = "61.1.1.1", 4001
W1, W2, W3 = "62.1.1.1", "63.1.1.1", "64.1.1.1"


class Story:
    """A machine, and what it asked and announced."""

    def __init__(self) -> None:
        self.machine = ReachabilityMachine(0.0)
        self.asked: list[AskForCalls] = []
        self.said: list[str] = []
        self.at(0.0, ListeningOn(PORT))

    def at(self, now, *events):
        for event in events:
            for effect in self.machine.handle(event, now):
                if isinstance(effect, Announce):
                    self.said.append(effect.reachability.verdict)
                else:
                    self.asked.append(effect)
        return self

    def met(self, now, host, port=PORT):
        """A peer at ``host`` was called and said what it sees."""
        return self.at(now, Observed(host, ME, port, True), PeerCame(PeerId(f"peer-{host}"), host))

    @property
    def verdict(self):
        return self.machine.now_known.verdict


def test_public_takes_two_strangers_of_different_groups():
    story = Story().met(0.1, W1)
    assert story.asked == [AskForCalls(PeerId(f"peer-{W1}"), ((ME, PORT),))]
    story.at(0.5, Proven((ME, PORT), W2), Proven((ME, PORT), "63.1.99.99"))
    assert story.verdict == "unknown" and story.said == []
    story.at(0.6, Proven((ME, PORT), W3))
    assert story.said == ["public"] and story.machine.now_known.places == ((ME, PORT),)
    story.at(0.7, Proven((ME, PORT), "65.1.1.1"), Answered(((ME, PORT),), 3, 0))
    assert story.said == ["public"]


def test_without_witnesses_it_stays_unknown_and_says_so_in_time():
    story = Story().met(0.1, W1).at(0.2, Answered(((ME, PORT),), 0, 0))
    assert story.machine.deadline <= 3.0
    story.at(3.0, DeadlinePassed())
    assert story.said == ["unknown"] and "witnesses" in str(story.machine.now_known)
    lonely = Story().at(3.0, DeadlinePassed())
    assert lonely.said == ["unknown"] and "no peer outside" in str(lonely.machine.now_known)


def test_what_everybody_sees_alike_can_be_punched_and_the_way_to_more_is_named():
    story = Story().met(0.1, W1).met(0.2, W2)
    story.at(0.5, Answered(((ME, PORT),), 3, 3), Answered(((ME, PORT),), 1, 1))
    assert story.said == ["punchable"]
    assert "lets no strangers in" in story.machine.now_known.why
    assert "forward TCP port 4001" in story.machine.now_known.improve
    own = Story().at(0.0, ListeningOn(PORT, (ME,))).met(0.1, W1).met(0.2, W2)
    own.at(0.5, Answered(((ME, PORT),), 3, 3), Answered(((ME, PORT),), 0, 0))
    assert own.said == ["punchable"] and "firewall" in own.machine.now_known.why


def test_a_symmetric_router_means_relays():
    story = Story().met(0.1, W1, 50_001).met(0.2, W2, 50_002)
    story.at(0.5, Answered((), 1, 1), Answered((), 1, 1)).at(3.0, DeadlinePassed())
    assert story.said == ["private"] and "symmetric" in story.machine.now_known.why


def test_a_proof_holds_until_the_address_changes_or_nobody_comes_through_any_more():
    story = Story().met(0.1, W1).at(0.5, Proven((ME, PORT), W2), Proven((ME, PORT), W3))
    story.at(0.6, Answered(((ME, PORT),), 3, 1))
    again = story.machine.deadline
    assert again > 1000
    story.met(0.7, "66.1.1.1")
    assert len(story.asked) == 1, "nobody is asked for more proofs than needed"
    story.at(again, DeadlinePassed())
    assert len(story.asked) > 1
    story.at(again + 1, *[Answered(((ME, PORT),), 2, 2)] * 3)
    assert story.verdict != "public" and len(story.said) == 2

    moved = Story().met(0.1, W1).at(0.5, Proven((ME, PORT), W2), Proven((ME, PORT), W3))
    moved.at(9.0, ListeningOn(PORT, ("61.7.7.7",)))
    assert moved.said[-1] == "unknown"


def test_what_nobody_could_be_asked_to_prove_proves_nothing():
    story = Story().met(0.1, W1)
    story.at(0.5, Proven(("99.9.9.9", 1), W2), Proven(("99.9.9.9", 1), W3))
    assert story.verdict == "unknown"


def test_what_a_router_forwards_is_tried_first():
    story = Story().at(0.05, Mapped((ME, 40_211))).met(0.1, W1)
    assert story.asked[0].places == ((ME, 40_211), (ME, PORT))
    story.at(0.5, Proven((ME, 40_211), W2), Proven((ME, 40_211), W3))
    assert story.machine.now_known.places == ((ME, 40_211),)


@pytest.mark.parametrize("peers", [1, 3, 200])
def test_few_are_asked_and_seldom(peers):
    story = Story()
    for number in range(peers):
        story.met(0.1, f"{70 + number // 200}.{number % 200}.1.1")
    assert len(story.asked) == min(3, peers)
    now, rounds = 0.1, 0
    while now < 3600:
        story.at(now, *[Answered((), 1, 0)] * 3)
        assert story.machine.deadline is not None and story.machine.deadline > now
        now, rounds = story.machine.deadline, rounds + 1
        story.at(now, DeadlinePassed())
    assert rounds < 30 and len(story.asked) <= 3 * rounds + 3


def test_who_was_called_last_is_asked_first_and_who_left_is_not_asked():
    story = Story().at(0.0, *[PeerCame(PeerId(f"came-{n}"), f"7{n}.1.1.1") for n in range(3)])
    story.at(0.1, *[PeerCame(PeerId(f"called-{n}"), f"8{n}.1.1.1", called=True) for n in range(3)])
    story.at(0.2, PeerLeft(PeerId("called-1")), Observed(W1, ME, PORT, True))
    assert [each.peer for each in story.asked] == ["called-2", "called-0", "came-0"]
    story.at(0.3, PeerLeft(PeerId("called-2")))
    assert story.asked[-1].peer == "came-1", "another one instead"


def test_strangers_who_come_do_not_crowd_out_whom_we_called():
    story = Story().at(0.0, PeerCame(PeerId("called"), "80.1.1.1", called=True))
    story.at(0.1, *[PeerCame(PeerId(f"came-{n}"), f"70.{n}.1.1") for n in range(200)])
    story.at(0.2, Observed(W1, ME, PORT, True))
    assert [each.peer for each in story.asked] == ["called", "came-0", "came-1"]
