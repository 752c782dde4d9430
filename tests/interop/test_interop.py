"""Other libp2p implementations and ours: streams, ping and identify, whoever dials, Noise and TLS.

The others are fetched on first use; without a network, npm or pip a test skips and says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest
import trio
from echoing import ECHO, check_echo, echo
from foreign_peers import (
    IDENTIFY,
    PING,
    ForeignPeer,
    go_peer,
    js_peer,
    read_identify,
    stock_python_peer,
)
from foreign_software import NotHere, go_daemon, js_packages

from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_network import open_libp2p_network
from moshgrid.p2p.network import Network

JS = Path(__file__).parent / "js"
SIZE = 3_000_000

Opened = Callable[..., AbstractAsyncContextManager[ForeignPeer]]


@pytest.fixture(scope="session", params=["py-libp2p", "js-libp2p", "go-libp2p"])
def open_foreign(request: pytest.FixtureRequest) -> Opened:
    """Starts a peer of each implementation with one security protocol."""
    try:
        if request.param == "js-libp2p":
            return partial(js_peer, packages=js_packages(JS / "package.json"), script=JS / "peer.mjs")
        if request.param == "go-libp2p":
            return partial(go_peer, daemon=go_daemon())
    except NotHere as reason:
        pytest.skip(f"{request.param} is not here: {reason}")
    return stock_python_peer


async def check_ping(network: Network, peer: str) -> None:
    stream = await network.open_stream(peer, PING)
    for _ in range(3):
        payload, answer = os.urandom(32), b""
        await stream.send(payload)
        while len(answer) < 32:
            answer += await stream.receive()
        assert answer == payload
    await stream.close()


async def identify(network: Network, peer: str) -> set[str]:
    stream = await network.open_stream(peer, IDENTIFY)
    message = b""
    while piece := await stream.receive():
        message += piece
    return set(read_identify(message).protocols)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("carrier", ["", "/ws"])
@pytest.mark.parametrize("security", ["noise", "tls"])
def test_we_understand_each_other(open_foreign, security, carrier):
    listen = f"/ip4/127.0.0.1/tcp/0{carrier}"

    async def main() -> None:
        with trio.fail_after(60.0):
            async with open_foreign(security, listen=listen) as foreign:
                assert f"{carrier}/p2p/" in foreign.addr
                for they_dial in (False, True):
                    async with open_libp2p_network(Identity.generate(), [listen]) as network:
                        network.serve(ECHO, echo)
                        if they_dial:
                            await foreign.dial(network.addrs[0])
                            await foreign.ping(network.peer_id)  # it may be done before we are
                        else:
                            assert await network.dial(foreign.addr) == foreign.peer
                        assert network.connected() == {foreign.peer}
                        await check_echo(network, foreign.peer, SIZE)
                        assert await foreign.echo(network.peer_id, SIZE)
                        await check_ping(network, foreign.peer)
                        await foreign.ping(network.peer_id)
                        assert ECHO in await identify(network, foreign.peer)
                        assert {ECHO, PING, IDENTIFY} <= await foreign.identify(network.peer_id)
                        assert network.connected() == {foreign.peer}

    trio.run(main)
