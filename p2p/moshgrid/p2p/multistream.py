"""multistream-select 1.0.0: two sides agree on a protocol, over anything that carries bytes.

Every line is bounded before it is read, and so is the number of proposals: the other side may be anybody.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Protocol

__all__ = ["GREETING_BYTES", "ByteLine", "NegotiationFailed", "accept", "propose"]

_HEADER = "/multistream/1.0.0"
GREETING_BYTES = len(_HEADER) + 2
"""What either side says in any case."""
_REFUSAL = "na"
_MAX_LINE = 1024
_MAX_PROPOSALS = 16


class NegotiationFailed(Exception):
    """The other side broke the rules, or speaks nothing that we do; the text says what it did."""


class ByteLine(Protocol):
    """What the negotiation goes over."""

    async def send(self, data: bytes) -> None:
        """Sends all of ``data``."""

    async def exactly(self, size: int) -> bytes:
        """``size`` bytes and none beyond; ``b""`` when the other side ends before."""


async def propose(line: ByteLine, protocols: Sequence[str]) -> str:
    """Asks for the first of ``protocols`` that the other side speaks. Raises NegotiationFailed.

    The first proposal goes out with the header, so that the usual case takes one round trip.
    """
    await line.send(_encode(_HEADER) + _encode(protocols[0]))
    if (answer := await _read(line)) != _HEADER:
        raise NegotiationFailed(f"answered {answer[:40]!r} instead of negotiating")
    for index, protocol in enumerate(protocols):
        if index:
            await line.send(_encode(protocol))
        answer = await _read(line)
        if answer == protocol:
            return protocol
        if answer != _REFUSAL:
            raise NegotiationFailed(f"was asked for {protocol} and answered {answer[:40]!r}")
    raise NegotiationFailed(f"does not speak {' or '.join(protocols)}")


async def accept(line: ByteLine, spoken: Container[str]) -> str | None:
    """The first proposed protocol that is in ``spoken``; None when the other side gives up.

    Raises NegotiationFailed.
    """
    await line.send(_encode(_HEADER))
    if await _read(line) != _HEADER:
        raise NegotiationFailed("began without multistream-select")
    for _ in range(_MAX_PROPOSALS):
        proposal = await _read(line)
        if not proposal:
            return None
        if proposal in spoken:
            await line.send(_encode(proposal))
            return proposal
        await line.send(_encode(_REFUSAL))
    raise NegotiationFailed(f"proposed more than {_MAX_PROPOSALS} protocols")


def _encode(text: str) -> bytes:
    data = text.encode() + b"\n"
    assert len(data) < 1 << 14
    if len(data) < 0x80:
        return bytes([len(data)]) + data
    return bytes([len(data) & 0x7F | 0x80, len(data) >> 7]) + data


async def _read(line: ByteLine) -> str:
    """One line without its end; empty when the other side ended before it."""
    length = shift = 0
    while True:
        byte = await line.exactly(1)
        if not byte:
            return ""
        length |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            break
        shift += 7
        if shift > 7:
            raise NegotiationFailed("announced an overlong line")
    if not 0 < length <= _MAX_LINE:
        raise NegotiationFailed(f"announced a line of {length} bytes")
    data = await line.exactly(length)
    if not data:
        return ""
    if data[-1:] != b"\n":
        raise NegotiationFailed("sent a line without its end")
    try:
        return data[:-1].decode()
    except UnicodeDecodeError:
        raise NegotiationFailed("sent a line that is no text") from None
