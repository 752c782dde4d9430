"""Peers that reach each other by WebSocket, behind a web server too, and web browsers that come by."""

from __future__ import annotations

import datetime
import ssl
from contextlib import suppress
from functools import partial

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from echoing import ECHO, echo

from moshgrid.dht import DHT
from moshgrid.p2p import Node
from moshgrid.p2p.connection_limits import ConnectionLimits, Refusal
from moshgrid.p2p.errors import ConfigurationError, Unreachable
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_network import open_libp2p_network
from moshgrid.p2p.network import Network

WS = "/ip4/127.0.0.1/tcp/0/ws"


async def check_echo(network: Network, peer: str) -> None:
    stream = await network.open_stream(peer, ECHO)
    await stream.send(b"hello")
    assert await stream.receive() == b"hello"
    await stream.close()


def port_of(addr: str) -> int:
    return int(addr.split("/")[4])


def run(scenario) -> None:
    async def main() -> None:
        with trio.fail_after(20.0):
            await scenario()

    trio.run(main)


def test_one_peer_listens_on_both_and_each_address_works():
    async def scenario():
        listen = ["/ip4/127.0.0.1/tcp/0", WS, "/ip6/::1/tcp/0/ws"]
        async with open_libp2p_network(Identity.generate(), listen) as network:
            network.serve(ECHO, echo)
            ends = [addr.partition("/tcp/")[2].partition("/p2p/")[0].split("/")[1:] for addr in network.addrs]
            assert ends == [[], ["ws"], ["ws"]]
            by_name = network.addrs[1].replace("/ip4/127.0.0.1/", "/dns4/localhost/")
            for addr in (*network.addrs, by_name):
                async with open_libp2p_network(Identity.generate(), []) as visitor:
                    assert await visitor.dial(addr) == network.peer_id
                    await check_echo(visitor, network.peer_id)
                    assert visitor.addrs_of(network.peer_id) == (addr,)

    run(scenario)


def test_tcp_is_tried_before_websocket():
    async def scenario():
        async with (
            open_libp2p_network(Identity.generate(), [WS, "/ip4/127.0.0.1/tcp/0"]) as network,
            open_libp2p_network(Identity.generate(), []) as visitor,
        ):
            network.serve(ECHO, echo)
            visitor.learn_addrs(network.peer_id, network.addrs)
            await check_echo(visitor, network.peer_id)
            assert visitor.addrs_of(network.peer_id)[0] == network.addrs[1]
            (connection,) = visitor._connections.of(network.peer_id)
            assert not str(connection.get_transport_addresses()[0]).endswith("/ws")

    run(scenario)


def test_a_private_network_works_over_websockets_too():
    async def scenario():
        opened = partial(open_libp2p_network, psk=bytes(32))
        async with (
            opened(Identity.generate(), [WS], limits=ConnectionLimits(handshake_seconds=0.5)) as network,
            opened(Identity.generate(), []) as member,
            open_libp2p_network(Identity.generate(), []) as stranger,
        ):
            network.serve(ECHO, echo)
            await member.dial(network.addrs[0])
            await check_echo(member, network.peer_id)
            with pytest.raises(Unreachable):
                await stranger.dial(network.addrs[0])

    run(scenario)


def test_nodes_that_only_have_websockets_share_records():
    with (
        Node(listen=[WS], network="web") as first,
        Node(listen=[WS], bootstrap=first.addrs, network="web") as second,
        Node(listen=[WS], bootstrap=first.addrs, network="web") as third,
        DHT(first),
        DHT(second) as writer,
        DHT(third) as reader,
    ):
        assert all("/ws/p2p/" in addr for node in (first, second, third) for addr in node.addrs)
        assert first.link == f"moshgrid://web@{first.addrs[0]}"
        report = writer.put("services/web", {"vram": 24}, ttl=60)
        assert report.stored_at
        record = reader.get("services/web")
        assert record is not None and record.value == {"vram": 24}


async def answer_to(addr: str, request: bytes) -> bytes:
    stream = await trio.open_tcp_stream("127.0.0.1", port_of(addr))
    answer = b""
    with suppress(trio.BrokenResourceError):
        await stream.send_all(request)
        async for piece in stream:
            answer += piece
    await stream.aclose()
    return answer


