"""IPv4 and IPv6: each has its verdict, that of IPv4 counts, and peers are called over the one they lack."""

from __future__ import annotations

from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.machine import DeadlinePassed
from moshgrid.p2p.reachability import (
    Announce,
    Answered,
    AskForCalls,
    CallOver,
    ListeningOn,
    Observed,
    PeerCame,
    PeerLeft,
    Proven,
)
from moshgrid.p2p.reachability_families import ReachabilityFamilies

FOUR, SIX, PORT = "61.1.1.1", "2a10:1::5", 4001
AT_HOME = ListeningOn(PORT, (), ("192.168.1.2",))
OVER_SIX = ListeningOn(PORT, (SIX,), (), "ip6")
NO_SIX = ListeningOn(PORT, (), (), "ip6", False)
A, B = PeerId("A"), PeerId("B")


class Story:
    """The machine, what it wanted and what it said."""

    def __init__(self, *listening):
        self.machine = ReachabilityFamilies(0.0)
        self.said, self.called_over, self.asked = [], [], []
        self.at(0.0, *listening)

    def at(self, now, *events):
        for event in events:
            for effect in self.machine.handle(event, now):
                match effect:
                    case Announce(found):
                        self.said.append((found.verdict, {k: v.verdict for k, v in found.families.items()}))
                    case CallOver():
                        self.called_over.append(effect)
                    case AskForCalls():
                        self.asked.append(effect)
        return self

    def met(self, now, peer, witness, host, port=PORT):
        return self.at(now, Observed(witness, host, port, True), PeerCame(peer, witness, True))

    def proven(self, now, host, *witnesses):
        return self.at(now, *(Proven((host, PORT), each) for each in witnesses))


def both():
    return Story(AT_HOME, OVER_SIX)


def test_public_over_ipv6_is_not_public_for_those_who_have_ipv4():
    story = both().met(0.1, A, "62.1.1.1", FOUR).met(0.1, B, "63.1.1.1", FOUR)
    assert story.called_over == [CallOver(A, "ip6"), CallOver(B, "ip6")]
    story.met(0.2, A, "2a10:2::1", SIX).met(0.2, B, "2a10:3::1", SIX)
    story.proven(0.3, SIX, "2a10:4::1", "2a10:5::1")
    assert story.said == [], "nothing is said before there is something of IPv4"
    story.at(0.5, Answered(((FOUR, PORT),), 3, 3), Answered(((FOUR, PORT),), 1, 1))
    assert story.said == [("punchable", {"ip4": "punchable", "ip6": "public"})]
    assert story.machine.settled
    assert "Over IPv6 public: strangers reached 2a10:1::5" in story.machine.now_known.why
    assert "forward TCP port 4001" in story.machine.now_known.improve
    assert "IPv6" not in story.machine.now_known.improve
    assert story.machine.seen_at == ((FOUR, PORT), (SIX, PORT))


def test_a_firewall_over_ipv6_is_named_beside_an_open_ipv4():
    story = both().met(0.1, A, "62.1.1.1", FOUR).proven(0.2, FOUR, "64.1.1.1", "65.1.1.1")
    assert story.said == [("public", {"ip4": "public", "ip6": "unknown"})] and not story.machine.settled
    story.met(0.3, A, "2a10:2::1", SIX).met(0.3, B, "2a10:3::1", SIX)
    story.at(0.9, Answered(((SIX, PORT),), 2, 2), Answered(((SIX, PORT),), 0, 0))
    assert story.said[-1] == ("public", {"ip4": "public", "ip6": "punchable"}) and story.machine.settled
    improve = story.machine.now_known.improve
    assert improve.startswith("Over IPv6: ") and "let TCP port 4001 in through the firewall" in improve


def test_where_there_is_no_ipv4_outside_ipv6_has_the_word():
    story = Story(ListeningOn(PORT, (), ("172.17.0.1",), "ip4", False), OVER_SIX)
    assert story.machine.families == ("ip6",)
    story.met(0.1, A, "2a10:2::1", SIX).proven(0.3, SIX, "2a10:4::1", "2a10:5::1")
    assert story.said == [("public", {"ip6": "public"})]


def test_without_ipv6_nothing_is_said_of_it():
    story = Story(AT_HOME, NO_SIX).met(0.1, A, "62.1.1.1", FOUR)
    story.at(0.2, Observed("2a10:2::1", SIX, PORT, True), Proven((SIX, PORT), "2a10:4::1"))
    story.at(3.0, DeadlinePassed())
    assert story.said == [("unknown", {"ip4": "unknown"})] and story.called_over == []
    assert "IPv6" not in str(story.machine.now_known)


def test_ipv6_that_comes_later_and_goes_again():
    story = Story(AT_HOME, NO_SIX).met(0.1, A, "62.1.1.1", FOUR).at(3.0, DeadlinePassed())
    story.at(9.0, OVER_SIX)
    assert story.called_over == [CallOver(A, "ip6")] and not story.machine.settled
    story.at(12.0, DeadlinePassed())
    assert story.machine.settled and story.said[-1][1]["ip6"] == "unknown"
    story.at(20.0, NO_SIX)
    assert story.machine.families == ("ip4",)


def test_who_is_called_over_the_other_family_is_bounded():
    story = both().at(0.05, PeerCame(A, "61.1.1.1"))
    assert not story.called_over, "who came by itself may yet be a witness"
    for number in range(300):
        story.at(0.1, PeerCame(PeerId(f"p{number}"), f"62.{number % 250}.1.1", True))
    assert len(story.called_over) == 8
    story.at(100.0, PeerLeft(PeerId("p299")), DeadlinePassed())
    assert len(story.called_over) == 8
    story.at(301.0, DeadlinePassed())
    assert len(story.called_over) == 16
