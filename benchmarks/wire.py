"""The wire side by side in one run: ours, stock py-libp2p, plain ssl sockets, raw sockets, go's p2pd.

usage: python benchmarks/wire.py [--megabytes 256] [--requests 1000] [--dials 20] [--idle 200]
                                 [--systems moshgrid,ssl] [--p2pd [PATH]] [--json]

Each system has two processes on loopback. CPU seconds are those of both (with p2pd, of both daemons too),
the system's share included. "Both ways" counts the bytes of both directions. With ssl and raw sockets 16
streams are 16 connections, each with a thread, or two when it goes both ways over a raw socket; the others
have one connection and one thread. The memory
of idle connections is the listener's. Ratios are ours over the other's, so that more is better for MB/s
and less is better for the rest. Without a PATH, p2pd is fetched once with pip (hivemind's wheel).
"""

import argparse
import json
import os
import select
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

SUPPORT = str(Path(__file__).resolve().parents[1] / "tests/support")
PROTOCOL = "/test/echo/1"
SYSTEMS = ("moshgrid", "py-libp2p", "ssl", "raw", "p2pd")
ORDER = struct.Struct(">BQQ")  # what is wanted, of how many bytes, in which pieces
SINK, BOTH, ECHO = 0, 1, 2
READ_BYTES = 1 << 20
SHAPES = [
    (streams, write, both) for both in (False, True) for streams in (1, 16) for write in (65536, 1 << 20)
]


def main() -> None:
    parser = argparse.ArgumentParser(description="the wire side by side")
    parser.add_argument("--megabytes", type=float, default=256, help="moved in each direction that is used")
    parser.add_argument("--requests", type=int, default=1000, help="of 64 bytes each")
    parser.add_argument("--dials", type=int, default=20)
    parser.add_argument("--idle", type=int, default=200, help="connections at once")
    parser.add_argument("--systems", default="moshgrid,py-libp2p,ssl,raw")
    parser.add_argument("--p2pd", nargs="?", const="fetch", help="measure hivemind's p2pd too")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--end", nargs=2, metavar=("SYSTEM", "ROLE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.end:
        system, role = arguments.end
        END[system](role, arguments)
        return
    systems = [*arguments.systems.split(","), *(["p2pd"] if arguments.p2pd else [])]
    if unknown := set(systems) - set(SYSTEMS):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(SYSTEMS)}")
    result = {
        "benchmark": "wire",
        "megabytes": arguments.megabytes,
        "requests": arguments.requests,
        "dials": arguments.dials,
        "idle": arguments.idle,
        "cpus": os.cpu_count(),
        "systems": {},
    }
    for system in dict.fromkeys(systems):
        result["systems"][system] = measure(system)
    result["ratios"] = ratios(result["systems"])
    result["load"] = round(os.getloadavg()[0], 2)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)


def ratios(systems: dict) -> dict:
    """Our figures over those of each other system."""
    if "moshgrid" not in systems:
        return {}
    ours = systems["moshgrid"]

    def over(mine: float | None, theirs: float | None) -> float | None:
        return round(mine / theirs, 3) if mine and theirs else None

    return {
        name: {
            "streams": [
                {
                    **{key: row[key] for key in ("streams", "write_bytes", "both_ways")},
                    **{key: over(row[key], other[key]) for key in ("mb_per_s", "cpu_s_per_gb")},
                }
                for row, other in zip(ours["streams"], theirs["streams"], strict=True)
            ],
            **{
                key: over(ours[key], theirs[key])
                for key in ("request_us", "set_up_ms", "idle_connection_kib")
            },
        }
        for name, theirs in systems.items()
        if name != "moshgrid"
    }


def show(result: dict) -> None:
    """The same as tables."""
    print(f"{result['megabytes']:g} MB in each direction; MB/s, and CPU seconds a GB over both ends")
    systems = result["systems"]
    print(f"{'':28}" + "".join(f"{name:>20}" for name in systems))
    for index, (streams, write, both) in enumerate(SHAPES):
        title = f"{streams:>2} streams, {write // 1024:>4} KiB, {'both ways' if both else 'one way'}"
        rows = [system["streams"][index] for system in systems.values()]
        cells = [f"{row['mb_per_s']:.0f} {row['cpu_s_per_gb']:6.2f}" for row in rows]
        print(f"{title:28}" + "".join(f"{cell:>20}" for cell in cells))
    if result["ratios"]:
        print("our MB/s over theirs, row by row")
        for name, ratio in result["ratios"].items():
            print(f"  {name:26}" + "".join(f"{row['mb_per_s']:>7.2f}" for row in ratio["streams"]))
    for key, title in (
        ("request_us", "64-byte request, p50, µs"),
        ("blocking_request_us", "  from the blocking API"),
        ("set_up_ms", "connection set-up, p50, ms"),
        ("idle_connection_kib", "idle connection, KiB"),
    ):
        cells = ["" if system[key] is None else f"{system[key]:.1f}" for system in systems.values()]
        print(f"{title:28}" + "".join(f"{cell:>20}" for cell in cells))


