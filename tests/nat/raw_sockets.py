"""Plain sockets on the lab's hosts: what an address is seen as, what a router lets in, a punch over TCP."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from lab import Host

Address = tuple[str, int]


async def seen_by(host: Host, port: int, witness: Host, at: int) -> Address:
    """As what a TCP connection from this port shows at the witness; it stays in the routers' memory."""
    with witness.socket(port=at) as listener, host.socket(port=port) as sock:
        listener.listen()
        server, client = trio.socket.from_stdlib_socket(listener), trio.socket.from_stdlib_socket(sock)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.connect, (witness.address, at))
            accepted, address = await server.accept()
        with accepted:
            return str(address[0]), int(address[1])


async def seen_by_udp(host: Host, port: int, witness: Host, at: int, within: float) -> Address | None:
    """As what a datagram from this port shows at the witness; None when it does not arrive."""
    with witness.socket(socket.SOCK_DGRAM, at) as listener, host.socket(socket.SOCK_DGRAM, port) as sock:
        server = trio.socket.from_stdlib_socket(listener)
        await trio.socket.from_stdlib_socket(sock).sendto(b"here", (witness.address, at))
        with trio.move_on_after(within):
            _, address = await server.recvfrom(16)
            return str(address[0]), int(address[1])
    return None


async def can_connect(host: Host, port: int, target: Address, within: float) -> bool:
    """Whether a plain TCP connection from this port (0: any) comes about in time."""
    with host.socket(port=port) as sock, trio.move_on_after(within):
        try:
            await trio.socket.from_stdlib_socket(sock).connect(target)
        except OSError:
            return False
        return True
    return False


@asynccontextmanager
async def knocking(host: Host, port: int, target: Address) -> AsyncIterator[None]:
    """Keep trying to connect meanwhile, where nobody answers; the first packet is out at the start."""
    with host.socket(port=port) as sock:
        sock.setblocking(False)
        sock.connect_ex(target)
        yield


async def punch(one: Host, other: Host, port: int, witness: Host, at: int, within: float) -> bool:
    """TCP simultaneous open between two hosts from one port of theirs, which also listens.

    Each dials as what the witness saw the other; whether bytes of each arrived at the other in time.
    """
    first, second = await seen_by(one, port, witness, at), await seen_by(other, port, witness, at)
    heard = [b"", b""]

    async def side(number: int, host: Host, target: Address) -> None:
        heard[number] = await _meet(host, port, target, str(number).encode())

    with trio.move_on_after(within):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(side, 0, one, second)
            nursery.start_soon(side, 1, other, first)
    return heard == [b"1", b"0"]


async def _meet(host: Host, port: int, target: Address, word: bytes) -> bytes:
    """What the other side said on the first connection, dialled or accepted."""
    found: list[trio.socket.SocketType] = []
    with host.socket(port=port) as listening, host.socket(port=port) as dialling:
        listening.listen()
        listener, dialler = (trio.socket.from_stdlib_socket(s) for s in (listening, dialling))
        async with trio.open_nursery() as nursery:

            async def accept() -> None:
                found.append((await listener.accept())[0])
                nursery.cancel_scope.cancel()

            async def dial() -> None:
                try:
                    await dialler.connect(target)
                except OSError as error:
                    # The other side's packet was first: the listener has that very connection.
                    if error.errno not in (errno.EADDRNOTAVAIL, errno.ECONNREFUSED, errno.ETIMEDOUT):
                        raise
                else:
                    found.append(dialler)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(accept)
            nursery.start_soon(dial)
        with found[0]:
            await found[0].send(word)
            return bytes(await found[0].recv(1))
