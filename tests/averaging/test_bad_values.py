"""Bad values through the whole stack: refused, the sender named to everybody, the rest averaged exactly."""

import random

import numpy as np
import pytest
import trio
from averaging_swarm import flat, swarm

from moshgrid.averaging.messages import Offer, PartData
from moshgrid.averaging.round_driver import RoundDriver
from moshgrid.averaging.wire import encode_frame
from moshgrid.p2p.testing import run_virtual


async def step_all(peers, reports, weight=1.0):
    async def one(peer):
        reports[peer.id] = await peer.core.step(peer.arrays, weight, 1)

    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(one, peer)


def changing(monkeypatch, liar, change):
    """What ``liar`` sends of its values is changed on the way."""
    send = RoundDriver._send

    def changed(driver, member, message, payload=b"", sent=None):
        if driver._host is liar.host and isinstance(message, PartData):
            payload = change(bytearray(payload))
        send(driver, member, message, payload, sent)

    monkeypatch.setattr(RoundDriver, "_send", changed)


def poisoned(value):
    def change(data):
        np.frombuffer(data, np.float32)[len(data) // 8] = value
        return bytes(data)

    return change


BAD = {
    "nan": (poisoned(np.nan), "not finite"),
    "infinity": (poisoned(np.inf), "not finite"),
    "minus infinity": (poisoned(-np.inf), "not finite"),
    "too short": (lambda data: bytes(data[:-4]), "bytes for part"),
    "too long": (lambda data: bytes(data) + bytes(4), "bytes for part"),
    "another dtype": (
        lambda data: bytes(np.frombuffer(data, np.float32).astype("f8")),
        "bytes for",
    ),
    "empty": (lambda data: b"", "bytes for part"),
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", BAD)
def test_a_member_that_sends_bad_values_is_named_by_all_and_the_rest_are_averaged(kind, seed, monkeypatch):
    change, words = BAD[kind]

    async def main():
        async with swarm(4, seed=seed) as group:
            liar = group.peers[seed]
            honest = [peer for peer in group.peers if peer is not liar]
            start = {peer.id: flat(peer) for peer in group.peers}
            changing(monkeypatch, liar, change)
            reports = {}
            await step_all(group.peers, reports)
            for peer in honest:
                report = reports[peer.id]
                assert report.committed, report
                assert words in report.dropped[liar.id], report.dropped
                # It is in what it averages itself, and nowhere else.
                assert report.contributors[liar.id] < 0.5
                for other in honest:
                    assert report.contributors[other.id] == 1.0
                    assert other.id not in report.dropped
            assert len({flat(peer).tobytes() for peer in honest}) == 1
            without = np.mean([start[peer.id] for peer in honest], axis=0)
            with_all = np.mean(list(start.values()), axis=0)
            result = flat(honest[0])
            assert np.isfinite(result).all()
            exact = np.isclose(result, without, rtol=1e-6, atol=1e-6)
            exact |= np.isclose(result, with_all, rtol=1e-6, atol=1e-6)
            assert exact.all()
            share = np.isclose(result, without, rtol=1e-6, atol=1e-6).mean()
            assert share >= 0.6

    run_virtual(main, seed=seed)


def test_a_part_that_is_sent_twice_is_refused_and_its_sender_named(monkeypatch):
    async def main():
        async with swarm(4, seed=1) as group:
            liar = group.peers[2]
            send = RoundDriver._send

            def twice(driver, member, message, payload=b"", sent=None):
                send(driver, member, message, payload, sent)
                if driver._host is liar.host and isinstance(message, PartData):
                    send(driver, member, message, payload)

            monkeypatch.setattr(RoundDriver, "_send", twice)
            start = np.mean([flat(peer) for peer in group.peers], axis=0)
            reports = {}
            await step_all(group.peers, reports)
            honest = [peer for peer in group.peers if peer is not liar]
            assert all(reports[peer.id].committed for peer in honest)
            named = [peer for peer in honest if "twice" in reports[peer.id].dropped.get(liar.id, "")]
            assert named
            if all(reports[honest[0].id].contributors[peer.id] == 1.0 for peer in group.peers):
                np.testing.assert_allclose(flat(honest[0]), start, rtol=2e-6, atol=1e-6)
            assert [e for peer in honest for e in peer.events if e["event"] == "refused"]

    run_virtual(main)


def test_values_of_who_has_no_weight_are_refused(monkeypatch):
    async def main():
        async with swarm(4, seed=3) as group:
            liar = group.peers[1]
            start = {peer.id: flat(peer) for peer in group.peers}
            reports = {}

            async def one(peer, weight):
                reports[peer.id] = await peer.core.step(peer.arrays, weight, 1)

            def send_anyway(entry):
                if entry["event"] == "exchange_started":
                    driver = next(iter(liar.core._rounds._live.values()))
                    for part, span in enumerate(driver.signed.parts):
                        owner = driver.signed.peers[span.owner]
                        if owner != liar.id:
                            header = encode_frame(liar.core._run, driver.signed.group_id, PartData(part))
                            size = driver.signed.part_bytes(part)
                            liar.core._links.send(owner, header, bytes(size))

            liar.host.events.add_sink(send_anyway)
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    for peer in group.peers:
                        nursery.start_soon(one, peer, 0.0 if peer is liar else 1.0)
            honest = [peer for peer in group.peers if peer is not liar]
            exact = np.mean([start[peer.id] for peer in honest], axis=0)
            for peer in honest:
                np.testing.assert_allclose(flat(peer), exact, rtol=2e-6, atol=1e-6)
            assert any("no weight" in reports[peer.id].dropped.get(liar.id, "") for peer in honest)

    run_virtual(main)


def test_the_messages_of_a_round_that_is_over_change_nothing_and_are_answered():
    async def main():
        async with swarm(3, seed=4) as group:
            reports = {}
            await step_all(group.peers, reports)
            sender, receiver = group.peers[:2]
            (driver,) = sender.core._rounds._live.values()
            await trio.sleep(10)
            stale = encode_frame(sender.core._run, driver.signed.group_id, PartData(0))
            exact = np.mean([flat(peer) for peer in group.peers], axis=0)

            def replay(entry):
                if entry["event"] == "exchange_started":
                    for _ in range(3):
                        sender.core._links.send(receiver.id, stale, bytes(driver.signed.part_bytes(0)))

            sender.host.events.add_sink(replay)
            await step_all(group.peers, reports)
            for peer in group.peers:
                assert reports[peer.id].committed
                assert not reports[peer.id].dropped
                np.testing.assert_allclose(flat(peer), exact, rtol=2e-6, atol=1e-6)
            late = [event for event in receiver.events if event["event"] == "late_message"]
            assert [event["sender"] for event in late] == [sender.id]

    run_virtual(main)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), 1e30])
