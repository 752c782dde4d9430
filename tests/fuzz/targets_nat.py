"""The parsers behind NAT: hole punching, dial-back, what identify says of us, and what routers answer."""

from __future__ import annotations

from fuzzing import Target
from targets_wire import Line, finish

from moshgrid.p2p.dcutr import MAX_MESSAGE_BYTES, Heard, HolePunch, HolePunching, Punch, places_of
from moshgrid.p2p.decoding import Unreadable, decode
from moshgrid.p2p.delimited import read_delimited
from moshgrid.p2p.dialback import DIALBACK, AskDialBack, may_be_called, witnesses_for
from moshgrid.p2p.identified import Identified
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.ip_ranges import is_home
from moshgrid.p2p.observed_addrs import ObservedAddrs
from moshgrid.p2p.port_mapping import default_gateway, read_external_address, read_nat_pmp, read_pcp
from moshgrid.p2p.protobuf import Malformed

__all__ = ["TARGETS"]


def dcutr(data: bytes) -> None:
    """A whole talk, as either side hears it."""
    for begins in (True, False):
        line, machine = Line(data), HolePunching((), begins=begins, called=begins)
        if begins:
            machine.begin(0.0)
        for now in range(3):
            message = HolePunch.decode(finish(read_delimited(line, MAX_MESSAGE_BYTES)))  # type: ignore[arg-type]
            for effect in machine.handle(Heard(message), float(now)):
                if isinstance(effect, Punch):
                    places = places_of(effect.addrs)
                    assert len(places) <= 8 and not any(is_home(host) for host, _ in places)


def dialback_query(data: bytes) -> None:
    query = decode(DIALBACK.query_decoder, data)
    for asker in (None, "61.1.1.1", "2001:db8::1"):
        if may_be_called(query.targets, asker) and isinstance(query, AskDialBack):
            assert len(witnesses_for("61.1.1.1", query.avoid, [(PeerId(""), "62.1.1.1")])) <= 1


def dialback_answer(data: bytes) -> None:
    answer = decode(DIALBACK.answer_decoder, data)
    assert len(answer.called) <= 3


def identified(data: bytes) -> None:
    said = Identified.decode(data)
    for family in ("ip4", "ip6"):
        assert all(place.startswith(f"/{family}/") for place in said.listens_over(family))
    said.seen_at()


def observed(data: bytes) -> None:
    text = data.decode("latin-1")
    seen = ObservedAddrs()
    seen.saw("62.1.1.1", text, 1, 0.0, listening_port=True)
    seen.saw(text, "61.1.1.1", 1, 0.0, listening_port=True)


def router(data: bytes) -> None:
    for answer in (read_nat_pmp(data, 4001), read_pcp(data, 4001, bytes(12))):
        assert answer is None or answer.is_public in (True, False)
    read_external_address(data)
    default_gateway(data.decode("latin-1"))


TARGETS = {
    "nat-dcutr": Target(dcutr, (Malformed,)),
    "nat-dialback-query": Target(dialback_query, (Unreadable,)),
    "nat-dialback-answer": Target(dialback_answer, (Unreadable,)),
    "nat-identified": Target(identified, (Malformed,)),
    "nat-observed": Target(observed, ()),
    "nat-router": Target(router, ()),
}
