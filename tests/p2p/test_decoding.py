"""Decoding: whatever a stranger sends, one exception."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshgrid.p2p.decoding import Unreadable, decode


class Note(msgspec.Struct, array_like=True):
    text: str
    number: int = 0


DECODER = msgspec.msgpack.Decoder(Note)


def test_a_message_is_decoded():
    assert decode(DECODER, msgspec.msgpack.encode(Note("hello", 3))) == Note("hello", 3)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x92\xa1\x80\x01",  # text that is not UTF-8
        b"\x93\xa1a\x01" + b"\x91" * 60000 + b"\xc0",  # an extra field, nested beyond the recursion limit
        b"\x92\xa1a\xa1b",
    ],
)
def test_bytes_that_are_no_message_raise_one_exception(data):
    with pytest.raises(Unreadable):
        decode(DECODER, data)


@given(st.binary(max_size=60))
def test_garbage_raises_nothing_else(data):
    with contextlib.suppress(Unreadable):
        assert isinstance(decode(DECODER, data), Note)
