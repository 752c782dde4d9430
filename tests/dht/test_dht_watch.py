"""Watching on an in-memory network in virtual time: everything once, soon, and whoever is lost."""

from __future__ import annotations

import heapq
from collections import Counter
from typing import Any

import pytest
import trio

from moshgrid.dht import DHTNode, Record
from moshgrid.dht.keys import point_of_key, point_of_peer
from moshgrid.p2p.host import network_id
from moshgrid.p2p.testing import run_virtual

SEEDS = range(2)


def nearest(nodes: list[DHTNode], key: str, count: int) -> list[DHTNode]:
    point = point_of_key(network_id("public"), key.encode())
    return heapq.nsmallest(count, nodes, key=lambda node: point_of_peer(node.host.peer_id) ^ point)


async def collect(channel: trio.MemoryReceiveChannel[Record], seconds: float) -> list[Record]:
    records = []
    with trio.move_on_after(seconds):
        async for record in channel:
            records.append(record)
    return records


def count_requests(nodes: list[DHTNode]) -> Counter[str]:
    """Counts what the nodes ask each other from now on, by kind of question."""
    counts: Counter[str] = Counter()
    for node in nodes:
        requests: Any = node.host.requests

        async def ask(peer: Any, service: Any, query: Any, *rest: Any, plain: Any = requests.ask) -> Any:
            counts[type(query).__name__] += 1
            return await plain(peer, service, query, *rest)

        requests.ask = ask
    return counts


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [1, 2, 16, 28])
def test_watchers_see_what_is_stored_and_every_change_once(swarm: Any, size: int, seed: int) -> None:
    async def main() -> None:
        async with swarm(size, seed) as net:
            await trio.sleep(15)
            authors = [net.nodes[number % size] for number in (0, 5, 11)]
            await authors[0].put("k", "stored")
            watchers = [net.nodes[number % size] for number in (3, 9)]
            async with watchers[0].watch("k") as one, watchers[1].watch("k") as two:
                await trio.sleep(1)
                for number, author in enumerate(authors):
                    await author.put("k", number, suffix=str(number))
                    await trio.sleep(0.5)
                await watchers[0].put("k", "own")
                await authors[0].delete("k", suffix="0")
                own = watchers[0].host.peer_id
                for channel in (one, two):
                    records = await collect(channel, 5)
                    values = [record.value for record in records]
                    assert values[0] == "stored"
                    assert Counter(values) == Counter(["stored", 0, 1, 2, "own", None])
                    assert [record.deleted for record in records].count(True) == 1
                    assert [record.author for record in records if record.value == "own"] == [own]

    run_virtual(main, seed=seed)


@pytest.mark.parametrize("size", [16, 28])
def test_a_change_arrives_within_the_time_that_light_needs(swarm: Any, size: int) -> None:
    async def main() -> None:
        async with swarm(size, 0, 0.05) as net:
            await trio.sleep(20)
            async with net.nodes[3].watch("k") as channel:
                await net.nodes[size - 1].put("k", "warm")
                await channel.receive()
                began = trio.current_time()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(net.nodes[size - 1].put, "k", "now")
                    assert (await channel.receive()).value == "now"
                # One way to a storer and one way from it, or the author's own way here; a new
                # stream costs a round trip more.
                assert trio.current_time() - began < 0.31

    run_virtual(main)


@pytest.mark.parametrize("seed", SEEDS)
def test_watching_goes_on_when_the_storers_crash(swarm: Any, seed: int) -> None:
    async def main() -> None:
        async with swarm(28, seed) as net:
            await trio.sleep(15)
            author, watcher = nearest(net.nodes, "k", 28)[-2:]
            async with watcher.watch("k") as channel:
                await author.put("k", 0)
                assert (await channel.receive()).value == 0
                for number in range(1, 5):
                    for node in nearest(net.nodes, "k", 3):
                        if node is not net.nodes[0]:
                            net.crash(node)
                    await author.put("k", number)
                    with trio.fail_after(10):
                        assert (await channel.receive()).value == number
                    await trio.sleep(5)

    run_virtual(main, seed=seed)


