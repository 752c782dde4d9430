"""What a failed dial means, in words that help."""

from __future__ import annotations

import errno
import re
import socket

from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.libp2p_websocket import WebTlsFailed
from moshgrid.p2p.websocket import WebSocketFault

__all__ = ["explain_failure"]

_PEER = re.compile(r"(12D3Koo\w{40,})")
_ERRNO = {
    errno.ECONNREFUSED: "refused the connection",
    errno.ETIMEDOUT: "timed out",
    errno.EHOSTUNREACH: "no route to this address",
    errno.ENETUNREACH: "no route to this address",
    errno.EADDRNOTAVAIL: "no route to this address",
    errno.ECONNRESET: "closed the connection during the handshake",
    errno.EMFILE: "this process has too many files and connections open",
}


def explain_failure(error: BaseException, expected: PeerId) -> str:
    """One line for the ``attempts`` of ``Unreachable``."""
    chain = _causes(error)
    for link in chain:
        if isinstance(link, WebTlsFailed | WebSocketFault):
            return f"answered, but {link}"
        text = str(link)
        if "ismatch" in type(link).__name__ or "ismatch" in text:
            others = [peer for peer in _PEER.findall(text) if peer != expected]
            return f"answered, but is {'peer ' + others[0] if others else 'another peer'}: the address is old"
    for link in chain:
        if isinstance(link, socket.gaierror):
            return "the name was not found"
        if isinstance(link, OSError) and link.errno in _ERRNO:
            return _ERRNO[link.errno]
    texts = [str(link) for link in chain]
    joined = " ".join(texts)
    for sign, meaning in (
        (
            "does not speak",
            "answered, but does not speak Noise or TLS with yamux: a plaintext or foreign peer",
        ),
        ("no handshake within", "answered, but did not finish the handshake in time"),
        ("connection was lost", "closed the connection during the handshake"),
        ("ended the connection", "closed the connection during the handshake"),
        ("negotiat", "answered, but not as a libp2p peer does"),
        ("handshake", "answered, but the handshake failed"),
    ):
        if sign in joined:
            return meaning
    return next((text for text in reversed(texts) if text), type(chain[-1]).__name__)[:200]


def _causes(error: BaseException) -> list[BaseException]:
    chain = [error]
    for link in chain:
        if len(chain) > 32:
            break
        if isinstance(link, BaseExceptionGroup):
            chain += link.exceptions
        elif (cause := link.__cause__ or link.__context__) is not None:
            chain.append(cause)
    return chain
