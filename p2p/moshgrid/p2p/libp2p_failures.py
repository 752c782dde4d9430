"""What a failed dial means, in words that help: the last cause of py-libp2p's nested exceptions."""

from __future__ import annotations

import re

from moshgrid.p2p.identity import PeerId

__all__ = ["explain_failure"]

_PEER = re.compile(r"(12D3Koo\w{40,})")


def explain_failure(error: BaseException, expected: PeerId) -> str:
    """One line for the ``attempts`` of ``Unreachable``."""
    chain = _causes(error)
    for link in chain:
        text = str(link)
        if "ismatch" in type(link).__name__ or "ismatch" in text:
            others = [peer for peer in _PEER.findall(text) if peer != expected]
            return f"answered, but is {'peer ' + others[0] if others else 'another peer'}: the address is old"
    texts = [str(link) for link in chain]
    joined = " ".join(texts)
    for sign, meaning in (
        ("refused", "refused the connection"),
        ("Name or service", "the name was not found"),
        ("resolve", "the name was not found"),
        ("unreachable", "no route to this address"),
        ("No route", "no route to this address"),
        ("timed out", "timed out"),
        ("not supported", "answered, but does not speak Noise and yamux: a plaintext or foreign peer"),
        ("reset", "closed the connection during the handshake"),
        ("received 0 bytes", "closed the connection during the handshake"),
        ("negotiate", "answered, but not as a libp2p peer does"),
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
