"""Links: what is read, what is written, and what is said about those that are wrong."""

from __future__ import annotations

import pytest

from moshgrid.p2p import ConfigurationError, Identity, Link

A = Identity.from_seed(bytes([1]) * 32).peer_id
B = Identity.from_seed(bytes([2]) * 32).peer_id

LINKS = {
    f"moshgrid://public@203.0.113.7:31337/{A}": Link(
        "public", None, (f"/ip4/203.0.113.7/tcp/31337/p2p/{A}",)
    ),
    f"moshgrid://volunteers/albert-2026@203.0.113.7:31337/{A},[2001:db8::7]:4001/{B}#key={B}": Link(
        "volunteers",
        "albert-2026",
        (f"/ip4/203.0.113.7/tcp/31337/p2p/{A}", f"/ip6/2001:db8::7/tcp/4001/p2p/{B}"),
        B,
    ),
    f"moshgrid://n@boot.example.org:1/{A}": Link("n", None, (f"/dns4/boot.example.org/tcp/1/p2p/{A}",)),
    f"moshgrid://n@/dns4/203.0.113.7/tcp/1/p2p/{A}": Link("n", None, (f"/dns4/203.0.113.7/tcp/1/p2p/{A}",)),
    f"moshgrid://n@/dns6/boot.example.org/tcp/1/p2p/{A}": Link(
        "n", None, (f"/dns6/boot.example.org/tcp/1/p2p/{A}",)
    ),
    f"moshgrid://n@/ip4/203.0.113.7/tcp/80/ws/p2p/{A},203.0.113.7:1/{A},/dns4/a.org/tcp/4/wss/p2p/{B}": Link(
        "n",
        None,
        (
            f"/ip4/203.0.113.7/tcp/80/ws/p2p/{A}",
            f"/ip4/203.0.113.7/tcp/1/p2p/{A}",
            f"/dns4/a.org/tcp/4/wss/p2p/{B}",
        ),
    ),
}


@pytest.mark.parametrize("text", LINKS)
def test_links_are_read_and_written(text):
    assert Link.parse(text) == LINKS[text]
    assert str(LINKS[text]) == text


def test_plain_addresses_are_links_too():
    one, two = f"/ip4/203.0.113.7/tcp/31337/p2p/{A}", f"/ip6/::1/tcp/2/p2p/{B}"
    assert Link.parse(one) == Link("public", None, (one,))
    assert Link.parse(f" {one}, {two} ") == Link("public", None, (one, two))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must begin with moshgrid://"),
        ("http://example.org", "must begin with moshgrid://"),
        ("moshgrid://public", "no '@'"),
        (f"moshgrid://@203.0.113.7:1/{A}", "name is missing"),
        (f"moshgrid://net/@203.0.113.7:1/{A}", "run's name"),
        ("moshgrid://net@", "no address"),
        ("moshgrid://net@203.0.113.7:1", "peer id after"),
        (f"moshgrid://net@203.0.113.7/{A}", "not HOST:PORT"),
        (f"moshgrid://net@2001:db8::7:1/{A}", "brackets"),
        (f"moshgrid://net@203.0.113.7:0/{A}", "port 0"),
        (f"moshgrid://net@203.0.113.7:65536/{A}", "port 65536"),
        ("moshgrid://net@203.0.113.7:1/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "Ed25519"),
        (f"moshgrid://net@under_score!:1/{A}", "neither an address nor a host name"),
        (f"moshgrid://net@203.0.113.7:1/{A}#token=x", "only key=AUTHORITY"),
        (f"moshgrid://a b@203.0.113.7:1/{A}", "network name"),
        ("/ip4/203.0.113.7/tcp/1", "form is"),
        (f"/ip4/203.0.113.7/udp/1/p2p/{A}", "form is"),
        ("x" * 10_000, "at most"),
    ],
)
def test_wrong_links_are_explained(text, why):
    with pytest.raises(ConfigurationError) as caught:
        Link.parse(text)
    assert why in str(caught.value)
