"""Calls from the port that is listened on, and what is offered to whom."""

from __future__ import annotations

import errno
import socket

import pytest
import trio
from multiaddr import Multiaddr

from moshgrid.p2p.addresses import parse_listen
from moshgrid.p2p.calling_port import BUSY, CallingPorts, connect_from
from moshgrid.p2p.errors import ConfigurationError
from moshgrid.p2p.first_words import proposes_first
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_listening import bind, calling_ports
from moshgrid.p2p.multistream import GREETING_BYTES
from moshgrid.p2p.offering import Offering
from moshgrid.p2p.own_addrs import OwnAddrs

ME = Identity.from_seed(bytes(32)).peer_id
ALL = "/ip4/0.0.0.0/tcp/0"


def listen(*addrs: str):
    return bind([parse_listen(addr) for addr in addrs])


def test_calls_come_from_the_listening_port_which_nobody_else_gets():
    async def main():
        (door,) = await listen(ALL)
        source = calling_ports([door]).towards("61.1.1.1")
        assert source is not None and source[1] == door.listener.socket.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as place:
            where = place.getsockname()
            async with await connect_from(source, *where):
                accepted, (_, port) = place.accept()
                with accepted:
                    assert port == source[1]
                    with pytest.raises(OSError) as caught:  # the same two ports are connected already
                        await connect_from(source, *where)
                    assert caught.value.errno in BUSY
                    with pytest.raises(ConfigurationError, match="in use"):
                        await listen(f"/ip4/0.0.0.0/tcp/{port}")
        with pytest.raises(OSError) as refused:
            await connect_from(None, *where)
        assert refused.value.errno == errno.ECONNREFUSED
        await door.listener.aclose()

    trio.run(main)


def test_nothing_is_called_from_loopback_or_from_another_family():
    ports = CallingPorts([("127.0.0.1", 1), ("::", 2)])
    assert ports.towards("61.1.1.1") is None and ports.towards("2001:db8::1") == ("::", 2)
    assert CallingPorts([("::1", 1)]).towards("2001:db8::1") is None
    assert CallingPorts([]).towards("61.1.1.1") is None


@pytest.mark.parametrize(
    ("words", "client"),
    [(b"", False), (bytes(GREETING_BYTES), False), (bytes(GREETING_BYTES + 1), True), (None, True)],
)
def test_a_client_proposes_and_a_server_greets(words, client):
    async def main():
        ours, theirs = trio.socket.socketpair()
        stream = trio.SocketStream(ours)
        if words is None:
            theirs.close()
        else:
            await theirs.send(words)
        assert await proposes_first(stream, GREETING_BYTES) is client
        if words:
            assert await stream.receive_some() == words, "nothing is taken away"
        theirs.close()
        ours.close()

    trio.run(main)


def test_addresses_at_home_are_offered_to_those_at_home_only():
    own = OwnAddrs(ME)
    home, world = "/ip4/192.168.1.2/tcp/4001", "/ip4/61.1.1.1/tcp/4001"
    others = [f"/ip4/127.0.0.1/tcp/4001/p2p/{ME}", f"/dns4/a.example/tcp/443/wss/p2p/{ME}"]
    own.set("listening", [f"{home}/p2p/{ME}", *others])
    own.set("relayed", [f"/ip4/62.1.1.1/tcp/1/p2p/{Identity.generate().peer_id}/p2p-circuit/p2p/{ME}"])
    offering = Offering(own)

    def offers(*hosts: str) -> list[str]:
        return [str(Multiaddr(raw)) for raw in offering.offers(hosts)]

    assert offers() == [] and offers("61.1.1.1") == []
    offering.seen_at = (("61.1.1.1", 4001),)
    assert offers() == offers("62.1.1.1") == [world]
    assert offers("62.1.1.1", "61.1.1.1") == [world, home]
