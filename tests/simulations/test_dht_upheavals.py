"""What the DHT promises in bad times, with whole simulated nodes and all their timers: churn, poisoned
tables, partitions, several swarms, lying bootstrap peers.

Samples by default; ``make simulate`` runs the whole. Each test prints its seed, its trace hash, and the
numbers it found.
"""

from __future__ import annotations

import heapq
from pathlib import Path
from typing import Any

import pytest
import trio
from dht_attacks import accomplices
from dht_simulation import NETWORK_NAME, Peer, World, each_at_once, identity_of, run_world

from moshgrid.dht import joining
from moshgrid.dht.keys import peer_bytes, point_of_key, point_of_peer
from moshgrid.dht.wire import Answer, FindNode, Found, PeerEntry, Ping, Pong, Query
from moshgrid.p2p.host import network_id
from moshgrid.p2p.identity import PeerId

NETWORK = network_id(NETWORK_NAME)


def whole_and_sample(sample: Any, whole: Any) -> list[object]:
    return [pytest.param(*sample, id="sample"), pytest.param(*whole, id="whole", marks=pytest.mark.slow)]


def look_around_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody looks around far less often than it would: harder, and a fraction of the computing time."""
    monkeypatch.setattr(joining, "_REFRESH_SECONDS", 7_200.0)
    monkeypatch.setattr(joining, "_SELF_LOOKUPS", (2.0, 10.0, 60.0, 1_800.0))


def near(world: World, peer: Peer, count: int = 20) -> list[PeerId]:
    """The living nearest to ``peer``."""
    own = point_of_peer(peer.id)
    others = (other.id for other in world.honest if other is not peer)
    return heapq.nsmallest(count, others, key=lambda other: point_of_peer(other) ^ own)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("size", "steady", "each", "hours", "half_life"),
    whole_and_sample((40, 10, 1, 0.5, 3_600.0), (1_000, 250, 4, 6.0, 7_200.0)),
)
def test_d2_churn_loses_no_record_of_a_living_author(
    size: int, steady: int, each: int, hours: float, half_life: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``steady`` authors keep ``each`` records; all others come and go."""
    look_around_less(monkeypatch)
    step, seed = 60.0, 2

    async def main(world: World) -> dict[str, float]:
        lost = reads = replaced = number = 0
        peers = world.add_many(size)
        world.settle()
        for peer in peers:
            await world.start(peer, peers[:3], settled=True)
        kept = [(at, author) for author in peers[:steady] for at in range(each)]
        for at, author in kept:
            author.node.keep(f"{author.id[-8:]}/{at}"[-20:].replace("/", "."), at, 3_600)  # type: ignore[union-attr]
            if at == 0:
                await trio.sleep(1)
        await trio.sleep(60)

        async def read(at: int, author: Peer) -> None:
            nonlocal lost, reads
            reader = world.rng.choice(world.nodes())
            record = await reader.get(f"{author.id[-8:]}.{at}")
            reads += 1
            lost += record is None or record.value != at

        for tick in range(round(hours * 3_600 / step)):
            gone = [p for p in world.honest[steady:] if world.rng.random() < 1 - 0.5 ** (step / half_life)]
            world.crash(gone, refuses=tick % 2 == 0)
            for _ in gone:
                number += 1
                await world.start(world.add(identity_of(10_000 + number)), world.rng.sample(world.honest, 3))
            replaced += len(gone)
            await trio.sleep(step)
            await each_at_once(
                lambda one=one: read(*one) for one in world.rng.sample(kept, min(10, len(kept)))
            )
        await each_at_once(lambda one=one: read(*one) for one in kept)
        aware = [peer for peer in world.honest if peer.node is not None and not peer.starting]
        know = [len(set(peer.node.table.live_peers()) & set(near(world, peer))) for peer in aware]  # type: ignore[union-attr]
        listed = [other for peer in aware for other in peer.node.table.live_peers()]  # type: ignore[union-attr]
        dead = sum(not world.peers[other].alive for other in listed)
        return {
            "lost": lost, "reads": reads, "replaced": replaced, "questions": world.asked,
            "know 18 of 20": sum(n >= 18 for n in know) / len(know), "dead entries": dead / len(listed),
        }  # fmt: skip

    outcome, trace = run_world(main, seed)
    print(f"\nD2 seed {seed} trace {trace[:16]}: {size} nodes, {hours:g} h, {outcome}")
    assert outcome["replaced"] and not outcome["lost"]
    assert outcome["know 18 of 20"] >= 0.95
    assert outcome["dead entries"] <= 0.15


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("size", "split"), whole_and_sample((40, 120.0), (1_000, 1_800.0)))
def test_d8_halves_work_apart_and_agree_after_healing(
    size: int, split: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed, keys = 8, min(20, size // 4)
    if size > 100:
        look_around_less(monkeypatch)

    async def main(world: World) -> dict[str, float]:
        peers = world.add_many(size)
        world.settle()
        for peer in peers:
            await world.start(peer, peers[:6], settled=True)
        await trio.sleep(30)
        for number, peer in enumerate(peers):
            peer.side = number % 2
        await trio.sleep(30)
        writers = world.rng.sample(peers, 2 * keys)
        writers.sort(key=lambda peer: peer.side)
        sides = [[peer for peer in writers if peer.side == side][:keys] for side in (0, 1)]
        for authors in sides:
            for at, author in enumerate(authors):
                author.node.keep(f"k{at}", author.id, 3_600)  # type: ignore[union-attr]

        async def sees(reader: Peer, at: int, wanted: set[PeerId]) -> bool:
            records = await reader.node.get_all(f"k{at}")  # type: ignore[union-attr]
            return {record.value for record in records.values()} == wanted

        async def count(per_key: int, wanted: Any) -> float:
            good = []

            async def one(at: int) -> None:
                reader = world.rng.choice(world.honest)
                good.append(await sees(reader, at, wanted(reader.side, at)))

            await each_at_once(lambda at=at: one(at) for at in [*range(keys)] * per_key)
            return sum(good) / len(good)

        await trio.sleep(split)
        apart = await count(5, lambda side, at: {sides[side][at].id for _ in "1" if at < len(sides[side])})
        for peer in peers:
            peer.side = 0
        await trio.sleep(110)
        everybody = [{side[at].id for side in sides if at < len(side)} for at in range(keys)]
        healed = await count(5, lambda side, at: everybody[at])
        await trio.sleep(max(split / 2, 900.0))  # holders bring each other up to date every ten minutes
        later = await count(5, lambda side, at: everybody[at])
        agree = []
        for at in range(keys):
            now = peers[0].node.host.clock.wall_ms()  # type: ignore[union-attr]
            for peer in world.nearest(point_of_key(NETWORK, b"k%d" % at)):
                held = {r.author for r in peer.node.store.get(b"k%d" % at, now)}  # type: ignore[union-attr]
                agree.append(held == everybody[at])
        return {"apart": apart, "after 2 min": healed, "later": later, "agree": sum(agree) / len(agree)}

    outcome, trace = run_world(main, seed)
    print(f"\nD8 seed {seed} trace {trace[:16]}: {size} nodes split for {split:g} s, {outcome}")
    assert outcome == {"apart": 1.0, "after 2 min": 1.0, "later": 1.0, "agree": 1.0}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("size", "minutes"), whole_and_sample((10, 12), (150, 60)))
def test_d9_two_swarms_that_share_a_bootstrap_peer_stay_apart(size: int, minutes: int) -> None:
    seed = 9

    async def main(world: World) -> int:
        shared, *peers = world.add_many(2 * size)
        await world.start(shared, network="one")
        entrance = peers[1]
        for number, peer in enumerate(peers):
            await world.start(peer, [shared, entrance], network="two" if number % 2 else "one")
            await trio.sleep(0.5)
        await trio.sleep(60 * minutes)
        two = {peer.id for peer in peers[1::2]}
        foreign = sum(
            (other in two) != (peer.id in two)
            for peer in world.honest
            for other in peer.node.table.live_peers()
        )  # type: ignore[union-attr]
        sizes = [len(peer.node.table) for peer in world.honest]  # type: ignore[union-attr]
        assert min(sizes) >= min(size, 17) - 2, sizes
        return foreign

    foreign, trace = run_world(main, seed)
    print(f"\nD9 seed {seed} trace {trace[:16]}: {minutes} min, {foreign} foreign entries")
    assert not foreign


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("size", "sybils"), whole_and_sample((24, 12), (300, 150)))
def test_d10_one_lying_bootstrap_peer_of_three_does_not_eclipse(size: int, sybils: int) -> None:
    """It and its accomplices name only each other, those nearest to what is asked for."""
    seed = 10

    async def main(world: World) -> float:
        liars = [world.add(identity_of(20_000 + number), f"/ip4/90.{number % 250}.{number // 250}.1/tcp/1")
                 for number in range(sybils)]  # fmt: skip
        names = [liar.id for liar in liars]

        def lie(peer: Peer, asker: PeerId, query: Query) -> Answer | None:
            if isinstance(query, Ping):
                return Pong(PeerEntry(peer_bytes(peer.id)))
            point = int.from_bytes(query.target) if isinstance(query, FindNode) else point_of_peer(peer.id)
            closest = heapq.nsmallest(20, names, key=lambda name: point_of_peer(name) ^ point)
            return Found(closer=[PeerEntry(peer_bytes(name)) for name in closest])

        for liar in liars:
            liar.lie = lie
        honest = world.add_many(size)
        for peer in honest:
            await world.start(peer, [liars[0], *honest[:2]])
            await trio.sleep(0.3)
        await trio.sleep(60)
        await honest[5].node.put("k", 1, 3_600)  # type: ignore[union-attr]
        good = 0
        for number, peer in enumerate(honest):
            await peer.node.put(f"own{number}", 1, 3_600)  # type: ignore[union-attr]
            hears = await peer.node.get("k")  # type: ignore[union-attr]
            heard = await honest[5].node.get(f"own{number}")  # type: ignore[union-attr]
            good += hears is not None and heard is not None
        return good / size

    share, trace = run_world(main, seed)
    print(f"\nD10 seed {seed} trace {trace[:16]}: {size} nodes, {sybils} liars, {share:.1%} among the honest")
    assert share >= 0.99


