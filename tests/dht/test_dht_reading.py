"""Readings: how many are asked, and whom nobody can make a reader go back to."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from dht_simulation import NETWORK_NAME, World, run_world

from moshgrid.dht.keys import point_of_key
from moshgrid.dht.wire import GetRecords
from moshgrid.p2p.host import network_id
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.testing import run_virtual


@pytest.mark.parametrize("size", [12, 26, pytest.param(40, marks=pytest.mark.slow)])
def test_a_reading_asks_three_and_two_witnesses_and_next_time_for_news_only(swarm: Any, size: int) -> None:
    async def main() -> None:
        async with swarm(size) as net:
            await trio.sleep(15)
            reader, author = net.nodes[1], net.nodes[2]
            await author.put("k", 1, acks=size)
            await trio.sleep(5)
            asked: list[tuple[PeerId, GetRecords]] = []
            requests: Any = reader.host.requests
            plain = requests.ask

            async def ask(peer: PeerId, service: Any, query: Any, *rest: Any) -> Any:
                if isinstance(query, GetRecords):
                    asked.append((peer, query))
                return await plain(peer, service, query, *rest)

            requests.ask = ask
            met: set[PeerId] = set()
            for _ in range(8):
                assert (await reader.get("k")).value == 1
                assert 4 <= len(asked) <= 5 and len({peer for peer, _ in asked}) == len(asked)
                met.update(peer for peer, _ in asked)
                news = sum(query.since > 0 for _, query in asked)
                asked.clear()
            assert news >= 3, "the nearest were asked before"
            assert len(met) > 5, "the witnesses are drawn anew"
            await author.put("k", 2)
            await trio.sleep(5)
            assert (await reader.get("k")).value == 2

    run_virtual(main)


@pytest.mark.parametrize("namespace", ["groups", "members", "progress", "avg", "services"])
def test_nothing_that_was_read_is_held_or_served_by_who_read_it(namespace: str) -> None:
    async def main(world: World) -> None:
        world.add_many(60)
        world.settle()
        nodes = {peer.id: world.node(peer) for peer in world.honest}
        for node in nodes.values():
            node.open_namespace(namespace)
        asked: list[GetRecords] = []
        world.listener = lambda a, b, query, answer: asked.extend([query] * isinstance(query, GetRecords))
        key, author = f"{namespace}/run7", nodes[world.honest[0].id]
        for value in (1, 2):
            report = await author.put(key, value, acks=20)
            for reader in nodes.values():
                asked.clear()
                record = await reader.get(key)
                assert record is not None and record.value == value, (
                    "a reader's own memory is never an answer"
                )
                assert len(asked) >= 2 and all(query.key == key.encode() for query in asked)
            holders = {peer for peer, node in nodes.items() if list(node.store.all_keys())}
            near = {
                peer.id for peer in world.nearest(point_of_key(network_id(NETWORK_NAME), key.encode()), 24)
            }
            assert {*report.stored_at} <= holders <= near | {author.host.peer_id}, "who is far holds nothing"
            await trio.sleep(1)

    run_world(main, seed=13)
