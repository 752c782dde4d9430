"""Which security protocols are offered, in which order: the faster on this machine first, plaintext never."""

from __future__ import annotations

import time

import pytest
import trio
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from moshgrid.p2p import libp2p_security
from moshgrid.p2p.cipher_speed import aes_is_faster
from moshgrid.p2p.errors import Unreachable
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_network import open_libp2p_network
from moshgrid.p2p.libp2p_security import security_transports

GREETING = b"\x13/multistream/1.0.0\n"
PROPOSALS = {"/tls/1.0.0": b"\x0b/tls/1.0.0\n", "/noise": b"\x07/noise\n"}
NO = b"\x03na\n"


def cost_of(key) -> float:
    """Seconds for four megabytes: sixteen times as much as the choice tries."""
    best = 1.0
    for _ in range(5):
        began = time.process_time()
        for _ in range(256):
            key.encrypt(bytes(12), bytes(16384), None)
        best = min(best, time.process_time() - began)
    return best


def test_what_is_faster_on_this_machine_is_first():
    aes, chacha = cost_of(AESGCM(bytes(16))), cost_of(ChaCha20Poly1305(bytes(32)))
    if max(aes, chacha) < 1.3 * min(aes, chacha):
        pytest.skip("the two are as fast as each other here")
    first = next(iter(security_transports(Identity.generate())))
    assert first == ("/tls/1.0.0" if aes < chacha else "/noise")
    assert aes_is_faster() is (aes < chacha)


@pytest.mark.parametrize(
    ("aes", "order"), [(True, ["/tls/1.0.0", "/noise"]), (False, ["/noise", "/tls/1.0.0"])]
)
def test_a_dialler_proposes_the_faster_then_the_other_then_nothing(aes, order, monkeypatch):
    monkeypatch.setattr(libp2p_security, "aes_is_faster", lambda: aes)

    async def scenario() -> None:
        identity = Identity.generate()
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        heard = b""

        async def refuse_all() -> None:
            nonlocal heard
            stream = await listener.accept()
            await stream.send_all(GREETING + NO + NO)
            while data := await stream.receive_some():
                heard += data
            await stream.aclose()

        async with open_libp2p_network(Identity.generate(), []) as network, trio.open_nursery() as nursery:
            nursery.start_soon(refuse_all)
            with pytest.raises(Unreachable, match="does not speak"):
                await network.dial(f"/ip4/127.0.0.1/tcp/{port}/p2p/{identity.peer_id}")
        assert heard == GREETING + b"".join(PROPOSALS[protocol] for protocol in order)

    with_patience(scenario)


@pytest.mark.parametrize(
    "protocol", ["/plaintext/2.0.0", "/plaintext/1.0.0", "/secio/1.0.0", "/tls/2.0.0", "/yamux/1.0.0"]
)
def test_a_listener_takes_nothing_else(protocol):
    async def scenario() -> None:
        async with open_libp2p_network(Identity.generate(), ["/ip4/127.0.0.1/tcp/0"]) as network:
            stream = await trio.open_tcp_stream("127.0.0.1", int(network.addrs[0].split("/")[4]))
            line = protocol.encode() + b"\n"
            await stream.send_all(GREETING + bytes([len(line)]) + line)
            heard = b""
            while len(heard) < len(GREETING + NO):
                heard += await stream.receive_some()
            assert heard == GREETING + NO
            await stream.aclose()

    with_patience(scenario)


def with_patience(scenario) -> None:
    async def main() -> None:
        with trio.fail_after(20.0):
            await scenario()

    trio.run(main)
