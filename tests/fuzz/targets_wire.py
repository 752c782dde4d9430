"""The parsers of the wire, each as a stranger reaches it; behind encryption, as one who holds the keys."""

from __future__ import annotations

import contextlib
import random
import zlib
from collections.abc import Coroutine, Iterator
from typing import Any

from cryptography import x509
from fuzzing import Target

from moshgrid.p2p import tls_certificate
from moshgrid.p2p.addresses import AddressBook, parse_listen, split_addr
from moshgrid.p2p.decoding import Unreadable, decode
from moshgrid.p2p.dial_order import dial_order
from moshgrid.p2p.envelope import open_envelope, seal
from moshgrid.p2p.errors import ConfigurationError, RecordRejected, RemoteProtocolError, StreamReset
from moshgrid.p2p.framing import FrameReader
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.link import Link
from moshgrid.p2p.multistream import NegotiationFailed, accept, propose
from moshgrid.p2p.noise_handshake import NoiseHandshake
from moshgrid.p2p.noise_records import NoiseRecords
from moshgrid.p2p.peer_exchange import PEERS
from moshgrid.p2p.peer_record import MAX_PEER_RECORD_BYTES, open_peer_record
from moshgrid.p2p.private_network import _parse as parse_key_file
from moshgrid.p2p.secure_channel import Outgoing, RecordError
from moshgrid.p2p.signed_key import peer_of_identity_key, protobuf_fields
from moshgrid.p2p.tls_handshake import HEADER_BYTES, TlsContexts, TlsHandshake
from moshgrid.p2p.tls_records import TlsRecords
from moshgrid.p2p.websocket import WebSocketEnd, WebSocketFault
from moshgrid.p2p.yamux_session import YamuxSession

__all__ = ["TARGETS"]

US, THEM = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2))
CONTEXTS = TlsContexts(US)
SUITE = "TLS_AES_128_GCM_SHA256"
PEER_RECORD = ("libp2p-peer-record", b"\x03\x01")


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """The data whole, byte by byte if it is short, and in pieces of any size."""
    yield [data]
    if len(data) < 300:
        yield [data[at : at + 1] for at in range(len(data))]
    chance = random.Random(zlib.crc32(data))
    pieces, at = [], 0
    while at < len(data):
        size = chance.choice((1, 2, 13, 100, 5000))
        pieces.append(data[at : at + size])
        at += size
    yield pieces


def finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Runs what awaits nothing that would wait."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits, with all its input there")


