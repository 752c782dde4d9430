"""Would guessing the next port of a symmetric router let two peers meet? Measured with plain sockets.

usage: python port_prediction.py [--tries N] [--json]. As root, on Linux. Between a peer behind a symmetric
router and one behind a port-restricted or a symmetric one, by how the router hands out ports: in order,
or at random (as Linux with `masquerade fully-random`). Each try: the peers learn from three witnesses as what
they are seen, others in the same homes make so many calls, then both call each other at once, at every
port within the window after the guess. Random ports cannot be guessed, but met by chance: with many sockets
on either side (a birthday's paradox); that is measured too.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
from collections.abc import Sequence
from typing import Any

import trio
from lab import Home, Host, Lab
from namespaces import why_not
from raw_sockets import seen_by
from routers import Nat

PORTS = 4000  # that a router hands out one after the other
FIRST, LAST = 1024, 65535  # and at random
SECONDS = 2.5  # of a try: a call and its repetition
WINDOWS = (1, 16, 64)
BIRTHDAY = 256
_WORD = b"met"


class World:
    """Witnesses, and a symmetric home on the left with homes on the right that it would meet."""

    def __init__(self, lab: Lab, allocation: str) -> None:
        self.witnesses = [lab.public_host(f"witness-{each}", each) for each in range(3)]
        self.left = lab.home("left", Nat.SYMMETRIC, 4, peers=2)
        self.right = {nat: lab.home(f"right-{nat.value}", nat, 5, peers=2) for nat in PARTNERS}
        if allocation == "sequential":
            for home in (self.left, self.right[Nat.SYMMETRIC]):
                _hand_out_in_order(home)
        self._ports = iter(range(5000, 60000))
        self._witness_ports = iter(range(2000, 65000))

    def fresh_port(self) -> int:
        return next(self._ports)

    async def seen(self, host: Host, port: int) -> list[int]:
        """The ports under which three witnesses see calls from this one, in the order of calling."""
        return [(await seen_by(host, port, each, next(self._witness_ports)))[1] for each in self.witnesses]

    async def others_call(self, home: Home, count: int) -> None:
        """Another computer of this home makes so many calls."""
        for _ in range(count):
            await seen_by(home.peers[1], 0, self.witnesses[0], next(self._witness_ports))


PARTNERS = (Nat.PORT_RESTRICTED, Nat.SYMMETRIC)


def _hand_out_in_order(home: Home) -> None:
    start = random.randrange(20000, 40000)
    ports = ", ".join(f"{each}: {start + each}" for each in range(PORTS))
    home.routers[0].namespace.nft(
        "flush chain ip nat post\n"
        'add rule ip nat post oifname "wan" meta l4proto tcp '
        f"snat ip to {home.address} : numgen inc mod {PORTS} map {{ {ports} }}\n"
    )


def guess(seen: Sequence[int], window: int) -> list[int]:
    """The ports after those that were seen; when they were all one, that one."""
    step = seen[-1] - seen[-2]
    if step == 0:
        return [seen[-1]]
    if step != seen[-2] - seen[-3] or not 0 < step <= 16:
        step = 1  # no order to be seen
    return [port for each in range(1, window + 1) if FIRST <= (port := seen[-1] + step * each) <= LAST]


async def predicted(world: World, right: Home, window: int, traffic: int) -> bool:
    """One try by guessing."""
    one, other = world.left.peer, right.peer
    ports = world.fresh_port(), world.fresh_port()
    seen = await world.seen(one, ports[0]), await world.seen(other, ports[1])
    for home in (world.left, right):
        await world.others_call(home, traffic)
    calls = [
        [(one, ports[0], (right.address, port)) for port in guess(seen[1], window)],
        [(other, ports[1], (world.left.address, port)) for port in guess(seen[0], window)],
    ]
    return await _meet(calls, [(one, ports[0]), (other, ports[1])])


async def by_chance(world: World, right: Home) -> bool:
    """One try with many sockets: the left calls one place from many ports, the right many from one."""
    port = world.fresh_port()
    place = right.address, (await world.seen(right.peer, port))[-1]
    sources = [world.fresh_port() for _ in range(BIRTHDAY)]
    targets = random.sample(range(FIRST, LAST + 1), BIRTHDAY)
    calls = [
        [(world.left.peer, source, place) for source in sources],
        [(right.peer, port, (world.left.address, target)) for target in targets],
    ]
    return await _meet(calls, [(right.peer, port), *((world.left.peer, each) for each in sources)])


Call = tuple[Host, int, tuple[str, int]]


async def _meet(calls: Sequence[Sequence[Call]], listening: Sequence[tuple[Host, int]]) -> bool:
    """Whether any of these calls, all begun at once, becomes a connection of the two."""
    met = False
    sockets: list[socket.socket] = []
    async with trio.open_nursery() as nursery:

        async def call(sock: socket.socket, target: tuple[str, int]) -> None:
            nonlocal met
            dialling = trio.socket.from_stdlib_socket(sock)
            try:
                await dialling.connect(target)
                await dialling.send(_WORD)
                if await dialling.recv(len(_WORD)) == _WORD:
                    met = True
                    nursery.cancel_scope.cancel()
            except OSError:
                pass  # refused, or the other side's call came first and is accepted

        async def accept(sock: socket.socket) -> None:
            nonlocal met
            accepted, _ = await trio.socket.from_stdlib_socket(sock).accept()
            with accepted:
                await accepted.send(_WORD)
                if await accepted.recv(len(_WORD)) == _WORD:
                    met = True
                    nursery.cancel_scope.cancel()

        try:
            for host, port in listening:
                sockets.append(sock := host.socket(port=port))
                sock.listen()
                nursery.start_soon(accept, sock)
            for side in calls:
                for host, port, target in side:
                    sockets.append(sock := host.socket(port=port))
                    nursery.start_soon(call, sock, target)
            with trio.move_on_after(SECONDS):
                await trio.sleep_forever()
            nursery.cancel_scope.cancel()
        finally:
            nursery.cancel_scope.cancel()
    for sock in sockets:
        sock.close()
    return met


def measure(
    tries: int, windows: Sequence[int] = WINDOWS, others: Sequence[int] = (0, 4), chance: bool = True
) -> dict[str, Any]:
    """A row for each way of handing out, partner, window and number of others' calls."""
    rows: list[dict[str, Any]] = []
    for allocation in ("sequential", "random"):
        with Lab() as lab:
            world = World(lab, allocation)
            for partner, right in world.right.items():
                for window in windows:
                    for traffic in others:
                        met = [trio.run(predicted, world, right, window, traffic) for _ in range(tries)]
                        rows.append(_row(allocation, partner, "guess", window, traffic, met))
            if allocation == "random" and chance:
                for partner, right in world.right.items():
                    met = [trio.run(by_chance, world, right) for _ in range(tries)]
                    rows.append(_row(allocation, partner, "chance", BIRTHDAY, 0, met))
    return {"benchmark": "port-prediction", "tries": tries, "rows": rows}


def _row(
    allocation: str, partner: Nat, method: str, window: int, traffic: int, met: Sequence[bool]
) -> dict[str, Any]:
    return {
        "allocation": allocation,
        "partner": partner.value,
        "method": method,
        "window": window,
        "calls_of_others": traffic,
        "met": sum(met),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if (reason := why_not()) is not None:
        raise SystemExit(reason)
    found = measure(given.tries)
    if given.json:
        print(json.dumps(found))
        return
    for row in found["rows"]:
        print(
            f"{row['allocation']:10} with {row['partner']:4}  {row['method']} of {row['window']:3} ports, "
            f"{row['calls_of_others']} calls of others: met {row['met']} of {found['tries']}"
        )


if __name__ == "__main__":
    main()