def test_a_weight_that_makes_no_sense_gets_no_seat(weight, monkeypatch):
    async def main():
        async with swarm(4, seed=5) as group:
            liar = group.peers[3]
            finder = liar.core._finder
            find = finder.find
            monkeypatch.setattr(
                finder, "find", lambda key, number, _, reference: find(key, number, weight, reference)
            )
            exact = np.mean([flat(peer) for peer in group.peers[:3]], axis=0)
            reports = {}
            await step_all(group.peers, reports)
            for peer in group.peers[:3]:
                assert reports[peer.id].committed
                assert liar.id not in reports[peer.id].group
                np.testing.assert_allclose(flat(peer), exact, rtol=2e-6, atol=1e-6)
            assert not reports[liar.id].committed

    run_virtual(main)


def test_another_reducer_is_refused_before_the_group_is_made():
    async def main():
        async with swarm(3, seed=6, reducer="median") as group:
            group._config = {**group._config, "reducer": "mean"}
            odd = await group.add([array.copy() for array in group.peers[0].arrays])
            exact = np.median([flat(peer) for peer in group.peers[:3]], axis=0)
            reports = {}
            await step_all(group.peers, reports)
            assert not reports[odd.id].committed
            for peer in group.peers[:3]:
                assert reports[peer.id].committed
                assert odd.id not in reports[peer.id].group
                np.testing.assert_allclose(flat(peer), exact, rtol=2e-6, atol=1e-6)

    run_virtual(main)


def test_offers_with_senseless_numbers_are_not_sound():
    rng = random.Random(0)
    for number in (-1.0, float("nan"), float("inf"), 1e30, -rng.random()):
        assert not Offer(number, 0.0, b"", "none", True).is_sound
        assert not Offer(1.0, number, b"", "none", True).is_sound
