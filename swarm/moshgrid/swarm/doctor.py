"""``moshgrid doctor``: looks at how this computer is connected, from within and with a network's help."""

from __future__ import annotations

import json
from collections.abc import Sequence

import trio

from moshgrid.dht import DHTNode
from moshgrid.p2p import Node
from moshgrid.p2p.descriptors import descriptor_limit
from moshgrid.p2p.errors import ConfigurationError, MoshgridError, Unreachable
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.interfaces import Interfaces
from moshgrid.p2p.ip_ranges import is_home
from moshgrid.p2p.libp2p_network import Libp2pNetwork
from moshgrid.p2p.libp2p_reachability import ReachabilityWatch
from moshgrid.p2p.link import Link
from moshgrid.p2p.reachability import LAYER
from moshgrid.swarm.doctor_findings import Facts, Findings, diagnose

__all__ = ["examine", "run_doctor"]

_ANY_PORT = {"ip4": "/ip4/0.0.0.0/tcp/0", "ip6": "/ip6/::/tcp/0"}
_SETTLE_SECONDS = 6.0
_BETTER_SECONDS = 6.0
"""So long a verdict that is not the best one may still change: a router's answer, relays that are found."""
_JOIN_SECONDS = 3.0


def run_doctor(link: str | None, listen: Sequence[str], as_json: bool) -> int:
    """Prints the findings; the exit status. Raises ConfigurationError."""
    findings = examine(None if link is None else Link.parse(link), listen)
    print(json.dumps(findings.to_dict()) if as_json else "\n".join(findings.lines()))
    return findings.exit_code


def examine(link: Link | None, listen: Sequence[str]) -> Findings:
    """Runs a node for at most some 20 s. Raises ConfigurationError."""
    taken = ""
    network, bootstrap = ("public", ()) if link is None else (link.network, tuple(link.bootstrap))
    try:
        node = Node(listen=listen, bootstrap=bootstrap, network=network)
    except ConfigurationError as error:
        if "cannot listen on" not in str(error):
            raise
        taken = ", ".join(listen)
        free = [_ANY_PORT[addr.split("/")[1]] for addr in listen]
        node = Node(listen=list(dict.fromkeys(free)), bootstrap=bootstrap, network=network)
    with node:
        return diagnose(node.call(_look, node.host, bootstrap, taken))


async def _look(host: Host, bootstrap: Sequence[str], taken: str) -> Facts:
    network = host.network
    watch = host.layers.get(LAYER)
    assert isinstance(network, Libp2pNetwork) and isinstance(watch, ReachabilityWatch)
    answers: dict[str, str] = {}
    async with trio.open_nursery() as nursery:
        for addr in bootstrap:
            nursery.start_soon(_dial, network, addr, answers)
    places = [network.observed_ip(PeerId(addr.rpartition("/p2p/")[2])) for addr in answers]
    outside = any(place is not None and not is_home(place) for place in places)
    clock = (0.0, 0)
    if outside:
        with trio.move_on_after(_SETTLE_SECONDS):
            await watch.settled.wait()
        with trio.move_on_after(_BETTER_SECONDS):
            await watch.public.wait()
    if not all(answers.values()):
        clock = await _compare_clocks(host)
    held = None if watch.mapping is None else watch.mapping.held
    return Facts(
        listening=network.own_addrs.of("listening"),
        own_hosts=sorted(Interfaces().hosts),
        bootstrap=[(addr, answers[addr]) for addr in bootstrap],
        seen_at=network.offering.seen_at,
        reachability=watch.reachability if outside else None,
        mapping=None if held is None else f"{held.protocol}, {held.host} port {held.port}",
        asked_router=watch.mapping is not None,
        relayed=network.own_addrs.of("relayed"),
        clock=clock,
        descriptors=descriptor_limit(),
        port_taken=taken,
    )


async def _dial(network: Libp2pNetwork, addr: str, answers: dict[str, str]) -> None:
    try:
        await network.dial(addr)
        answers[addr] = ""
    except Unreachable as error:
        answers[addr] = "; ".join(outcome for _, outcome in error.attempts) or "not reached"


async def _compare_clocks(host: Host) -> tuple[float, int]:
    try:
        dht = await DHTNode.of(host)
        with trio.move_on_after(_JOIN_SECONDS):
            await dht.joined(_JOIN_SECONDS)
            return await dht.compare_clocks()
    except MoshgridError:
        pass  # a network without a hash table: nobody there compares clocks
    return 0.0, 0
