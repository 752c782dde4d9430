"""Addresses as text: anything may come, and only what can be dialled is kept, in bounded numbers."""

from __future__ import annotations

import contextlib
import tracemalloc

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multiaddr import Multiaddr

from moshgrid.p2p.addresses import (
    MAX_ADDRS,
    AddressBook,
    Carrier,
    carrier_of,
    parse_listen,
    relay_of,
    resolve,
    split_addr,
)
from moshgrid.p2p.errors import ConfigurationError
from moshgrid.p2p.identity import Identity, peer_id_from_bytes

PEER, OTHER, RELAY = (Identity.from_seed(bytes([number]) * 32).peer_id for number in (1, 2, 3))
PARTS = st.sampled_from(
    [
        "ip4",
        "ip6",
        "dns4",
        "tcp",
        "udp",
        "p2p",
        "p2p-circuit",
        "ws",
        "wss",
        "tls",
        "127.0.0.1",
        "::1",
        "1",
        "65536",
        "-1",
        "",
        PEER,
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.lists(PARTS, max_size=8).map(lambda parts: "/" + "/".join(parts)))
@example(f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}")
@example("/ip4/127.0.0.1/tcp/1/p2p/" + "z" * 600)
@example("/unix/a/tcp/1/p2p/x")
@example(f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}/p2p-circuit/p2p/{OTHER}")
@example(f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}/p2p-circuit/p2p/{OTHER}/p2p-circuit/p2p/{PEER}")
def test_any_text_is_an_address_or_a_plain_error(text):
    with contextlib.suppress(ValueError):
        target, peer = split_addr(text)
        relayed = str(target).endswith("/p2p-circuit")
        assert peer and relayed == (relay_of(text) is not None) and relayed == (carrier_of(target) is None)
    with contextlib.suppress(ConfigurationError):
        parse_listen(text)
    book = AddressBook()
    book.learn(PEER, [text])


def test_the_book_keeps_the_newest_of_few_peers():
    book = AddressBook(max_peers=3)
    book.learn(PEER, [f"/ip4/203.0.113.1/tcp/{port}/p2p/{PEER}" for port in range(1, 30)])
    assert len(book.of(PEER)) == MAX_ADDRS
    book.learn(PEER, [f"/ip4/203.0.113.1/tcp/99/p2p/{PEER}", f"/ip4/203.0.113.1/tcp/98/p2p/{OTHER}"])
    assert book.of(PEER)[0].split("/")[4] == "99"
    assert len(book.of(PEER)) == MAX_ADDRS
    for number in range(3, 7):
        peer = Identity.from_seed(bytes([number]) * 32).peer_id
        book.learn(peer, [f"/ip4/203.0.113.1/tcp/1/p2p/{peer}"])
    assert book.of(PEER) == ()


@pytest.mark.parametrize(
    ("addr", "places"),
    [
        ("/ip4/203.0.113.1/tcp/5", [("203.0.113.1", 5)]),
        ("/ip6/2001:db8::1/tcp/5", [("2001:db8::1", 5)]),
        ("/dns4/localhost/tcp/5", [("127.0.0.1", 5)]),
        ("/dns4/no-such-name.invalid/tcp/5", []),
    ],
)
def test_names_become_numbers(addr, places):
    assert trio.run(resolve, Multiaddr(addr)) == places


@pytest.mark.parametrize(
    ("end", "carrier"),
    [("", Carrier.TCP), ("/ws", Carrier.WEBSOCKET), ("/wss", Carrier.WEB_TLS), ("/tls/ws", Carrier.WEB_TLS)],
)
@pytest.mark.parametrize("host", ["ip4/203.0.113.7", "ip6/2001:db8::7", "dns/a.example", "dns4/a.example"])
def test_what_carries_the_bytes(host, end, carrier):
    place, peer = split_addr(f"/{host}/tcp/443{end}/p2p/{PEER}")
    assert (str(place), peer, carrier_of(place)) == (f"/{host}/tcp/443{end}", PEER, carrier)


@pytest.mark.parametrize(
    "end", ["/udp/1", "/ws", "/tcp/1/tls", "/tcp/1/ws/ws", "/tcp/1/ws/tls", "/tcp/1/http"]
)
def test_what_we_cannot_dial(end):
    with pytest.raises(ValueError, match="the form is"):
        split_addr(f"/ip4/203.0.113.7{end}/p2p/{PEER}")


@pytest.mark.parametrize("end", ["/wss", "/tls/ws"])
def test_listening_on_tls_is_for_a_web_server(end):
    with pytest.raises(ConfigurationError) as caught:
        parse_listen(f"/ip4/0.0.0.0/tcp/8443{end}")
    assert "/ip4/0.0.0.0/tcp/8443/ws behind" in str(caught.value)
    assert str(parse_listen("/ip4/0.0.0.0/tcp/8443/ws")) == "/ip4/0.0.0.0/tcp/8443/ws"


@pytest.mark.parametrize("end", ["", "/ws", "/wss"])
def test_a_relayed_address_names_the_relay_and_the_peer(end):
    relay = f"/ip4/203.0.113.7/tcp/443{end}/p2p/{OTHER}"
    place, peer = split_addr(f"{relay}/p2p-circuit/p2p/{PEER}")
    assert (str(place), peer) == (f"{relay}/p2p-circuit", PEER)
    assert relay_of(f"{relay}/p2p-circuit/p2p/{PEER}") == relay
    assert relay_of(relay) is None


@pytest.mark.parametrize(
    "addr",
    [
        f"/ip4/203.0.113.7/tcp/1/p2p/{PEER}/p2p-circuit/p2p/{PEER}",
        f"/ip4/203.0.113.7/tcp/1/p2p/{OTHER}/p2p-circuit",
        f"/ip4/203.0.113.7/tcp/1/p2p-circuit/p2p/{PEER}",
        f"/p2p/{OTHER}/p2p-circuit/p2p/{PEER}",
        f"/p2p-circuit/p2p/{PEER}",
        f"/ip4/203.0.113.7/tcp/1/p2p/{OTHER}/p2p-circuit/p2p/{PEER}/p2p-circuit/p2p/{OTHER}",
        f"/ip4/203.0.113.7/tcp/1/p2p/{OTHER}/p2p-circuit/p2p/{PEER}/tcp/1",
        f"/ip4/203.0.113.7/udp/1/p2p/{OTHER}/p2p-circuit/p2p/{PEER}",
    ],
)
def test_circuits_that_lead_nowhere_are_refused(addr):
    with pytest.raises(ValueError):
        split_addr(addr)


def of(peer, *numbers):
    return tuple(f"/ip4/203.0.113.{number}/tcp/1/p2p/{peer}" for number in numbers)


def test_what_a_peer_signed_outranks_what_others_say_and_newer_records_replace_older_ones():
    book = AddressBook()
    book.learn(PEER, of(PEER, 1, 2))
    book.learn(PEER, of(PEER, 3, 4), seq=7)
    assert book.of(PEER) == of(PEER, 3, 4, 1, 2)
    book.learn(PEER, of(PEER, 5), seq=7)
    book.learn(PEER, of(PEER, 5), seq=3)
    assert book.of(PEER)[0] == of(PEER, 3)[0], "neither an old record nor another of the same number"
    book.learn(PEER, of(PEER, 6), seq=8)
    assert book.of(PEER) == of(PEER, 6, 1, 2)
    book.learn(PEER, of(PEER, *range(100, 140)))
    assert book.of(PEER)[0] == of(PEER, 6)[0] and len(book.of(PEER)) <= 5, "strangers cannot crowd it out"
    book.reached(PEER, of(PEER, 100)[0])
    assert book.of(PEER)[:2] == of(PEER, 100, 6)
    book.learn(PEER, (), seq=9)
    assert of(PEER, 6)[0] not in book.of(PEER)


HELD = [tracemalloc.Filter(True, "*/addresses.py")]


def long_addr(peer, number):
    return f"/ip6/2001:db8:aaaa:bbbb:cccc:dddd:eeee:{number:x}/tcp/40001/p2p/{RELAY}/p2p-circuit/p2p/{peer}"


def test_the_book_keeps_at_most_4_kib_of_a_peer():
    book = AddressBook()
    book.learn(PEER, [long_addr(PEER, number) for number in range(40)], seq=1)
    book.learn(PEER, [long_addr(PEER, number) for number in range(40, 80)])
    assert len(book.of(PEER)) == MAX_ADDRS
    longest = [
        f"/dns4/{'a' * 60}.{'b' * 60}.{'c' * 60}.{n}.example/tcp/443/wss/p2p/{PEER}" for n in range(20)
    ]
    book.learn(PEER, longest, seq=2)
    kept = book.of(PEER)
    assert 10 < len(kept) < MAX_ADDRS and sum(map(len, kept)) <= 4096


@pytest.mark.parametrize(
    ("peers", "records"),
    [(100, 300), pytest.param(5000, 1_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])],
)
def test_the_book_stays_small_however_many_records_are_pushed(peers, records):
    tracemalloc.start()
    try:
        book = AddressBook(peers)
        for number in range(records):
            peer = peer_id_from_bytes(b"\x00\x24\x08\x01\x12\x20" + number.to_bytes(32, "big"))
            few = number > peers and number % 50
            book.learn(peer, [long_addr(peer, each) for each in range(1 if few else 16)], seq=number)
            if number in (peers, records - 1):
                (held,) = tracemalloc.take_snapshot().filter_traces(HELD).statistics("filename") or [None]
                assert held.size <= (32 << 20) * peers / 5000
    finally:
        tracemalloc.stop()