def measure(system: str) -> dict:
    """Runs both ends of one system."""
    command = [sys.executable, __file__, *sys.argv[1:], "--end", system]
    listener = subprocess.Popen(
        [*command, "listen"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        hello = listener.stdout.readline()
        if not hello:
            raise SystemExit(f"the listener of {system} ended")
        done = subprocess.run([*command, "dial"], input=hello, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])
    finally:
        listener.stdin.close()
        try:
            listener.wait(10)
        except subprocess.TimeoutExpired:
            listener.kill()
            listener.wait()


class Meter:
    """Seconds by the clock, and of the processor in all of some processes, since it was made."""

    def __init__(self, pids: list[int]) -> None:
        # The clock of another process (clock_getcpuclockid): Linux derives its number from the pid.
        self._clocks = [~pid << 3 | 2 for pid in pids]
        self._start = (time.perf_counter(), self._cpu())

    def _cpu(self) -> float:
        return sum(time.clock_gettime(clock) for clock in self._clocks)

    def read(self, size: float) -> dict[str, float]:
        """The rates for ``size`` bytes."""
        seconds = time.perf_counter() - self._start[0]
        cpu = self._cpu() - self._start[1]
        return {"mb_per_s": round(size / 1e6 / seconds, 1), "cpu_s_per_gb": round(cpu / (size / 1e9), 3)}


def resident_kib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


def row(shape: tuple[int, int, bool], rates: dict[str, float]) -> dict:
    streams, write, both = shape
    return {"streams": streams, "write_bytes": write, "both_ways": both, **rates}


def report(streams: list, request: float, blocking: float | None, set_up: float, idle: float | None) -> None:
    """The last line of the dialling process."""
    result = {
        "streams": streams,
        "request_us": round(request * 1e6, 1),
        "blocking_request_us": None if blocking is None else round(blocking * 1e6, 1),
        "set_up_ms": round(set_up * 1e3, 2),
        "idle_connection_kib": None if idle is None else round(idle, 1),
    }
    print(json.dumps(result), flush=True)
    os._exit(0)


# Blocking sockets, with and without TLS.


def sockets_end(encrypted: bool):
    def end(role: str, arguments: argparse.Namespace) -> None:
        if role == "listen":
            wrap = server_tls() if encrypted else lambda connection: connection
            listener = socket.create_server(("127.0.0.1", 0), backlog=512)
            print(json.dumps({"port": listener.getsockname()[1], "pids": [os.getpid()]}), flush=True)
            threading.Thread(target=accept_all, args=(listener, wrap), daemon=True).start()
            sys.stdin.read()
            os._exit(0)
        hello = json.loads(sys.stdin.readline())
        pids = [*hello["pids"], os.getpid()]

        def connect() -> socket.socket:
            plain = socket.create_connection(("127.0.0.1", hello["port"]))
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not encrypted:
                return plain
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            return context.wrap_socket(plain)

        rows = []
        for shape in SHAPES:
            streams, write, both = shape
            size = int(arguments.megabytes * 1e6 / streams)
            connections = [connect() for _ in range(streams)]
            meter = Meter(pids)
            threads = [
                threading.Thread(target=transfer_blocking, args=(connection, size, write, both))
                for connection in connections
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            rows.append(row(shape, meter.read(size * streams * (1 + both))))
            for connection in connections:
                connection.close()
        connection = connect()
        connection.sendall(ORDER.pack(ECHO, 0, 0))
        times = []
        for _ in range(arguments.requests):
            began = time.perf_counter()
            connection.sendall(bytes(64))
            read_exactly(connection, 64)
            times.append(time.perf_counter() - began)
        set_up = []
        for _ in range(arguments.dials):
            began = time.perf_counter()
            connection = connect()
            connection.sendall(ORDER.pack(ECHO, 0, 0) + b"x")
            read_exactly(connection, 1)
            set_up.append(time.perf_counter() - began)
        report(rows, statistics.median(times), statistics.median(times), statistics.median(set_up), None)

    return end


def server_tls():
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    from moshgrid.p2p.identity import Identity
    from moshgrid.p2p.tls_certificate import make_certificate

    certificate, key = make_certificate(Identity.generate())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "both.pem"
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(certificate.public_bytes(Encoding.PEM) + secret)
        context.load_cert_chain(file)
    return lambda connection: context.wrap_socket(connection, server_side=True)


def accept_all(listener: socket.socket, wrap) -> None:
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve_blocking, args=(connection, wrap), daemon=True).start()


def serve_blocking(connection: socket.socket, wrap) -> None:
    with suppress(OSError, EOFError):
        connection = wrap(connection)
        kind, size, write = ORDER.unpack(read_exactly(connection, ORDER.size))
        while kind == ECHO:
            if not (data := connection.recv(65536)):
                return
            connection.sendall(data)
        if kind == BOTH:
            both_blocking(connection, size, write)
        else:
            receive_blocking(connection, size)
        connection.sendall(b"!")


def transfer_blocking(connection: socket.socket, size: int, write: int, both: bool) -> None:
    connection.sendall(ORDER.pack(BOTH if both else SINK, size, write))
    if not both:
        send_blocking(connection, size, write)
    else:
        both_blocking(connection, size, write)
    read_exactly(connection, 1)


def both_blocking(connection: socket.socket, size: int, write: int) -> None:
    if isinstance(connection, ssl.SSLSocket):
        both_by_turns(connection, size, write)
        return
    sender = threading.Thread(target=send_blocking, args=(connection, size, write))
    sender.start()
    receive_blocking(connection, size)
    sender.join()


def both_by_turns(connection: ssl.SSLSocket, size: int, write: int) -> None:
    """Both ways in one thread: two must not use one TLS connection at once."""
    data, buffer = memoryview(bytes(write)), memoryview(bytearray(READ_BYTES))
    to_send = to_receive = size
    at = 0  # of the piece that is being written
    connection.setblocking(False)
    while to_send or to_receive:
        waits = True
        if to_send:
            with suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                sent = connection.send(data[at : min(write, at + to_send)])
                to_send, at, waits = to_send - sent, (at + sent) % write, False
        if to_receive:
            with suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                got = connection.recv_into(buffer, min(to_receive, READ_BYTES))
                if not got:
                    raise EOFError
                to_receive, waits = to_receive - got, False
        if waits:
            select.select([connection], [connection] if to_send else [], [])
    connection.setblocking(True)


def receive_blocking(connection: socket.socket, size: int) -> None:
    buffer, left = memoryview(bytearray(READ_BYTES)), size
    while left:
        got = connection.recv_into(buffer, min(left, READ_BYTES))
        if not got:
            raise EOFError
        left -= got


def send_blocking(connection: socket.socket, size: int, write: int) -> None:
    data = memoryview(bytes(write))
    for start in range(0, size, write):
        connection.sendall(data[: min(write, size - start)])


def read_exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


# Those with an event loop. A link has send(data), receive_into(view) -> int, and close().


def loop_end(open_system):
    def end(role: str, arguments: argparse.Namespace) -> None:
        import trio

        trio.run(listen if role == "listen" else dial, arguments)

    async def listen(arguments: argparse.Namespace) -> None:
        import trio

        async with open_system(arguments, serve) as system:
            print(json.dumps({"addr": system.addr, "pids": system.pids}), flush=True)
            await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
            os._exit(0)

    async def dial(arguments: argparse.Namespace) -> None:
        import trio

        hello = json.loads(sys.stdin.readline())
        addr = hello["addr"]
        async with open_system(arguments, serve) as system:
            pids = [*hello["pids"], *system.pids]
            await system.connect(addr)
            rows = []
            for shape in SHAPES:
                streams, write, both = shape
                size = int(arguments.megabytes * 1e6 / streams)
                links = [await system.open(addr) for _ in range(streams)]
                meter = Meter(pids)
                async with trio.open_nursery() as nursery:
                    for link in links:
                        nursery.start_soon(transfer, link, size, write, both)
                rows.append(row(shape, meter.read(size * streams * (1 + both))))
                for link in links:
                    await link.close()
            request = await system.request(addr, arguments.requests)
            blocking = await system.blocking_request(addr, arguments.requests)
            set_up = await system.set_up(addr, arguments.dials)
            idle = await system.idle(addr, arguments.idle, hello["pids"][0])
            report(rows, request, blocking, set_up, idle)

    return end


async def serve(link) -> None:
    import trio

    order = bytearray(ORDER.size)
    await fill(link, memoryview(order))
    kind, size, write = ORDER.unpack(order)
    if kind == ECHO:
        buffer = memoryview(bytearray(65536))
        while got := await link.receive_into(buffer):
            await link.send(bytes(buffer[:got]))
        return
    async with trio.open_nursery() as nursery:
        if kind == BOTH:
            nursery.start_soon(send_all, link, size, write)
        await receive_all(link, size)
    await link.send(b"!")
    with suppress(Exception):  # wait for the other side's end
        await link.receive_into(order)


async def transfer(link, size: int, write: int, both: bool) -> None:
    import trio

    await link.send(ORDER.pack(BOTH if both else SINK, size, write))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all, link, size, write)
        if both:
            await receive_all(link, size)
    await fill(link, memoryview(bytearray(1)))


