"""Requests that come before a peer seeks a group: kept, given out in time, and taken back."""

import pytest
import trio
from averaging_swarm import step_all, swarm

from moshgrid.averaging.early_joins import EarlyJoins
from moshgrid.averaging.messages import Join, Offer
from moshgrid.p2p.testing import run_virtual

OFFER = Offer(1.0, 0.0, b"s", "none", True)


def test_a_request_is_kept_until_its_round_and_the_last_of_each_peer_counts():
    early = EarlyJoins()
    assert early.keep("one", Join("key", 3, OFFER)) and early.keep("one", Join("key", 5, OFFER))
    assert early.keep("two", Join("key", 4, OFFER))
    assert early.take(3) == []
    assert early.take(4) == [("two", Join("key", 4, OFFER))]
    assert early.take(9) == [("one", Join("key", 5, OFFER))]
    assert early.take(9) == []


def test_only_so_many_are_kept():
    early = EarlyJoins()
    kept = [early.keep(f"peer {number}", Join("key", 1, OFFER)) for number in range(65)]
    assert kept == [True] * 64 + [False]
    assert early.keep("peer 0", Join("key", 2, OFFER))


@pytest.mark.parametrize(("key", "number", "left"), [("key", 3, 0), ("key", 2, 1), ("other", 3, 1)])
def test_who_looks_no_more_takes_back_that_very_request(key, number, left):
    early = EarlyJoins()
    early.keep("one", Join("key", 3, OFFER))
    early.withdraw("one", key, number)
    early.withdraw("nobody", key, number)
    assert len(early.take(9)) == left


def test_who_gave_up_before_the_others_came_is_not_counted_in():
    """After a round all are declared for the next: who comes there first asks another to lead it."""

    def kept(peers):
        return sum(len(peer.core._finder._early._joins) for peer in peers)

    async def main():
        async with swarm(3, group_size=3, deadline=2.0) as group:
            asked = 0
            for first in group.peers:
                assert all(report.committed for report in (await step_all(group.peers)).values())
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(first.core.step, first.arrays, 1.0, 1)
                    await trio.sleep(1.0)
                    asked += kept(group.peers)
                await trio.sleep(0.1)
                assert kept(group.peers) == 0
            assert asked

    run_virtual(main)
