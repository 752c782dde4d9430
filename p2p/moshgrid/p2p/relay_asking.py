"""Asking a relay: for a reservation, or for a circuit to a peer that holds one there."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from moshgrid.p2p.addresses import read_binary, relay_of, split_addr
from moshgrid.p2p.delimited import read_delimited, send_delimited
from moshgrid.p2p.errors import MoshgridError, RecordRejected, RemoteProtocolError, Unreachable
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.network import Network, Stream
from moshgrid.p2p.protobuf import Malformed
from moshgrid.p2p.relay_messages import (
    HOP,
    MAX_MESSAGE_BYTES,
    CircuitLimit,
    HopMessage,
    HopType,
    RelayStatus,
)
from moshgrid.p2p.relay_voucher import open_voucher

__all__ = ["RelayRefused", "Reservation", "ask_circuit", "read_reservation", "reserve"]

_SECONDS = 10.0
_CIRCUIT_SECONDS = 25.0

_MEANING = {
    RelayStatus.RESERVATION_REFUSED: "the relay has no place left; another one may",
    RelayStatus.RESOURCE_LIMIT_EXCEEDED: "the relay has no circuit left for us or for the peer",
    RelayStatus.PERMISSION_DENIED: "the relay does not allow it",
    RelayStatus.CONNECTION_FAILED: "the relay could not reach the peer",
    RelayStatus.NO_RESERVATION: "the peer is not at this relay: it left, or the address is old",
    RelayStatus.MALFORMED_MESSAGE: "the relay did not understand us",
    RelayStatus.UNEXPECTED_MESSAGE: "the relay did not expect us",
}


class RelayRefused(MoshgridError):
    """A relay said no; ``status`` is its code."""

    def __init__(self, relay: PeerId, status: int) -> None:
        known = status in RelayStatus.__members__.values()
        super().__init__(_MEANING.get(RelayStatus(status), "") if known else f"the relay answered {status}")
        self.relay = relay
        self.status = status


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a relay granted us."""

    relay: PeerId
    expires: int
    """Unix time in seconds, by the relay's clock."""
    addrs: tuple[str, ...]
    """Full multiaddrs of the relay, as it says."""
    limit: CircuitLimit | None
    """Of each circuit; None for no bound."""


async def reserve(network: Network, relay: PeerId) -> Reservation:
    """Asks ``relay`` to pass on to us whoever asks for us, or to go on doing so.

    Raises RelayRefused, RemoteProtocolError for a relay that breaks the rules, Unreachable.
    """
    stream = await network.open_stream(relay, HOP)
    try:
        answer = await _ask(stream, HopMessage(HopType.RESERVE), _SECONDS)
    finally:
        await stream.reset()
    return read_reservation(relay, network.peer_id, answer)


def read_reservation(relay: PeerId, peer: PeerId, answer: HopMessage) -> Reservation:
    """What ``relay`` granted to ``peer``. Raises RemoteProtocolError."""
    if (granted := answer.reserved) is None:
        raise RemoteProtocolError(relay, "granted a reservation without saying what it is")
    if granted.voucher:
        try:
            voucher = open_voucher(granted.voucher)
        except RecordRejected as error:
            raise RemoteProtocolError(relay, f"gave a voucher that is not valid: {error}") from None
        if (voucher.relay, voucher.peer) != (relay, peer):
            raise RemoteProtocolError(relay, "gave a voucher of somebody else")
    return Reservation(relay, granted.expires, _addrs_of(relay, granted.addrs), answer.limit)


async def ask_circuit(stream: Stream, peer: PeerId) -> CircuitLimit | None:
    """Turns a new ``HOP`` stream into the raw bytes of a circuit to ``peer``; returns what it may carry.

    Raises RelayRefused, RemoteProtocolError, Unreachable; the caller resets the stream then.
    """
    return (await _ask(stream, HopMessage(HopType.CONNECT, peer), _CIRCUIT_SECONDS)).limit


async def _ask(stream: Stream, message: HopMessage, seconds: float) -> HopMessage:
    answer = None
    with trio.move_on_after(seconds):
        await send_delimited(stream, message.encode())
        try:
            answer = HopMessage.parse(await read_delimited(stream, MAX_MESSAGE_BYTES))
        except (Malformed, ValueError) as error:
            raise RemoteProtocolError(stream.peer, f"answered as no relay does: {error}") from None
    if answer is None:
        raise Unreachable(stream.peer, [(HOP, f"no answer within {seconds:g} s")])
    if answer.type is not HopType.STATUS:
        raise RemoteProtocolError(stream.peer, "answered a request to a relay with a request")
    if answer.status != RelayStatus.OK:
        raise RelayRefused(stream.peer, answer.status)
    return answer


def _addrs_of(relay: PeerId, given: tuple[bytes, ...]) -> tuple[str, ...]:
    """Those of a relay's own addresses that can be dialled."""
    found = []
    for raw in given:
        try:
            addr = str(read_binary(raw))
            addr = addr if f"/p2p/{relay}" in addr else f"{addr}/p2p/{relay}"
            if relay_of(addr) is None and split_addr(addr)[1] == relay:
                found.append(addr)
        except ValueError:
            continue  # a transport that we do not know
    return tuple(dict.fromkeys(found))
