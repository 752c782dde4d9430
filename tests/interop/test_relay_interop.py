"""Relays of other libp2p implementations and ours: they meet us through theirs and through ours.

The others are fetched on first use; without a network, npm or pip a test skips and says so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from echoing import ECHO, check_echo, echo
from foreign_peers import go_peer, js_peer
from foreign_software import NotHere, go_daemon, js_packages
from victim import until

from moshgrid.p2p.clock import Clock
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_network import Libp2pNetwork, open_libp2p_network
from moshgrid.p2p.relay_asking import reserve
from moshgrid.p2p.relay_server import RelayServer

JS = Path(__file__).parent / "js"
SIZE = 60_000
"""Less than the 128 KiB that a relay of js-libp2p passes on."""

Opened = Callable[..., AbstractAsyncContextManager[Any]]

RELAY_OPTIONS = {
    "js-libp2p": ["relay"],
    "go-libp2p": ["-relay=1", "-relayService=1", "-forceReachabilityPublic=1"],
}
GO_RESERVES = ["-relay=1", "-autoRelay=1", "-dhtClient=1", "-forceReachabilityPrivate=1"]
PEER_OPTIONS = {"js-libp2p": [], "go-libp2p": ["-relay=1"]}


@pytest.fixture(scope="session", params=["js-libp2p", "go-libp2p"])
def foreign(request: pytest.FixtureRequest) -> tuple[str, Opened]:
    """Starts a peer of each implementation."""
    try:
        if request.param == "js-libp2p":
            return request.param, partial(
                js_peer, "noise", packages=js_packages(JS / "package.json"), script=JS / "peer.mjs"
            )
        return request.param, partial(go_peer, "noise", daemon=go_daemon())
    except NotHere as reason:
        pytest.skip(f"{request.param} is not here: {reason}")


@asynccontextmanager
async def our_relay() -> AsyncIterator[tuple[Libp2pNetwork, RelayServer]]:
    identity = Identity.generate()
    async with open_libp2p_network(identity) as relay:
        server = RelayServer(relay, identity, Clock(), relay.observed_ip)
        server.start()
        yield relay, server


async def reserve_at(network: Libp2pNetwork, relay_addr: str) -> tuple[str, Any]:
    relay = await network.dial(relay_addr)
    network.circuits.relays.add(relay)
    granted = await reserve(network, relay)
    return f"{relay_addr}/p2p-circuit/p2p/{network.peer_id}", granted


def run(main: Callable[[], Any]) -> None:
    async def limited() -> None:
        with trio.fail_after(60.0):
            await main()

    trio.run(limited)


@pytest.mark.timeout(400)
def test_they_reach_us_through_our_relay(foreign):
    name, open_foreign = foreign

    async def main() -> None:
        async with (
            our_relay() as (relay, server),
            open_libp2p_network(Identity.generate(), listen=[]) as us,
            open_foreign(options=PEER_OPTIONS[name]) as them,
        ):
            us.serve(ECHO, echo)
            addr, _ = await reserve_at(us, relay.addrs[0])
            await them.dial(addr)
            assert await them.echo(us.peer_id, SIZE)
            assert not us.is_direct(them.peer)
            await check_echo(us, them.peer, SIZE)
            assert server.table.circuits == 1 and server.table.bytes_relayed > 4 * SIZE

    run(main)


@pytest.mark.timeout(400)
def test_we_reach_each_other_through_their_relay(foreign):
    name, open_foreign = foreign

    async def main() -> None:
        async with (
            open_foreign(options=RELAY_OPTIONS[name]) as them,
            open_libp2p_network(Identity.generate(), listen=[]) as one,
            open_libp2p_network(Identity.generate(), listen=[]) as other,
        ):
            one.serve(ECHO, echo)
            addr, granted = await reserve_at(one, them.addr)
            assert granted.limit is not None and granted.expires > 0
            assert await other.dial(addr) == one.peer_id
            await check_echo(other, one.peer_id, SIZE)
            info = other.circuit_of(one.peer_id)
            assert info is not None and info.relay == them.peer and info.limit == granted.limit
            # What go's daemon allows depends on which of its two relay services took the reservation.
            assert info.carries_tensors == (granted.limit.bytes >= 32 << 20)

    run(main)


@pytest.mark.timeout(400)
def test_they_reserve_at_our_relay_and_we_reach_them_there(foreign):
    name, open_foreign = foreign

    async def main() -> None:
        async with (
            our_relay() as (relay, server),
            open_libp2p_network(Identity.generate(), listen=[]) as us,
        ):
            options = PEER_OPTIONS[name]
            if name == "go-libp2p":
                options = [
                    *GO_RESERVES,
                    *(f"-{name}={relay.addrs[0]}" for name in ("trustedRelays", "bootstrapPeers")),
                ]
            async with open_foreign(options=options) as them:
                if name == "js-libp2p":
                    await them.reserve(relay.addrs[0])
                await until(lambda: server.table.reservations == 1, 30.0)
                assert await us.dial(f"{relay.addrs[0]}/p2p-circuit/p2p/{them.peer}") == them.peer
                assert not us.is_direct(them.peer)
                await check_echo(us, them.peer, SIZE)

    run(main)
