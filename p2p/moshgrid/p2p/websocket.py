"""One end of a WebSocket (RFC 6455) as a machine: received bytes in, a byte stream out, replies to send.

The binary messages are one stream, whose borders mean nothing. wsproto parses; the bounds are here: on the
HTTP header before it is parsed, on a message, on its fragments, on frames that carry nothing.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    Request,
)
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from moshgrid.p2p.token_bucket import TokenBucket

__all__ = ["WebSocketEnd", "WebSocketFault"]

MAX_HEADER = 8192
MAX_MESSAGE = 16 * 1024 * 1024
MAX_FRAGMENTS = 4096
_EMPTY_PER_SECOND = 10.0
_EMPTY_BURST = 100.0
_EVENTS_PER_TURN = 256

_END_OF_HEADER = b"\r\n\r\n"
_EXPLANATION = b"Here is a peer of a libp2p network. It speaks WebSocket only.\r\n"
_POLITE = (
    b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n"
    b"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(_EXPLANATION), _EXPLANATION)
)
_TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class WebSocketFault(Exception):
    """The other side broke the rules or refused; the text says what it did, as in "the peer …"."""

    def __init__(self, text: str, reply: bytes = b"") -> None:
        super().__init__(text)
        self.reply = reply
        """What to send it before the connection is closed; may be empty."""


class WebSocketEnd:
    """The end that called ``host``, or with ``host`` None the one that was called."""

    def __init__(self, host: str | None, now: float) -> None:
        self._ws = WSConnection(ConnectionType.SERVER if host is None else ConnectionType.CLIENT)
        self._called = host is None
        self._header: bytearray | None = bytearray()
        self._payload: deque[memoryview] = deque()
        self._replies = b""
        self._pong = b""
        self._message = self._fragments = 0
        self._was_empty = False
        self._patience = TokenBucket(_EMPTY_PER_SECOND, _EMPTY_BURST, now)
        self._said_goodbye = False
        self.more = False
        """True when ``advance`` has something left to do without further bytes."""
        self.ended = False
        """The other side closed in good order."""
        if host is not None:
            self._replies = self._ws.send(Request(host=host, target="/"))

    @property
    def is_open(self) -> bool:
        """True once both sides agreed to speak WebSocket."""
        return self._header is None

    @property
    def has_payload(self) -> bool:
        """True when ``take`` has something."""
        return bool(self._payload)

    def take(self, buffer: memoryview) -> int:
        """Moves what arrived into ``buffer``, as much as fits; the number of bytes."""
        filled = 0
        while self._payload and filled < len(buffer):
            piece = self._payload[0]
            size = min(len(piece), len(buffer) - filled)
            buffer[filled : filled + size] = piece[:size]
            filled += size
            if size == len(piece):
                self._payload.popleft()
            else:
                self._payload[0] = piece[size:]
        return filled

    def take_replies(self) -> bytes:
        """What is to be sent now, before anything else."""
        replies, self._replies, self._pong = self._replies + self._pong, b"", b""
        return replies

    def receive(self, data: bytes, now: float) -> None:
        """Takes in what was received. Raises WebSocketFault."""
        if self._header is None:
            self._feed(data)
        else:
            self._shake_hands(data)
        if self.is_open:
            self.advance(now)

    def _feed(self, data: bytes) -> None:
        if data and not self.ended:  # nothing counts after a goodbye
            try:
                self._ws.receive_data(data)
            except LocalProtocolError:
                self.ended = True

    def frame(self, data: bytes | memoryview) -> bytes:
        """One binary message. Raises WebSocketFault when the other side closed."""
        try:
            return self._ws.send(BytesMessage(data=bytes(data)))
        except LocalProtocolError:
            raise WebSocketFault("closed the WebSocket") from None

    def goodbye(self, code: CloseReason = CloseReason.NORMAL_CLOSURE) -> bytes:
        """The close frame; empty when it was sent or cannot be."""
        if not self.is_open or self._said_goodbye:
            return b""
        self._said_goodbye = True
        try:
            return self._ws.send(CloseConnection(code=code))
        except LocalProtocolError:
            return b""

    # The HTTP header.

    def _shake_hands(self, data: bytes) -> None:
        header = self._header
        assert header is not None
        looked_at = max(0, len(header) - len(_END_OF_HEADER))
        header += data
        start = b"GET " if self._called else b"HTTP/1."
        if not header.startswith(start[: len(header)]):
            raise WebSocketFault("does not speak WebSocket")
        end = header.find(_END_OF_HEADER, looked_at)
        if end > MAX_HEADER or (end < 0 and len(header) > MAX_HEADER):
            raise WebSocketFault(
                f"sent an HTTP header of more than {MAX_HEADER} bytes", _TOO_LONG if self._called else b""
            )
        if end < 0:
            return
        rest = bytes(header[end + len(_END_OF_HEADER) :])
        try:
            self._ws.receive_data(bytes(header[: end + len(_END_OF_HEADER)]))
            for event in self._ws.events():
                self._agree(event)
        except (RemoteProtocolError, LocalProtocolError, ValueError) as error:
            reply = _POLITE if self._called else b""
            raise WebSocketFault(f"sent no WebSocket handshake: {error}", reply) from None
        if self._ws.state is not ConnectionState.OPEN:
            raise WebSocketFault("sent no WebSocket handshake", _POLITE if self._called else b"")
        self._header = None
        self._feed(rest)

    def _agree(self, event: Event) -> None:
        if isinstance(event, Request):
            names = {name.lower() for name, _ in event.extra_headers}
            if names & {b"content-length", b"transfer-encoding"}:
                raise WebSocketFault("sent a WebSocket handshake with a body", _POLITE)
            self._replies += self._ws.send(AcceptConnection())
        elif isinstance(event, RejectConnection):
            raise WebSocketFault(f"refuses WebSocket (HTTP {event.status_code})")

    # Frames.

    def advance(self, now: float) -> None:
        """Looks at so many frames at once, to let others have their turn. Raises WebSocketFault."""
        self.more = False
        if self.ended:
            return
        count = 0
        for event in islice(self._ws.events(), _EVENTS_PER_TURN):
            self._handle(event, now)
            count += 1
            if self.ended:
                return
        self.more = count == _EVENTS_PER_TURN

    def _handle(self, event: Event, now: float) -> None:
        if isinstance(event, BytesMessage):
            self._handle_data(event, now)
        elif isinstance(event, Ping):
            self._spend(now)
            if not self._said_goodbye:
                self._pong = self._ws.send(event.response())  # the last one counts for those before it
        elif isinstance(event, Pong):
            self._spend(now)
        elif isinstance(event, CloseConnection):
            if self._ws.state is ConnectionState.REMOTE_CLOSING:
                self._said_goodbye = True
                self._replies += self._ws.send(event.response())
            elif self._ws.state is not ConnectionState.CLOSED:
                self._refuse(f"broke the WebSocket rules: {event.reason}", CloseReason(event.code))
            self.ended = True
        else:
            self._refuse("sent text over a WebSocket", CloseReason.UNSUPPORTED_DATA)

    def _handle_data(self, event: BytesMessage, now: float) -> None:
        if event.data:
            self._payload.append(memoryview(event.data))
        elif self._was_empty:  # one between others is what js-libp2p sends
            self._spend(now)
        self._was_empty = not event.data
        self._message += len(event.data)
        self._fragments += event.frame_finished
        if event.message_finished:
            self._message = self._fragments = 0
        elif self._message > MAX_MESSAGE:
            limit = f"sent a WebSocket message of more than {MAX_MESSAGE >> 20} MiB"
            self._refuse(limit, CloseReason.MESSAGE_TOO_BIG)
        elif self._fragments > MAX_FRAGMENTS:
            self._refuse(
                f"sent a WebSocket message in more than {MAX_FRAGMENTS} parts", CloseReason.POLICY_VIOLATION
            )

    def _spend(self, now: float) -> None:
        if not self._patience.take(now):
            self._refuse("kept on with WebSocket frames that carry nothing", CloseReason.POLICY_VIOLATION)

    def _refuse(self, text: str, code: CloseReason) -> None:
        self._replies += self.goodbye(code)
        raise WebSocketFault(text)
