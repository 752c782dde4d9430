"""Plain sockets and sockets with TLS, to measure beside: blocking, a thread and a connection each direction.

OpenSSL does not let two threads use one connection at once.
"""

from __future__ import annotations

import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from moshgrid.p2p.identity import Identity
from moshgrid.p2p.tls_certificate import make_certificate
from moshgrid.swarm.bench.order import CHUNK_BYTES, ECHO, ORDER_BYTES, REQUEST_BYTES, SINK, SOURCE, Order

__all__ = ["Sockets", "listen_raw", "listen_tls"]


class Sockets:
    """The dialling end."""

    def __init__(self, port: int, *, tls: bool) -> None:
        self._port = port
        self._tls = tls

    def _connect(self) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", self._port), timeout=30.0)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self._tls:
            return plain
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(plain)

    def transfer(self, size: int, both: bool) -> float:
        """Seconds for ``size`` bytes in each direction that is used."""
        with self._connect() as there, self._connect() as back:
            began = time.perf_counter()
            receiver = threading.Thread(target=self._fetch, args=(back, size), daemon=True)
            if both:
                receiver.start()
            there.sendall(Order(SINK, size).pack())
            _send(there, size)
            _exactly(there, 1)
            if both:
                receiver.join()
            return time.perf_counter() - began

    def _fetch(self, connection: socket.socket, size: int) -> None:
        connection.sendall(Order(SOURCE, size).pack())
        _receive(connection, size)

    def requests(self, count: int) -> list[float]:
        """Seconds that each of ``count`` small requests took."""
        with self._connect() as connection:
            connection.sendall(Order(ECHO).pack())
            times = []
            for _ in range(count):
                began = time.perf_counter()
                connection.sendall(bytes(REQUEST_BYTES))
                _exactly(connection, REQUEST_BYTES)
                times.append(time.perf_counter() - began)
            return times

    def set_ups(self, count: int) -> list[float]:
        """Seconds from nothing to a first answer, ``count`` times."""
        times = []
        for _ in range(count):
            began = time.perf_counter()
            with self._connect() as connection:
                connection.sendall(Order(ECHO).pack() + b"x")
                _exactly(connection, 1)
                times.append(time.perf_counter() - began)
        return times


def listen_raw() -> int:
    """Serves plain sockets in threads; the port."""
    return _listen(lambda connection: connection)


def listen_tls() -> int:
    """Serves sockets with TLS in threads; the port."""
    certificate, key = make_certificate(Identity.generate())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "both.pem"
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(certificate.public_bytes(Encoding.PEM) + secret)
        context.load_cert_chain(file)
    return _listen(lambda connection: context.wrap_socket(connection, server_side=True))


def _listen(wrap: Callable[[socket.socket], socket.socket]) -> int:
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_serve, args=(connection, wrap), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    port: int = listener.getsockname()[1]
    return port


def _serve(connection: socket.socket, wrap: Callable[[socket.socket], socket.socket]) -> None:
    with suppress(OSError, EOFError):  # the other end leaves when it has what it wanted
        connection = wrap(connection)
        order = Order.unpack(_exactly(connection, ORDER_BYTES))
        if order.kind == ECHO:
            while data := connection.recv(65536):
                connection.sendall(data)
        elif order.kind == SOURCE:
            _send(connection, order.size)
        else:
            _receive(connection, order.size)
            connection.sendall(b"!")


def _send(connection: socket.socket, size: int) -> None:
    data = memoryview(bytes(CHUNK_BYTES))
    for start in range(0, size, CHUNK_BYTES):
        connection.sendall(data[: min(CHUNK_BYTES, size - start)])


def _receive(connection: socket.socket, size: int) -> None:
    buffer, left = memoryview(bytearray(CHUNK_BYTES)), size
    while left:
        count = connection.recv_into(buffer, min(left, CHUNK_BYTES))
        if not count:
            raise EOFError
        left -= count


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data
