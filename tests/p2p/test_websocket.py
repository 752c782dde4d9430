"""The WebSocket machine: streams of bytes through it, and whatever a stranger sends instead."""

from __future__ import annotations

import random
import struct
import tracemalloc

import pytest
from wsproto.frame_protocol import FrameProtocol, Opcode

from moshgrid.p2p.websocket import MAX_FRAGMENTS, MAX_HEADER, MAX_MESSAGE, WebSocketEnd, WebSocketFault

UPGRADE = (
    b"GET /any HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
BINARY, TEXT, CONTINUATION = 2, 1, 0


def pair() -> tuple[WebSocketEnd, WebSocketEnd]:
    """The end that called and the one that was called, open."""
    caller, called = WebSocketEnd("a.example:80", 0.0), WebSocketEnd(None, 0.0)
    called.receive(caller.take_replies(), 0.0)
    caller.receive(called.take_replies(), 0.0)
    assert caller.is_open and called.is_open
    return caller, called


def server() -> WebSocketEnd:
    return pair()[1]


def taken(end: WebSocketEnd, size: int = 1 << 20) -> bytes:
    out = bytearray()
    buffer = memoryview(bytearray(size))
    while True:
        while count := end.take(buffer):
            out += buffer[:count]
        if not end.more:
            return bytes(out)
        end.advance(0.0)


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bool = True, length=None) -> bytes:
    """A frame of a client; ``length`` is announced instead of the real one."""
    length = len(payload) if length is None else length
    bit = 0x80 if mask else 0
    if length < 126:
        head = bytes([bit | length])
    elif length < 1 << 16:
        head = bytes([bit | 126]) + struct.pack("!H", length)
    else:
        head = bytes([bit | 127]) + struct.pack("!Q", length)
    return bytes([0x80 * fin | opcode]) + head + (bytes(4) if mask else b"") + payload


@pytest.mark.parametrize("seed", range(20))
def test_a_stream_comes_out_as_it_went_in_however_it_is_cut(seed):
    chance = random.Random(seed)
    for sender, receiver in (pair(), pair()[::-1]):
        data = chance.randbytes(200_000)
        wire, at = b"", 0
        while at < len(data):
            size = chance.choice((1, 100, 125, 126, 65535, 65536, 70_000))
            wire += sender.frame(memoryview(data)[at : at + size])
            at += size
        heard, at = b"", 0
        while at < len(wire):
            size = chance.choice((1, 2, 3, 14, 1000, 65536))
            receiver.receive(wire[at : at + size], 0.0)
            heard += taken(receiver, chance.choice((1, 7, 4096)))
            at += size
        assert heard == data


def test_the_handshake_may_come_byte_by_byte_and_with_data_after_it():
    caller, called = WebSocketEnd("a", 0.0), WebSocketEnd(None, 0.0)
    for byte in caller.take_replies():
        assert not called.is_open
        called.receive(bytes([byte]), 0.0)
    caller.receive(called.take_replies() + called.frame(b"at once"), 0.0)
    assert taken(caller) == b"at once"


def test_a_fragmented_message_is_read_as_it_comes():
    end = server()
    end.receive(frame(BINARY, b"one ", fin=False) + frame(9, b"?") + frame(CONTINUATION, b"two"), 0.0)
    assert taken(end) == b"one two"
    assert end.take_replies() == b"\x8a\x01?"  # a pong with the ping's payload, between fragments


def test_a_large_frame_is_handed_on_before_it_is_whole():
    end = server()
    end.receive(frame(BINARY, bytes(1000), length=MAX_MESSAGE), 0.0)
    assert len(taken(end)) == 1000
    tracemalloc.start()
    for _ in range(200):
        end.receive(bytes(65536), 0.0)
        assert len(taken(end)) == 65536
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 << 20


def test_only_the_last_of_many_pings_is_answered():
    end = server()
    end.receive(b"".join(frame(9, bytes([number])) for number in range(50)), 0.0)
    assert end.take_replies() == b"\x8a\x01\x31"
    assert end.take_replies() == b""


def test_a_goodbye_is_answered_and_ends_the_stream():
    for one, other in (pair(), pair()[::-1]):
        other.receive(one.goodbye(), 0.0)
        assert one.goodbye() == b""
        assert other.ended
        one.receive(other.take_replies(), 0.0)
        assert one.ended
        other.receive(b"anything", 0.0)
        with pytest.raises(WebSocketFault, match="closed"):
            other.frame(b"too late")
        assert other.goodbye() == b""


def test_what_came_before_a_goodbye_is_read():
    end = server()
    end.receive(frame(BINARY, b"last words") + frame(8, struct.pack("!H", 1000)) + b"\xff" * 50, 0.0)
    assert end.ended and taken(end) == b"last words"


