"""Real nodes in a process on a host of the lab. Started by path; talks JSON lines, ends when stdin ends.

Each command is {"id", "do", ...}; its answer {"id", ...} comes when it is done, others in between, or
{"id", "error"}. One process may hold many nodes, each with its own identity and port.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import trio
from peer_runs import Runs

from moshgrid.dht import DHT
from moshgrid.p2p import Node
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.network import Stream
from moshgrid.p2p.reachability import Reachability

ECHO = "/test/echo/1"
_LISTEN = ["/ip4/0.0.0.0/tcp/0"]
Answer = dict[str, Any]


async def echo(stream: Stream) -> None:
    while data := await stream.receive():
        await stream.send(data)


class Nodes:
    """The nodes of this process by number, and what can be done with them."""

    def __init__(self) -> None:
        self._nodes: dict[int, Node] = {}
        self._verdicts: dict[int, list[tuple[str, float]]] = {}
        self._lock = threading.Lock()
        self._opened = 0
        self.runs = Runs(lambda number: self._nodes[number])

    def open(self, dht: bool = False, **options: Any) -> Answer:
        """A new node, with a part in the hash table when that is wanted; options are Node's."""
        started = time.monotonic()
        node = Node(**{"listen": _LISTEN, **options})
        if dht:
            DHT(node)
        with self._lock:
            self._opened += 1
            number = self._opened
            self._nodes[number] = node
            said = self._verdicts[number] = []
        node.call(_prepare, node, said, started)
        return {"node": number, "peer": node.peer_id, "addrs": node.addrs, "seconds": _since(started)}

    def addrs(self, node: int) -> Answer:
        return {"addrs": self._nodes[node].addrs}

    def relayed(self, node: int, seconds: float, without: str = "", count: int = 1) -> Answer:
        """The relayed addresses of a node, once there are ``count`` and none is at the relay ``without``.

        What there is when time is over.
        """
        started = time.monotonic()
        addrs = self._nodes[node].call(_relayed, self._nodes[node], seconds, without, count)
        return {"addrs": addrs, "seconds": _since(started)}

    def verdict(self, node: int, seconds: float, about: str = "", wanted: str = "") -> Answer:
        """What the node says of how others reach it, once it is something or time is over; and all so far.

        Each with the seconds since it was opened. ``about``: wait until its reason names this;
        ``wanted``: or until it is this one.
        """
        started = time.monotonic()
        found = self._nodes[node].call(_verdict, self._nodes[node], seconds, about, wanted)
        return {**found, "all": self._verdicts[node], "seconds": _since(started)}

    def families(self, node: int, seconds: float, wanted: dict[str, str]) -> Answer:
        """As ``verdict``, once those over IPv4 and IPv6 are these, or time is over."""
        started = time.monotonic()
        found = self._nodes[node].call(_families, self._nodes[node], seconds, wanted)
        return {**found, "all": self._verdicts[node], "seconds": _since(started)}

    def said(self, node: int, seconds: float) -> Answer:
        """All verdicts so far, once there is one of each address family, even that it is unknown."""
        watch = self._nodes[node].host.layers["reachability"]

        async def wait() -> None:
            with trio.move_on_after(seconds):
                await watch.settled.wait()

        self._nodes[node].call(wait)
        return {"all": self._verdicts[node]}

    def reach(self, node: int, peer: str, addrs: list[str], seconds: float) -> Answer:
        """Whether there is a direct connection in the end, and what ``Network.reach_directly`` said."""
        started = time.monotonic()
        network = self._nodes[node].host.network

        async def reach() -> tuple[bool, bool]:
            network.learn_addrs(PeerId(peer), addrs)
            said = await network.reach_directly(PeerId(peer), seconds)
            return said, network.is_direct(PeerId(peer))

        said, direct = self._nodes[node].call(reach)
        return {"said": said, "direct": direct, "seconds": _since(started)}

    def direct(self, node: int, peer: str, seconds: float) -> Answer:
        """Whether a direct connection with a peer is there, or comes before time is over."""
        started = time.monotonic()
        network = self._nodes[node].host.network

        async def wait() -> bool:
            came = trio.Event()
            network.on_began(lambda _: came.set())
            with trio.move_on_after(seconds):
                while not network.is_direct(PeerId(peer)):
                    await came.wait()
                    came = trio.Event()
            return network.is_direct(PeerId(peer))

        return {"direct": self._nodes[node].call(wait), "seconds": _since(started)}

    def echo(self, node: int, peer: str, size: int, addrs: list[str] | None = None) -> Answer:
        """Send so many bytes to a peer and compare what comes back."""
        started = time.monotonic()
        good = self._nodes[node].call(_echo, self._nodes[node], peer, size, addrs or [])
        return {"good": good, "seconds": _since(started)}

    def close(self, node: int) -> Answer:
        self.runs.close_run(node)
        with self._lock:
            closing = self._nodes.pop(node)
        closing.close()
        return {}

    def close_all(self) -> None:
        for number in list(self._nodes):
            self.close(number)


