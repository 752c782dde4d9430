"""Peers of other libp2p implementations that do what a test tells them, all in the same words."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import trio
from echoing import ECHO
from google.protobuf.message import DecodeError
from libp2p.identity.identify.identify import parse_identify_response
from multiaddr import Multiaddr

__all__ = ["ForeignPeer", "go_peer", "js_peer", "read_identify", "stock_python_peer"]

TCP = "/ip4/127.0.0.1/tcp/0"
PING, IDENTIFY = "/ipfs/ping/1.0.0", "/ipfs/id/1.0.0"


class ForeignPeer(Protocol):
    """It serves ``ECHO``, ping and identify."""

    peer: str
    addr: str

    async def dial(self, addr: str) -> None:
        """Connects to us."""

    async def echo(self, peer: str, size: int) -> bool:
        """Sends random bytes on a new stream of ``ECHO``; True when the same come back."""

    async def ping(self, peer: str) -> None:
        """Sends a ping and checks the answer."""

    async def identify(self, peer: str) -> set[str]:
        """The protocols that we say we speak."""


def read_identify(message: bytes) -> Any:
    """An identify message with its length. Raises ValueError."""
    try:
        return parse_identify_response(message)
    except DecodeError as error:
        raise ValueError(str(error)) from error


class Lines:
    """Reads a process's output line by line."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._ahead = b""

    async def read(self) -> str:
        while b"\n" not in self._ahead:
            piece = await self._stream.receive_some()
            assert piece, f"the peer ended; its last words: {self._ahead!r}"
            self._ahead += piece
        line, _, self._ahead = self._ahead.partition(b"\n")
        return line.decode()


@asynccontextmanager
async def process(command: list[str], directory: Path) -> AsyncIterator[tuple[trio.Process, Lines]]:
    running = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=directory
    )
    try:
        yield running, Lines(running.stdout)
    finally:
        running.kill()
        with trio.CancelScope(shield=True):
            await running.wait()


# js-libp2p


class JsPeer:
    def __init__(self, running: trio.Process, lines: Lines, hello: dict[str, Any]) -> None:
        self._stdin = running.stdin
        self._lines = lines
        self.peer = hello["peer"]
        self.addr = hello["addrs"][0]

    async def _do(self, command: str, **rest: Any) -> Any:
        assert self._stdin is not None
        await self._stdin.send_all(json.dumps({"command": command, **rest}).encode() + b"\n")
        answer = json.loads(await self._lines.read())
        assert "ok" in answer, answer
        return answer["ok"]

    async def dial(self, addr: str) -> None:
        await self._do("dial", addr=addr)

    async def echo(self, peer: str, size: int) -> bool:
        return bool((await self._do("echo", peer=peer, size=size))["same"])

    async def reserve(self, relay: str) -> list[str]:
        """Asks the relay at an address for a reservation; its relayed addresses."""
        return list((await self._do("reserve", addr=relay))["addrs"])

    async def ping(self, peer: str) -> None:
        await self._do("ping", peer=peer)

    async def identify(self, peer: str) -> set[str]:
        return set((await self._do("identify", peer=peer))["protocols"])


@asynccontextmanager
async def js_peer(
    security: str, packages: Path, script: Path, listen: str = TCP, options: Sequence[str] = ()
) -> AsyncIterator[JsPeer]:
    """js-libp2p in Node, ``options=["relay"]`` for a relay; node looks for packages beside the script, so it
    is copied there."""
    with tempfile.TemporaryDirectory() as directory:
        shutil.copy(script, directory)
        os.symlink(packages / "node_modules", f"{directory}/node_modules")
        async with process(
            ["node", "--experimental-websocket", script.name, security, listen, *options], Path(directory)
        ) as (running, lines):
            yield JsPeer(running, lines, json.loads(await lines.read()))


# go-libp2p, through its daemon's control socket: protobuf messages, each after its length.


