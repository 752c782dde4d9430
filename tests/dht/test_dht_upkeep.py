"""Upkeep: rates, clocks, peers on disk, clients, and records that outlive their holders."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import trio
from dht_simulation import World, run_world

from moshgrid.dht import DHTConfig, DHTNode, Limits
from moshgrid.dht.clock_comparison import ClockComparison
from moshgrid.dht.good_peers import load_addrs, save_addrs
from moshgrid.dht.rates import Bucket, Rates
from moshgrid.p2p.clock import VirtualClock
from moshgrid.p2p.errors import ConfigurationError
from moshgrid.p2p.host import open_host
from moshgrid.p2p.identity import Identity, PeerId
from moshgrid.p2p.testing import run_virtual

A, B = PeerId("a"), PeerId("b")


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = Bucket(2.0, 3.0, 0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(1.0) for _ in range(3)] == [True, True, False]
    assert not bucket.take(-100.0) and not bucket.take(-99.9)


def test_each_peer_has_its_own_rate_and_signatures_are_counted_together() -> None:
    rates = Rates(Limits(puts_per_second=1, puts_at_once=2, signatures_per_second=1))
    assert [rates.may_put(A, 0.0) for _ in range(3)] == [True, True, False]
    assert rates.may_put(B, 0.0) and rates.may_put(A, 1.0)
    assert [rates.may_verify(0.0) for _ in range(3)] == [True, True, False]


def test_whoever_sends_bad_signatures_is_cut_for_a_minute() -> None:
    rates = Rates(Limits(bad_signatures_per_minute=2))
    for _ in range(2):
        rates.bad_signature(A, 0.0)
    assert rates.may_put(A, 0.0)
    rates.bad_signature(A, 0.0)
    assert not rates.may_put(A, 59.0) and rates.may_put(B, 59.0) and rates.may_put(A, 60.0)


@pytest.mark.parametrize(
    ("offsets", "off", "useless"),
    [
        ([0] * 5, False, False),
        ([90_000] * 4, False, False),
        ([90_000] * 2 + [0] * 3, False, False),
        ([-4_000] * 5, True, False),
        ([31_000] * 3 + [0] * 2, True, True),
    ],
)
def test_a_clock_is_judged_by_the_median_of_five(offsets: list[int], off: bool, useless: bool) -> None:
    clocks = ClockComparison()
    for number, offset in enumerate(offsets):
        clocks.heard(str(number), 1_000_000 + offset, 999_990, 1_000_010)
    assert (clocks.is_off, clocks.is_useless) == (off, useless)


def test_peers_are_saved_and_loaded_for_their_network_only(tmp_path: Path) -> None:
    file = tmp_path / "deeper" / "peers"
    assert load_addrs(file, "n") == ()
    save_addrs(file, "n", ["/ip4/1.2.3.4/tcp/1/p2p/x", "/memory/1/p2p/y"] * 2)
    assert load_addrs(file, "n") == ("/ip4/1.2.3.4/tcp/1/p2p/x", "/memory/1/p2p/y")
    assert load_addrs(file, "other") == ()
    assert [entry.name for entry in file.parent.iterdir()] == ["peers"]


def test_whatever_else_the_file_holds_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    file = tmp_path / "peers"
    save_addrs(file, "n", [f"/memory/{number}/p2p/x" for number in range(40)])
    whole = file.read_bytes()
    rng = random.Random(1)
    torn = [whole[: rng.randrange(len(whole))] for _ in range(50)]
    wrong: list[Any] = [[], {}, {"network": "n"}, {"network": "n", "addrs": "x"}, None, 5]
    for content in [*torn, *(json.dumps(each).encode() for each in wrong), b"\xff" * 99, b"[" * 100_000]:
        file.write_bytes(content)
        assert load_addrs(file, "n") == ()
    for content in (b" " * 300_000, json.dumps({"network": "n", "addrs": [1, "x", "é/p2p/", None]}).encode()):
        file.write_bytes(content)
        assert load_addrs(file, "n") == ()


async def start(
    net: Any, number: int, nursery: trio.Nursery, *, config: DHTConfig, **options: Any
) -> DHTNode:
    """A node of the swarm's network with a config of its own."""
    identity = Identity.from_seed((1_000 + number).to_bytes(32))
    clock = options.pop("clock", VirtualClock())

    async def run(*, task_status: Any) -> None:
        async with open_host(
            net.switch.network(identity), identity, clock=clock, rng=random.Random(number), **options
        ) as host:
            task_status.started(await DHTNode.of(host, config))
            await trio.sleep_forever()

    node: DHTNode = await nursery.start(run)
    return node


def test_with_all_bootstrap_peers_dead_a_restart_rejoins_from_disk(swarm: Any, tmp_path: Path) -> None:
    async def main() -> None:
        config = DHTConfig(peers_file=tmp_path / "peers")
        async with swarm(12) as net, trio.open_nursery() as nursery:
            node = await start(net, 1, nursery, config=config, bootstrap=net.bootstrap)
            await node.join(10)
            await trio.sleep(3)
            await node.aclose()
            await trio.sleep(0.1)
            net.switch.crash(node.host.peer_id)
            net.crash(net.nodes[0])
            await net.nodes[0].put("k", 1)
            again = await start(net, 1, nursery, config=config, bootstrap=net.bootstrap)
            began = trio.current_time()
            await again.join(10)
            assert (await again.get("k")).value == 1  # type: ignore[union-attr]
            assert trio.current_time() - began < 10
            nursery.cancel_scope.cancel()

    run_virtual(main)


