"""What strangers cause is said once, then once a minute with a count; and floods of it stay short."""

from __future__ import annotations

import logging

import pytest
import trio

from moshgrid.p2p.complaints import Complaints
from moshgrid.p2p.errors import Unreachable
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.requests import Requests, Service
from moshgrid.p2p.testing import MemorySwitch, run_virtual

LOG = logging.getLogger("moshgrid.p2p")
ASKER = Identity.from_seed(bytes([1]) * 32)


def said(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_first_of_a_kind_is_said_and_then_one_a_minute_with_a_count(caplog):
    complaints = Complaints(LOG)
    with caplog.at_level(logging.DEBUG, "moshgrid.p2p"):
        for second in range(150):
            complaints.say(logging.WARNING, "kind", float(second), "%s did it", f"peer {second}")
        complaints.say(logging.WARNING, "other", 149.0, "something else")
    assert said(caplog) == [
        "peer 0 did it",
        "peer 60 did it (after 59 more of the kind in 60 s)",
        "peer 120 did it (after 59 more of the kind in 60 s)",
        "something else",
    ]
    assert "peer 7 did it" in caplog.text  # for whoever debugs


def test_what_happens_seldom_is_said_each_time(caplog):
    complaints = Complaints(LOG)
    for second in (0.0, 61.0, 122.0):
        complaints.say(logging.WARNING, "kind", second, "again")
    assert said(caplog) == ["again"] * 3


def test_kinds_are_few(caplog):
    complaints = Complaints(LOG)
    for kind in range(1000):
        complaints.say(logging.WARNING, kind, 0.0, "%d", kind)
    assert len(complaints._kinds) == 256


@pytest.mark.parametrize("way", ["stream", "request"])
def test_a_thousand_failures_of_a_handler_are_few_lines(caplog, way):
    service = Service("/test/bug/1", int, int)

    async def bug(*_: object) -> int:
        raise ZeroDivisionError("a bug")

    async def main() -> None:
        async with MemorySwitch() as switch, trio.open_nursery() as nursery:
            a, b = (switch.network(identity) for identity in (ASKER, Identity.generate()))
            asking, answering = Requests(a, nursery), Requests(b, nursery)
            if way == "request":
                answering.serve(service, bug)
            else:
                b.serve(service.protocol, bug)
            await a.dial(b.addrs[0])
            for _ in range(1000):
                if way == "request":
                    with pytest.raises(Exception, match="internal error"):
                        await asking.ask(b.peer_id, service, 1)
                else:
                    with pytest.raises(Unreachable):
                        stream = await a.open_stream(b.peer_id, service.protocol)
                        assert await stream.receive()
                await trio.sleep(0.1)
            nursery.cancel_scope.cancel()

    run_virtual(main)
    lines = said(caplog)
    assert 2 <= len(lines) <= 3 and ASKER.peer_id in lines[0] and "more of the kind" in lines[1]
    first = next(record for record in caplog.records if record.levelno >= logging.WARNING)
    assert first.exc_info is not None and "a bug" in str(first.exc_info[1]) + caplog.text