FAULTS = {
    "text": (frame(TEXT, b"hello"), "text"),
    "text in parts": (frame(TEXT, b"hello", fin=False), "text"),
    "no mask": (frame(BINARY, b"x", mask=False), "unmasked"),
    "a reserved bit": (b"\xc2" + frame(BINARY, b"x")[1:], "[Rr]eserved"),
    "an unknown opcode": (frame(3, b"x"), "opcode"),
    "a part of nothing": (frame(CONTINUATION, b"x"), "CONTINUATION"),
    "a message inside a message": (frame(BINARY, b"x", fin=False) + frame(BINARY, b"y"), "CONTINUATION"),
    "a ping in parts": (frame(9, b"x", fin=False), "fragment"),
    "a large ping": (frame(9, bytes(126)), "125"),
    "an overlong length": (b"\x82\xfe\0\x05" + bytes(9), "sufficed"),
    "an endless length": (b"\x82\xff" + b"\xff" * 8 + bytes(4), "MSB"),
    "a goodbye of one byte": (frame(8, b"x"), "CLOSE"),
    "a goodbye that is no text": (frame(8, b"\x03\xe8\xff"), "CLOSE"),
    "a goodbye of an unknown kind": (frame(8, b"\0\1"), "CLOSE"),
    "many parts": (
        frame(BINARY, b"x", fin=False) + frame(CONTINUATION, b"x", fin=False) * MAX_FRAGMENTS,
        "parts",
    ),
    "pings without end": (frame(9) * 101, "carry nothing"),
    "pongs without end": (frame(10) * 101, "carry nothing"),
    "empty messages without end": (frame(BINARY) * 102, "carry nothing"),
    "empty parts without end": (
        frame(BINARY, fin=False) + frame(CONTINUATION, fin=False) * 101,
        "carry nothing",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_no_peer_may_send(name):
    data, why = FAULTS[name]
    end = server()
    with pytest.raises(WebSocketFault, match=why):
        end.receive(data, 0.0)
        while end.more:
            end.advance(0.0)
    assert end.take_replies()[:1] == b"\x88"  # a close frame, for who listens


def test_a_message_has_an_end():
    end = server()
    end.receive(frame(BINARY, length=1 << 40), 0.0)
    with pytest.raises(WebSocketFault, match="16 MiB"):
        for _ in range(MAX_MESSAGE // 65536 + 1):
            end.receive(bytes(65536), 0.0)
            taken(end)


def test_a_ping_now_and_then_costs_no_patience():
    end = server()
    for second in range(1000):
        end.receive(frame(9, b"?"), float(second))
        assert end.take_replies() == b"\x8a\x01?"


def test_an_empty_message_between_others_costs_no_patience():
    end = server()
    for _ in range(1000):
        end.receive(frame(BINARY) + frame(BINARY, b"x"), 0.0)
    assert taken(end) == b"x" * 1000


def test_many_small_frames_are_looked_at_in_turns():
    end = server()
    end.receive(frame(BINARY, b"x") * 1000, 0.0)
    assert end.more
    buffer = memoryview(bytearray(2000))
    assert end.take(buffer) == 256
    assert len(taken(end)) == 1000 - 256


NO_HANDSHAKES = {
    "a web page": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 426 "),
    "another version": (UPGRADE.replace(b"13", b"12") + b"\r\n", b"HTTP/1.1 426 "),
    "no key": (UPGRADE.replace(b"-Key", b"-Cow") + b"\r\n", b"HTTP/1.1 426 "),
    "no HTTP version": (b"GET /\r\n\r\n", b"HTTP/1.1 426 "),
    "a host that is no name": (UPGRADE.replace(b"Host: a", b"Host: \xff\xfe") + b"\r\n", b"HTTP/1.1 426 "),
    "letters that are none": (UPGRADE + b"Sec-WebSocket-Protocol: \xff\r\n\r\n", b"HTTP/1.1 426 "),
    "a body": (UPGRADE + b"Content-Length: 5\r\n\r\nhello", b"HTTP/1.1 426 "),
    "a body in parts": (UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"HTTP/1.1 426 "),
    "a header without end": (UPGRADE + b"X: " + b"x" * MAX_HEADER, b"HTTP/1.1 431 "),
    "a long header": (UPGRADE + b"X: " + b"x" * MAX_HEADER + b"\r\n\r\n", b"HTTP/1.1 431 "),
    "another method": (b"POST / HTTP/1.1\r\n\r\n", b""),
    "another protocol": (b"\x13/multistream/1.0.0\n", b""),
    "garbage": (b"\xff" * 100, b""),
}


@pytest.mark.parametrize("name", NO_HANDSHAKES)
@pytest.mark.parametrize("step", [1, 100_000])
def test_a_caller_that_shakes_no_hands_hears_so(name, step):
    data, answer = NO_HANDSHAKES[name]
    end = WebSocketEnd(None, 0.0)
    with pytest.raises(WebSocketFault) as caught:
        for at in range(0, len(data), step):
            end.receive(data[at : at + step], 0.0)
    reply = caught.value.reply
    assert reply.startswith(answer) and bool(reply) == bool(answer)
    head, _, body = reply.partition(b"\r\n\r\n")
    assert not reply or f"Content-Length: {len(body)}".encode() in head


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "refuses WebSocket .HTTP 404"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", "refuses WebSocket .HTTP 200"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "no WebSocket handshake"),
        (
            b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: n\r\n\r\n",
            "no WebSocket handshake",
        ),
        (b"HTTP/1.1 101 X\r\nX: " + b"x" * MAX_HEADER, "header of more than"),
        (b"SSH-2.0-OpenSSH\r\n", "does not speak WebSocket"),
        (b"HTTP/1.9 \xff\r\n\r\n", "no WebSocket handshake"),
    ],
)
def test_who_is_called_and_shakes_no_hands_is_left(answer, why):
    end = WebSocketEnd("a", 0.0)
    end.take_replies()
    with pytest.raises(WebSocketFault, match=why) as caught:
        end.receive(answer, 0.0)
    assert caught.value.reply == b""


def test_extensions_are_not_agreed_to():
    end = WebSocketEnd(None, 0.0)
    end.receive(UPGRADE + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n", 0.0)
    assert b"xtensions" not in end.take_replies()


def test_frames_are_as_the_standard_library_of_websockets_reads_them():
    caller, called = pair()
    for end, client in ((caller, False), (called, True)):
        reader = FrameProtocol(client, [])
        reader.receive_bytes(end.frame(b"x" * 300))
        (seen,) = list(reader.received_frames())
        assert (seen.opcode, seen.payload, seen.message_finished) == (Opcode.BINARY, b"x" * 300, True)
