"""Fencing: what is said in an old group counts for nothing in a new one, also after a partition."""

from collections import Counter

import numpy as np
import pytest
import trio
from averaging_swarm import flat, step_all, swarm

from moshgrid.averaging.links import Links
from moshgrid.averaging.round_driver import RoundDriver
from moshgrid.averaging.wire import decode_frame
from moshgrid.p2p.testing import run_virtual


def recorded(monkeypatch):
    """Every frame of a group that anybody sends: (sender, receiver, header, payload)."""
    frames, send = [], Links.send

    def noted(links, peer, header, payload=b"", sent=None, wanted=None):
        if decode_frame(header, "").group:
            frames.append((links, peer, header, bytes(payload)))
        send(links, peer, header, payload, sent, wanted)

    monkeypatch.setattr(Links, "send", noted)
    return frames, send


def taken(monkeypatch):
    """What rounds make an event of: (the round's group, the frame's group)."""
    found, arrived = [], RoundDriver.arrived

    def noted(driver, peer, frame):
        found.append((driver.signed.group_id, frame.group))
        arrived(driver, peer, frame)

    monkeypatch.setattr(RoundDriver, "arrived", noted)
    return found


def test_every_kind_of_message_of_the_last_round_is_accepted_by_nobody(monkeypatch):
    frames, send = recorded(monkeypatch)
    accepted = taken(monkeypatch)

    async def main():
        async with swarm(4, seed=1) as group:
            await step_all(group.peers)
            old = list(frames)
            kinds = Counter(type(decode_frame(header, "").message).__name__ for _, _, header, _ in old)
            assert {
                "Ready",
                "PartData",
                "ResultData",
                "Attested",
                "Propose",
                "Vote",
                "Sealed",
            } <= kinds.keys()
            await trio.sleep(10)
            accepted.clear()
            replayed = []

            def replay(entry):
                if entry["event"] in ("manifest", "exchange_started") and len(replayed) < 8:
                    replayed.append(entry)
                    for links, peer, header, payload in old:
                        send(links, peer, header, payload)

            group.peers[0].host.events.add_sink(replay)
            exact = np.mean([flat(peer) for peer in group.peers], axis=0)
            reports = await step_all(group.peers)
            assert replayed
            assert len({report.digest for report in reports.values()}) == 1
            for peer in group.peers:
                assert reports[peer.id].committed and not reports[peer.id].dropped
                np.testing.assert_allclose(flat(peer), exact, rtol=2e-6, atol=1e-6)
            over = {decode_frame(header, "").group for _, _, header, _ in old}
            assert accepted and not over & {group_id for pair in accepted for group_id in pair}

    run_virtual(main)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))])
def test_both_halves_of_a_partition_go_on_and_meet_again_when_it_heals(seed, monkeypatch):
    accepted = taken(monkeypatch)

    async def main():
        async with swarm(6, seed=seed, group_size=6, topology="single") as group:
            await step_all(group.peers)
            halves = group.peers[:4], group.peers[4:]
            parted = []

            def part(entry):
                if entry["event"] == "exchange_started" and not parted:
                    parted.append(entry)
                    group.switch.partition(*[[peer.id for peer in half] for half in halves])

            for peer in group.peers:
                peer.host.events.add_sink(part)
            for number, peer in enumerate(group.peers):
                peer.arrays[0] += number
            first = await step_all(group.peers)
            assert parted
            digests = {report.digest for report in first.values() if report.committed}
            assert all(first[peer.id].committed for peer in halves[0])
            assert len({first[peer.id].digest for peer in halves[0]}) == 1
            again = [await step_all(half) for half in halves]
            for half, reports in zip(halves, again, strict=True):
                assert all(set(report.group) == {peer.id for peer in half} for report in reports.values())
            group.switch.heal()
            for _ in range(6):
                await trio.sleep(10)
                exact = np.mean([flat(peer) for peer in group.peers], axis=0)
                healed = await step_all(group.peers)
                if all(len(report.group) == 6 for report in healed.values()):
                    break
            assert all(report.committed and not report.dropped for report in healed.values()), healed
            assert len({report.digest for report in healed.values()}) == 1
            assert not digests & {report.digest for report in healed.values()}
            for peer in group.peers:
                np.testing.assert_allclose(flat(peer), exact, rtol=2e-6, atol=2e-6)
            assert all(own == said for own, said in accepted)

    run_virtual(main, seed=seed)
