"""Strangers with a whole IPv6 network: run by path in a network namespace of its own, where all is ours.

usage: unshare --net python ipv6_sources.py. Prints how many connections were let in: of one address, of the
rest of its /56, of the rest of its /48, and of another network; ``none`` where IPv6 does not allow the test.
"""

from __future__ import annotations

import socket
import subprocess
import sys

import trio

from moshgrid.p2p.connection_limits import ConnectionLimits
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.libp2p_network import open_libp2p_network

IPV6_FREEBIND = 78
LIMITS = ConnectionLimits(exempt=(), handshake_seconds=60.0)


async def main() -> None:
    async with open_libp2p_network(Identity.generate(), ["/ip6/::1/tcp/0"], limits=LIMITS) as network:
        port = int(network.addrs[0].split("/")[4])
        held = []

        async def visit(source: str) -> bool:
            """Whether it is greeted; if so, it stays."""
            sock = trio.socket.socket(socket.AF_INET6)
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
            await sock.bind((source, 0))
            await sock.connect(("::1", port))
            held.append(sock)
            try:
                return bool(await sock.recv(1))
            except ConnectionResetError:
                return False

        async def count(sources: list[str]) -> int:
            return sum([await visit(source) for source in sources])

        print(
            await count(["2001:db8:1:200::1"] * 20),
            await count([f"2001:db8:1:2{house:02x}::1" for house in range(1, 20)]),
            await count([f"2001:db8:1:{street:x}00::{n:x}" for street in range(3, 19) for n in range(1, 17)]),
            await count([f"2001:db8:2:200::{n:x}" for n in range(1, 20)]),
            flush=True,
        )
        for sock in held:
            sock.close()


try:
    for command in ("link set lo up", "-6 route add local 2001:db8::/32 dev lo"):
        subprocess.run(["ip", *command.split()], check=True, capture_output=True)
except (OSError, subprocess.CalledProcessError) as error:
    print("none", error, getattr(error, "stderr", ""))
    sys.exit()
trio.run(main)
