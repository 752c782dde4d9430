"""A peer in another process, seen and attacked from outside: over raw sockets, with the real limits."""

from __future__ import annotations

import math
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio
from libp2p.io.exceptions import IOException
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID

from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_negotiation import SecureLine
from moshgrid.p2p.libp2p_network import open_libp2p_network
from moshgrid.p2p.libp2p_upgrade import Upgrade
from moshgrid.p2p.multistream import propose
from moshgrid.p2p.yamux_frames import DATA, PING, RST, SYN, pack_header

__all__ = [
    "ECHO",
    "HANDSHAKE_SECONDS",
    "MEGABYTE",
    "Flood",
    "Victim",
    "abort",
    "against",
    "honest_visits",
    "is_closed_after",
    "knock",
    "raw_session_at",
    "until",
]

SCRIPT = Path(__file__).resolve().parents[1] / "p2p/peer_process.py"
ECHO = "/test/echo/1"
HANDSHAKE_SECONDS = 2.5
MEGABYTE = 1 << 20


async def until(condition: Callable[[], bool], within: float) -> None:
    """Waits for what shows from outside only."""
    with trio.fail_after(within):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.02)


class Victim:
    """A peer in another process, seen from outside."""

    def __init__(self, process: trio.Process, addrs: list[str], log: Path) -> None:
        self.process = process
        self.addr, _ = addrs
        self.port, self.web_port = (int(addr.split("/")[4]) for addr in addrs)
        self.peer = self.addr.rpartition("/")[2]
        self._log = log

    def log(self) -> list[str]:
        """What it has said to whoever runs it, line by line."""
        return self._log.read_text().splitlines()

    def cpu_seconds(self) -> float:
        """What it has used of the processor."""
        return time.clock_gettime(~self.process.pid << 3 | 2)  # the number that Linux gives this clock

    def memory(self) -> int:
        """Resident bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        """Open files."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    async def rests_at(self, descriptors: int, within: float) -> None:
        """Waits until no more files are open than that."""
        await until(lambda: self.descriptors() <= descriptors, within)


@asynccontextmanager
async def victim() -> AsyncIterator[Victim]:
    command = [sys.executable, str(SCRIPT), "--strict", str(HANDSHAKE_SECONDS)]
    command += ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"]
    with tempfile.NamedTemporaryFile() as log:
        process = await trio.lowlevel.open_process(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.fileno()
        )
        async with _running(process):
            yield Victim(process, await _first_line(process), Path(log.name))


async def _first_line(process: trio.Process) -> list[str]:
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        piece = await process.stdout.receive_some()
        assert piece, "the peer process ended"
        line += piece
    return line.decode().split()


@asynccontextmanager
async def _running(process: trio.Process) -> AsyncIterator[None]:
    try:
        yield
        assert process.returncode is None
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await process.wait()


async def raw_session_at(addr: str, source: str = "127.0.0.1", identity: Identity | None = None) -> Any:
    """A connection that is encrypted and has agreed on yamux, and speaks none: frames are the attacker's."""
    upgrade = Upgrade(identity or Identity.generate(), _Nobody(), None)
    raw = RawConnection(TrioTCPStream(await knock(int(addr.split("/")[4]), source)), True)
    secured = await upgrade.upgrade_security(raw, True, ID.from_base58(addr.rpartition("/")[2]))
    await propose(SecureLine(secured), [YAMUX_ID])
    return secured


class _Nobody:
    def connection_began(self, connection: Any) -> None:
        raise NotImplementedError

    connection_ended = connection_began


class Flood:
    """Frames without end over one raw session: streams opened and reset (with the first words of a
    negotiation in between, for "words"), or pings."""

    def __init__(self, session: Any, kind: str, per_second: float = math.inf) -> None:
        self._session = session
        self._kind = kind
        self._pause = 100 / per_second
        self._next_id = 1

    def _frames(self, count: int) -> bytes:
        if self._kind == "pings":
            return pack_header(PING, SYN, 0, 7) * count
        ids = range(self._next_id, self._next_id + 2 * count, 2)
        self._next_id += 2 * count
        words = b"\x13/multistream/1.0.0\n" if self._kind == "words" else b""
        return b"".join(
            pack_header(DATA, SYN, i, len(words)) + words + pack_header(DATA, RST, i, 0) for i in ids
        )

    async def run(self, count: int) -> int:
        """How many were sent when the victim had enough, ``count`` at most."""
        sent = 0
        async with trio.open_nursery() as nursery:

            async def hear() -> None:
                with suppress(IOException):
                    while await self._session.receive_some():
                        pass
                nursery.cancel_scope.cancel()

            nursery.start_soon(hear)
            with suppress(IOException):
                while sent < count:
                    batch = min(100, count - sent)
                    await self._session.send_all([self._frames(batch)])
                    sent += batch
                    await trio.sleep(self._pause)
                await trio.sleep_forever()  # until the victim hangs up
        with trio.CancelScope(shield=True):
            await self._session.close()
        return sent


async def knock(port: int, source: str) -> trio.SocketStream:
    """A raw connection from one of this computer's many addresses."""
    sock = trio.socket.socket()
    await sock.bind((source, 0))
    await sock.connect(("127.0.0.1", port))
    return trio.SocketStream(sock)


async def is_closed_after(stream: trio.SocketStream, data: bytes = b"") -> float:
    """Sends as much of ``data`` as is taken; the seconds until the end."""
    began = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await stream.send_all(data)

        nursery.start_soon(send)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while await stream.receive_some(65536):
                pass
        nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(stream)
    return trio.current_time() - began


def abort(stream: trio.SocketStream) -> None:
    """Ends a connection so that this computer forgets it at once."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def honest_visits(victim: Victim, visits: int) -> list[float]:
    """Seconds that each of some visits by new peers took, with an echo."""
    seconds = []
    for _ in range(visits):
        async with open_libp2p_network(Identity.generate(), []) as visitor:
            began = trio.current_time()
            await visitor.dial(victim.addr)
            stream = await visitor.open_stream(victim.peer, ECHO)
            await stream.send(b"hello")
            assert await stream.receive() == b"hello"
            seconds.append(trio.current_time() - began)
    return seconds


def against(attack: Callable[[Victim], Awaitable[None]], limit: float = 110.0) -> None:
    """Runs ``attack`` on a peer that has been used, and looks whether it rests afterwards."""

    async def main() -> None:
        with trio.fail_after(limit):
            async with victim() as target:
                await honest_visits(target, 2)
                before, resident = target.descriptors(), target.memory()
                await attack(target)
                assert min(await honest_visits(target, 3)) < 5.0
                await target.rests_at(before, HANDSHAKE_SECONDS + 5.0)
                grown = target.memory() - resident
                print(f"{grown / MEGABYTE:.1f} MiB more than before")
                assert grown < 32 * MEGABYTE  # what the allocator keeps; a second attack adds none

    trio.run(main)