def encode(**fields: Any) -> bytes:
    """A protobuf message; the fields are named f1, f2, … after their numbers."""
    message = b""
    for name, values in fields.items():
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, int):
                message += varint(int(name[1:]) << 3) + varint(value)
            else:
                data = value.encode() if isinstance(value, str) else value
                message += varint(int(name[1:]) << 3 | 2) + varint(len(data)) + data
    return message


def decode(message: bytes) -> dict[int, Any]:
    """The last value of each field."""
    fields: dict[int, Any] = {}
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = number()
        value: Any = number()
        if key & 7 == 2:
            value, at = message[at : at + value], at + value
        fields[key >> 3] = value
    return fields


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


async def exactly(stream: trio.SocketStream, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = await stream.receive_some(size - len(data))
        assert piece, "the stream ended early"
        data += piece
    return bytes(data)


async def read_message(stream: trio.SocketStream) -> dict[int, Any]:
    length = shift = 0
    while True:
        byte = (await exactly(stream, 1))[0]
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return decode(await exactly(stream, length))


OK, ERROR, STREAM_INFO, IDENTIFIED = 0, 2, 3, 4


class GoPeer:
    def __init__(self, control: Path, pid: int) -> None:
        self._control = control
        self.pid = pid
        self.peer = self.addr = ""

    async def _ask(self, request: bytes) -> tuple[trio.SocketStream, dict[int, Any]]:
        stream = await trio.open_unix_socket(str(self._control))
        await stream.send_all(varint(len(request)) + request)
        answer = await read_message(stream)
        assert answer[1] == OK, decode(answer[ERROR])
        return stream, answer

    async def start(self, nursery: trio.Nursery, serve: Any = None) -> None:
        """Learns who it is and serves ``ECHO``, by default with an echo."""
        stream, answer = await self._ask(encode(f1=0))
        await stream.aclose()
        identity = decode(answer[IDENTIFIED])
        from libp2p.peer.id import ID

        self.peer = ID(identity[1]).to_base58()
        self.addr = f"{Multiaddr(identity[2])}/p2p/{self.peer}"
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        handler = Multiaddr(f"/ip4/127.0.0.1/tcp/{listener.socket.getsockname()[1]}").to_bytes()
        stream, _ = await self._ask(encode(f1=3, f4=encode(f1=handler, f2=[ECHO], f3=0)))
        await stream.aclose()
        serve = serve or self._echo

        async def take(stream: trio.SocketStream) -> None:
            await read_message(stream)  # whose stream it is
            await serve(stream)

        nursery.start_soon(trio.serve_listeners, take, [listener])

    async def _echo(self, stream: trio.SocketStream) -> None:
        while data := await stream.receive_some(65536):
            await stream.send_all(data)

    async def open(self, peer: str, protocol: str) -> trio.SocketStream:
        """A new stream: this socket is it."""
        from libp2p.peer.id import ID

        request = encode(f1=ID.from_base58(peer).to_bytes(), f2=[protocol], f3=10)
        stream, answer = await self._ask(encode(f1=2, f3=request))
        assert decode(answer[STREAM_INFO])[3] == protocol.encode()
        return stream

    async def dial(self, addr: str) -> None:
        from libp2p.peer.id import ID

        place, _, peer = addr.rpartition("/p2p/")
        request = encode(f1=ID.from_base58(peer).to_bytes(), f2=[Multiaddr(place).to_bytes()], f3=10)
        stream, _ = await self._ask(encode(f1=1, f2=request))
        await stream.aclose()

    async def hang_up(self, peer: str) -> None:
        """Closes the connections with a peer."""
        from libp2p.peer.id import ID

        stream, _ = await self._ask(encode(f1=7, f7=encode(f1=ID.from_base58(peer).to_bytes())))
        await stream.aclose()

    async def echo(self, peer: str, size: int) -> bool:
        # The daemon closes both directions when one ends, so the end comes last.
        stream = await self.open(peer, ECHO)
        data = secrets.token_bytes(size)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, data)
            heard = await exactly(stream, size)
        await stream.aclose()
        return heard == data

    async def ping(self, peer: str) -> None:
        stream = await self.open(peer, PING)
        for _ in range(3):
            payload = secrets.token_bytes(32)
            await stream.send_all(payload)
            assert await exactly(stream, 32) == payload
        await stream.aclose()

    async def identify(self, peer: str) -> set[str]:
        stream = await self.open(peer, IDENTIFY)
        message = b""
        while piece := await stream.receive_some(65536):
            message += piece
        return set(read_identify(message).protocols)


