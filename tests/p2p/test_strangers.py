"""What strangers can do to a peer, played over raw sockets against a real process with the real limits.

Numbers: everything from a stranger is bounded to 64 KiB and a deadline; 16 unheard connections of one
address; nothing that one address does keeps another out; memory and descriptors come back.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
import trio
from victim import (
    ECHO,
    HANDSHAKE_SECONDS,
    MEGABYTE,
    Victim,
    abort,
    against,
    honest_visits,
    is_closed_after,
    knock,
    until,
)

from moshgrid.p2p.connection_limits import ConnectionLimits
from moshgrid.p2p.errors import Unreachable
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_network import open_libp2p_network
from moshgrid.p2p.network import Network

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and uses all of 127.0.0.0/8")

FLOODER = Path(__file__).parent / "flood_process.py"
HEADER = b"\x13/multistream/1.0.0\n"
NOISE, TLS = HEADER + b"\x07/noise\n", HEADER + b"\x0b/tls/1.0.0\n"

BOMBS = {
    "silence": b"",
    "a web browser": b"GET / HTTP/1.1\r\n" * 5000,
    "a line of 400 MiB": b"\x80\x80\x80\xc8\x01" + bytes(MEGABYTE),
    "an endless number": b"\xff" * MEGABYTE,
    "lines as long as allowed": HEADER + (b"\x80\x08" + b"x" * 1023 + b"\n") * 1000,
    "proposals without end": HEADER + b"\3/a\n" * 100_000,
    "half a line": HEADER + b"\x80\x08" + b"x" * 1000,
    "a large Noise message": NOISE + b"\xff\xff" + bytes(MEGABYTE),
    "a Noise message that is noise": NOISE + b"\0\x20" + bytes(32) + b"\xff\xff" + bytes(MEGABYTE),
    "a large TLS record": TLS + b"\x16\x03\x01\xff\xff" + bytes(MEGABYTE),
    "TLS records without end": TLS + (b"\x16\x03\x01\x40\x00" + b"\1\0\xff\xfc" + bytes(16380)) * 60,
}


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
LARGE_FRAME = b"\x82\xff" + (1 << 40).to_bytes(8, "big") + bytes(4)
WEB_BOMBS = {
    "half a request": b"GET / HTTP/1.1\r\nX: ",
    "headers without end": b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200_000,
    "a large header": b"GET / HTTP/1.1\r\nX: " + b"x" * MEGABYTE,
    "a web page": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 10_000,
    "a large frame": UPGRADE + LARGE_FRAME + bytes(MEGABYTE),
    "a large frame of proposals": UPGRADE + LARGE_FRAME + HEADER + b"\3/a\n" * 100_000,
    "a large Noise message": UPGRADE + LARGE_FRAME + NOISE + b"\xff\xff" + bytes(MEGABYTE),
    "frames of one byte": UPGRADE + b"\x82\x81\0\0\0\0\x13" * 100_000,
    "pings without end": UPGRADE + b"\x89\x80\0\0\0\0" * 100_000,
    "text": UPGRADE + b"\x81\x85\0\0\0\0hello" * 10_000,
}


@pytest.mark.parametrize("web", [False, True], ids=["tcp", "websocket"])
def test_what_a_stranger_sends_is_not_kept(web):
    async def attack(victim: Victim) -> None:
        held, connections = [], 512
        before, most = victim.memory(), 0
        bombs = list((WEB_BOMBS if web else BOMBS).values())
        port = victim.web_port if web else victim.port
        async with trio.open_nursery() as nursery:

            async def one(number: int) -> None:
                stream = await knock(port, f"127.0.1.{1 + number // 16}")
                held.append(await is_closed_after(stream, bombs[number % len(bombs)]))

            async def watch() -> None:
                nonlocal most
                while True:
                    most = max(most, victim.memory())
                    await trio.sleep(0.02)

            nursery.start_soon(watch)
            async with trio.open_nursery() as attackers:
                for number in range(connections):
                    attackers.start_soon(one, number)
            nursery.cancel_scope.cancel()
        assert len(held) == connections
        assert max(held) < HANDSHAKE_SECONDS + 5.0
        assert most - before < 32 * MEGABYTE
        # A second time costs nothing more: what grew is what the allocator keeps.
        assert victim.memory() - before < 32 * MEGABYTE

    against(attack)


@pytest.mark.parametrize(
    ("carrier", "bomb"), [*(("", bomb) for bomb in BOMBS), *(("/ws", bomb) for bomb in WEB_BOMBS)]
)
def test_each_way_to_be_rude_ends_in_time(carrier, bomb):
    limits = ConnectionLimits(handshake_seconds=0.4)
    data = (WEB_BOMBS if carrier else BOMBS)[bomb]

    async def main() -> None:
        with trio.fail_after(20.0):
            listen = [f"/ip4/127.0.0.1/tcp/0{carrier}"]
            async with open_libp2p_network(Identity.generate(), listen, limits=limits) as network:
                stream = await knock(int(network.addrs[0].split("/")[4]), "127.0.0.1")
                assert await is_closed_after(stream, data) < 5.0
                async with open_libp2p_network(Identity.generate(), []) as visitor:
                    await visitor.dial(network.addrs[0])

    trio.run(main)


def test_half_open_connections_of_one_address_are_few_and_gone_in_time():
    async def attack(victim: Victim) -> None:
        before, most, closed = victim.descriptors(), 0, 0
        async with trio.open_nursery() as nursery:

            async def one() -> None:
                nonlocal closed
                with suppress(OSError):
                    await is_closed_after(await knock(victim.port, "127.0.2.1"), HEADER)
                closed += 1

            async def watch() -> None:
                nonlocal most
                while closed < 1000:
                    most = max(most, victim.descriptors())
                    await trio.sleep(0.01)

            nursery.start_soon(watch)
            for _ in range(1000):
                nursery.start_soon(one)
            times = await honest_visits(victim, 20)
        p95 = statistics.quantiles(times, n=20)[-1]
        print(f"p95 of an honest visit: {p95:.2f} s")
        assert statistics.median(times) < 5.0  # the goal of a second: below, where nothing else runs
        # Sixteen, the honest visitor, and one that is being turned away.
        assert most - before <= 16 + 3

    against(attack)


@pytest.mark.slow
def test_honest_peers_connect_while_one_address_keeps_a_thousand_half_open():
    async def attack(victim: Victim) -> None:
        command = [sys.executable, str(FLOODER), victim.addr, "half-open", "inf", "30", "127.0.12.1"]
        flooder = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert flooder.stdin is not None and flooder.stdout is not None
        assert b"ready" in await flooder.stdout.receive_some()
        await flooder.stdin.send_all(b"\n")
        await trio.sleep(1.0)
        used, began = victim.cpu_seconds(), trio.current_time()
        times = await honest_visits(victim, 100)
        cores = (victim.cpu_seconds() - used) / (trio.current_time() - began)
        assert flooder.returncode is None  # it went on all the while
        held = victim.descriptors()
        await flooder.wait()
        p95 = statistics.quantiles(times, n=20)[-1]
        print(f"honest visits: p95 {p95:.2f} s, most {max(times):.2f} s; {held} files, {cores:.2f} cores")
        assert p95 <= 1.0

    against(attack, 120.0)


@pytest.mark.parametrize("refused", [3000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_refusals_and_many_bugs_keep_nobody_out(refused):
    async def attack(victim: Victim) -> None:
        async def fail(network: Network) -> None:
            with suppress(Unreachable):
                stream = await network.open_stream(victim.peer, "/test/fail/1")
                await stream.receive()

        async with open_libp2p_network(Identity.generate(), []) as network:
            await network.dial(victim.addr)
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(fail, network)
        numbers = count()
        async with trio.open_nursery() as nursery:

            async def storm() -> None:
                while next(numbers) < refused:
                    stream = await knock(victim.port, "127.0.3.1")
                    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                        await stream.send_all(b"\xff" * 64)
                    abort(stream)

            for _ in range(16):
                nursery.start_soon(storm)
        assert min(await honest_visits(victim, 3)) < (5.0 if refused < 10_000 else 1.0)
        assert len([line for line in victim.log() if "failed" in line]) == 1  # and not a hundred tracebacks

    against(attack)


def test_streams_that_never_say_what_they_want_are_reset():
    async def attack(victim: Victim) -> None:
        async with open_libp2p_network(Identity.generate(), []) as network:
            await network.dial(victim.addr)
            (connection,) = network._connections.of(victim.peer)
            streams = [await connection.open_stream() for _ in range(500)]
            for stream in streams:
                await stream.write(HEADER[:7])
            good = await network.open_stream(victim.peer, ECHO)
            began = trio.current_time()
            async with trio.open_nursery() as nursery:

                async def until_reset(stream) -> None:
                    with suppress(Exception):
                        while True:
                            await stream.read(100)

                for stream in streams:
                    nursery.start_soon(until_reset, stream)
            assert trio.current_time() - began < HANDSHAKE_SECONDS + 5.0
            await good.send(b"still here")
            assert await good.receive() == b"still here"

    against(attack)


def test_known_peers_of_one_address_are_sixty_four_and_others_get_in():
    async def main() -> None:
        limits = ConnectionLimits(exempt=(), unauthenticated_per_source=100)
        with trio.fail_after(60.0):
            async with open_libp2p_network(
                Identity.generate(), ["/ip4/0.0.0.0/tcp/0"], limits=limits
            ) as network:
                addr = next(addr for addr in network.addrs if "/127.0.0.1/" in addr)
                async with trio.open_nursery() as nursery:

                    async def visit(task_status=trio.TASK_STATUS_IGNORED) -> None:
                        async with open_libp2p_network(Identity.generate(), []) as visitor:
                            with suppress(Unreachable):
                                await visitor.dial(addr)
                            task_status.started()
                            await trio.sleep_forever()

                    for _ in range(66):
                        await nursery.start(visit)
                    assert network.admission.authenticated == 64
                    assert len(network.connected()) == 64
                    nursery.cancel_scope.cancel()
                await until(lambda: not network.admission.authenticated, 5.0)
                async with open_libp2p_network(Identity.generate(), []) as visitor:
                    await visitor.dial(addr)

    trio.run(main)


def test_a_peer_has_eight_connections_and_the_oldest_goes():
    async def main() -> None:
        me = Identity.generate()
        with trio.fail_after(30.0):
            async with open_libp2p_network(Identity.generate()) as network, trio.open_nursery() as nursery:

                async def visit(task_status=trio.TASK_STATUS_IGNORED) -> None:
                    async with open_libp2p_network(me, []) as visitor:
                        await visitor.dial(network.addrs[0])
                        task_status.started(visitor)
                        await trio.sleep_forever()

                visitors = [await nursery.start(visit) for _ in range(10)]
                await until(lambda: len(network._connections.of(me.peer_id)) == 8, 5.0)
                await until(lambda: not any(visitor.connected() for visitor in visitors[:2]), 5.0)
                assert all(visitor.connected() for visitor in visitors[2:])
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_without_descriptors_it_waits_and_then_goes_on():
    async def attack(victim: Victim) -> None:
        soft, hard = resource.prlimit(victim.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(victim.process.pid, resource.RLIMIT_NOFILE, (victim.descriptors() + 10, hard))
        streams = [await knock(victim.port, "127.0.4.1") for _ in range(14)]
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(is_closed_after, stream)
        assert max(await honest_visits(victim, 1)) < 5.0
        resource.prlimit(victim.process.pid, resource.RLIMIT_NOFILE, (soft, hard))

    against(attack)
