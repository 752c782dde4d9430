"""What the DHT promises when many fail, lie or crowd in, with 1,000 simulated nodes.

Samples by default; ``make simulate`` runs the whole. Each test prints its seed, its trace hash, and the
numbers it found.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from dht_attacks import accomplices, ground, some_lie
from dht_simulation import NETWORK_NAME, World, each_at_once, run_world

from moshgrid.dht.keys import point_of_key, point_of_peer
from moshgrid.dht.record import Author
from moshgrid.p2p.host import network_id

SIZE = 1_000
NETWORK = network_id(NETWORK_NAME)
TTL = 3_600.0


def whole_and_sample(sample: Any, whole: Any) -> list[object]:
    return [pytest.param(sample, id="sample"), pytest.param(whole, id="whole", marks=pytest.mark.slow)]


async def found(world: World, key: str, value: object) -> bool:
    """True when some honest peer reads ``value``, and nothing else, under ``key``."""
    reader = world.node(world.rng.choice(world.honest))
    return [record.value for record in (await reader.get_all(key)).values()] == [value]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("killed", "least"), [(0.5, 0.999), (0.7, 0.99)])
@pytest.mark.parametrize("lookups", whole_and_sample(30, 10_000))
def test_d1_after_mass_failure_records_are_found(lookups: int, killed: float, least: float) -> None:
    async def main(world: World) -> tuple[int, int]:
        world.add_many(SIZE)
        world.settle()
        keys = min(lookups, 500)

        async def put(number: int) -> None:
            report = await world.node(world.honest[number]).put(f"k{number}", number, TTL, acks=20)
            assert len(report.stored_at) >= 19

        await each_at_once(lambda number=number: put(number) for number in range(keys))
        for share, refuses in ((0.5, True), (1.0, False)):  # some computers say that nobody listens
            dead = round(SIZE * killed * share) - (SIZE - len(world.honest))
            world.crash(world.rng.sample(world.honest, dead), refuses)
        hits, before = 0, world.asked

        async def read(number: int) -> None:
            nonlocal hits
            hit = await found(world, f"k{number % keys}", number % keys)
            hits += hit

        await each_at_once((lambda number=number: read(number) for number in range(lookups)), 50)
        return hits, world.asked - before

    seed = 1
    (hits, asked), trace = run_world(main, seed)
    print(f"\nD1 seed {seed} trace {trace[:16]}: {killed:.0%} killed, {hits}/{lookups} found,"
          f" {asked / lookups:.1f} questions each")  # fmt: skip
    assert hits >= least * lookups
    assert asked <= 60 * lookups


def liars(lookups: int, share: float, seed: int, size: int = SIZE, real: bool = False) -> tuple[int, str]:
    """How many of ``lookups`` records that were put among liars are found, and the trace hash."""

    async def main(world: World) -> int:
        world.add_many(size)
        for peer in world.rng.sample(world.honest, round(size * share)):
            peer.lie = some_lie(world.rng)
        world.settle()
        hits = 0

        async def put_and_get(number: int) -> None:
            nonlocal hits
            writer = world.node(world.rng.choice(world.honest))
            await writer.put(f"k{number}", number, TTL, acks=20)
            hit = await found(world, f"k{number}", number)
            hits += hit

        await each_at_once(lambda number=number: put_and_get(number) for number in range(lookups))
        return hits

    return run_world(main, seed, real)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("share", "least"), [(0.2, 0.999), (0.3, 0.995), (0.5, 0.99)])
@pytest.mark.parametrize("lookups", whole_and_sample(12, 2_000))
def test_d3_liars_do_not_hide_records(lookups: int, share: float, least: float) -> None:
    hits, trace = liars(lookups, share, seed := 3)
    print(f"\nD3 seed {seed} trace {trace[:16]}: {share:.0%} liars, {hits}/{lookups} found")
    assert hits >= least * lookups


def test_equal_seeds_give_equal_traces() -> None:
    traces = {liars(6, 0.3, seed=7, size=120)[1] for _ in range(2)}
    for hash_seed in ("1", "77"):
        here = Path(__file__)
        code = "import test_dht_promises as t; print(t.liars(6, 0.3, seed=7, size=120)[1])"
        places = [*sys.path, str(here.parent), str(here.parents[1] / "support")]
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(places)},
        )  # fmt: skip
        traces.add(done.stdout.strip())
    assert len(traces) == 1
    assert traces != {liars(6, 0.3, seed=8, size=120)[1]}


def test_real_signatures_make_no_difference() -> None:
    assert liars(6, 0.3, seed=7, size=120, real=True)[0] == 6


SETTINGS: dict[str, tuple[int, Callable[[int], str], float]] = {
    "200 in 4 blocks": (200, lambda n: f"/ip4/66.{n % 4}.0.{n}/tcp/1", 0.99),
    "200 in 50 blocks of 5 ranges": (200, lambda n: f"/ip4/66.{n % 5}.{n % 50}.{n}/tcp/1", 0.99),
    "1,000 in 200 ranges": (1_000, lambda n: f"/ip4/66.{n % 200}.{n // 200}.9/tcp/1", 0.90),
}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("established", [True, False], ids=["later", "from the start"])
@pytest.mark.parametrize("trials", whole_and_sample(1, 60))
def test_d4_identities_ground_next_to_a_key_do_not_hide_it(
    trials: int, established: bool, setting: str
) -> None:
    """The attackers come to a network that lives, or were there all the time."""
    count, place, least = SETTINGS[setting]
    outcomes = [attack(400 + trial, SIZE, count, place, established) for trial in range(trials)]
    hits = sum(values == [1] for values, _ in outcomes)
    forged = sum(value not in (0, 1) for values, _ in outcomes for value in values)
    when = "later" if established else "from the start"
    print(f"\nD4 seeds 400-{399 + trials} last trace {outcomes[-1][1][:16]}:"
          f" {setting}, {when}, {hits}/{trials} found, {forged} forged")  # fmt: skip
    assert hits >= least * trials and not forged


def attack(
    seed: int, size: int, count: int, place: Callable[[int], str], established: bool, nearer_than: int = 19
) -> tuple[list[Any], str]:
    """The values read under a key that ``count`` identities crowd in on, and the trace hash."""

    async def main(world: World) -> list[Any]:
        world.add_many(size)
        key = f"victim{seed}"
        target = point_of_key(NETWORK, key.encode())
        within = sorted(point_of_peer(peer) ^ target for peer in world.peers)[nearer_than]
        sybils = ground(world.rng, target, within, count)
        writer, reader = world.rng.sample(world.honest, 2)
        old = Author(writer.identity, NETWORK).sign(key.encode(), b"\x00", 3_600_000, 1_700_000_000_000)
        lie = accomplices([sybil.peer_id for sybil in sybils], lambda: [old], world.rng)
        late = [world.add(sybil, place(number), lie) for number, sybil in enumerate(sybils)]
        world.settle(late if established else ())
        await trio.sleep(1)
        await world.node(writer).put(key, 1, TTL, acks=20)
        await trio.sleep(10)
        return [record.value for record in (await world.node(reader).get_all(key)).values()]

    return run_world(main, seed)


@pytest.mark.parametrize("trials", whole_and_sample(2, 60))
def test_three_identities_nearest_to_a_key_do_not_bring_back_what_was_replaced(trials: int) -> None:
    """Each in a range of its own; too few to make the neighbourhood abnormal."""
    outcomes = [
        attack(900 + trial, SIZE, 3, lambda n: f"/ip4/{80 + n}.1.1.1/tcp/1", True, nearer_than=0)
        for trial in range(trials)
    ]
    newest = sum(values == [1] for values, _ in outcomes)
    print(f"\nThree nearest, seeds 900-{899 + trials}: {newest}/{trials} read the newest")
    assert newest == trials
