"""Many keys at once, a look behind the scenes, and a clock that fell back."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from moshgrid.dht import DHTNode
from moshgrid.dht.record import Author
from moshgrid.dht.wire import PutRecords, Query
from moshgrid.p2p.errors import ConfigurationError
from moshgrid.p2p.host import network_id
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.testing import run_virtual


def test_many_keys_cost_one_message_to_each_storer(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(12) as net:
            await trio.sleep(3)  # everybody knows everybody
            author = net.nodes[4]
            sent: dict[PeerId, int] = {}
            ask = author._asker.ask

            async def count(peer: PeerId, query: Query, *rest: float) -> Any:
                if isinstance(query, PutRecords):
                    sent[peer] = sent.get(peer, 0) + 1
                return await ask(peer, query, *rest)

            author._asker.ask = count
            values = {f"k{number}": number for number in range(40)}
            reports = await author.put_many(values)
            assert list(reports) == list(values)
            for report in reports.values():
                assert len(report.stored_at) >= 5 and not report.refused
                assert len(report.stored_at) + len(report.pending) == 12
            await trio.sleep(1)
            assert set(sent.values()) == {1} and len(sent) == 11
            found = await net.nodes[9].get_many([*values, "missing"])
            assert {key: record and record.value for key, record in found.items()} == {
                **values,
                "missing": None,
            }

    run_virtual(main)


def test_nothing_is_put_when_one_of_many_is_wrong(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(3) as net:
            with pytest.raises(ConfigurationError):
                await net.nodes[0].put_many({"good": 1, "bad": object()})
            assert await net.nodes[1].get("good") is None
            assert await net.nodes[0].put_many({}) == {} == await net.nodes[0].get_many([])

    run_virtual(main)


def test_a_put_waits_for_as_many_storers_as_asked(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(12) as net:
            await trio.sleep(3)
            report = await net.nodes[0].put("k", 1, acks=12)
            assert len(report.stored_at) == 12 and not report.pending

    run_virtual(main)


def test_inspect_shows_who_was_asked_and_who_holds_what(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(30, latency=0.01) as net:
            await trio.sleep(3)
            await net.nodes[0].put("k", 1, ttl=100, suffix="s", acks=20)
            seen = await net.nodes[7].inspect("k")
            assert seen.key == "k" and seen.complete and seen.hops >= 1
            assert len(seen.asked) >= 20 and {1} <= {asked.hop for asked in seen.asked}
            assert all(asked.seconds is not None and asked.seconds >= 0.0199 for asked in seen.asked)
            assert seen.seconds >= max(asked.seconds or 0 for asked in seen.asked)
            (record,) = seen.records
            assert (record.author, record.suffix) == (net.nodes[0].host.peer_id, "s")
            assert len(record.holders) >= 20 and 98 < record.expires_in <= 100 and not record.deleted
            held = {asked.peer for asked in seen.asked if asked.records}
            assert held <= set(record.holders) and not any(asked.bad_records for asked in seen.asked)
            assert (await net.nodes[7].inspect("missing")).records == ()

    run_virtual(main)


def test_inspect_tells_of_those_that_do_not_answer(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(5) as net:
            await trio.sleep(3)
            net.switch.freeze(net.nodes[3].host.peer_id)
            seen = await net.nodes[0].inspect("k")
            assert {a.peer for a in seen.asked if a.seconds is None} == {net.nodes[3].host.peer_id}
            net.switch.thaw(net.nodes[3].host.peer_id)

    run_virtual(main)


@pytest.mark.parametrize("ahead_ms", [1_000, 50_000])
def test_an_author_whose_clock_fell_back_signs_above_its_earlier_record(swarm: Any, ahead_ms: int) -> None:
    async def main() -> None:
        async with swarm(8) as net:
            author: DHTNode = net.nodes[2]
            # What an earlier run of the same identity put when its clock was ahead.
            earlier = Author(author.host.identity, network_id("public"))
            raw = earlier.sign(b"k", b"\x01", 600_000, author.host.clock.wall_ms() + ahead_ms)
            for node in net.nodes:
                if node is not author:
                    await author._writing.send_quietly(node.host.peer_id, [raw])
            report = await author.put("k", 2)
            assert len(report.stored_at) >= 5 and not report.refused
            assert (await net.nodes[5].get("k")).value == 2

    run_virtual(main)


def test_storers_say_where_those_are_that_a_put_missed(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(40) as net:
            await trio.sleep(3)  # tables still differ
            missed = 0
            for number, node in enumerate(net.nodes):
                known = set(node.table.candidates(0, 99))
                report = await node.put(f"k{number}", 1, acks=20)
                missed += len(set(report.stored_at) - known - {node.host.peer_id})
                assert len(report.stored_at) >= 20 and not report.refused
            assert missed > 20, "otherwise this shows nothing"

    run_virtual(main)
