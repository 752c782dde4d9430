"""Public relays and two homes of every type, with a process in each: where pairs of nodes meet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, NamedTuple

import trio
from lab import Home, Lab
from matrix import LETS_IN
from peers import PATIENCE, Peer, Process
from raw_sockets import can_connect
from routers import Nat
from wires import Wire

PORT = 4001
RELAYED_SECONDS = 10.0
SILENCE = 0.5  # seconds after which a plain call is taken as dropped, where that is to be expected
ANSWER = 15.0  # and where it is not: the machine may be busy, and packets that are lost are sent again
PAYLOAD = 512 << 10

Pair = tuple[Nat, Nat]


class Relay:
    """A public host with a relay that others join through."""

    def __init__(self, lab: Lab, name: str, group: int) -> None:
        self.host = lab.public_host(name, group)
        self.process = Process(self.host)
        self.peer: Peer
        self.addr = ""

    def open(self, bootstrap: Iterable[str] = (), six: bool = False) -> None:
        """``six``: it listens on IPv6 too."""
        listen = [f"/ip4/0.0.0.0/tcp/{PORT}", *([f"/ip6/::/tcp/{PORT}"] if six else [])]
        self.peer = self.process.open(listen=listen, relay=True, dht=True, bootstrap=list(bootstrap))
        self.addr = f"/ip4/{self.host.address}/tcp/{PORT}/p2p/{self.peer.peer_id}"


class Reached(NamedTuple):
    """What a node said of its tries."""

    direct: bool
    tries: int  # calls of reach_directly
    seconds: float  # of the last one


@dataclass(frozen=True)
class Meeting:
    """What became of a pair; seen from outside of both nodes but for ``said``."""

    said: Reached
    plain: tuple[bool, bool]  # a stranger's plain call got in, to the first and to the second
    remote: bool  # the first one's kernel has a connection to the other's public address
    bytes_direct: int  # that crossed the internet from home to home during an echo
    bytes_relayed: int  # to the relays meanwhile
    bytes_let_in: int  # by the first one's router, from the other's public address
    payload: int  # that was echoed
    echoed: bool

    @property
    def direct(self) -> bool:
        """All four signs say that bytes go directly."""
        return (
            self.remote
            and self.bytes_direct >= 2 * self.payload
            and self.bytes_let_in >= self.payload
            and self.bytes_relayed < self.payload // 4
        )

    @property
    def relayed(self) -> bool:
        """All four signs say that bytes go through a relay."""
        return (
            not self.remote
            and self.bytes_direct < self.payload // 4
            and self.bytes_let_in < self.payload // 4
            and self.bytes_relayed >= 2 * self.payload
        )


class Neighbourhood:
    """The homes on the left call those on the right."""

    def __init__(
        self,
        lab: Lab,
        left: Sequence[Nat] = tuple(Nat),
        right: Sequence[Nat] = tuple(Nat),
        wire: Wire | None = None,
        payload: int = PAYLOAD,
    ) -> None:
        self.lab = lab
        self._wire = wire
        self._payload = payload
        self.relays = [Relay(self.lab, f"relay-{group}", group) for group in (0, 1)]
        self.relays[0].open()
        self.relays[1].open([self.relays[0].addr])
        self.stranger = self.lab.public_host("stranger", 4)
        self.left = {nat: self._home("left", nat, 2) for nat in left}
        self.right = {nat: self._home("right", nat, 3) for nat in right}

    def _home(self, side: str, nat: Nat, group: int) -> tuple[Home, Process]:
        home = self.lab.home(f"{side}-{nat.value}", nat, group, wire=self._wire)
        return home, Process(home.peer)

    def meet(self, pairs: Iterable[Pair], tries: int, seconds: float) -> dict[Pair, Meeting]:
        """Let a new node on the left reach one on the right, for each pair; then look whether it did.

        Several at once, but never two in one home: what crosses a home's router is one pair's.
        """
        met: dict[Pair, Meeting] = {}
        for some in _rows(pairs):
            with ThreadPoolExecutor(len(some)) as pool:
                meetings = pool.map(lambda pair: self._meet(pair, tries, seconds), some)
                met |= dict(zip(some, meetings, strict=True))
        return met

    def _meet(self, pair: Pair, tries: int, seconds: float) -> Meeting:
        one, other = self._open(pair)
        plain = trio.run(self._plain_calls, pair, one, other)
        said = _reach(one, other, tries, seconds)
        meeting = self._look(pair, one, other, said, plain)
        for closing in [peer.soon("close") for peer in (one, other)]:
            closing.result(PATIENCE)
        return meeting

    def private_calls(self) -> set[str]:
        """Addresses of local networks that packets were sent to across a router: there should be none."""
        homes = [home for side in (self.left, self.right) for home, _ in side.values()]
        return {
            address
            for home in homes
            for router in home.routers
            for address in router.sent()
            if ip_address(address).is_private
        }

    def _open(self, pair: Pair) -> tuple[Peer, Peer]:
        bootstrap = [relay.addr for relay in self.relays]
        one, other = (
            side[nat][1].open(bootstrap=bootstrap)
            for side, nat in zip((self.left, self.right), pair, strict=True)
        )
        waiting: list[Future[dict[str, Any]]] = [
            peer.soon("relayed", seconds=RELAYED_SECONDS) for peer in (one, other)
        ]
        for peer in waiting:
            peer.result(2 * RELAYED_SECONDS)
        return one, other

    async def _plain_calls(self, pair: Pair, one: Peer, other: Peer) -> tuple[bool, bool]:
        """Whether a stranger gets in at the port that each node listens on."""
        got_in = [False, False]

        async def call(side: int, home: Home, peer: Peer) -> None:
            patience = ANSWER if home.nat in LETS_IN else SILENCE
            got_in[side] = await can_connect(self.stranger, 0, (home.address, peer.port), patience)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, 0, self.left[pair[0]][0], one)
            nursery.start_soon(call, 1, self.right[pair[1]][0], other)
        return got_in[0], got_in[1]

    def _look(
        self,
        pair: Pair,
        one: Peer,
        other: Peer,
        said: Reached,
        plain: tuple[bool, bool],
    ) -> Meeting:
        home, there = self.left[pair[0]][0], self.right[pair[1]][0]
        before = self._crossed(home, there)
        echoed = one.call("echo", peer=other.peer_id, size=self._payload)["good"]
        direct, relayed, let_in = (
            after - earlier for after, earlier in zip(self._crossed(home, there), before, strict=True)
        )
        remote = any(
            address == there.address and (port == one.port or remote_port == other.port)
            for port, address, remote_port in home.peer.connections()
        )
        return Meeting(said, plain, remote, direct, relayed, let_in, self._payload, echoed)

    def _crossed(self, home: Home, there: Home) -> tuple[int, int, int]:
        """Bytes between the homes and between the first and the relays, and bytes let in, all so far."""
        passed = self.lab.passed()

        def between(one: str, other: str) -> int:
            return sum(passed[way].bytes for way in ((one, other), (other, one)) if way in passed)

        let_in = home.received().get(there.address)
        return (
            between(home.address, there.address),
            sum(between(home.address, relay.host.address) for relay in self.relays),
            let_in.bytes if let_in is not None else 0,
        )


def _reach(one: Peer, other: Peer, tries: int, seconds: float) -> Reached:
    addrs = other.call("addrs")["addrs"]
    for number in range(1, tries + 1):
        said = one.call("reach", peer=other.peer_id, addrs=addrs, seconds=seconds)
        reached = Reached(said["direct"], number, said["seconds"])
        if reached.direct:
            break
    return reached


def _rows(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    """The pairs in order, cut so that within a row no type comes twice on either side."""
    row: list[Pair] = []
    for pair in pairs:
        if any(pair[0] is one or pair[1] is other for one, other in row):
            yield row
            row = []
        row.append(pair)
    if row:
        yield row
