"""The parsers of circuit relay v2: what strangers ask a relay, and what a relay answers."""

from __future__ import annotations

from fuzzing import Target
from targets_wire import THEM, US, Line, finish

from moshgrid.p2p.addresses import relay_of, split_addr
from moshgrid.p2p.delimited import read_delimited
from moshgrid.p2p.envelope import seal
from moshgrid.p2p.errors import RecordRejected, RemoteProtocolError
from moshgrid.p2p.protobuf import Malformed
from moshgrid.p2p.relay_asking import read_reservation
from moshgrid.p2p.relay_messages import MAX_MESSAGE_BYTES, HopMessage, StopMessage
from moshgrid.p2p.relay_voucher import open_voucher

__all__ = ["TARGETS"]


def hop(data: bytes) -> None:
    message = HopMessage.parse(data)
    assert HopMessage.parse(message.encode()) == message


def stop(data: bytes) -> None:
    message = StopMessage.parse(data)
    assert StopMessage.parse(message.encode()) == message


def delimited(data: bytes) -> None:
    line = Line(data)
    while True:
        assert len(finish(read_delimited(line, MAX_MESSAGE_BYTES))) <= MAX_MESSAGE_BYTES  # type: ignore[arg-type]


def voucher(data: bytes) -> None:
    open_voucher(data)


def voucher_payload(data: bytes) -> None:
    """As a relay may sign it."""
    opened = open_voucher(seal(THEM, "libp2p-relay-rsvp", b"\x03\x02", data or b"\x00"))
    assert opened.relay == THEM.peer_id


def reservation(data: bytes) -> None:
    granted = read_reservation(THEM.peer_id, US.peer_id, HopMessage.parse(data))
    for addr in granted.addrs:
        assert relay_of(addr) is None and split_addr(addr)[1] == THEM.peer_id


TARGETS = {
    "relay-hop": Target(hop, (ValueError,)),
    "relay-stop": Target(stop, (ValueError,)),
    "relay-delimited": Target(delimited, (Malformed,)),
    "relay-voucher": Target(voucher, (RecordRejected,)),
    "relay-voucher-payload": Target(voucher_payload, (RecordRejected,)),
    "relay-reservation": Target(reservation, (ValueError, RemoteProtocolError)),
}
