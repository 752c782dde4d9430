"""How fast encrypted bytes move between two processes: our TLS and Noise beside plain ssl and raw sockets.

    python benchmarks/secure_channel.py [--megabytes 256] [--rounds 3] [--json]

Each path moves the same bytes one way over loopback TCP. CPU seconds count both ends, system time
included. The JSON follows docs/schemas/benchmark-secure-channel.schema.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHUNK = 1 << 20
PATHS = ("moshgrid tls", "moshgrid noise", "plain ssl", "raw sockets")


def main() -> None:
    """Runs all paths in turn, the rounds interleaved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=PATHS)
    parser.add_argument("--end", nargs=3, metavar=("PATH", "ROLE", "PORT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    size = args.megabytes * 1_000_000
    if args.end:
        path, role, port = args.end
        run_end(path, role, int(port), size)
        return
    paths = [args.only] if args.only else list(PATHS)
    results: dict[str, list[tuple[float, float]]] = {path: [] for path in paths}
    for _ in range(args.rounds):
        for path in paths:
            results[path].append(measure(path, args.megabytes))
    report = {
        "benchmark": "secure-channel",
        "megabytes": args.megabytes,
        "rounds": args.rounds,
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "paths": [
            {
                "path": path,
                "mb_per_s": round(statistics.median(size / 1e6 / seconds for seconds, _ in runs), 1),
                "mb_per_s_best": round(max(size / 1e6 / seconds for seconds, _ in runs), 1),
                "cpu_s_per_gb": round(statistics.median(cpu / (size / 1e9) for _, cpu in runs), 3),
            }
            for path, runs in results.items()
        ],
    }
    if args.json:
        print(json.dumps(report, indent=2))
        return
    print(f"{args.megabytes} MB one way, {args.rounds} rounds, median; CPU of both ends")
    print(f"{'path':<16}{'MB/s':>8}{'best':>8}{'CPU s/GB':>10}")
    for row in report["paths"]:
        print(
            f"{row['path']:<16}{row['mb_per_s']:>8.0f}{row['mb_per_s_best']:>8.0f}{row['cpu_s_per_gb']:>10.2f}"
        )


def measure(path: str, megabytes: int) -> tuple[float, float]:
    """Seconds and CPU seconds of one transfer between two new processes."""
    command = [sys.executable, __file__, "--megabytes", str(megabytes), "--end", path]
    receiver = subprocess.Popen([*command, "receive", "0"], stdout=subprocess.PIPE, text=True)
    assert receiver.stdout is not None
    port = receiver.stdout.readline().strip()
    sender = subprocess.run([*command, "send", port], stdout=subprocess.PIPE, text=True, check=True)
    outcome, _ = receiver.communicate(timeout=120)
    received, sent = json.loads(outcome), json.loads(sender.stdout)
    return received["seconds"], received["cpu"] + sent["cpu"]


def run_end(path: str, role: str, port: int, size: int) -> None:
    """One of the two processes; prints what it used."""
    if role == "receive":
        listener = socket.create_server(("127.0.0.1", port))
        print(listener.getsockname()[1], flush=True)
        plain, _ = listener.accept()
    else:
        plain = socket.create_connection(("127.0.0.1", port))
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if path.startswith("moshgrid"):
        report = run_ours(path, role, plain, size)
    else:
        report = run_blocking(path, role, plain, size)
    print(json.dumps(report))


def run_blocking(path: str, role: str, plain: socket.socket, size: int) -> dict[str, float]:
    """Blocking sockets, with or without the standard library's TLS."""
    connection = wrap_tls(plain, role) if path == "plain ssl" else plain
    data = bytes(CHUNK)
    if role == "send":
        connection.recv(1)
        meter = Meter()
        for start in range(0, size, CHUNK):
            connection.sendall(data[: min(CHUNK, size - start)])
        connection.recv(1)
        return meter.read()
    buffer = bytearray(CHUNK)
    meter = Meter()
    connection.sendall(b"g")
    left = size
    while left:
        left -= connection.recv_into(buffer)
    report = meter.read()
    connection.sendall(b"d")
    return report


def wrap_tls(plain: socket.socket, role: str) -> ssl.SSLSocket:
    """TLS 1.3 with a certificate made on the spot."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    from moshgrid.p2p.identity import Identity
    from moshgrid.p2p.tls_certificate import make_certificate

    if role == "send":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context.wrap_socket(plain)
    certificate, key = make_certificate(Identity.generate())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "both.pem"
        file.write_bytes(
            certificate.public_bytes(Encoding.PEM)
            + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        context.load_cert_chain(file)
    return context.wrap_socket(plain, server_side=True)


def run_ours(path: str, role: str, plain: socket.socket, size: int) -> dict[str, float]:
    """A secured session of ours on the socket, as a host makes it."""
    import trio
    from libp2p.io.trio import TrioTCPStream
    from libp2p.network.connection.raw_connection import RawConnection
    from libp2p.peer.id import ID

    from moshgrid.p2p.identity import Identity
    from moshgrid.p2p.libp2p_noise import NoiseTransport
    from moshgrid.p2p.libp2p_tls import TlsTransport

    async def run() -> dict[str, float]:
        connection = RawConnection(
            TrioTCPStream(trio.SocketStream(trio.socket.from_stdlib_socket(plain))), role == "send"
        )
        transport = {"moshgrid tls": TlsTransport, "moshgrid noise": NoiseTransport}[path]
        receiver = Identity.from_seed(bytes(32))
        if role == "send":
            session = await transport(Identity.generate()).secure_outbound(
                connection, ID.from_base58(receiver.peer_id)
            )
            await session.read(1)
            data = memoryview(bytes(CHUNK))
            meter = Meter()
            for start in range(0, size, CHUNK):
                await session.send_all([data[: min(CHUNK, size - start)]])
            await session.read(1)
            return meter.read()
        session = await transport(receiver).secure_inbound(connection)
        meter = Meter()
        await session.write(b"g")
        left = size
        while left:
            left -= len(await session.receive_some())
        report = meter.read()
        await session.write(b"d")
        return report

    return trio.run(run)


class Meter:
    """Time and CPU time since it was made."""

    def __init__(self) -> None:
        self._start = (time.perf_counter(), cpu_seconds())

    def read(self) -> dict[str, float]:
        """Seconds by the clock and of the processor."""
        start, cpu = self._start
        return {"seconds": time.perf_counter() - start, "cpu": cpu_seconds() - cpu}


def cpu_seconds() -> float:
    """User and system time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
