"""What peers that said who they are can do to another one: over real connections to a real process.

A sender that ignores its window is cut after one frame; streams opened and reset, or pings, cut their
connection after two thousand; half-sent requests end in time. Honest peers go on all the while.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from libp2p.io.exceptions import IOException
from victim import (
    ECHO,
    HANDSHAKE_SECONDS,
    MEGABYTE,
    Flood,
    Victim,
    against,
    honest_visits,
    knock,
    raw_session_at,
    until,
)

from moshgrid.p2p.connection_limits import Admission, ConnectionLimits, Refusal
from moshgrid.p2p.errors import StreamReset, Unreachable
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_network import open_libp2p_network
from moshgrid.p2p.network import Network, Stream
from moshgrid.p2p.yamux_frames import DATA, INITIAL_WINDOW, SYN, WINDOW_UPDATE, pack_header

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and uses all of 127.0.0.0/8")

FLOODER = Path(__file__).parent / "flood_process.py"
HEADER = b"\x13/multistream/1.0.0\n"
STAY = b"\x0d/test/stay/1\n"


async def echo_once(stream: Stream) -> float:
    began = time.perf_counter()
    await stream.send(b"x" * 64)
    assert await stream.receive()
    return time.perf_counter() - began


def test_a_thousand_half_sent_requests_are_gone_in_time():
    async def attack(victim: Victim) -> None:
        opened = alive = 0

        async def one(network: Network) -> None:
            nonlocal opened, alive
            with suppress(Unreachable):
                stream = await network.open_stream(victim.peer, "/test/double/1")
                opened += 1
                alive += 1
                try:
                    await stream.send(b"\0\0\0\x10\0")
                    await stream.receive()
                except StreamReset:
                    pass
                alive -= 1

        async with trio.open_nursery() as networks:

            async def attacker(task_status=trio.TASK_STATUS_IGNORED) -> None:
                async with open_libp2p_network(Identity.generate(), []) as network:
                    await network.dial(victim.addr)
                    task_status.started(network)
                    await trio.sleep_forever()

            attackers = [await networks.start(attacker) for _ in range(20)]
            async with trio.open_nursery() as nursery:  # ends when all that were sent half are reset
                for network in attackers:
                    for _ in range(50):
                        nursery.start_soon(one, network)
                await until(lambda: opened > 100, 30.0)
                times = await honest_visits(victim, 5)
            assert alive == 0 and opened >= 20 * 8
            assert len(times) == 5
            networks.cancel_scope.cancel()

    against(attack)


def test_a_sender_that_ignores_its_window_is_cut_off_and_costs_no_memory():
    async def attack(victim: Victim) -> None:
        async def cheat(number: int) -> int:
            session = await raw_session_at(victim.addr, f"127.0.8.{number}")
            await session.send_all([pack_header(WINDOW_UPDATE, SYN, 1, 0)])
            hello = HEADER + STAY
            await session.send_all([pack_header(DATA, 0, 1, len(hello)), hello])
            heard = b""
            while b"here" not in heard:
                heard += bytes(await session.receive_some())
            frame = [pack_header(DATA, 0, 1, 65536), bytes(65536)]
            sent = 0
            with suppress(IOException):
                while sent < 64 * MEGABYTE:
                    await session.send_all(frame)
                    sent += 65536
            await session.close()
            return sent

        memory = []
        for turn in range(3):
            sent = [await cheat(10 * turn + number) for number in range(1, 11)]
            assert max(sent) < 16 * MEGABYTE
            memory.append(victim.memory())
            await trio.sleep(HANDSHAKE_SECONDS + 0.2)  # the handlers that wait for nobody are gone then
        print("resident MiB:", [size / MEGABYTE for size in memory])
        assert memory[2] - memory[0] < 2 * MEGABYTE
        assert any("more than its window" in line for line in victim.log())

    against(attack)


def test_one_frame_over_the_window_is_one_too_many():
    async def attack(victim: Victim) -> None:
        session = await raw_session_at(victim.addr)
        hello = HEADER + STAY
        await session.send_all([pack_header(DATA, SYN, 1, len(hello)), hello])
        heard = b""
        while b"here" not in heard:
            heard += bytes(await session.receive_some())
        # The window was given back for what the negotiation took, or not: both are allowed.
        full = bytes(INITIAL_WINDOW - len(hello))
        await session.send_all([pack_header(DATA, 0, 1, len(full)), full])
        await session.send_all([pack_header(DATA, 0, 1, 1024), bytes(1024)])
        with trio.fail_after(5.0), suppress(IOException):
            while await session.receive_some():
                pass
        await session.close()

    against(attack)


@pytest.mark.parametrize("kind", ["opens", "pings"])
def test_a_flood_of_frames_cuts_its_own_connection_only(kind):
    async def attack(victim: Victim) -> None:
        async with open_libp2p_network(Identity.generate(), []) as honest:
            await honest.dial(victim.addr)
            stream = await honest.open_stream(victim.peer, ECHO)
            before, used = victim.memory(), victim.cpu_seconds()
            answered, ended = 0, trio.Event()
            async with trio.open_nursery() as nursery:

                async def talk() -> None:
                    nonlocal answered
                    while not ended.is_set():
                        await echo_once(stream)
                        answered += 1

                nursery.start_soon(talk)
                for number in range(1, 4):
                    flood = Flood(await raw_session_at(victim.addr, f"127.0.9.{number}"), kind)
                    with trio.fail_after(60.0):
                        await flood.run(100_000)  # returns when the victim hung up
                ended.set()
            await echo_once(stream)
            assert answered > 10
            print(f"{kind}: {victim.cpu_seconds() - used:.2f} s of the victim's processor")
            assert victim.memory() - before < 16 * MEGABYTE
            tired = [line for line in victim.log() if "kept on with" in line]
            assert 1 <= len(tired) <= 3

    against(attack)


def p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["opens", "words", "pings"])
@pytest.mark.parametrize("rate", ["10000", "inf"])
def test_honest_requests_during_ten_seconds_of_flood(kind, rate):
    async def attack(victim: Victim) -> None:
        # An attacker has a computer of its own: here it takes what the others leave of this one.
        command = ["nice", "-n", "15", sys.executable, str(FLOODER)]
        command += [victim.addr, kind, rate, "10", "127.0.9.1"]
        flooder = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert flooder.stdin is not None and flooder.stdout is not None
        assert b"ready" in await flooder.stdout.receive_some()
        async with open_libp2p_network(Identity.generate(), []) as honest:
            await honest.dial(victim.addr)
            stream = await honest.open_stream(victim.peer, ECHO)
            calm: list[tuple[float, float]] = []
            stormy: list[tuple[float, float]] = []

            async def talk(times: list[tuple[float, float]]) -> None:
                """Seconds by the clock, and of the victim's processor: other processes slow only the one."""
                used = victim.cpu_seconds()
                seconds = await echo_once(stream)
                times.append((seconds, victim.cpu_seconds() - used))

            for _ in range(1000):
                await echo_once(stream)
            for _ in range(4000):
                await talk(calm)
            used, began = victim.cpu_seconds(), time.perf_counter()
            await flooder.stdin.send_all(b"\n")
            while flooder.returncode is None:
                await talk(stormy)
                if len(stormy) % 100 == 0:
                    with trio.move_on_after(0):
                        await flooder.wait()
            cores = (victim.cpu_seconds() - used) / (time.perf_counter() - began)
            for _ in range(4000):
                await talk(calm)
        sent, connections, knocks = map(int, (await flooder.stdout.receive_some()).split())
        print(
            f"{kind}, {rate}/s: {sent} over {connections} connections of {knocks} tried; of the victim's "
            f"processor {cores:.2f} cores; {len(stormy)} honest answers"
        )
        assert sent > 2_000 and max(stormy)[0] < 5.0
        assert cores <= 1.0
        ratios = []
        for clock, what in enumerate(("by the clock", "of the victim's processor")):
            without, during = (p99([both[clock] for both in times]) for times in (calm, stormy))
            ratios.append(during / without)
            print(f"  p99 {what}: {without * 1e3:.2f} ms without, {during * 1e3:.2f} ms during")
        # Each is too much: by the clock other processes count as well, and by the processor what the victim
        # does for the attacker while an answer waits for us.
        assert min(ratios) <= 2.0

    against(attack, 120.0)