async def send_all(link, size: int, write: int) -> None:
    data = bytes(write)
    for start in range(0, size, write):
        await link.send(data if size - start >= write else data[: size - start])


async def receive_all(link, size: int) -> None:
    buffer, left = memoryview(bytearray(min(size, READ_BYTES))), size
    while left:
        got = await link.receive_into(buffer[: min(left, READ_BYTES)])
        if not got:
            raise EOFError
        left -= got


async def fill(link, view: memoryview) -> None:
    while view:
        got = await link.receive_into(view)
        if not got:
            raise EOFError
        view = view[got:]


class System:
    """What the systems with a loop share: requests are echoes on a stream that stays."""

    pids = (os.getpid(),)

    async def request(self, addr: str, count: int) -> float:
        link = await self.open(addr)
        await link.send(ORDER.pack(ECHO, 0, 0))
        times, answer = [], memoryview(bytearray(64))
        for _ in range(count):
            began = time.perf_counter()
            await link.send(bytes(64))
            await fill(link, answer)
            times.append(time.perf_counter() - began)
        await link.close()
        return statistics.median(times)

    async def blocking_request(self, addr: str, count: int) -> float | None:
        return None

    async def set_up(self, addr: str, count: int) -> float:
        times = []
        for _ in range(count):
            async with self.another() as other:
                began = time.perf_counter()
                await other.connect(addr)
                times.append(time.perf_counter() - began)
        return statistics.median(times)

    async def idle(self, addr: str, count: int, listener: int) -> float | None:
        import trio

        async with AsyncExitStack() as stack:
            for number in range(count + 20):
                if number == 20:  # the first ones also pay for what is loaded once
                    before = resident_kib(listener)
                other = await stack.enter_async_context(self.another())
                await other.connect(addr)
            await trio.sleep(0.5)
            grown = resident_kib(listener) - before
            stack.pop_all()  # the process ends now; saying goodbye to each would take long
        return grown / count


