"""Keeping reservations over a network, in virtual time: a relay that dies without a word is left soon."""

from __future__ import annotations

import random

import trio
from victim import until

from moshgrid.p2p.clock import VirtualClock
from moshgrid.p2p.identity import Identity, PeerId
from moshgrid.p2p.relay_keeping import RelayKeeping
from moshgrid.p2p.relay_server import RelayServer
from moshgrid.p2p.testing import MemoryNetwork, MemorySwitch, run_virtual

HOME, *RELAYS = (Identity.from_seed(bytes([number]) * 32) for number in range(1, 6))
FIRST, SECOND, *_ = (relay.peer_id for relay in RELAYS)
SECONDS = 10.0  # from the death of a relay until others come through another one


class World:
    """A peer that keeps reservations, and relays that it may find."""

    def __init__(self, switch: MemorySwitch, known: int) -> None:
        self.switch = switch
        self.home = switch.network(HOME)
        self.relays: set[PeerId] = set()
        self.told: tuple[str, ...] = ()
        self.known: list[PeerId] = []
        self.servers: dict[PeerId, RelayServer] = {}
        self.keeping = RelayKeeping(
            self.home, VirtualClock(), self.relays, self._told, random.Random(1).random
        )
        self.keeping.finders.append(self._find)
        for identity in RELAYS[:known]:
            self.add(identity)

    def add(self, identity: Identity) -> MemoryNetwork:
        """One more relay, found from now on."""
        relay = self.switch.network(identity)
        server = self.servers[identity.peer_id] = RelayServer(
            relay, identity, VirtualClock(), lambda peer: "203.0.113.7"
        )
        server.start()
        self.home.learn_addrs(relay.peer_id, relay.addrs)
        self.known.append(relay.peer_id)
        return relay

    def told_are(self, *relays: PeerId) -> bool:
        return {addr.split("/p2p/")[1].partition("/")[0] for addr in self.told} == set(relays)

    async def _find(self) -> list[PeerId]:
        await trio.lowlevel.checkpoint()
        return list(self.known)

    def _told(self, addrs: tuple[str, ...]) -> None:
        self.told = addrs


def run(test, known: int) -> None:
    async def main() -> None:
        async with MemorySwitch(seed=3) as switch, trio.open_nursery() as nursery:
            world = World(switch, known)
            world.keeping.want(True)
            nursery.start_soon(world.keeping.run)
            await test(world)
            nursery.cancel_scope.cancel()

    run_virtual(main)


def test_the_only_relay_freezes_and_another_is_found_and_told_in_time():
    async def test(world: World) -> None:
        await until(lambda: world.told_are(FIRST), SECONDS)
        world.add(RELAYS[1])
        await trio.sleep(100.0)
        assert world.told_are(FIRST, SECOND), "two are better than one"
        world.switch.freeze(FIRST)
        await until(lambda: world.told_are(SECOND), SECONDS)
        assert FIRST in world.relays, "whoever still comes through it is let in"
        world.switch.thaw(FIRST)
        await until(lambda: world.told_are(FIRST, SECOND), SECONDS)

    run(test, 1)


def test_one_of_three_relays_freezes_and_a_fourth_takes_its_place():
    async def test(world: World) -> None:
        await until(lambda: len(world.keeping.held) == 3, SECONDS)
        frozen = world.keeping.held[0]
        (spare,) = set(world.known) - set(world.keeping.held)
        others = set(world.keeping.held) - {frozen}
        world.switch.freeze(frozen)
        await until(lambda: world.told_are(*others, spare), SECONDS)
        world.switch.crash(frozen)
        await until(lambda: frozen not in world.relays, SECONDS)
        assert set(world.keeping.held) == {*others, spare}

    run(test, 4)


def test_relays_that_answer_are_left_alone():
    async def test(world: World) -> None:
        await until(lambda: len(world.keeping.held) == 3, SECONDS)
        before, told = world.keeping.held, world.told
        await trio.sleep(300.0)
        assert world.keeping.held == before and world.told == told
        assert sum(server.table.reservations for server in world.servers.values()) == 3

    run(test, 4)