@pytest.mark.parametrize("sources", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_a_new_name_for_every_connection_costs_few_handshakes_and_no_memory(sources):
    """Who makes a key for each connection proves it each time, and that is work: so many a source."""

    async def attack(victim: Victim) -> None:
        async def come(source: str, tries: int, most: list[int]) -> None:
            """Connections that were secured, each under a name of its own, eight at a time."""
            began, left, secured = trio.current_time(), tries, 0

            async def one_after_the_other() -> None:
                nonlocal left, secured
                while left > 0:
                    left -= 1
                    with suppress(Exception):
                        session = await raw_session_at(victim.addr, source, Identity.generate())
                        secured += 1
                        await session.close()

            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(one_after_the_other)
            assert 64 <= secured <= 128 + 20 * (trio.current_time() - began) + 1
            most.append(secured)

        secured: list[int] = []
        memory = []
        used = victim.cpu_seconds()
        for source in range(sources):
            await come(f"127.0.13.{source + 1}", 200 if sources == 1 else 128, secured)
            memory.append(victim.memory())
        used = victim.cpu_seconds() - used
        print(f"{sum(secured)} of {200 * sources}, {used / sum(secured) * 1e3:.1f} ms of its processor each")
        print("resident MiB:", [round(size / MEGABYTE, 1) for size in memory])
        assert memory[-1] - memory[len(memory) // 2] < 2 * MEGABYTE

    against(attack, 120.0)


# The limits of sources, through the real listener. Loopback has many addresses, and no privileges here.


def with_limits(scenario, **limits) -> None:
    async def main() -> None:
        with trio.fail_after(60.0):
            options = ConnectionLimits(**{"exempt": (), "handshake_seconds": 5.0, **limits})
            listen = ["/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"]
            async with open_libp2p_network(Identity.generate(), listen, limits=options) as network:
                await scenario(network, network.admission, int(network.addrs[0].split("/")[4]))

    trio.run(main)


async def is_over(stream: trio.SocketStream) -> None:
    """Returns when the other side has closed."""
    with suppress(trio.BrokenResourceError):
        while await stream.receive_some(1000):
            pass


async def is_greeted(stream: trio.SocketStream) -> None:
    """Returns when the other side has begun to negotiate: it let us in."""
    assert await stream.receive_some(1) == HEADER[:1]


def test_a_full_house_shows_the_largest_crowds_oldest_the_door():
    async def scenario(network: Network, admission: Admission, port: int) -> None:
        crowd = [await knock(port, "127.0.5.1") for _ in range(4)]
        others = [await knock(port, "127.0.5.2"), await knock(port, "127.0.5.3")]
        for stream in (*crowd, *others):
            await is_greeted(stream)
        assert admission.unauthenticated == 6
        newcomer = await knock(port, "127.0.5.4")
        await is_greeted(newcomer)
        await is_over(crowd[0])
        assert admission.unauthenticated == 6
        again = await knock(port, "127.0.5.1")
        await is_over(again)  # its crowd is the largest still
        assert admission.refused[Refusal.FULL] == 1
        async with open_libp2p_network(Identity.generate(), []) as visitor:
            await visitor.dial(network.addrs[0])

    with_limits(scenario, transient=6)


def test_who_comes_too_often_is_refused_unheard_and_others_are_not():
    async def scenario(network: Network, admission: Admission, port: int) -> None:
        began = trio.current_time()
        for _ in range(40):
            stream = await knock(port, "127.0.6.1")
            await stream.receive_some(1)  # its greeting, or its end
            await trio.aclose_forcefully(stream)
        allowed = 10 + 5 * (trio.current_time() - began)
        assert admission.refused[Refusal.TOO_OFTEN] >= 40 - allowed - 1
        await is_greeted(await knock(port, "127.0.6.2"))
        await until(lambda: admission.unauthenticated <= 1, 5.0)
        while True:  # in time its tokens grow again
            stream = await knock(port, "127.0.6.1")
            if await stream.receive_some(1):
                break

    with_limits(scenario, arrivals_per_second=5.0, arrival_burst=10.0)


async def breaks_the_rules(network: Network, source: str, identity: Identity) -> None:
    """Returns when it was cut for that."""
    session = await raw_session_at(network.addrs[0], source, identity)
    with suppress(IOException):
        await session.send_all([pack_header(DATA, 0, 77, 0)])  # for a stream that never was
        while await session.receive_some():
            pass
    await session.close()


async def is_let_in(network: Network, source: str, identity: Identity) -> bool:
    """Whether a connection is secured and stays, as its first ping shows."""
    with suppress(Exception):
        session = await raw_session_at(network.addrs[0], source, identity)
        heard = await session.receive_some()
        await session.close()
        return bool(heard)
    return False


async def comes_back(network: Network, source: str, identity: Identity) -> None:
    while not await is_let_in(network, source, identity):  # noqa: ASYNC110
        await trio.sleep(0.05)


def test_a_peer_that_broke_the_rules_comes_back_later_and_its_neighbour_at_once():
    async def scenario(network: Network, admission: Admission, port: int) -> None:
        mallory, here = Identity.generate(), "127.0.10.1"
        assert await is_let_in(network, here, mallory)
        await breaks_the_rules(network, here, mallory)
        assert not await is_let_in(network, "127.0.10.2", mallory)
        assert admission.refused[Refusal.BARRED] == 1
        assert await is_let_in(network, here, Identity.generate())
        await comes_back(network, here, mallory)

    with_limits(scenario, peer_penalty_seconds=(1.0, 1.0))


def test_an_address_that_goes_on_under_new_names_is_refused_unheard_and_comes_back_later():
    async def scenario(network: Network, admission: Admission, port: int) -> None:
        for _ in range(3):
            await breaks_the_rules(network, "127.0.11.1", Identity.generate())
        refused = await knock(port, "127.0.11.1")
        assert not await refused.receive_some(1)
        assert admission.refused[Refusal.BARRED] == 1
        assert await is_let_in(network, "127.0.11.2", Identity.generate())
        await comes_back(network, "127.0.11.1", Identity.generate())

    with_limits(scenario, source_penalty_seconds=(1.0, 1.0))


def test_an_ipv6_source_has_its_limit_too():
    async def scenario(network: Network, admission: Admission, port: int) -> None:
        six = int(network.addrs[1].split("/")[4])
        streams = [await trio.open_tcp_stream("::1", six) for _ in range(2)]
        for stream in streams:
            await is_greeted(stream)
        await is_over(await trio.open_tcp_stream("::1", six))
        assert admission.refused[Refusal.UNAUTHENTICATED] == 1
        await is_greeted(await knock(port, "127.0.7.1"))

    with_limits(scenario, unauthenticated_per_source=2)


def test_a_whole_ipv6_network_has_the_places_of_a_site():
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not here, to make a network namespace with")
    script = Path(__file__).parent / "ipv6_sources.py"
    command = ["unshare", "--map-root-user", "--net", sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    if done.returncode and "unshare" in done.stderr:
        pytest.skip(f"no network namespaces here: {done.stderr.strip()}")
    assert not done.returncode, done.stderr
    if done.stdout.startswith("none"):
        pytest.skip(f"no IPv6 in a network namespace here: {done.stdout.strip()}")
    # One address, the rest of its /56, the rest of its /48 (eight times as much in all), another network.
    assert done.stdout.split() == ["16", "0", str(7 * 16), "16"]
