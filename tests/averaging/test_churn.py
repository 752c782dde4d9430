"""Churn in virtual time: who stays goes on finding groups, and is left with nothing of those that went."""

import random
from collections import Counter
from contextlib import suppress
from itertools import pairwise

import pytest
import trio
from averaging_swarm import step_all, swarm
from holdings import holdings, mentions
from running import tasks

from moshgrid.p2p.errors import Closed
from moshgrid.p2p.testing import run_virtual

LONGEST_GAP = 60.0
"""Seconds between two rounds of one that stays."""

MEMORIES = {
    # what a peer was seen to do, for when it comes again
    "PaceBook._paces": 4096,
    "Membership._newest": 16384,
    "Membership._gone": 16384,
    "Rates._puts": 4096,
    "Budgets._idle": 4096,
    "PeerRecords._records": 4096,
    "ClockComparison._offsets": 32,
    # rounds that are over: who has not been told so, and how long groups took to come together
    "PastRounds._untold": 64,
    "PastRounds._untold[]": 64 * 16,
    "Patience._offsets": 256,
    # plans that may be in force again, and their lists of members for who asks
    "PlanBook._plans": 8,
    "Blobs._kept": 64,
    # what storers held when a key was last read, and who was nearest to it
    "Views._kept": 256,
    "Views._kept[]": 256 * 8,
    "Shortlists._kept": 4096,
    "_Shortlist.peers": 4096 * 20,
    # envelopes whose signature need not be checked again
    "RecordReader._known": 1024,
    # an hour long: so long a record may live that a newer one has replaced, and the rounds that were led
    "RecordStore._floors": 262_144,
    "RecordStore._lapses": 64 + 2 * 262_144,
}
"""Containers that may hold something of peers and rounds long gone, and how much at most."""
RECORDS = ("RecordStore.", "_Watch.seen", "_Subscription.told", "View.records", "SeenRecords._by_key[]")
"""Records last until they expire; those that tell how far the run is last for an hour."""
TEST_ONLY = "MemoryNetwork._addrs"
LINK = "moshgrid.averaging.links.Links._carry"
"""One to each of the others that is there."""


def is_memory(name):
    return name.startswith((*RECORDS, TEST_ONLY, "GridPlan.")) or name in MEMORIES


class Soak:
    """One peer that stays, and others that come and go, all of them stepping all the time."""

    def __init__(self, group, nursery, rng):
        self.group, self.rng = group, rng
        self.stays = group.peers[0]
        self.rounds = []
        self.done = Counter()
        self._nursery = nursery
        self._steps = {}
        self._dead = []
        self._all_awake_at = 0.0
        for peer in group.peers:
            self._begin(peer)

    def _begin(self, peer):
        scope = self._steps[peer] = trio.CancelScope()
        self._nursery.start_soon(self._step, peer, scope)

    async def _step(self, peer, scope):
        with scope, suppress(Closed):  # it leaves, or is gone
            while True:
                report = await peer.core.step(peer.arrays, 1.0, 1)
                if peer is self.stays and report.committed:
                    self.rounds.append(trio.current_time())
                await trio.sleep(self.rng.uniform(0, 2.0))

    @property
    def live(self):
        return list(self._steps)

    def kill(self, peer):
        self._steps.pop(peer).cancel()
        self.group.crash(peer)
        self._dead.append(peer)

    async def add(self, again=None):
        arrays = [array * 0 for array in self.stays.arrays]
        self._begin(await self.group.add(arrays, identity=again and again.host.identity))

    async def turn(self, most):
        """Something happens to somebody."""
        others = [peer for peer in self.live if peer is not self.stays and not peer.network.frozen]
        what = self.rng.choice(["kill", "leave", "freeze", "add", "add", "return"])
        if what in ("kill", "leave", "freeze") and len(others) > 2:
            victim = self.rng.choice(others)
            if what == "freeze":
                self._nursery.start_soon(self._freeze, victim)
            else:
                if what == "leave":
                    await victim.core.aclose()
                self.kill(victim)
        elif what == "return" and self._dead and len(self.live) < most:
            await self.add(self._dead.pop(self.rng.randrange(len(self._dead))))
        elif what == "add" and len(self.live) < most:
            await self.add()
        else:
            return
        self.done[what] += 1

    async def _freeze(self, victim):
        seconds = self.rng.uniform(1, 30)
        self._all_awake_at = max(self._all_awake_at, trio.current_time() + seconds)
        self.group.switch.freeze(victim.id)
        await trio.sleep(seconds)
        if not victim.network.closed:
            self.group.switch.thaw(victim.id)

    async def end(self, count):
        """As many as in the beginning are left, and all of them stand still."""
        while len(self.live) > count:
            self.kill(self.rng.choice([peer for peer in self.live if peer is not self.stays]))
        while len(self.live) < count:
            await self.add()
        await trio.sleep(max(0.0, self._all_awake_at - trio.current_time()))
        survivors = self.live
        for scope in self._steps.values():
            scope.cancel()
        await trio.sleep(1)
        return survivors


async def settled(watched, peers):
    """What one holds after a round of all, when its connections have come to rest."""
    await step_all(peers, 600)
    await trio.sleep(20)
    return holdings(watched.core, watched.host), tasks(watched.host.nursery)


def most_of(measured):
    """Element by element the largest of several counts."""
    most = Counter()
    for each in measured:
        most |= each
    return most


def soak(seed, turns, count, size):
    async def main():
        rng = random.Random(seed)
        async with swarm(count, seed=seed, group_size=size) as group, trio.open_nursery() as nursery:
            stays = group.peers[0]
            before = [await settled(stays, group.peers) for _ in range(4)]
            held, running = (most_of(measured) for measured in zip(*before, strict=True))
            running[LINK] = count - 1
            churn = Soak(group, nursery, rng)
            for _ in range(turns):
                await trio.sleep(rng.uniform(1.0, 6.0))
                await churn.turn(most=count + 2)
            survivors = await churn.end(count)
            gap = max(later - earlier for earlier, later in pairwise(churn.rounds))
            print(dict(churn.done), f"{len(churn.rounds)} rounds, longest gap {gap:.1f} s")
            assert gap <= LONGEST_GAP
            gone = {peer.id for peer in group.peers} - {peer.id for peer in survivors}
            for _ in range(30):
                now, still = await settled(stays, survivors)
                more = {
                    name: (held[name], now[name])
                    for name in now
                    if now[name] > held[name] + 2 * count and not is_memory(name)
                }
                named = [name for name in mentions(gone, stays.core, stays.host) if not is_memory(name)]
                if not more and not named and not still - running:
                    break
            assert not more, dict(more)
            assert not named, named
            assert not still - running, still - running
            assert all(now[name] <= most for name, most in MEMORIES.items())
            nursery.cancel_scope.cancel()
            return churn

    return run_virtual(main, seed=seed)


def test_some_come_and_go():
    soak(seed=1, turns=6, count=3, size=8)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("seed", "turns", "count", "size"), [(1, 150, 5, 8), (2, 150, 5, 8), (3, 60, 10, 4)])
def test_hundreds_come_and_go(seed, turns, count, size):
    churn = soak(seed, turns, count, size)
    assert len(churn.rounds) > turns / 2
    assert set(churn.done) == {"kill", "leave", "freeze", "add", "return"}
