"""The TLS 1.3 handshake of libp2p, made by OpenSSL in memory: records in, bytes out, keys at the end."""

from __future__ import annotations

import struct

from cryptography import x509
from OpenSSL import SSL

from moshgrid.p2p.identity import Identity, PeerId
from moshgrid.p2p.secure_channel import RecordError
from moshgrid.p2p.tls_certificate import make_certificate, peer_of_certificate
from moshgrid.p2p.tls_records import MAX_RECORD, SUITES, TlsRecords

__all__ = ["HEADER_BYTES", "TlsContexts", "TlsHandshake"]

HEADER_BYTES = 5
_HEADER = struct.Struct(">BHH")
_KINDS = (20, 21, 22, 23)
_FIRST_VERSION, _VERSION = 0x0301, 0x0303
_MAX_RECEIVED = 64 * 1024
_OUT_BYTES = 64 * 1024
_ALPN = b"libp2p"


class TlsContexts:
    """A certificate for one identity, and OpenSSL's settings for both sides."""

    def __init__(self, identity: Identity) -> None:
        certificate, key = make_certificate(identity)
        self.client, self.server = SSL.Context(SSL.TLS_METHOD), SSL.Context(SSL.TLS_METHOD)
        for context in (self.client, self.server):
            context.set_min_proto_version(SSL.TLS1_3_VERSION)
            context.set_tls13_ciphersuites(":".join(SUITES).encode())
            context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION)
            context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
            # Any certificate will do for OpenSSL, there must only be one: what it says we check ourselves.
            context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
            context.set_keylog_callback(_keep_secret)
            context.use_certificate(certificate)
            context.use_privatekey(key)
        self.client.set_alpn_protos([_ALPN])
        self.server.set_alpn_select_callback(_choose_alpn)


def _choose_alpn(_: SSL.Connection, offered: list[bytes]) -> bytes:
    return _ALPN if _ALPN in offered else b""


def _keep_secret(connection: SSL.Connection, line: bytes) -> None:
    label, _, secret = line.split(b" ")
    connection.get_app_data()[label] = bytes.fromhex(secret.decode())


class TlsHandshake:
    """One side of a handshake."""

    def __init__(self, contexts: TlsContexts, *, initiator: bool) -> None:
        self._initiator = initiator
        self._secrets: dict[bytes, bytes] = {}
        self._connection = SSL.Connection(contexts.client if initiator else contexts.server)
        self._connection.set_app_data(self._secrets)
        if initiator:
            self._connection.set_connect_state()
        else:
            self._connection.set_accept_state()
        self._received = 0
        self.done = False

    def start(self) -> bytes:
        """What the initiator says first; empty for the other side."""
        return self._go_on()

    def length_of(self, header: bytes) -> int:
        """How many bytes follow these five. Raises RecordError."""
        kind, version, length = _HEADER.unpack(header)
        first = not self._initiator and not self._received
        if kind not in _KINDS or version != (_FIRST_VERSION if first else _VERSION):
            raise RecordError("answered, but not as TLS does")
        if not 0 < length <= MAX_RECORD:
            raise RecordError(f"announced a TLS record of {length} bytes")
        self._received += HEADER_BYTES + length
        if self._received > _MAX_RECEIVED:
            raise RecordError("sent too much before the TLS handshake was done")
        return int(length)

    def take(self, record: bytes) -> bytes:
        """Takes one whole record; what to send for it. Raises RecordError.

        When that is raised, ``last_words`` says why to the peer.
        """
        self._connection.bio_write(record)
        return self._go_on()

    def last_words(self) -> bytes:
        """An alert, when the handshake failed."""
        return self._drain()

    def _go_on(self) -> bytes:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            pass
        except SSL.Error as error:
            raise RecordError(f"failed the TLS handshake ({_reason(error)})") from None
        else:
            self.done = True
            if not self._initiator:
                # What OpenSSL says last are session tickets, encrypted with the keys for data. They are
                # never sent, so that our own records begin with the first nonce.
                self._drain()
                return b""
        return self._drain()

    def _drain(self) -> bytes:
        try:
            return self._connection.bio_read(_OUT_BYTES)
        except SSL.WantReadError:
            return b""

    def peer(self) -> PeerId:
        """Whom the other side's certificate belongs to. Raises RecordError."""
        try:
            certificate = self._connection.get_peer_certificate(as_cryptography=True)
            chain = self._connection.get_peer_cert_chain(as_cryptography=True) or []
        except (ValueError, x509.InvalidVersion) as error:
            raise RecordError(f"has a certificate that cannot be read: {error}") from None
        # OpenSSL counts the certificate itself as part of the chain on one side only.
        if certificate is None or len(chain) != (1 if self._initiator else 0):
            raise RecordError("sent another number of certificates than one")
        if self._connection.get_alpn_proto_negotiated() != _ALPN:
            raise RecordError("speaks TLS, but not libp2p")
        return peer_of_certificate(certificate)

    def records(self) -> TlsRecords:
        """The keys of the finished handshake, in use."""
        client, server = self._secrets[b"CLIENT_TRAFFIC_SECRET_0"], self._secrets[b"SERVER_TRAFFIC_SECRET_0"]
        ours, theirs = (client, server) if self._initiator else (server, client)
        suite = self._connection.get_cipher_name()
        assert suite is not None
        return TlsRecords(suite, ours, theirs)


def _reason(error: SSL.Error) -> str:
    stack = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return ", ".join(str(entry[-1]) for entry in stack) or "it broke off"