class Ours(System):
    def __init__(self, network) -> None:
        self._network = network
        self.addr = network.addrs[0] if network.addrs else ""

    async def connect(self, addr: str) -> None:
        await self._network.dial(addr)

    async def open(self, addr: str):
        return await self._network.open_stream(addr.rpartition("/")[2], PROTOCOL)

    async def request(self, addr: str, count: int) -> float:
        import trio

        from moshgrid.p2p.requests import Requests

        async with trio.open_nursery() as nursery:
            requests, times = Requests(self._network, nursery), []
            for _ in range(count):
                began = time.perf_counter()
                await requests.ask(addr.rpartition("/")[2], service(), bytes(64))
                times.append(time.perf_counter() - began)
            nursery.cancel_scope.cancel()
        return statistics.median(times)

    async def blocking_request(self, addr: str, count: int) -> float:
        import trio

        return await trio.to_thread.run_sync(ask_from_outside, addr, count)

    @asynccontextmanager
    async def another(self):
        from moshgrid.p2p.identity import Identity
        from moshgrid.p2p.libp2p_network import open_libp2p_network

        async with open_libp2p_network(Identity.generate(), []) as network:
            yield Ours(network)


def ask_from_outside(addr: str, count: int) -> float:
    from moshgrid.p2p import Node

    with Node(listen=[]) as node:
        node.call(node.host.network.dial, addr)
        times = []
        for _ in range(count):
            began = time.perf_counter()
            node.call(node.host.requests.ask, addr.rpartition("/")[2], service(), bytes(64))
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def service(_made: list = []):  # noqa: B006
    from moshgrid.p2p.requests import Service

    if not _made:
        _made.append(Service("/moshgrid/benchmark/1", bytes, bytes, rate=1e6, burst=1e6))
    return _made[0]