async def _prepare(node: Node, verdicts: list[tuple[str, float]], started: float) -> None:
    """Serve echo, and write down what the node says of how others reach it."""

    def hear(event: Mapping[str, Any]) -> None:
        if event["event"] == "reachability":
            verdicts.append((event["verdict"], _since(started)))

    node.host.network.serve(ECHO, echo)
    node.host.events.add_sink(hear)


async def _verdict(node: Node, seconds: float, about: str, wanted: str) -> Answer:
    def is_it(found: Reachability) -> bool:
        known = found.verdict != "unknown" and about in found.why
        return known and wanted in ("", found.verdict)

    return await _said(node, seconds, is_it)


async def _families(node: Node, seconds: float, wanted: dict[str, str]) -> Answer:
    return await _said(
        node, seconds, lambda found: {key: each.verdict for key, each in found.families.items()} == wanted
    )


async def _said(node: Node, seconds: float, is_it: Callable[[Reachability], bool]) -> Answer:
    changed = trio.Event()

    def hear(event: Mapping[str, Any]) -> None:
        if event["event"] == "reachability":
            changed.set()

    node.host.events.add_sink(hear)
    with trio.move_on_after(seconds):
        while not is_it(node.reachability):
            await changed.wait()
            changed = trio.Event()
    found = node.reachability
    families = {family: each.verdict for family, each in found.families.items()}
    return {"verdict": found.verdict, "why": found.why, "improve": found.improve, "families": families}


async def _relayed(node: Node, seconds: float, without: str, count: int) -> list[str]:
    changed = trio.Event()
    own = node.host.layers["relay"].own_addrs
    take_off = own.on_change(lambda: changed.set())
    try:
        with trio.move_on_after(seconds):
            while len(own.of("relayed")) < count or any(
                without and without in addr for addr in own.of("relayed")
            ):
                await changed.wait()
                changed = trio.Event()
    finally:
        take_off()
    return list(own.of("relayed"))


async def _echo(node: Node, peer: str, size: int, addrs: list[str]) -> bool:
    if addrs:
        node.host.network.learn_addrs(PeerId(peer), addrs)
    stream = await node.host.network.open_stream(PeerId(peer), ECHO)
    sent, received = bytes(range(256)) * (size // 256 + 1), bytearray()
    sent = sent[:size]

    async def send() -> None:
        await stream.send(sent)
        await stream.close_write()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while data := await stream.receive():
            received += data
    return bytes(received) == sent


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)


def main(debug: bool = False) -> None:
    if debug:
        logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(name)s %(message)s")
        logging.getLogger("moshgrid").setLevel(logging.DEBUG)
    nodes, writing = Nodes(), threading.Lock()

    def answer(given: dict[str, Any]) -> None:
        number, do = given.pop("id"), given.pop("do")
        try:
            command: Callable[..., Answer] = getattr(nodes, do, None) or getattr(nodes.runs, do)
            said = command(**given)
        except Exception as error:  # whoever asked decides what that means
            said = {"error": f"{type(error).__name__}: {error}"}
        with writing:
            print(json.dumps({"id": number, **said}), flush=True)

    with ThreadPoolExecutor(64) as pool:
        for line in sys.stdin:
            pool.submit(answer, json.loads(line))
        nodes.close_all()


if __name__ == "__main__":
    main("--debug" in sys.argv)
