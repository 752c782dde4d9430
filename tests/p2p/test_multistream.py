"""Agreeing on a protocol with anybody: bounded whatever comes."""

from __future__ import annotations

import contextlib
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moshgrid.p2p.multistream import NegotiationFailed, accept, propose

HEADER = b"\x13/multistream/1.0.0\n"


class Line:
    """A line with all that the other side ever says; counts what was asked for."""

    def __init__(self, incoming: bytes) -> None:
        self.incoming = incoming
        self.at = 0
        self.largest = 0
        self.sent = b""

    async def send(self, data: bytes) -> None:
        self.sent += data

    async def exactly(self, size: int) -> bytes:
        self.largest = max(self.largest, size)
        data = self.incoming[self.at : self.at + size]
        self.at += size
        return data if len(data) == size else b""


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Nothing in it waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")


def line(text: str) -> bytes:
    data = text.encode() + b"\n"
    return bytes([len(data)]) + data


def test_the_first_that_is_spoken_is_taken():
    other = Line(HEADER + line("/a") + line("/b"))
    assert run(accept(other, {"/b", "/c"})) == "/b"
    assert other.sent == HEADER + line("na") + line("/b")


def test_the_next_is_proposed_after_a_refusal():
    other = Line(HEADER + line("na") + line("/b"))
    assert run(propose(other, ["/a", "/b"])) == "/b"
    assert other.sent == HEADER + line("/a") + line("/b")


@pytest.mark.parametrize(
    ("incoming", "complaint"),
    [
        (b"\xff" * 40, "overlong line"),
        (HEADER + b"\xff\xff\x7f" + bytes(9000), "overlong line"),
        (HEADER + b"\xff\x7f" + bytes(16383), "line of 16383 bytes"),
        (HEADER + b"\x81\x08" + bytes(1025), "line of 1025 bytes"),
        (HEADER + b"\0", "line of 0 bytes"),
        (HEADER + b"\2a\xff", "without its end"),
        (HEADER + b"\2\xff\n", "is no text"),
        (b"\5GET /", "without its end"),
        (b"\4GET\n", "without multistream"),
        (HEADER + line("/x") * 17, "more than 16"),
    ],
)
def test_what_is_against_the_rules(incoming, complaint):
    other = Line(incoming)
    with pytest.raises(NegotiationFailed, match=complaint):
        run(accept(other, {"/a"}))
    assert other.largest <= 1024


@pytest.mark.parametrize(
    ("incoming", "complaint"),
    [
        (line("/multistream/2.0.0"), "instead of negotiating"),
        (b"", "instead of negotiating"),
        (HEADER + line("/b"), "was asked for /a and answered '/b'"),
        (HEADER + line("na") * 2, "does not speak /a or /b"),
    ],
)
def test_answers_that_lead_nowhere(incoming, complaint):
    with pytest.raises(NegotiationFailed, match=complaint):
        run(propose(Line(incoming), ["/a", "/b"]))


def test_an_end_is_no_protocol():
    assert run(accept(Line(HEADER), {"/a"})) is None
    assert run(accept(Line(HEADER + b"\7/a"), {"/a"})) is None


PIECES = st.lists(
    st.sampled_from([HEADER, line("/a"), line("/x"), line("na"), b"\xff"]) | st.binary(max_size=40)
)


@settings(max_examples=300, deadline=None)
@given(PIECES)
def test_any_bytes_end_in_a_protocol_an_end_or_a_complaint(pieces):
    for talk in (lambda other: accept(other, {"/a"}), lambda other: propose(other, ["/a", "/b"])):
        other = Line(b"".join(pieces))
        with contextlib.suppress(NegotiationFailed):
            assert run(talk(other)) in ("/a", "/b", None)
        assert other.largest <= 1024
        assert len(other.sent) <= 1024