def test_a_web_browser_is_told_what_lives_here_and_garbage_is_not():
    async def scenario():
        async with open_libp2p_network(Identity.generate(), [WS]) as network:
            page = await answer_to(network.addrs[0], b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert page.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
            assert page.endswith(b"It speaks WebSocket only.\r\n")
            for garbage in (b"\xff" * 10_000, b"POST / HTTP/1.1\r\n\r\n", b"\x13/multistream/1.0.0\n"):
                assert await answer_to(network.addrs[0], garbage) == b""
            assert network.admission.unauthenticated == 0
            async with open_libp2p_network(Identity.generate(), []) as visitor:
                await visitor.dial(network.addrs[0])

    run(scenario)


def test_a_slow_upgrade_ends_in_time_and_counts():
    async def scenario():
        limits = ConnectionLimits(handshake_seconds=1.0, unauthenticated_per_source=2, exempt=())
        async with open_libp2p_network(Identity.generate(), [WS], limits=limits) as network:
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(answer_to, network.addrs[0], b"GET / HTTP/1.1\r\nX: ")
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert network.admission.unauthenticated == 2
                assert await answer_to(network.addrs[0], b"") == b""
                assert network.admission.refused[Refusal.UNAUTHENTICATED] == 1
            assert 0.9 < trio.current_time() - began < 10.0
            assert network.admission.unauthenticated == 0

    run(scenario)


def test_what_answers_a_dial_and_is_no_websocket_is_named():
    async def scenario():
        async with trio.open_nursery() as nursery:

            async def not_found(stream: trio.SocketStream) -> None:
                await stream.receive_some()
                await stream.send_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, not_found, [listener])
            port = listener.socket.getsockname()[1]
            peer = Identity.generate().peer_id
            async with (
                open_libp2p_network(Identity.generate(), []) as visitor,
                open_libp2p_network(Identity.generate()) as plain,
            ):
                head, _, tail = plain.addrs[0].rpartition("/p2p/")
                for addr, why in (
                    (
                        f"/ip4/127.0.0.1/tcp/{port}/ws/p2p/{peer}",
                        "answered, but refuses WebSocket (HTTP 404)",
                    ),
                    (f"{head}/ws/p2p/{tail}", "answered, but does not speak WebSocket"),
                    (f"{head}/wss/p2p/{tail}", "answered, but does not speak TLS as web servers do"),
                ):
                    with pytest.raises(Unreachable) as caught:
                        await visitor.dial(addr)
                    assert caught.value.attempts == ((addr, why),)
            nursery.cancel_scope.cancel()

    run(scenario)


def make_web_certificate(folder, name: str) -> ssl.SSLContext:
    """A web server's context for ``name``; the certificate, its own authority, is in ``folder``."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, both = folder / "certificate.pem", folder / "both.pem"
    public.write_bytes(certificate.public_bytes(Encoding.PEM))
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    both.write_bytes(public.read_bytes() + secret)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(both)
    return context


async def pass_on(port: int, outside: trio.abc.Stream) -> None:
    """A web server that ends TLS and passes everything on, both ways."""
    inside = await trio.open_tcp_stream("127.0.0.1", port)

    async def copy(source: trio.abc.Stream, sink: trio.abc.Stream, scope: trio.CancelScope) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for piece in source:
                await sink.send_all(piece)
        scope.cancel()

    with suppress(trio.BrokenResourceError):
        async with inside, trio.open_nursery() as nursery:
            nursery.start_soon(copy, outside, inside, nursery.cancel_scope)
            nursery.start_soon(copy, inside, outside, nursery.cancel_scope)


def test_a_peer_behind_a_web_server_is_reached_by_name_and_its_certificate_counts(tmp_path, monkeypatch):
    context = make_web_certificate(tmp_path, "localhost")

    async def scenario():
        async with (
            open_libp2p_network(Identity.generate(), [WS]) as network,
            trio.open_nursery() as nursery,
        ):
            network.serve(ECHO, echo)
            (listener,) = await trio.open_ssl_over_tcp_listeners(
                0, context, host="127.0.0.1", https_compatible=True
            )
            port = listener.transport_listener.socket.getsockname()[1]
            serve = partial(trio.serve_listeners, partial(pass_on, port_of(network.addrs[0])), [listener])
            nursery.start_soon(serve)
            good = f"/dns4/localhost/tcp/{port}/wss/p2p/{network.peer_id}"
            by_number = f"/ip4/127.0.0.1/tcp/{port}/wss/p2p/{network.peer_id}"
            async with open_libp2p_network(Identity.generate(), []) as visitor:
                with pytest.raises(Unreachable, match="its certificate is not accepted: self"):
                    await visitor.dial(good)
                monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
                with pytest.raises(Unreachable, match="certificate is not accepted: IP address mismatch"):
                    await visitor.dial(by_number)
                await visitor.dial(good)
                await check_echo(visitor, network.peer_id)
            async with open_libp2p_network(Identity.generate(), []) as visitor:
                await visitor.dial(good.replace("/wss/", "/tls/ws/"))
                stream = await visitor.open_stream(network.peer_id, ECHO)
                data = bytes(range(256)) * 4000
                nursery.start_soon(stream.send, data)
                heard = bytearray()
                while len(heard) < len(data):
                    heard += await stream.receive()
                assert heard == data
            nursery.cancel_scope.cancel()

    run(scenario)


def test_listening_on_tls_says_what_to_do():
    with pytest.raises(ConfigurationError, match="web server"):
        Node(listen=["/ip4/0.0.0.0/tcp/0/wss"])
