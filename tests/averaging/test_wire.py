"""Frames: every message survives, and what is malformed is refused without harm."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshgrid.averaging import messages
from moshgrid.averaging.manifest import MAX_MANIFEST_BYTES
from moshgrid.averaging.messages import (
    Alive,
    Begin,
    GroupMessage,
    MatchMessage,
    PartData,
    Refused,
    ResultData,
)
from moshgrid.averaging.wire import MAX_FRAME, decode_frame, encode_frame
from moshgrid.p2p.errors import RemoteProtocolError

RUN, GROUP = bytes(16), bytes(32)
SAMPLES = {
    str: "x",
    int: 3,
    float: 0.5,
    bool: True,
    bytes: b"y",
    "offer": messages.Offer(1.0, 0.0, b"s", "none", True),
}


def sample(kind):
    values = []
    for field in msgspec.structs.fields(kind):
        if field.type is messages.Offer:
            values.append(SAMPLES["offer"])
        elif field.type in SAMPLES:
            values.append(SAMPLES[field.type])
        else:
            values.append(())
    return kind(*values)


@pytest.mark.parametrize(
    "kind", [*GroupMessage.__args__, *MatchMessage.__args__], ids=lambda kind: kind.__name__
)
def test_every_message_survives_the_frame(kind):
    message = sample(kind)
    frame = decode_frame(encode_frame(RUN, GROUP, message), "them")
    assert frame.message == message
    assert (frame.run, frame.group, bytes(frame.payload)) == (RUN, GROUP, b"")


def test_only_parts_and_results_carry_bytes():
    for message in (PartData(1), ResultData(1, 3, bytes(32))):
        assert bytes(decode_frame(encode_frame(RUN, GROUP, message) + b"data", "them").payload) == b"data"
    with pytest.raises(RemoteProtocolError, match="after a Alive"):
        decode_frame(encode_frame(RUN, GROUP, Alive()) + b"data", "them")


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x00",
        b"\x00\x10short",
        b"\x00\x01\xc0",
        encode_frame(b"short", GROUP, Alive()),
        encode_frame(RUN, b"short", Alive()),
        encode_frame(RUN, b"", Begin(bytes(MAX_MANIFEST_BYTES + 1))),
        encode_frame(RUN, b"", Refused("0", 1, "full", "", tuple("x" for _ in range(65)))),
    ],
)
def test_malformed_frames_are_refused(frame):
    with pytest.raises(RemoteProtocolError):
        decode_frame(frame, "them")


@given(st.binary(max_size=200))
def test_garbage_raises_nothing_but_the_refusal(data):
    try:
        decode_frame(data, "them")
    except RemoteProtocolError as refusal:
        assert refusal.peer == "them"


@given(st.binary(max_size=60), st.integers(0, 200))
def test_changed_bytes_raise_nothing_but_the_refusal(junk, at):
    raw = encode_frame(RUN, GROUP, ResultData(1, 3, bytes(32)))
    raw = raw[: at % len(raw)] + junk + raw[at % len(raw) + len(junk) :]
    with contextlib.suppress(RemoteProtocolError):
        decode_frame(raw, "them")


def test_the_largest_part_fits_a_frame():
    header = encode_frame(RUN, GROUP, ResultData(2**31, 2**64 - 1, bytes(32)))
    assert len(header) + 512 * 1024 <= MAX_FRAME
