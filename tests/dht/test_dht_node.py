"""DHT nodes on an in-memory network in virtual time: putting, getting, joining, and losing peers."""

from __future__ import annotations

import heapq
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio

from moshgrid.dht import DHTNode
from moshgrid.dht.keys import point_of_key, point_of_peer
from moshgrid.dht.wire import PutRecords
from moshgrid.p2p.clock import VirtualClock
from moshgrid.p2p.errors import Closed, ConfigurationError, RecordRejected, Unreachable
from moshgrid.p2p.host import network_id, open_host
from moshgrid.p2p.identity import Identity, PeerId
from moshgrid.p2p.testing import MemorySwitch, run_virtual

SEEDS = range(2)


def nearest(nodes: list[DHTNode], key: str, count: int = 20) -> list[DHTNode]:
    point = point_of_key(network_id("public"), key.encode())
    return heapq.nsmallest(count, nodes, key=lambda node: point_of_peer(node.host.peer_id) ^ point)


def holds(node: DHTNode, key: str) -> bool:
    return bool(node.store.get(key.encode(), node.host.clock.wall_ms()))


async def all_get(nodes: list[DHTNode], key: str) -> list[Any]:
    values: list[Any] = []

    async def get(node: DHTNode) -> None:
        record = await node.get(key)
        values.append(record and record.value)

    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(get, node)
    return values


@pytest.mark.parametrize("seed", SEEDS)
def test_what_one_puts_all_get(swarm: Any, seed: int) -> None:
    async def main() -> None:
        async with swarm(16, seed) as net:
            report = await net.nodes[3].put("services/gpu", {"vram": 24}, ttl=60)
            assert len(report.stored_at) >= 5 and not report.refused
            assert net.nodes[3].host.peer_id == report.stored_at[0]
            assert await all_get(net.nodes, "services/gpu") == [{"vram": 24}] * 16
            await trio.sleep(1)
            assert all(holds(node, "services/gpu") for node in net.nodes)

    run_virtual(main, seed=seed)


