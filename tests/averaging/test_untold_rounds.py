"""A round whose leader is lost before it could tell the run: who was in it says so to who comes next."""

import pytest
import trio
from averaging_swarm import step_all, swarm

from moshgrid.p2p.testing import run_virtual


@pytest.mark.parametrize("seed", range(3))
def test_who_is_left_over_meets_a_newcomer(seed):
    async def main():
        async with swarm(3, seed=seed) as group:
            first, *pair = group.peers  # the first is there to be joined through, and does not step
            await step_all(pair)
            by_id = {peer.id: peer for peer in group.peers}
            led, applied = {}, []

            def note(entry):
                if entry.get("round") != 2:
                    return
                if entry["event"] == "manifest":
                    led[entry["group"]] = by_id[entry["leader"]]
                if entry["event"] == "applied":
                    applied.append(entry["peer"])
                    if (leader := led[entry["group"]]).id == entry["peer"]:
                        group.crash(leader)

            for peer in pair:
                peer.host.events.add_sink(note)
            async with trio.open_nursery() as nursery:
                for peer in pair:
                    nursery.start_soon(peer.core.step, peer.arrays, 1.0, 1)
                await trio.sleep(30)
                nursery.cancel_scope.cancel()
            assert {*applied} == {peer.id for peer in pair}
            (left,) = (peer for peer in pair if not peer.network.closed)
            newcomer = await group.add([array + 1 for array in first.arrays])
            assert (left.core.round, newcomer.core.round) == (2, 1)
            for _ in range(4):
                reports = await step_all([left, newcomer])
            assert all(report.committed for report in reports.values()), reports

    run_virtual(main, seed=seed)
