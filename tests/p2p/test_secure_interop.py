"""Our Noise and TLS with stock py-libp2p at the other end, either side dialling, megabytes both ways."""

import hashlib
import os

import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.security.noise.transport import Transport as StockNoise
from libp2p.security.tls.transport import TLSTransport as StockTls

from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_noise import NoiseTransport
from moshgrid.p2p.libp2p_securing import HandshakeRefused
from moshgrid.p2p.libp2p_tls import TlsTransport

OURS, STOCK, OTHER = (Identity.from_seed(bytes([n]) * 32) for n in (4, 5, 6))
SIZE = 4_000_000


def stock_transport(kind: str):
    keys = create_new_key_pair(STOCK.private_bytes())
    if kind == "tls":
        return StockTls(keys)
    return StockNoise(keys, noise_privkey=create_noise_key_pair().private_key)


def our_transport(kind: str):
    return {"noise": NoiseTransport, "tls": TlsTransport}[kind](OURS)


async def tcp_pair():
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    dialled = await trio.open_tcp_stream("127.0.0.1", port)
    accepted = await listeners[0].accept()
    await listeners[0].aclose()
    return RawConnection(TrioTCPStream(dialled), True), RawConnection(TrioTCPStream(accepted), False)


async def shake_hands(kind, we_dial, expected=None):
    dialled, accepted = await tcp_pair()
    sessions = {}

    async def dial(transport, target):
        sessions["dialled"] = await transport.secure_outbound(dialled, ID.from_base58(target.peer_id))

    async def accept(transport):
        sessions["accepted"] = await transport.secure_inbound(accepted)

    ours, stock = our_transport(kind), stock_transport(kind)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial, ours if we_dial else stock, expected or (STOCK if we_dial else OURS))
        nursery.start_soon(accept, stock if we_dial else ours)
    pair = sessions["dialled"], sessions["accepted"]
    return pair if we_dial else pair[::-1]


@pytest.mark.parametrize("we_dial", [True, False])
@pytest.mark.parametrize("kind", ["noise", "tls"])
def test_megabytes_both_ways(kind, we_dial):
    async def scenario():
        with trio.fail_after(60):
            ours, stock = await shake_hands(kind, we_dial)
            assert ours.get_remote_peer().to_base58() == STOCK.peer_id
            assert stock.get_remote_peer().to_base58() == OURS.peer_id
            data = {ours: os.urandom(SIZE), stock: os.urandom(SIZE)}
            heard = {}

            async def send(session, step):
                for start in range(0, SIZE, step):
                    await session.write(data[session][start : start + step])

            async def receive(session):
                digest, left = hashlib.sha256(), SIZE
                while left:
                    piece = await session.read(min(left, 50_000))
                    digest.update(piece)
                    left -= len(piece)
                heard[session] = digest.digest()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, ours, 700_000)
                nursery.start_soon(send, stock, 100_000)
                nursery.start_soon(receive, ours)
                nursery.start_soon(receive, stock)
            assert heard[ours] == hashlib.sha256(data[stock]).digest()
            assert heard[stock] == hashlib.sha256(data[ours]).digest()
            await ours.close()

    trio.run(scenario)


@pytest.mark.parametrize("kind", ["noise", "tls"])
def test_a_stock_peer_with_another_identity_is_refused(kind):
    async def scenario():
        with trio.fail_after(20), pytest.raises(ExceptionGroup) as caught:
            await shake_hands(kind, True, expected=OTHER)
        assert caught.group_contains(HandshakeRefused, match="mismatch")

    trio.run(scenario)
