"""What the DHT promises when many fail, lie or crowd in, with 1,000 simulated peers.

Samples by default; ``make simulate`` runs the whole. Each test prints the numbers it found.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

import pytest
from dht_simulation import DHTSimulation, Peer, identity_of, open_dht

from moshgrid.dht.diversity import Place
from moshgrid.dht.keys import peer_bytes, point_of_key, point_of_peer
from moshgrid.dht.wire import Answer, FindNode, Found, GetRecords, PeerEntry, PutRecords, Query, Taken
from moshgrid.p2p.identity import PeerId, peer_id_from_public_key

SIZE = 1_000
PREFIX = bytes.fromhex("002408011220")


def spread(number: int) -> Place:
    """Honest peers live in blocks of their own, seven to a range."""
    return f"10.{number // 7}.{number}", f"10.{number // 7}"


def some(
    net: DHTSimulation, seed: int, honest: Callable[[Peer], bool] = lambda peer: peer.lie is None
) -> Peer:
    return random.Random(seed).choice([peer for peer in net.peers.values() if honest(peer)])


def whole_and_sample(sample: int, whole: int) -> list[object]:
    return [pytest.param(sample, id="sample"), pytest.param(whole, id="whole", marks=pytest.mark.slow)]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("killed", "least"), [(0.5, 0.999), (0.7, 0.99)])
@pytest.mark.parametrize("lookups", whole_and_sample(100, 10_000))
def test_d1_after_mass_failure_records_are_found(lookups: int, killed: float, least: float) -> None:
    net = open_dht(SIZE, seed=1)
    keys = [f"k{number}".encode() for number in range(min(lookups, 500))]
    for number, key in enumerate(keys):
        writer = identity_of(1 + number % SIZE)
        assert len(net.put(net.peers[writer.peer_id], net.sign(writer, key))) >= 19
    net.crash(net.rng.sample(sorted(net.peers), round(SIZE * killed)))
    found, before = 0, net.asked
    for number in range(lookups):
        found += bool(net.get(some(net, number), keys[number % len(keys)]))
    questions = (net.asked - before) / lookups
    print(f"\nD1 killed {killed:.0%}: {found}/{lookups} found, {questions:.1f} questions each")
    assert found >= least * lookups
    assert questions <= 60


def liar(rng: random.Random) -> Callable[[Peer, Query], Answer | None]:
    """Drops, hides what it holds, or names peers that are not there."""
    mode = rng.randrange(3)

    def lie(peer: Peer, query: Query) -> Answer | None:
        if isinstance(query, PutRecords):
            return Taken([b""] * len(query.records))
        if mode == 0:
            return None
        if mode == 1 or not isinstance(query, GetRecords | FindNode):
            return Found()
        names = [peer_id_from_public_key(rng.randbytes(32)) for _ in range(20)]
        return Found([rng.randbytes(200)], [PeerEntry(peer_bytes(name)) for name in names])

    return lie


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("share", "least"), [(0.2, 0.999), (0.3, 0.995), (0.5, 0.99)])
@pytest.mark.parametrize("lookups", whole_and_sample(60, 2_000))
def test_d3_liars_do_not_hide_records(lookups: int, share: float, least: float) -> None:
    net = open_dht(SIZE, seed=3)
    for peer in net.rng.sample(sorted(net.peers), round(SIZE * share)):
        net.peers[peer].lie = liar(net.rng)
    found = 0
    for number in range(lookups):
        writer = some(net, number)
        author = identity_of(50_000 + number)
        net.put(writer, net.sign(author, key := f"k{number}".encode()))
        records = net.get(some(net, number + 1_000_000), key)
        found += [record.author for record in records.values()] == [author.peer_id]
    print(f"\nD3 {share:.0%} liars: {found}/{lookups} found")
    assert found >= least * lookups


def ground(rng: random.Random, target: int, within: int, count: int) -> list[PeerId]:
    """Identities nearer to ``target`` than ``within``."""
    found = []
    while len(found) < count:
        key = rng.randbytes(32)
        if int.from_bytes(hashlib.sha256(PREFIX + key).digest()) ^ target < within:
            found.append(peer_id_from_public_key(key))
    return found


SETTINGS: dict[str, tuple[int, Callable[[int], Place], float]] = {
    "200 in 4 blocks": (200, lambda n: (f"66.0.{n % 4}", "66.0"), 0.99),
    "200 in 50 blocks of 5 ranges": (200, lambda n: (f"66.{n % 5}.{n % 50}", f"66.{n % 5}"), 0.99),
    "1,000 in 200 ranges": (1_000, lambda n: (f"66.{n % 200}.{n}", f"66.{n % 200}"), 0.90),
}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("trials", whole_and_sample(1, 60))
def test_d4_identities_ground_next_to_a_key_do_not_hide_it(trials: int, setting: str) -> None:
    count, place, least = SETTINGS[setting]
    size = 300 if trials == 1 else SIZE
    count = count * size // SIZE
    found = forged = 0
    for trial in range(trials):
        net = DHTSimulation(400 + trial)
        for number in range(size):
            net.add(identity_of(1 + number).peer_id, spread(number))
        key = f"victim{trial}".encode()
        target = point_of_key(net.network, key)
        within = sorted(point_of_peer(peer) ^ target for peer in net.peers)[19]
        sybils = ground(net.rng, target, within, count)
        author = identity_of(50_000)
        old = net.sign(author, key, b"\x00")
        net.now += 1

        def lie(peer: Peer, query: Query, sybils: list[PeerId] = sybils, old: bytes = old) -> Answer | None:
            if isinstance(query, PutRecords):
                return Taken([b""] * len(query.records))
            near = random.Random(peer.id).sample(sybils, 20)  # of whom none is honest
            rolled_back = [old] if isinstance(query, GetRecords) else []
            return Found(rolled_back, [PeerEntry(peer_bytes(name)) for name in near])

        net.introduce_all()  # the attack comes to a network that lives
        for number, sybil in enumerate(sybils):
            net.add(sybil, place(number), lie)
        net.introduce_all()
        net.measure_density(some(net, trial))
        net.put(some(net, trial + 1), net.sign(author, key, b"\x01"))
        values = [record.value for record in net.get(some(net, trial + 2), key).values()]
        found += values == [b"\x01"]
        forged += any(value not in (b"\x00", b"\x01") for value in values)
    print(f"\nD4 {setting}: {found}/{trials} found, {forged} forged")
    assert found >= least * trials and not forged


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("size", "hours"), [(150, 1.0), pytest.param(SIZE, 6.0, marks=pytest.mark.slow)], ids=["sample", "whole"]
)
def test_d2_churn_loses_no_record_of_a_living_author(size: int, hours: float) -> None:
    net = open_dht(size, seed=2)
    half_life, step, ttl = 2 * 3_600.0, 300.0, 1_800.0
    authors = [identity_of(1 + number) for number in range(size // 3)]
    living = {author.peer_id for author in authors}  # authors stay; everybody else comes and goes
    newest, lost, reads, number = dict[bytes, bytes](), 0, 0, size
    for tick in range(round(hours * 3_600 / step)):
        for at, author in enumerate(authors):
            if (tick + at) % 2 == 0:  # every third of its life
                key, value = b"k%d" % at, tick.to_bytes(2) + b"\x01"
                assert net.put(net.peers[author.peer_id], net.sign(author, key, value, ttl))
                newest[key] = value
        net.now += step
        leaving = [
            p
            for p in sorted(net.peers)
            if p not in living and net.rng.random() < 1 - 0.5 ** (step / half_life)
        ]
        net.crash(leaving)
        for _ in leaving:
            number += 1
            peer = net.add(identity_of(1 + number).peer_id)
            for known in net.rng.sample(sorted(net.peers), 3):
                net.ask(peer, known, FindNode(net.network, None, point_of_peer(peer.id).to_bytes(32)))
            for point in (point_of_peer(peer.id), *peer.table.stale_points(net.now, net.rng)):
                for met in net.find(peer, point).closest:  # whoever is asked asks back
                    net.peers[met].table.answered(peer.id, net.now)
        for key, value in net.rng.sample(sorted(newest.items()), min(len(newest), 50)):
            reads += 1
            lost += value not in [record.value for record in net.get(some(net, reads), key).values()]
    print(f"\nD2 {hours:g} h: {number - size} of {size} replaced, {lost} of {reads} reads failed")
    assert not lost