@asynccontextmanager
async def go_peer(
    security: str, daemon: Path, serve: Any = None, listen: str = TCP, options: Sequence[str] = ()
) -> AsyncIterator[GoPeer]:
    """go-libp2p in a daemon that talks to nobody outside this computer, with more of its ``options``."""
    with tempfile.TemporaryDirectory() as directory:
        control = Path(directory) / "control"
        command = [str(daemon), f"-listen=/unix{control}", f"-hostAddrs={listen}"]
        command += ["-relay=0", "-relayService=0", "-relayDiscovery=0", "-natPortMap=0"]
        command += [f"-{kind}={int(kind == security)}" for kind in ("noise", "tls")]
        command += options
        async with process(command, Path(directory)) as (running, lines), trio.open_nursery() as nursery:
            while "Peer Addrs" not in await lines.read():
                pass
            peer = GoPeer(control, running.pid)
            await peer.start(nursery, serve)
            yield peer
            nursery.cancel_scope.cancel()


# py-libp2p as it comes.


class StockPythonPeer:
    def __init__(self, host: Any) -> None:
        self._host = host
        self.peer = host.get_id().to_base58()
        self.addr = str(host.get_addrs()[0])

    async def dial(self, addr: str) -> None:
        from libp2p.peer.peerinfo import info_from_p2p_addr

        await self._host.connect(info_from_p2p_addr(Multiaddr(addr)))

    async def open(self, peer: str, protocol: str) -> Any:
        from libp2p.peer.id import ID

        return await self._host.new_stream(ID.from_base58(peer), [protocol])

    async def echo(self, peer: str, size: int) -> bool:
        stream = await self.open(peer, ECHO)
        data, heard = os.urandom(size), bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.write, data)
            while len(heard) < size:
                heard += await stream.read(65536)
        await stream.close()
        return heard == data

    async def ping(self, peer: str) -> None:
        stream = await self.open(peer, PING)
        payload = os.urandom(32)
        await stream.write(payload)
        assert await stream.read(32) == payload
        await stream.close()

    async def identify(self, peer: str) -> set[str]:
        from libp2p.network.stream.exceptions import StreamEOF

        stream = await self.open(peer, IDENTIFY)
        message = b""
        try:
            while True:
                message += await stream.read(65536)
        except StreamEOF:
            return set(read_identify(message).protocols)


@asynccontextmanager
async def stock_python_peer(security: str, listen: str = TCP) -> AsyncIterator[ForeignPeer]:
    """py-libp2p with its own connections and everything else of its own."""
    from libp2p import new_host
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
    from libp2p.network.stream.exceptions import StreamEOF
    from libp2p.security.noise.transport import Transport as Noise
    from libp2p.security.tls.transport import TLSTransport as Tls

    keys = create_new_key_pair()
    options: dict[Any, Any] = {"/tls/1.0.0": Tls(keys)}
    if security == "noise":
        options = {"/noise": Noise(keys, noise_privkey=create_noise_key_pair().private_key)}
    host = new_host(key_pair=keys, sec_opt=options, listen_addrs=[Multiaddr(listen)])

    async def echo(stream: Any) -> None:
        try:
            while True:
                await stream.write(await stream.read(65536))
        except StreamEOF:
            await stream.close()

    host.set_stream_handler(ECHO, echo)  # type: ignore[arg-type]
    async with host.run([Multiaddr(listen)]):
        yield StockPythonPeer(host)