def test_what_came_while_a_watcher_was_cut_off_comes_when_it_is_back(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(8) as net:
            await trio.sleep(1)
            watcher, others = net.nodes[7], net.nodes[:7]
            async with watcher.watch("k") as channel:
                await trio.sleep(1)
                net.switch.partition({watcher.host.peer_id}, {node.host.peer_id for node in others})
                for number in range(5):
                    await others[2].put("k", number)
                net.switch.heal()
                values = [record.value for record in await collect(channel, 60)]
                assert values[-1] == 4

    run_virtual(main)


def test_a_watch_begun_before_joining_hears_from_the_network(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(28) as net:
            await trio.sleep(15)
            await net.nodes[2].put("k", 1)
            late = await net.add(60)
            async with late.watch("k") as channel:
                with trio.fail_after(5):
                    assert (await channel.receive()).value == 1
                    await net.nodes[2].put("k", 2)
                    assert (await channel.receive()).value == 2

    run_virtual(main)


def test_a_push_that_failed_is_sent_again_when_the_watcher_is_back(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(28) as net:
            await trio.sleep(15)
            author, watcher = nearest(net.nodes, "k", 28)[-2:]
            async with watcher.watch("k") as channel:
                await trio.sleep(1)
                net.switch.freeze(watcher.host.peer_id)
                await author.put("k", 1)
                await trio.sleep(9)  # the storers have given up
                net.switch.thaw(watcher.host.peer_id)
                # Sooner than the subscription would have been renewed.
                with trio.fail_after(15):
                    assert (await channel.receive()).value == 1

    run_virtual(main)


def test_subscriptions_are_renewed_for_as_long_as_one_watches(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(30) as net:
            await trio.sleep(15)
            author, watcher = nearest(net.nodes, "k", 30)[-2:]
            async with watcher.watch("k") as channel:
                for number in range(4):
                    await trio.sleep(150)
                    await author.put("k", number)
                    with trio.fail_after(1):
                        assert (await channel.receive()).value == number

    run_virtual(main)


def test_a_slow_caller_gets_the_newest_and_costs_no_memory(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(2) as net, net.nodes[1].watch("k") as channel:
            for number in range(500):
                await net.nodes[0].put("k", number)
            assert channel.statistics().current_buffer_used <= 64
            values = [record.value for record in await collect(channel, 1)]
            assert len(values) < 100 and values[-1] == 499 and values == sorted(values)

    run_virtual(main)


def test_two_watches_of_one_key_share_the_subscriptions(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(12) as net:
            await trio.sleep(3)
            await net.nodes[1].put("k", 1)
            await trio.sleep(1)
            counts = count_requests(net.nodes)
            async with net.nodes[4].watch("k") as one:
                assert (await one.receive()).value == 1
                await trio.sleep(1)
                async with net.nodes[4].watch("k") as two:
                    assert (await two.receive()).value == 1
                    await net.nodes[2].put("k", 2)
                    assert (await two.receive()).value == 2
                assert (await one.receive()).value == 2
                await net.nodes[2].put("k", 3)
                assert (await one.receive()).value == 3
            assert counts["Watch"] == 3

    run_virtual(main)


def test_small_networks_need_one_request_per_storer_and_no_push(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(9) as net:
            await trio.sleep(5)
            channels = []
            for node in net.nodes:
                watch = await node.open_watch("group")
                channels.append(watch)
            await trio.sleep(1)
            counts = count_requests(net.nodes)
            for node in net.nodes:
                await node.put("group", node.host.peer_id)
            await trio.sleep(1)
            # Everybody stores, so everybody hears from the author itself.
            assert counts == {"PutRecords": 9 * 8}
            for watch in channels:
                assert len(await watch.next_batch()) == 9
                watch.close()
                assert await watch.next_batch() == []

    run_virtual(main)


def test_pushes_to_those_that_stopped_watching_end(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(28) as net:
            await trio.sleep(15)
            author, watcher = nearest(net.nodes, "k", 28)[-2:]
            async with watcher.watch("k") as channel:
                await author.put("k", 0)
                await channel.receive()
            await author.put("k", 1)
            await trio.sleep(1)
            counts = count_requests(net.nodes)
            await author.put("k", 2)
            await trio.sleep(1)
            assert counts["Push"] == 0

    run_virtual(main)


def test_who_cannot_be_reached_by_the_author_hears_from_a_storer(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(8) as net:
            await trio.sleep(2)
            author, watcher = nearest(net.nodes, "k", 8)[-2:]
            async with watcher.watch("k") as channel:
                await trio.sleep(1)
                net.switch.partition({author.host.peer_id}, {watcher.host.peer_id})
                await author.put("k", 1)
                with trio.fail_after(8):
                    assert (await channel.receive()).value == 1
                net.switch.heal()

    run_virtual(main)


def test_a_watch_and_its_storers_hold_on_to_nothing_that_has_expired(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(4) as net, net.nodes[1].watch("k") as channel:
            for number in range(50):
                await net.nodes[0].put("k", number, ttl=30, suffix=str(number))
            assert len(await collect(channel, 1)) == 50
            await trio.sleep(90)  # longer than until a subscription is renewed
            (subject,) = net.nodes[1]._watching._subjects.values()
            assert not any(watch.seen for watch in subject.watches)
            told = [node._responder._watchers._by_key.get(b"k", {}) for node in net.nodes]
            assert any(told)
            assert not any(one.told for by_peer in told for one in by_peer.values())

    run_virtual(main)
