"""multistream-select on a new stream: both sides agree on its protocol in one round trip."""

from __future__ import annotations

from collections.abc import Container

from moshgrid.p2p.errors import RemoteProtocolError
from moshgrid.p2p.libp2p_stream import Libp2pStream

__all__ = ["accept_protocol", "propose_protocol"]

_HEADER = "/multistream/1.0.0"
_REFUSAL = "na"
_MAX_LINE = 1024
_MAX_PROPOSALS = 16


async def propose_protocol(stream: Libp2pStream, protocol: str) -> None:
    """Asks for ``protocol``. Raises RemoteProtocolError when the peer does not speak it."""
    await stream.send(_line(_HEADER) + _line(protocol))
    if (answer := await _read_line(stream)) != _HEADER:
        raise RemoteProtocolError(stream.peer, f"answered a new stream with {answer[:40]!r}")
    answer = await _read_line(stream)
    if answer == _REFUSAL:
        raise RemoteProtocolError(stream.peer, f"does not speak {protocol}")
    if answer != protocol:
        raise RemoteProtocolError(stream.peer, f"was asked for {protocol} and answered {answer[:40]!r}")


async def accept_protocol(stream: Libp2pStream, spoken: Container[str]) -> str | None:
    """The first proposed protocol that is in ``spoken``; None when the peer gives up."""
    await stream.send(_line(_HEADER))
    if await _read_line(stream) != _HEADER:
        raise RemoteProtocolError(stream.peer, "opened a stream without multistream-select")
    for _ in range(_MAX_PROPOSALS):
        proposal = await _read_line(stream)
        if not proposal:
            return None
        if proposal in spoken:
            await stream.send(_line(proposal))
            return proposal
        await stream.send(_line(_REFUSAL))
    raise RemoteProtocolError(stream.peer, f"proposed more than {_MAX_PROPOSALS} protocols for one stream")


def _line(text: str) -> bytes:
    data = text.encode() + b"\n"
    assert len(data) < 1 << 14
    if len(data) < 0x80:
        return bytes([len(data)]) + data
    return bytes([len(data) & 0x7F | 0x80, len(data) >> 7]) + data


async def _read_line(stream: Libp2pStream) -> str:
    """One line without its end; empty after the peer's end of the stream."""
    length = shift = 0
    while True:
        byte = await stream.receive(1)
        if not byte:
            return ""
        length |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            break
        shift += 7
        if shift > 7:
            raise RemoteProtocolError(stream.peer, "sent an overlong line while opening a stream")
    if not 0 < length <= _MAX_LINE:
        raise RemoteProtocolError(stream.peer, f"sent a line of {length} bytes while opening a stream")
    line = b""
    while len(line) < length:
        data = await stream.receive(length - len(line))
        if not data:
            return ""
        line += data
    try:
        return line.decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise RemoteProtocolError(stream.peer, "sent a line that is no text while opening a stream") from None