def test_a_client_puts_gets_and_watches_but_holds_nothing(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(8) as net, trio.open_nursery() as nursery:
            client = await start(net, 1, nursery, config=DHTConfig(client=True), bootstrap=net.bootstrap)
            await client.join(10)
            await trio.sleep(5)
            report = await client.put("k", 1)
            assert len(report.stored_at) >= 5 and client.host.peer_id not in report.stored_at
            await net.nodes[2].put("other", 2)
            assert (await client.get("other")).value == 2  # type: ignore[union-attr]
            async with client.watch("k") as changes:
                assert (await changes.receive()).value == 1
                await net.nodes[3].put("k", 3)
                with trio.fail_after(2):
                    assert (await changes.receive()).value == 3
            assert list(client.store.all_keys()) == [b"k"]
            for node in net.nodes:
                assert not node.table.knows(client.host.peer_id)
            nursery.cancel_scope.cancel()

    run_virtual(main)


@pytest.mark.parametrize(("ahead_ms", "writes"), [(2_000, True), (-20_000, True), (300_000, False)])
def test_whoever_has_a_wrong_clock_is_told(
    swarm: Any, caplog: pytest.LogCaptureFixture, ahead_ms: int, writes: bool
) -> None:
    async def main() -> None:
        async with swarm(8) as net, trio.open_nursery() as nursery:
            clock = VirtualClock(1_700_000_000_000 + ahead_ms)
            node = await start(net, 1, nursery, config=DHTConfig(), bootstrap=net.bootstrap, clock=clock)
            await node.join(10)
            await trio.sleep(30)
            if writes:
                assert len((await node.put("k", 1, ttl=120)).stored_at) >= 5
            else:
                with pytest.raises(ConfigurationError, match=r"clock is 300\.0 s ahead of those of"):
                    await node.put("k", 1)
            assert (await net.nodes[1].put("other", 1)).refused.get(node.host.peer_id) in (None, "EXPIRED")
            nursery.cancel_scope.cancel()

    run_virtual(main)
    assert ("clock is" in caplog.text) == (abs(ahead_ms) > 3_000)


def test_clocks_half_a_minute_off_refuse_no_good_record(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(1) as net, trio.open_nursery() as nursery:
            nodes = []
            for number in range(12):  # a third of them are off
                ahead = (29_000, -29_000)[number % 2] if number % 3 == 0 else 0
                clock = VirtualClock(1_700_000_000_000 + ahead)
                nodes.append(
                    await start(
                        net, number, nursery, config=DHTConfig(), bootstrap=net.bootstrap, clock=clock
                    )
                )
            await trio.sleep(30)
            for number, node in enumerate(nodes):
                report = await node.put("k", number, ttl=120, suffix=str(number), acks=20)
                assert not report.refused and len(report.stored_at) >= 12
            for node in nodes:
                records = await node.get_all("k")
                assert {record.value for record in records.values()} == set(range(12))
            nursery.cancel_scope.cancel()

    run_virtual(main)


class SteppedClock(VirtualClock):
    """Somebody sets the computer's clock while the program runs."""

    step_ms = 0

    def wall_ms(self) -> int:
        return super().wall_ms() + self.step_ms


@pytest.mark.parametrize("step_ms", [3_600_000, -3_600_000])
def test_a_clock_that_is_set_while_a_node_runs_moves_no_deadline(swarm: Any, step_ms: int) -> None:
    async def main() -> None:
        async with swarm(6) as net, trio.open_nursery() as nursery:
            clock = SteppedClock()
            node = await start(net, 9, nursery, config=DHTConfig(), bootstrap=net.bootstrap, clock=clock)
            await trio.sleep(10)
            await net.nodes[1].put("k", 1, ttl=3_600)
            clock.step_ms = step_ms
            net.switch.freeze(net.nodes[2].host.peer_id)
            began = trio.current_time()
            assert not await node._asker.ping(net.nodes[2].host.peer_id)
            assert 4 < trio.current_time() - began < 12, "it waits as long as before"
            net.switch.thaw(net.nodes[2].host.peer_id)
            clock.step_ms = 0
            assert (await node.get("k")).value == 1
            assert len((await node.put("l", 2)).stored_at) >= 5
            assert len(node.table) >= 5, "nobody was lost over it"
            nursery.cancel_scope.cancel()

    run_virtual(main)


def test_holders_bring_a_record_to_those_that_took_the_places_of_the_dead(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(40) as net:
            await trio.sleep(5)
            author = net.nodes[1]
            await author.put("k", 1, ttl=3_600, acks=20)
            net.crash(author)
            holders = [node for node in net.nodes if list(node.store.all_keys())]
            for node in holders[:14]:
                net.crash(node)
            await trio.sleep(900)
            assert sum(bool(list(node.store.all_keys())) for node in net.nodes) >= 20

    run_virtual(main)


def test_a_node_with_few_buckets_learns_how_near_peers_usually_are() -> None:
    async def main(world: World) -> None:
        first, *others = world.add_many(22)
        nodes = [await world.start(first)] + [await world.start(peer, [first]) for peer in others]
        await trio.sleep(30)
        for node in nodes:
            assert node._asker.density.reach(20) is not None

    run_world(main, seed=12)


def test_a_node_takes_only_so_many_puts_of_one_peer(swarm: Any) -> None:
    async def main() -> None:
        async with swarm(3) as net:
            await trio.sleep(3)
            sent = [net.nodes[1].put("k", number, suffix=str(number % 3)) for number in range(150)]
            reports = []
            for each in sent:
                reports.append(await each)
            refused = [report for report in reports if report.refused]
            assert 0 < len(refused) <= 50
            assert "Refusal" in next(iter(refused[0].refused.values()))
            await trio.sleep(5)
            assert not (await net.nodes[1].put("k", 1)).refused

    run_virtual(main)