@asynccontextmanager
async def open_ours(arguments: argparse.Namespace, serve):
    import trio

    from moshgrid.p2p.identity import Identity
    from moshgrid.p2p.libp2p_network import open_libp2p_network
    from moshgrid.p2p.requests import Requests

    async with open_libp2p_network(Identity.generate()) as network, trio.open_nursery() as nursery:

        async def answer(peer: str, query: bytes) -> bytes:
            return query

        network.serve(PROTOCOL, serve)
        Requests(network, nursery).serve(service(), answer)
        yield Ours(network)
        nursery.cancel_scope.cancel()


class StockLink:
    def __init__(self, stream) -> None:
        self._stream = stream
        self.send = stream.write
        self.close = stream.close

    async def receive_into(self, view: memoryview) -> int:
        from libp2p.network.stream.exceptions import StreamEOF

        try:
            data = await self._stream.read(len(view))
        except StreamEOF:
            return 0
        view[: len(data)] = data
        return len(data)


class Stock(System):
    def __init__(self, host) -> None:
        self._host = host
        self.addr = str(host.get_addrs()[0]) if host.get_addrs() else ""

    async def connect(self, addr: str) -> None:
        from libp2p.peer.peerinfo import info_from_p2p_addr
        from multiaddr import Multiaddr

        await self._host.connect(info_from_p2p_addr(Multiaddr(addr)))

    async def open(self, addr: str):
        from libp2p.peer.id import ID

        peer = ID.from_base58(addr.rpartition("/")[2])
        return StockLink(await self._host.new_stream(peer, [PROTOCOL]))

    @asynccontextmanager
    async def another(self):
        host = stock_host()
        async with host.run([]):
            yield Stock(host)


def stock_host():
    from libp2p import new_host
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
    from libp2p.security.noise.transport import Transport

    keys = create_new_key_pair()
    noise = Transport(keys, noise_privkey=create_noise_key_pair().private_key)
    return new_host(key_pair=keys, sec_opt={"/noise": noise})


@asynccontextmanager
async def open_stock(arguments: argparse.Namespace, serve):
    import logging

    from multiaddr import Multiaddr

    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    host = stock_host()

    async def take(stream) -> None:
        with suppress(Exception):
            await serve(StockLink(stream))
            await stream.close()

    host.set_stream_handler(PROTOCOL, take)
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        yield Stock(host)


class GoLink:
    def __init__(self, stream) -> None:
        self._stream = stream
        self.send = stream.send_all
        self.close = stream.aclose

    async def receive_into(self, view: memoryview) -> int:
        return await self._stream.socket.recv_into(view)


class Go(System):
    def __init__(self, peer) -> None:
        self._peer = peer
        self.addr = peer.addr
        self.pids = [os.getpid(), peer.pid]

    async def connect(self, addr: str) -> None:
        await self._peer.dial(addr)

    async def open(self, addr: str):
        return GoLink(await self._peer.open(addr.rpartition("/")[2], PROTOCOL))

    async def set_up(self, addr: str, count: int) -> float:
        times = []
        for _ in range(count):
            await self._peer.hang_up(addr.rpartition("/")[2])
            began = time.perf_counter()
            await self._peer.dial(addr)
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    async def idle(self, addr: str, count: int, listener: int) -> float | None:
        return None  # two hundred daemons would be needed


@asynccontextmanager
async def open_go(arguments: argparse.Namespace, serve):
    sys.path.insert(0, SUPPORT)
    from foreign_peers import go_peer
    from foreign_software import go_daemon

    daemon = go_daemon() if arguments.p2pd == "fetch" else Path(arguments.p2pd)

    async def take(stream) -> None:
        with suppress(Exception):
            await serve(GoLink(stream))

    async with go_peer("tls", daemon, take) as peer:
        yield Go(peer)


END = {
    "moshgrid": loop_end(open_ours),
    "py-libp2p": loop_end(open_stock),
    "ssl": sockets_end(True),
    "raw": sockets_end(False),
    "p2pd": loop_end(open_go),
}

if __name__ == "__main__":
    main()
