"""Dial-back's words and bounds: what may be asked for, by whom, how often, and who is a witness."""

from __future__ import annotations

import msgspec
import pytest

from moshgrid.p2p.contacts import Contacts
from moshgrid.p2p.decoding import Unreadable, decode
from moshgrid.p2p.dialback import (
    DIALBACK,
    AskDialBack,
    DialBackRates,
    PassedOn,
    Target,
    may_be_called,
    witnesses_for,
)
from moshgrid.p2p.identity import PeerId

NONCE = bytes(16)
ASKER = "61.1.1.1"


def target(host: str = ASKER, port: int = 4001) -> Target:
    return Target(host, port, NONCE)


@pytest.mark.parametrize(
    ("host", "asker", "allowed"),
    [
        (ASKER, ASKER, True),
        ("::ffff:61.1.1.1", ASKER, True),
        ("61.1.1.2", ASKER, False),
        ("61.1.1.2", None, True),
        ("192.168.1.1", "192.168.1.1", False),
        ("127.0.0.1", None, False),
        ("100.64.1.1", None, False),
        ("169.254.169.254", None, False),
        ("0.0.0.0", None, False),
        ("224.0.0.1", None, False),
        ("2a10:1::5", None, True),
        ("fd00::1", None, False),
        ("fe80::1", None, False),
        ("::1", None, False),
        ("64:ff9b::192.168.1.1", None, False),
        ("2002:c0a8:101::1", None, False),
        ("printer", None, False),
        ("", None, False),
    ],
)
def test_calls_go_to_the_asker_itself_and_into_nobodys_home(host, asker, allowed):
    assert may_be_called([target(), target(host)] if asker else [target(host)], asker) is allowed


@pytest.mark.parametrize(
    "query",
    [
        AskDialBack(()),
        AskDialBack((target(),) * 3),
        AskDialBack((target(port=0),)),
        AskDialBack((target(port=65536),)),
        AskDialBack((Target(ASKER, 1, b"short"),)),
        AskDialBack((target(),), ("62.1.0.0/16",) * 65),
        PassedOn("p" * 129, (target(),)),
        PassedOn("peer", ()),
    ],
)
def test_what_is_too_much_is_not_read(query):
    with pytest.raises(Unreadable):
        decode(DIALBACK.query_decoder, msgspec.msgpack.encode(query))


def test_the_largest_query_is_within_its_limit():
    asked = AskDialBack((target("2001:0db8:1111:2222:3333:4444:5555:6666"),) * 2, ("x" * 45,) * 64)
    raw = msgspec.msgpack.encode(asked)
    assert len(raw) <= DIALBACK.max_query and decode(DIALBACK.query_decoder, raw) == asked


def test_witnesses_are_strangers_of_different_groups():
    hosts = [
        "61.1.9.9",
        "192.168.1.5",
        "62.1.1.1",
        "62.1.2.2",
        "63.1.1.1",
        "nonsense",
        "64.1.1.1",
        "65.1.1.1",
    ]
    connected = [(PeerId(host), host) for host in hosts]
    chosen = [host for _, host in witnesses_for(ASKER, ["63.1.0.0/16"], connected)]
    assert chosen == ["62.1.1.1", "64.1.1.1", "65.1.1.1"]


def test_nobody_causes_many_calls_and_all_together_few():
    rates = DialBackRates(0.0)
    assert sum(rates.allows(PeerId("a"), 0.0) for _ in range(100)) == 6
    assert rates.allows(PeerId("a"), 5.1) and not rates.allows(PeerId("a"), 5.1)
    many = sum(rates.allows(PeerId(f"peer-{number}"), 5.1) for number in range(1000))
    assert many <= 20


def test_whoever_was_called_is_no_stranger_nor_is_anybody_beside():
    contacts = Contacts()
    contacts.called("62.1.1.1")
    contacts.called("192.168.1.1")
    assert contacts.knows("62.1.200.200") and not contacts.knows("62.2.1.1")
    assert not contacts.knows("192.168.1.1")
    for number in range(100):
        contacts.called(f"70.{number}.1.1")
    assert contacts.newest(2) == ("70.99.0.0/16", "70.98.0.0/16") and len(contacts.newest(64)) == 64


def test_those_seen_over_the_family_that_is_to_be_called_are_asked_first():
    four = [(PeerId(f"four{n}"), f"{70 + n}.1.1.1") for n in range(3)]
    six = [(PeerId("both"), "80.1.1.1"), (PeerId("both"), "2a10:8::1"), (PeerId("six"), "2a10:9::1")]
    chosen = witnesses_for("2a10:1::5", ["2a10:7::/32"], [*four, *six, (PeerId("known"), "2a10:7::1")])
    assert chosen[:2] == [(PeerId("both"), "2a10:8::1"), (PeerId("six"), "2a10:9::1")]
    assert len(chosen) == 3 and len({peer for peer, _ in chosen}) == 3