def test_d10_with_all_bootstrap_peers_dead_everybody_rejoins_from_disk(tmp_path: Path) -> None:
    async def main(world: World) -> float:
        peers = world.add_many(20)
        for number, peer in enumerate(peers):
            await world.start(peer, peers[:3], peers_file=tmp_path / str(number))
            await trio.sleep(0.2)
        await trio.sleep(200)
        again = peers[3:9]
        world.crash(peers[:9])
        await trio.sleep(30)
        began, slowest = trio.current_time(), 0.0
        for peer in again:
            node = await world.start(peer, peers[:3], peers_file=tmp_path / str(peers.index(peer)))
            before = trio.current_time()
            await node.join(10)
            slowest = max(slowest, trio.current_time() - before)
        assert trio.current_time() - began < 100
        return slowest

    slowest, trace = run_world(main, 10)
    print(f"\nD10 seed 10 trace {trace[:16]}: rejoined within {slowest:.1f} s")
    assert slowest <= 10


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("size", "minutes"), whole_and_sample((14, 12), (100, 30)))
def test_two_swarms_of_one_name_that_meet_through_any_peer_merge(size: int, minutes: int) -> None:
    seed = 11

    async def main(world: World) -> tuple[float, bool]:
        peers = world.add_many(2 * size)
        for number, peer in enumerate(peers):
            await world.start(peer, [peers[number % 2]] if number > 1 else [])
            await trio.sleep(0.3)
        await peers[4].node.put("left", 1, 3_600)  # type: ignore[union-attr]
        await peers[5].node.put("right", 1, 3_600)  # type: ignore[union-attr]
        await trio.sleep(60)
        assert await peers[4].node.get("right") is None  # type: ignore[union-attr]
        await world.start(world.add(identity_of(9_999)), [peers[7], peers[8]])
        await trio.sleep(60 * minutes)
        wanted = min(20, 2 * size) - 2
        # With those that wait for a place: of 25 peers a bucket of 20 has five of the nearest wait.
        tables = [(peer, peer.node.table) for peer in peers]  # type: ignore[union-attr]
        met = [(peer, set(table.candidates(table.own_point, 20))) for peer, table in tables]
        know = [len(candidates & set(near(world, peer))) for peer, candidates in met]
        found = []
        for number, peer in enumerate(peers):
            found.append(await peer.node.get("left" if number % 2 else "right") is not None)  # type: ignore[union-attr]
        return sum(known >= wanted for known in know) / len(know), all(found)

    (share, found), trace = run_world(main, seed)
    print(
        f"\nMerge seed {seed} trace {trace[:16]}: {share:.1%} know 18 of their 20 nearest, all found: {found}"
    )
    assert found and share >= 0.99


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("size", "hours"), whole_and_sample((60, 1), (400, 24)))
def test_d5_identities_in_plenty_do_not_poison_tables(size: int, hours: int) -> None:
    """Ten attackers for each honest peer ask every victim again and again, and answer whenever asked."""
    seed = 5

    async def main(world: World) -> tuple[float, int]:
        honest = world.add_many(size)
        world.settle()
        victims = [await world.start(peer, honest[20:23], settled=True) for peer in honest[:3]]
        names: list[PeerId] = []
        lie = accomplices(names, list, world.rng)
        for number in range(10 * size):  # a quarter of them in one block
            place = f"9.9.9.{number % 250}" if number % 4 == 0 else f"77.{number % 200}.{number // 200}.1"
            names.append(world.add(identity_of(50_000 + number), f"/ip4/{place}/tcp/{1 + number}", lie).id)
        before = [set(node.table.live_peers()) for node in victims]
        most = 0
        for _ in range(hours * 60):
            for node in victims:
                for name in world.rng.sample(names, 20):
                    node._answer(name, Ping(NETWORK, PeerEntry(peer_bytes(name))))
                    if world.rng.random() < 0.5:
                        node._asker._answered(name)  # as when a lookup came by
                place = [other for other in node.table.live_peers() if "/9.9.9." in world.peers[other].addr]
                most = max(most, len(place))
            # One honest peer in 25 a hour is away for half a minute.
            away = [peer for peer in honest[3:] if world.rng.random() < 1 / 1_500]
            world.crash(away)
            await trio.sleep(30)
            for peer in away:
                peer.alive = True
            await trio.sleep(30)
        kept = [
            len(old & set(node.table.live_peers())) / len(old)
            for old, node in zip(before, victims, strict=True)
        ]
        return min(kept), most

    (kept, most), trace = run_world(main, seed)
    print(
        f"\nD5 seed {seed} trace {trace[:16]}: {hours} h, {kept:.1%} of the honest kept, {most} of one block"
    )
    assert kept >= 0.8 and most <= 10