def test_a_record_says_who_what_and_how_long(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(3) as net:
            me = net.nodes[0].host.peer_id
            await net.nodes[0].put("k", [1], ttl=60, suffix="a")
            record = await net.nodes[1].get("k")
            assert (record.author, record.key, record.suffix, record.value) == (me, "k", "a", [1])
            assert record.subkey == f"{me}/a" and not record.deleted
            left = record.expires_in
            assert 59 < left <= 60
            await trio.sleep(10)
            assert record.expires_in == pytest.approx(left - 10, abs=0.01)
            await trio.sleep(50)
            assert record.expires_in == 0
            assert await net.nodes[1].get("k") is None

    run_virtual(main)


def test_get_all_has_one_record_per_author_and_suffix_and_get_the_newest(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(6) as net:
            ids = [node.host.peer_id for node in net.nodes]
            for number, node in enumerate(net.nodes[:3]):
                await node.put("k", number)
                await trio.sleep(0.01)
            await net.nodes[0].put("k", "more", suffix="s")
            await net.nodes[1].put("k", "new")
            records = await net.nodes[5].get_all("k")
            values = {subkey: record.value for subkey, record in records.items()}
            assert values == {ids[0]: 0, f"{ids[0]}/s": "more", ids[1]: "new", ids[2]: 2}
            assert (await net.nodes[5].get("k")).value == "new"
            assert (await net.nodes[5].get("k", author=ids[2])).value == 2
            assert await net.nodes[5].get("k", author=ids[4]) is None
            assert await net.nodes[5].get("nothing") is None
            assert await net.nodes[5].get_all("nothing") == {}

    run_virtual(main)


def test_a_deleted_record_is_gone_and_stays_gone(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(6) as net:
            await net.nodes[0].put("k", 1, ttl=100)
            await trio.sleep(0.1)
            held = net.nodes[1].store.get(b"k", net.nodes[1].host.clock.wall_ms())[0]
            await net.nodes[0].delete("k")
            assert await all_get(net.nodes, "k") == [None] * 6
            for node in net.nodes[1:]:
                with pytest.raises(RecordRejected, match="OLD_SEQ"):
                    node.store.put(held, node.host.clock.wall_ms())
            await net.nodes[0].put("k", 2)
            assert await all_get(net.nodes, "k") == [2] * 6

    run_virtual(main)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_in_a_larger_network_the_twenty_nearest_hold_it(swarm: Any, seed: int) -> None:
    async def main() -> None:
        async with swarm(28, seed) as net:
            await trio.sleep(15)  # the nodes have looked around twice
            for number in range(5):
                key = f"key{number}"
                author = net.nodes[number * 5]
                await author.put(key, number)
                await trio.sleep(1)
                holders = {node.host.peer_id for node in net.nodes if holds(node, key)}
                wanted = {node.host.peer_id for node in nearest(net.nodes, key)}
                assert wanted <= holders, key
                # The author keeps its own; a peer that knows few may hand it on to one too many.
                assert len(holders - wanted - {author.host.peer_id}) <= 2, key
                assert await all_get(net.nodes, key) == [number] * 28

    run_virtual(main, seed=seed)


def test_a_put_is_done_when_five_hold_it(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(16) as net:
            await trio.sleep(1)
            author = net.nodes[0]
            for node in net.nodes[6:]:
                net.switch.freeze(node.host.peer_id)
            began = trio.current_time()
            report = await author.put("k", 1)
            assert len(report.stored_at) >= 5
            assert trio.current_time() - began < 0.1
            for node in net.nodes[6:]:
                net.switch.thaw(node.host.peer_id)

    run_virtual(main)


def test_a_put_with_too_few_holders_says_who_failed(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(4) as net:
            await trio.sleep(1)
            frozen = net.nodes[3].host.peer_id
            net.switch.freeze(frozen)
            report = await net.nodes[1].put("k", 1)
            assert len(report.stored_at) == 3
            assert "no answer" in report.refused[frozen]
            net.switch.thaw(frozen)

    run_virtual(main)


def test_refusals_carry_the_code(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(3) as net:
            await trio.sleep(1)
            for number in range(64):
                await net.nodes[0].put(f"key{number}", number)
            report = await net.nodes[0].put("one more", 1)
            others = {node.host.peer_id for node in net.nodes[1:]}
            assert report.stored_at == (net.nodes[0].host.peer_id,)
            assert report.refused == dict.fromkeys(others, "QUOTA")

    run_virtual(main)


def test_many_puts_at_once_all_arrive(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(6) as net:
            async with trio.open_nursery() as nursery:
                for node in net.nodes[:3]:
                    for number in range(60):
                        nursery.start_soon(node.put, f"key{number}", number)
            await trio.sleep(1)
            for number in range(60):
                assert len(await net.nodes[5].get_all(f"key{number}")) == 3

    run_virtual(main)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_reading_survives_the_loss_of_most_holders(swarm: Any, seed: int) -> None:
    async def main() -> None:
        async with swarm(28, seed) as net:
            await trio.sleep(15)
            await net.nodes[7].put("k", 1)
            await trio.sleep(1)
            victims = [node for node in nearest(net.nodes, "k")[:15] if node is not net.nodes[0]]
            for node in victims:
                net.crash(node)
            assert await all_get(net.nodes, "k") == [1] * len(net.nodes)

    run_virtual(main, seed=seed)


def test_a_reader_mends_holders_that_lack_a_record(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(8) as net:
            await trio.sleep(1)
            author, lacking = net.nodes[2], nearest(net.nodes, "k", 2)
            for node in lacking:
                net.switch.partition({author.host.peer_id}, {node.host.peer_id})
            await author.put("k", 1)
            assert not any(holds(node, "k") for node in lacking if node is not author)
            reader = nearest(net.nodes, "k", 8)[-1]
            assert (await reader.get("k")).value == 1
            await trio.sleep(0.1)
            assert all(holds(node, "k") for node in lacking)
            net.switch.heal()

    run_virtual(main)


def test_a_late_joiner_is_handed_what_it_should_hold(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(6) as net:
            for number, node in enumerate(net.nodes):
                await node.put(f"key{number}", number)
            await net.nodes[1].put("key1", "newer")
            late = await net.add()
            assert await late.joined(10)
            await trio.sleep(1)
            assert all(holds(late, f"key{number}") for number in range(6))
            records = late.store.get(b"key1", late.host.clock.wall_ms())
            assert len(records) == 1

    run_virtual(main)


def test_a_late_joiner_is_handed_the_records_of_those_that_left(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(8) as net:
            await trio.sleep(1)
            await net.nodes[5].put("k", 1)
            await trio.sleep(1)
            net.crash(net.nodes[5])
            late = await net.add(20)
            assert await late.joined(10)
            await trio.sleep(1)
            assert holds(late, "k")

    run_virtual(main)


def test_those_known_to_be_gone_are_not_asked(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(28) as net:
            await trio.sleep(15)
            author = nearest(net.nodes, "k", 28)[-1]
            await author.put("k", 1)
            victims = [node for node in nearest(net.nodes, "k")[:4] if node is not net.nodes[0]]
            gone = {net.crash(node) for node in victims}
            await trio.sleep(0.1)
            asked: list[PeerId] = []
            requests: Any = author.host.requests
            plain = requests.ask

            async def ask(peer: PeerId, service: Any, query: Any, *rest: Any) -> Any:
                if isinstance(query, PutRecords):
                    asked.append(peer)
                return await plain(peer, service, query, *rest)

            requests.ask = ask
            await author.put("k", 2)
            await trio.sleep(1)
            assert len(asked) >= 15 and not gone & set(asked)

    run_virtual(main)


@pytest.mark.parametrize("seed", SEEDS)
def test_peers_that_join_in_one_moment_find_each_other(seed: int) -> None:
    async def main() -> None:
        async with MemorySwitch(seed=seed, latency=0.01, jitter=0.02) as switch, AsyncExitStack() as stack:
            networks = []
            for number in range(12):
                identity = Identity.from_seed(bytes([number + 1]) * 32)
                networks.append((identity, switch.network(identity)))
            nodes = []
            for identity, network in networks:
                host = await stack.enter_async_context(
                    open_host(
                        network,
                        identity,
                        bootstrap=networks[0][1].addrs if nodes else (),
                        clock=VirtualClock(),
                        rng=random.Random(seed),
                    )
                )
                nodes.append(await DHTNode.of(host))
            await trio.sleep(5)
            assert [len(node.table) for node in nodes] == [11] * 12

    run_virtual(main, seed=seed)


def test_one_node_per_host(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(1) as net:
            host = net.nodes[0].host
            assert await DHTNode.of(host) is net.nodes[0]
            await net.nodes[0].aclose()
            with pytest.raises(Closed):
                await net.nodes[0].put("k", 1)
            made: list[DHTNode] = []

            async def make() -> None:
                made.append(await DHTNode.of(host))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(make)
                nursery.start_soon(make)
            assert made[0] is made[1] is not net.nodes[0]
            await made[0].put("k", 1)

    run_virtual(main)


def test_a_peer_alone_is_its_own_network(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(1) as net:
            node = net.nodes[0]
            assert await node.joined(0)
            report = await node.put("k", 1)
            assert report.stored_at == (node.host.peer_id,) and not report.refused
            assert (await node.get("k")).value == 1

    run_virtual(main)


def test_nobody_there_is_unreachable_and_says_what_was_tried(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(1) as net:
            gone = net.crash(net.nodes[0])
            node = await net.add(5)
            assert not await node.joined(3)
            with pytest.raises(Unreachable) as caught:
                await node.get("k")
            (attempt,) = caught.value.attempts
            assert gone in attempt[0] and "refused" in attempt[1]
            with pytest.raises(Unreachable, match="'public'"):
                await node.put("k", 1)

    run_virtual(main)


def test_a_bootstrap_that_comes_up_late_or_restarts_is_joined(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(1) as net:
            net.crash(net.nodes[0])
            early = [await net.add(number) for number in (1, 2)]
            await trio.sleep(20)
            first = await net.add(0)
            for node in early:
                assert await node.joined(30)
            await early[0].put("k", 1)
            assert (await first.get("k")).value == 1
            net.crash(first)
            await trio.sleep(3)
            assert (await early[1].get("k")).value == 1
            again = await net.add(0)  # it remembers nobody
            await trio.sleep(90)
            assert len(again.table) == 2
            assert (await again.get("k")).value == 1
            late = await net.add(9)
            assert await late.joined(5)
            assert (await late.get("k")).value == 1

    run_virtual(main)


def test_two_networks_on_one_bootstrap_stay_apart(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(4) as net:
            stranger = await net.add(8, network="another")
            assert not await stranger.joined(20)
            await trio.sleep(60)
            foreign = stranger.host.peer_id
            assert all(not node.table.knows(foreign) for node in net.nodes[:4])
            assert len(stranger.table) == 0
            with pytest.raises(Unreachable, match="another network"):
                await stranger.get("k")

    run_virtual(main)


def test_a_crash_fails_open_questions_at_once(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(4, latency=0.05) as net:
            await trio.sleep(1)
            async with trio.open_nursery() as nursery:
                began = trio.current_time()
                net.switch.freeze(net.nodes[3].host.peer_id)  # it takes the question and says nothing

                async def put() -> None:
                    await net.nodes[0].put("k", 1)
                    assert trio.current_time() - began < 1

                nursery.start_soon(put)
                await trio.sleep(0.3)
                net.crash(net.nodes[3])

    run_virtual(main)


def test_partitioned_halves_work_and_agree_after_healing(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(8) as net:
            await trio.sleep(1)
            left, right = net.nodes[:4], net.nodes[4:]
            net.switch.partition({n.host.peer_id for n in left}, {n.host.peer_id for n in right})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(left[0].put, "k", "left")
                nursery.start_soon(right[0].put, "k", "right")
            await trio.sleep(20)
            assert {r.value for r in (await left[1].get_all("k")).values()} == {"left"}
            assert {r.value for r in (await right[1].get_all("k")).values()} == {"right"}
            net.switch.heal()
            await trio.sleep(100)
            for node in net.nodes:
                assert {r.value for r in (await node.get_all("k")).values()} == {"left", "right"}

    run_virtual(main)


def test_arguments_are_checked_and_the_text_says_what_is_allowed(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(1) as net:
            node = net.nodes[0]
            cases: list[tuple[Callable[[], Awaitable[Any]], type[Exception], str]] = [
                (lambda: node.put("k", 1, ttl=0.9), ConfigurationError, "1 to 3600 seconds"),
                (lambda: node.put("k", 1, ttl=3601), ConfigurationError, "keep\\(\\)"),
                (lambda: node.put("k", 1, ttl=float("nan")), ConfigurationError, "not allowed"),
                (lambda: node.put("", 1), ConfigurationError, "1 to 128 bytes"),
                (lambda: node.put("k" * 129, 1), ConfigurationError, "has 129"),
                (lambda: node.get("\ud800"), ConfigurationError, "a key is text"),
                (lambda: node.put("k", 1, suffix="s" * 58), ConfigurationError, "0 to 57 bytes"),
                (lambda: node.put("k", object()), ConfigurationError, "object cannot be stored"),
                (lambda: node.put("k", 2**80), ConfigurationError, "msgpack can hold"),
                (lambda: node.put("k", bytes(1024)), RecordRejected, "TOO_LARGE.*at most 1024"),
            ]
            for call, error, text in cases:
                with pytest.raises(error, match=text):
                    await call()
            with pytest.raises(ConfigurationError):
                node.keep("k", 1, ttl=0.5)
            assert len(node.store) == 0
            await node.put("k" * 128, bytes(1021), ttl=30, suffix="s" * 57)
            await node.put("none", None, ttl=3600)
            assert (await node.get("none")).value is None

    run_virtual(main)


def test_a_kept_record_outlives_its_ttl_until_it_is_let_go(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(4) as net:
            async with net.nodes[1].keep("k", 1, ttl=30) as kept:
                assert (await net.nodes[2].get("k")).value == 1
                await trio.sleep(200)
                record = await net.nodes[2].get("k")
                assert record.value == 1 and record.expires_in > 15
                await kept.update(2)
                assert (await net.nodes[2].get("k")).value == 2
                await trio.sleep(100)
                assert (await net.nodes[2].get("k")).value == 2
            await trio.sleep(31)
            assert await net.nodes[2].get("k") is None
            with pytest.raises(Closed):
                await kept.update(3)

    run_virtual(main)


def test_a_kept_record_survives_being_cut_off(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(4) as net:
            me = net.nodes[3].host.peer_id
            others: set[PeerId] = {node.host.peer_id for node in net.nodes[:3]}
            async with net.nodes[3].keep("k", 1, ttl=30):
                net.switch.partition({me}, others)
                await trio.sleep(300)
                assert await net.nodes[1].get("k") is None
                net.switch.heal()
                await trio.sleep(100)
                assert (await net.nodes[1].get("k")).value == 1

    run_virtual(main)


def test_an_author_that_restarts_with_its_key_overrides_its_old_record(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(4) as net:
            await net.nodes[2].put("k", "before")
            net.crash(net.nodes[2])
            again = await net.add(2)
            await again.put("k", "after")
            values = [r.value for r in (await net.nodes[1].get_all("k")).values()]
            assert values == ["after"]

    run_virtual(main)
