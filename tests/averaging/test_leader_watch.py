"""Leader watch and past rounds: who signed twice, and who still speaks of a round that is over."""

from msgspec.structs import replace
from round_simulation import IDENTITIES, manifest_for

from moshgrid.averaging.leader_watch import Equivocation, LeaderWatch, Restarted
from moshgrid.averaging.manifest import sign_manifest
from moshgrid.averaging.messages import Alive, Decline, PartData, Sealed
from moshgrid.averaging.past_rounds import PastRounds

FIRST = manifest_for(4)
LEADER = FIRST.leader


def another(**changes):
    return sign_manifest(IDENTITIES[0], replace(FIRST.manifest, **{"nonce": b"n" * 16, **changes}))


def test_two_manifests_for_one_attempt_are_found_whichever_comes_first():
    second = another()
    for one, other in ((FIRST, second), (second, FIRST)):
        watch = LeaderWatch()
        assert watch.saw(one, 0.0) is None
        assert watch.saw(one, 1.0) is None
        assert watch.saw(other, 2.0) == Equivocation(LEADER, one, other)
        assert watch.is_skipped(LEADER, 601.9)
        assert not watch.is_skipped(LEADER, 602.0)


def test_other_rounds_keys_and_leaders_are_no_lie():
    watch = LeaderWatch()
    for signed in (FIRST, another(round=2), another(round=2, group_key="lobby"), manifest_for(4, leader=1)):
        assert watch.saw(signed, 0.0) is None
        assert not watch.is_skipped(signed.leader, 0.0)


def test_who_leads_again_after_its_group_fell_apart_has_left_the_group_before():
    watch = LeaderWatch()
    watch.saw(FIRST, 0.0)
    again = another(attempt=2)
    assert watch.saw(again, 1.0) == Restarted(LEADER, FIRST)
    assert watch.saw(FIRST, 2.0) is None  # somebody who was slower passes it on
    assert watch.saw(another(attempt=3), 3.0) == Restarted(LEADER, again)
    assert not watch.is_skipped(LEADER, 3.0)


def test_a_leader_that_started_again_knows_nothing_of_what_it_signed():
    watch = LeaderWatch()
    watch.saw(FIRST, 0.0)
    watch.forget(LEADER)
    assert watch.saw(another(), 1.0) is None


def test_a_member_that_believes_a_round_to_go_on_is_told_once():
    past = PastRounds()
    past.add(FIRST.group_id, FIRST.peers)
    assert FIRST.group_id in past
    peer = FIRST.peers[1]
    for message in (Alive(), Decline("x"), Sealed(0)):
        assert not past.is_to_be_told(FIRST.group_id, peer, message)
    assert past.is_to_be_told(FIRST.group_id, peer, PartData(0))
    assert not past.is_to_be_told(FIRST.group_id, peer, PartData(1))
    assert not past.is_to_be_told(FIRST.group_id, IDENTITIES[9].peer_id, PartData(0))
    assert not past.is_to_be_told(b"other", peer, PartData(0))


def test_old_rounds_are_forgotten():
    past = PastRounds()
    for index in range(100):
        past.add(b"%d" % index, FIRST.peers)
    assert b"0" not in past
    assert b"99" in past
