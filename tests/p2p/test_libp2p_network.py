"""What only real sockets and real processes show: kills, garbage, plaintext peers, stock peers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from echoing import ECHO, echo
from ipv6_loopback import skip_without_ipv6
from multiaddr import Multiaddr

from moshgrid.p2p.connection_limits import ConnectionLimits
from moshgrid.p2p.errors import ConfigurationError, RemoteProtocolError, StreamReset, Unreachable
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_network import open_libp2p_network

SCRIPT = Path(__file__).parent / "peer_process.py"


@asynccontextmanager
async def peer_process():
    """A peer in another process, and its address."""
    process = await trio.lowlevel.open_process(
        [sys.executable, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        line = b""
        while not line.endswith(b"\n"):
            piece = await process.stdout.receive_some()
            assert piece, "the peer process ended"
            line += piece
        yield process, line.decode().strip()
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


def run(test, limit=60.0):
    async def main():
        with trio.fail_after(limit):
            await test()

    trio.run(main)


def test_a_killed_process_is_a_reset_and_a_loss_at_once():
    async def scenario():
        async with open_libp2p_network(Identity.generate()) as network, peer_process() as (process, addr):
            peer = await network.dial(addr)
            stream = await network.open_stream(peer, "/test/stay/1")
            assert await stream.receive() == b"here"
            lost = trio.Event()
            network.on_lost(lambda gone: lost.set() if gone == peer else None)
            process.send_signal(signal.SIGKILL)
            with trio.fail_after(1.0):
                with pytest.raises(StreamReset):
                    await stream.receive()
                await lost.wait()
            assert peer not in network.connected()
            with pytest.raises(StreamReset):
                await stream.send(b"x")
            with pytest.raises(Unreachable) as caught:
                await network.open_stream(peer, ECHO)
            # The kernel may still take a connection for a process that is going.
            ((tried, outcome),) = caught.value.attempts
            assert tried == addr
            assert outcome in ("refused the connection", "closed the connection during the handshake")

    run(scenario)


def test_a_process_killed_under_load_takes_nobody_along():
    async def scenario():
        async with (
            open_libp2p_network(Identity.generate()) as network,
            open_libp2p_network(Identity.generate()) as other,
            peer_process() as (process, addr),
        ):
            other.serve(ECHO, echo)
            peer, friend = await network.dial(addr), await network.dial(other.addrs[0])
            resets = []

            async def load() -> None:
                stream = await network.open_stream(peer, ECHO)
                try:
                    async with trio.open_nursery() as nursery:

                        async def read() -> None:
                            while await stream.receive():
                                pass

                        nursery.start_soon(read)
                        while True:
                            await stream.send(bytes(100_000))
                except* StreamReset as errors:
                    resets.append(errors)

            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(load)
                await trio.sleep(0.3)
                process.send_signal(signal.SIGKILL)
            assert len(resets) == 5
            stream = await network.open_stream(friend, ECHO)
            await stream.send(b"still here")
            assert await stream.receive() == b"still here"

    run(scenario)


def test_a_frozen_process_does_not_hold_a_caller_for_ever(monkeypatch):
    monkeypatch.setattr("moshgrid.p2p.libp2p_opening._OPEN_SECONDS", 0.5)

    async def scenario():
        async with open_libp2p_network(Identity.generate()) as network, peer_process() as (process, addr):
            peer = await network.dial(addr)
            stream = await network.open_stream(peer, ECHO)
            process.send_signal(signal.SIGSTOP)
            try:
                with pytest.raises(Unreachable, match=r"no answer within 0\.5 s"):
                    await network.open_stream(peer, ECHO)
                with trio.move_on_after(0.3) as scope:
                    await stream.send(bytes(50_000_000))
                assert scope.cancelled_caught
            finally:
                process.send_signal(signal.SIGCONT)
            assert (await network.open_stream(peer, ECHO)).peer == peer

    run(scenario)


def test_a_peer_that_answers_no_ping_is_given_up(monkeypatch):
    monkeypatch.setattr("moshgrid.p2p.yamux_pulse.PING_SECONDS", 0.1)
    monkeypatch.setattr("moshgrid.p2p.yamux_pulse.SILENCE_SECONDS", 0.3)

    async def scenario():
        async with open_libp2p_network(Identity.generate()) as network, peer_process() as (process, addr):
            peer = await network.dial(addr)
            lost = trio.Event()
            network.on_lost(lambda gone: lost.set())
            process.send_signal(signal.SIGSTOP)
            try:
                await lost.wait()
            finally:
                process.send_signal(signal.SIGCONT)
            assert peer not in network.connected()

    run(scenario)


def stock_host(**options):
    """A py-libp2p host as it comes."""
    from libp2p import new_host
    from libp2p.crypto.ed25519 import create_new_key_pair

    return new_host(key_pair=create_new_key_pair(), **options)


def test_a_plaintext_peer_is_refused_both_ways():
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.peer.peerinfo import info_from_p2p_addr
    from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport

    async def scenario():
        keys = create_new_key_pair()
        host = stock_host(sec_opt={PLAINTEXT_PROTOCOL_ID: InsecureTransport(keys)})
        async with (
            host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]),
            open_libp2p_network(Identity.generate()) as network,
        ):
            network.serve(ECHO, echo)
            with pytest.raises(Exception, match=r"."), trio.fail_after(10.0):
                await host.connect(info_from_p2p_addr(Multiaddr(network.addrs[0])))
            assert not network.connected()
            port = next(iter(host.get_network().listeners.values())).get_addrs()[0].value_for_protocol("tcp")
            with pytest.raises(Unreachable) as caught:
                await network.dial(f"/ip4/127.0.0.1/tcp/{port}/p2p/{Identity.generate().peer_id}")
            assert "does not speak Noise" in caught.value.attempts[0][1]
            assert not network.connected()

    run(scenario)


def test_a_stock_peer_speaks_with_ours():
    from libp2p.network.stream.exceptions import StreamEOF
    from libp2p.peer.peerinfo import info_from_p2p_addr

    async def stock_echo(stream) -> None:
        try:
            while True:
                await stream.write(await stream.read(65536))
        except StreamEOF:
            await stream.close()

    async def scenario():
        host = stock_host()
        host.set_stream_handler(ECHO, stock_echo)
        async with (
            host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]),
            open_libp2p_network(Identity.generate()) as network,
        ):
            network.serve(ECHO, echo)
            await host.connect(info_from_p2p_addr(Multiaddr(network.addrs[0])))
            peer = host.get_id().to_base58()
            assert network.connected() == {peer}
            ours = await network.open_stream(peer, ECHO)
            data, back = os.urandom(2_000_000), bytearray()
            async with trio.open_nursery() as nursery:

                async def send() -> None:
                    await ours.send(data)
                    await ours.close_write()

                nursery.start_soon(send)
                while piece := await ours.receive():
                    back += piece
            assert back == data
            theirs = await host.new_stream(host.get_network().get_connections()[0].muxed_conn.peer_id, [ECHO])
            await theirs.write(data[:200_000])
            back.clear()
            while len(back) < 200_000:
                back += await theirs.read(65536)
            assert back == data[:200_000]
            with pytest.raises(RemoteProtocolError):
                await network.open_stream(peer, "/test/unknown/1")
            identify = await network.open_stream(peer, "/ipfs/id/1.0.0")
            assert await identify.receive()

    run(scenario)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"random" + bytes(range(256)) * 20,
        b"\x13/multistream/1.0.0\n\x07/noise\n" + bytes(4000),
        b"\xff" * 99,
    ],
)
def test_garbage_on_the_port_is_cut_off_and_harms_nobody(garbage):
    limits = ConnectionLimits(handshake_seconds=0.3)

    async def scenario():
        async with (
            open_libp2p_network(Identity.generate(), limits=limits) as network,
            open_libp2p_network(Identity.generate()) as other,
        ):
            network.serve(ECHO, echo)
            port = int(network.addrs[0].split("/")[4])
            for _ in range(3):
                stranger = await trio.open_tcp_stream("127.0.0.1", port)
                await stranger.send_all(garbage)
                with trio.fail_after(2.0):
                    try:
                        while await stranger.receive_some():
                            pass
                    except trio.BrokenResourceError:
                        pass
                await stranger.aclose()
            await other.dial(network.addrs[0])
            stream = await other.open_stream(network.peer_id, ECHO)
            await stream.send(b"fine")
            assert await stream.receive() == b"fine"

    run(scenario)


def test_garbage_inside_a_connection_ends_it_and_nothing_else():
    async def scenario():
        async with (
            open_libp2p_network(Identity.generate()) as network,
            open_libp2p_network(Identity.generate()) as bad,
            open_libp2p_network(Identity.generate()) as good,
        ):
            network.serve(ECHO, echo)
            lost = trio.Event()
            network.on_lost(lambda gone: lost.set() if gone == bad.peer_id else None)
            for peer in (bad, good):
                await peer.dial(network.addrs[0])
            stream = await good.open_stream(network.peer_id, ECHO)
            connection = bad._connections.of(network.peer_id)[0]
            four_gigabytes = b"\0\0\0\0\0\0\0\x01\xff\xff\xff\xff"  # a data frame's header
            await connection.secured_conn.write(four_gigabytes)
            await lost.wait()
            await stream.send(b"fine")
            assert await stream.receive() == b"fine"

    run(scenario)


def test_many_connections_in_a_row_do_not_wear_it_out():
    # Stock py-libp2p never gives back a place under its limit of inbound connections.
    async def scenario():
        async with open_libp2p_network(Identity.generate()) as network:
            network.serve(ECHO, echo)
            for _ in range(30):
                async with open_libp2p_network(Identity.generate()) as guest:
                    await guest.dial(network.addrs[0])
                    stream = await guest.open_stream(network.peer_id, ECHO)
                    await stream.send(b"x")
                    assert await stream.receive() == b"x"
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert not network.connected()
            assert network.admission.authenticated == network.admission.unauthenticated == 0

    run(scenario)


def test_ipv6():
    skip_without_ipv6()

    async def scenario():
        async with (
            open_libp2p_network(Identity.generate(), ["/ip6/::1/tcp/0", "/ip4/127.0.0.1/tcp/0"]) as network,
            open_libp2p_network(Identity.generate()) as other,
        ):
            assert [addr.split("/")[1] for addr in network.addrs] == ["ip6", "ip4"]
            assert await other.dial(network.addrs[0]) == network.peer_id
            network.serve(ECHO, echo)
            stream = await other.open_stream(network.peer_id, ECHO)
            await stream.send(b"six")
            assert await stream.receive() == b"six"
            assert network.observed_ip(other.peer_id) == other.observed_ip(network.peer_id) == "::1"

    run(scenario)


def silent_port(stack: ExitStack) -> int:
    """One that takes connections and says nothing."""
    sock = stack.enter_context(socket.socket())
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock.getsockname()[1]


def dead_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_a_connection_takes_no_longer_than_its_handshakes():
    async def scenario():
        seconds = []
        async with open_libp2p_network(Identity.generate()) as network:
            for _ in range(9):
                async with open_libp2p_network(Identity.generate(), []) as visitor:
                    began = trio.current_time()
                    await visitor.dial(network.addrs[0])
                    seconds.append(trio.current_time() - began)
        # The handshakes take a tenth of that. Other processes delay some; a wait of ours would delay all.
        assert min(seconds) < 0.2

    run(scenario)


def test_one_stream_too_many_is_an_error_at_once_and_the_others_go_on():
    async def scenario():
        async with (
            open_libp2p_network(Identity.generate()) as network,
            open_libp2p_network(Identity.generate(), []) as visitor,
        ):
            network.serve(ECHO, echo)
            peer = await visitor.dial(network.addrs[0])
            streams = [await visitor.open_stream(peer, ECHO) for _ in range(1024)]
            with pytest.raises(Unreachable, match="as many streams to this peer as may be are open"):
                await visitor.open_stream(peer, ECHO)
            await streams[7].send(b"still here")
            assert await streams[7].receive() == b"still here"

    run(scenario)


def test_one_good_address_among_bad_ones_is_enough():
    async def scenario():
        with ExitStack() as stack:
            async with (
                open_libp2p_network(Identity.generate()) as network,
                open_libp2p_network(Identity.generate()) as other,
                open_libp2p_network(Identity.generate()) as visitor,
            ):
                network.serve(ECHO, echo)
                peer = network.peer_id
                bad = [
                    f"/ip4/127.0.0.1/tcp/{silent_port(stack)}/p2p/{peer}",
                    f"/ip4/127.0.0.1/tcp/{dead_port()}/p2p/{peer}",
                    f"/ip4/127.0.0.1/tcp/{silent_port(stack)}/p2p/{peer}",
                    other.addrs[0].replace(other.peer_id, peer),
                ]
                visitor.learn_addrs(peer, [*bad, network.addrs[0]])
                began = trio.current_time()
                stream = await visitor.open_stream(peer, ECHO)
                assert trio.current_time() - began < 5.0  # the silent ones are given up after ten
                await stream.send(b"found")
                assert await stream.receive() == b"found"
                assert visitor.addrs_of(peer)[0] == network.addrs[0]

    run(scenario)


def test_an_error_says_of_each_address_why():
    async def scenario():
        async with (
            open_libp2p_network(Identity.generate()) as other,
            open_libp2p_network(Identity.generate()) as visitor,
        ):
            peer = Identity.generate().peer_id
            expected = {
                f"/ip4/127.0.0.1/tcp/{dead_port()}/p2p/{peer}": "refused the connection",
                other.addrs[0].replace(
                    other.peer_id, peer
                ): f"answered, but is peer {other.peer_id}: the address is old",
                f"/dns4/no-such-name.invalid/tcp/1/p2p/{peer}": "the name was not found",
            }
            visitor.learn_addrs(peer, list(expected))
            with pytest.raises(Unreachable) as caught:
                await visitor.open_stream(peer, ECHO)
            assert dict(caught.value.attempts) == expected
            with pytest.raises(Unreachable, match="is this peer itself"):
                await visitor.dial(visitor.addrs[0])

    run(scenario)


def test_many_who_want_one_peer_make_one_connection():
    async def scenario():
        async with (
            open_libp2p_network(Identity.generate()) as network,
            open_libp2p_network(Identity.generate()) as visitor,
        ):
            network.serve(ECHO, echo)
            visitor.learn_addrs(network.peer_id, network.addrs)
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(visitor.open_stream, network.peer_id, ECHO)
            assert len(visitor._connections.of(network.peer_id)) == 1

    run(scenario)


def test_two_who_dial_each_other_at_once_are_connected():
    async def scenario():
        async with (
            open_libp2p_network(Identity.generate()) as one,
            open_libp2p_network(Identity.generate()) as two,
        ):
            for network in (one, two):
                network.serve(ECHO, echo)
            for _ in range(5):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(one.dial, two.addrs[0])
                    nursery.start_soon(two.dial, one.addrs[0])
                for here, there in ((one, two), (two, one)):
                    stream = await here.open_stream(there.peer_id, ECHO)
                    await stream.send(b"hello")
                    assert await stream.receive() == b"hello"

    run(scenario)


@pytest.mark.skipif(sys.platform != "linux", reason="counts what is in /proc/self/fd")
def test_dials_that_fail_or_are_given_up_leave_nothing_open():
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def scenario():
        with ExitStack() as stack:
            silent = silent_port(stack)
            async with (
                open_libp2p_network(Identity.generate()) as network,
                open_libp2p_network(Identity.generate()) as visitor,
            ):
                peer = Identity.generate().peer_id
                before = descriptors()
                for _ in range(20):
                    with trio.move_on_after(0.01):
                        await visitor.dial(f"/ip4/127.0.0.1/tcp/{silent}/p2p/{peer}")
                    with pytest.raises(Unreachable):
                        await visitor.dial(network.addrs[0].replace(network.peer_id, peer))
                    with pytest.raises(Unreachable):
                        await visitor.dial(f"/ip4/127.0.0.1/tcp/{dead_port()}/p2p/{peer}")
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert descriptors() == before
                assert network.admission.unauthenticated == 0

    run(scenario)


def test_host_names_are_resolved_as_the_system_does():
    async def scenario():
        async with (
            open_libp2p_network(Identity.generate()) as network,
            open_libp2p_network(Identity.generate()) as other,
        ):
            addr = network.addrs[0].replace("/ip4/127.0.0.1/", "/dns4/localhost/")
            assert await other.dial(addr) == network.peer_id
            with pytest.raises(Unreachable, match="the name was not found"):
                await other.dial(f"/dns4/no-such-name.invalid/tcp/1/p2p/{Identity.generate().peer_id}")

    run(scenario)


def test_all_interfaces_means_addresses_that_can_be_dialled():
    async def scenario():
        async with (
            open_libp2p_network(Identity.generate(), ["/ip4/0.0.0.0/tcp/0"]) as network,
            open_libp2p_network(Identity.generate()) as other,
        ):
            assert any(addr.startswith("/ip4/127.0.0.1/tcp/") for addr in network.addrs)
            assert not any("/0.0.0.0/" in addr or "/tcp/0/" in addr for addr in network.addrs)
            assert await other.dial(network.addrs[-1]) == network.peer_id

    run(scenario)


def test_a_taken_port_is_refused_with_advice():
    async def scenario():
        async with open_libp2p_network(Identity.generate()) as network:
            port = network.addrs[0].split("/")[4]
            with pytest.raises(ConfigurationError, match="port 0 takes any free one"):
                async with open_libp2p_network(Identity.generate(), [f"/ip4/127.0.0.1/tcp/{port}"]):
                    pass

    run(scenario)


@pytest.mark.parametrize("listen", ["", "nonsense", "/ip4/127.0.0.1/udp/1", "/dns4/example.org/tcp/1"])
def test_what_cannot_be_listened_on_is_explained(listen):
    async def scenario():
        with pytest.raises(ConfigurationError, match="listen="):
            async with open_libp2p_network(Identity.generate(), [listen]):
                pass

    run(scenario)


def test_a_peer_that_does_not_listen_can_be_called_back():
    async def scenario():
        async with (
            open_libp2p_network(Identity.generate(), []) as silent,
            open_libp2p_network(Identity.generate()) as network,
        ):
            assert silent.addrs == ()
            silent.serve(ECHO, echo)
            network.serve(ECHO, echo)
            await silent.dial(network.addrs[0])
            await (await silent.open_stream(network.peer_id, ECHO)).close()
            stream = await network.open_stream(silent.peer_id, ECHO)
            await stream.send(b"back")
            assert await stream.receive() == b"back"

    run(scenario)


def test_closing_closes_the_port():
    async def scenario():
        async with open_libp2p_network(Identity.generate()) as network:
            port = int(network.addrs[0].split("/")[4])
        with pytest.raises(OSError, match=r"."):
            await trio.open_tcp_stream("127.0.0.1", port)

    run(scenario)
