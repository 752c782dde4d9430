"""Readings: how many are asked, and whom nobody can make a reader go back to."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from moshgrid.dht.wire import GetRecords
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