class Line:
    """A byte line and a stream whose input is there."""

    peer, protocol = "12D3KooWpeer", "/test/1"

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.largest = 0

    async def send(self, data: Any) -> None:
        """Nobody listens."""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data, self._data = self._data[:max_bytes], self._data[max_bytes:]
        return data

    async def receive_into(self, buffer: Any) -> int:
        self.largest = max(self.largest, len(buffer))
        data = await self.receive(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    async def exactly(self, size: int) -> bytes:
        assert size <= 1024, "a stranger's length is bounded before it is read"
        data = await self.receive(size)
        return data if len(data) == size else b""


def multistream(data: bytes) -> None:
    with contextlib.suppress(NegotiationFailed):
        finish(propose(Line(data), ["/noise", "/tls/1.0.0"]))
    assert finish(accept(Line(data), {"/noise", "/tls/1.0.0"})) in (None, "/noise", "/tls/1.0.0")


def frames(data: bytes) -> None:
    line = Line(data)
    reader = FrameReader(line, 100_000)  # type: ignore[arg-type]
    total = 0
    try:
        while (frame := finish(reader.read())) is not None:
            total += len(frame)
    finally:
        assert line.largest <= 100_000 and total <= len(data)


def yamux(data: bytes) -> None:
    for pieces in cuts(data):
        session = YamuxSession(False, 0.0)
        for piece in pieces:
            at = 0
            while at < len(piece) and session.over is None:
                at += session.receive(piece[at:], 0.0)
            assert len(session.streams.live) <= session.limits.inbound_streams
            assert session.streams.buffered <= len(data)
        session.take()
        session.tick(1000.0)


# Noise and TLS.


class Forger(NoiseHandshake):
    """Shakes hands correctly, and says what it likes in the payload."""

    payload = b""

    def _payload(self) -> bytes:
        return self.payload


def noise_message(data: bytes) -> None:
    called = NoiseHandshake(US, initiator=False)
    called.read(data)
    called.write()
    called.read(data)
    raise AssertionError("nobody guesses keys")


def noise_answer(data: bytes) -> None:
    caller = NoiseHandshake(US, initiator=True)
    caller.write()
    caller.read(data)
    raise AssertionError("nobody guesses keys")


def noise_payload(data: bytes) -> None:
    caller, called = Forger(THEM, initiator=True), NoiseHandshake(US, initiator=False)
    caller.payload = data
    called.read(caller.write())
    caller.read(called.write())
    called.read(caller.write())
    raise AssertionError("no signature fits a key that was made just now")


def identity_key(data: bytes) -> None:
    fields = protobuf_fields(data)
    peer_of_identity_key(fields.get(1, b""), fields.get(2, b""), b"signed")


def noise_records(data: bytes) -> None:
    records = NoiseRecords(bytes(32), bytes(32))
    records.open(memoryview(data), memoryview(bytearray(max(len(data), 1))))


def tls_handshake(data: bytes) -> None:
    for initiator in (False, True):
        handshake = TlsHandshake(CONTEXTS, initiator=initiator)
        handshake.start()
        rest = data
        try:
            while len(rest) > HEADER_BYTES and not handshake.done:
                end = HEADER_BYTES + handshake.length_of(rest[:HEADER_BYTES])
                if len(rest) < end:
                    break
                handshake.take(rest[:end])
                rest = rest[end:]
            assert not handshake.done
        except RecordError:
            handshake.last_words()


def tls_certificate_bytes(data: bytes) -> None:
    try:
        certificate = x509.load_der_x509_certificate(data)
    except (ValueError, x509.InvalidVersion):
        return  # as the handshake says too
    tls_certificate.peer_of_certificate(certificate)


_PLAIN, _KEY = tls_certificate.make_certificate(THEM)


def tls_extension(data: bytes) -> None:
    builder = x509.CertificateBuilder(_PLAIN.issuer, _PLAIN.subject, _PLAIN.public_key(), 1)
    builder = builder.not_valid_before(_PLAIN.not_valid_before_utc)
    builder = builder.not_valid_after(_PLAIN.not_valid_after_utc)
    builder = builder.add_extension(x509.UnrecognizedExtension(tls_certificate._OID, data), critical=False)
    tls_certificate.peer_of_certificate(builder.sign(_KEY, tls_certificate.hashes.SHA256()))


def tls_records(data: bytes) -> None:
    records = TlsRecords(SUITE, bytes(32), bytes(32))
    records.open(memoryview(data), memoryview(bytearray(max(len(data), 1))))


def tls_inside(data: bytes) -> None:
    """Records that were encrypted with the right keys; a zero byte ends one."""
    sender, receiver = (TlsRecords(SUITE, bytes(32), bytes(32)) for _ in range(2))
    out = memoryview(bytearray(1 << 16))
    for inner in data.split(b"\0"):
        sealed = bytes(out[: sender._seal_record(memoryview(inner[:16384]), out)])
        receiver.open(memoryview(sealed), memoryview(bytearray(len(sealed))))


def noise_inside(data: bytes) -> None:
    sender, receiver = (NoiseRecords(bytes(32), bytes(32)) for _ in range(2))
    sealed = memoryview(bytearray(1 << 16))
    size = sender.seal(Outgoing([data]), sealed)
    consumed, produced = receiver.open(sealed[:size], memoryview(bytearray(max(size, 1))))
    assert (consumed, produced) == (size, len(data))


# Messages and records.


def peers_query(data: bytes) -> None:
    query = decode(PEERS.query_decoder, data)
    assert len(query.addrs) <= 16
    AddressBook().learn(THEM.peer_id, query.addrs)


def peers_answer(data: bytes) -> None:
    answer = decode(PEERS.answer_decoder, data)
    book = AddressBook()
    for known in answer.peers:
        book.learn(known.peer, known.addrs)


def envelope(data: bytes) -> None:
    open_envelope(data, *PEER_RECORD, MAX_PEER_RECORD_BYTES)


def peer_record(data: bytes) -> None:
    """Addresses that their owner signed."""
    raw = seal(THEM, *PEER_RECORD, data or b"\0")
    _, _, addrs = open_peer_record(raw)
    AddressBook().learn(THEM.peer_id, addrs)


# What users and links say.


def key_file(data: bytes) -> None:
    assert len(parse_key_file(data.decode("latin-1"), "a file")) == 32


def link(data: bytes) -> None:
    read = Link.parse(data.decode("utf-8", "replace"))
    assert Link.parse(str(read)) == read


def address(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    AddressBook().learn(THEM.peer_id, [text])
    with contextlib.suppress(ConfigurationError):
        parse_listen(text)
    place, peer = split_addr(text)
    assert dial_order([f"{place}/p2p/{peer}"])


# WebSocket.


def _websocket(data: bytes, host: str | None, is_open: bool) -> None:
    outcomes = set()
    for pieces in cuts(data):
        end = WebSocketEnd(host, 0.0)
        if is_open:
            end.receive(_UPGRADE, 0.0)
            end.take_replies()
        heard, buffer = b"", memoryview(bytearray(4096))
        try:
            for piece in pieces:
                end.receive(piece, 0.0)
                while size := end.take(buffer):
                    heard += buffer[:size]
                while end.more:
                    end.advance(0.0)
                    while size := end.take(buffer):
                        heard += buffer[:size]
            outcomes.add((heard, end.ended))
        except WebSocketFault:
            outcomes.add((b"refused", False))  # for which of several reasons may depend on the cut
        assert len(heard) <= len(data)
        end.take_replies()
        end.goodbye()
    assert len(outcomes) == 1, f"it matters how the bytes are cut: {outcomes}"


_UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def websocket_frames(data: bytes) -> None:
    _websocket(data, None, True)


def websocket_request(data: bytes) -> None:
    _websocket(data, None, False)


def websocket_answer(data: bytes) -> None:
    _websocket(data, "a.example:80", False)


TARGETS = {
    "wire-multistream": Target(multistream, (NegotiationFailed,)),
    "wire-frames": Target(frames, (RemoteProtocolError, StreamReset)),
    "wire-yamux": Target(yamux, ()),
    "wire-noise-message": Target(noise_message, (RecordError,)),
    "wire-noise-answer": Target(noise_answer, (RecordError,)),
    "wire-noise-payload": Target(noise_payload, (RecordError,)),
    "wire-noise-records": Target(noise_records, (RecordError,)),
    "wire-noise-inside": Target(noise_inside, ()),
    "wire-identity-key": Target(identity_key, (RecordError,)),
    "wire-tls-handshake": Target(tls_handshake, ()),
    "wire-tls-certificate": Target(tls_certificate_bytes, (RecordError,)),
    "wire-tls-extension": Target(tls_extension, (RecordError,)),
    "wire-tls-records": Target(tls_records, (RecordError,)),
    "wire-tls-inside": Target(tls_inside, (RecordError,)),
    "wire-peers-query": Target(peers_query, (Unreadable,)),
    "wire-peers-answer": Target(peers_answer, (Unreadable,)),
    "wire-envelope": Target(envelope, (RecordRejected,)),
    "wire-peer-record": Target(peer_record, (RecordRejected,)),
    "wire-key-file": Target(key_file, (ConfigurationError,)),
    "wire-link": Target(link, (ConfigurationError,)),
    "wire-address": Target(address, (ValueError,)),
    "wire-websocket-frames": Target(websocket_frames, ()),
    "wire-websocket-request": Target(websocket_request, ()),
    "wire-websocket-answer": Target(websocket_answer, ()),
}
