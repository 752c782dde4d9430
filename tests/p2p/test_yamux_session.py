"""Every transition of the yamux session, and everything a peer may not do."""

from __future__ import annotations

import itertools

import pytest

from moshgrid.p2p.yamux_frames import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    HEADER,
    INITIAL_WINDOW,
    MAX_PAYLOAD,
    PING,
    RST,
    SYN,
    TURN_PAYLOAD,
    WINDOW_UPDATE,
    pack_header,
)
from moshgrid.p2p.yamux_limits import YamuxLimits
from moshgrid.p2p.yamux_pulse import DOUBT_SECONDS, PING_SECONDS, SILENCE_SECONDS, UNANSWERED_SECONDS, Pulse
from moshgrid.p2p.yamux_session import SessionOver, YamuxSession
from moshgrid.p2p.yamux_table import TooManyStreams
from moshgrid.p2p.yamux_window import MAX_WINDOW


def frames_of(session: YamuxSession) -> list[tuple[int, int, int, int, bytes]]:
    """Everything the session sends now: (type, flags, stream, length, payload)."""
    wire = bytearray()
    while run := session.take():
        wire += b"".join(run)
        session.written(0.0)
    found, at = [], 0
    while at < len(wire):
        _, kind, flags, stream_id, length = HEADER.unpack_from(wire, at)
        size = length if kind == DATA else 0
        found.append((kind, flags, stream_id, length, bytes(wire[at + 12 : at + 12 + size])))
        at += 12 + size
    return found


def frame(kind: int, flags: int = 0, stream_id: int = 0, length: int = 0, payload: bytes = b"") -> bytes:
    return pack_header(kind, flags, stream_id, length or len(payload)) + payload


def quiet(initiator: bool = False, **limits: float) -> YamuxSession:
    """A session whose first ping is out and answered."""
    session = YamuxSession(initiator, 0.0, YamuxLimits(**limits))
    assert frames_of(session) == [(PING, SYN, 0, 1, b"")]
    session.receive(frame(PING, ACK, 0, 1), 0.1)
    return session


def accepted(session: YamuxSession, stream_id: int = 1):
    session.receive(frame(WINDOW_UPDATE, SYN, stream_id), 1.0)
    assert frames_of(session) == [(WINDOW_UPDATE, ACK, stream_id, 0, b"")]
    return session.streams.live[stream_id]


def test_opening_a_stream_sends_syn_then_data_then_the_end():
    session = quiet(initiator=True)
    stream = session.open(1.0)
    session.send(stream, [b"ab", memoryview(b"cd")])
    session.end_sending(stream)
    assert frames_of(session) == [
        (WINDOW_UPDATE, SYN, 1, 0, b""),
        (DATA, 0, 1, 4, b"abcd"),
        (DATA, FIN, 1, 0, b""),
    ]
    assert session.open(1.0).id == 3
    assert stream in session.streams
    session.receive(frame(DATA, FIN, 1), 1.0)
    assert stream not in session.streams and stream.ended_there


def test_ids_are_odd_for_who_dialled_and_even_for_the_other():
    assert quiet(initiator=False).open(1.0).id == 2


def test_what_comes_is_read_in_any_pieces():
    session = quiet()
    stream = accepted(session)
    wire = frame(DATA, 0, 1, payload=b"hello ") + frame(DATA, FIN, 1, payload=b"world")
    for at in range(len(wire)):
        assert session.receive(wire[at : at + 1], 2.0) == 1
    assert (
        session.read(stream, 3, 2.0) + session.read(stream, 99, 2.0) + session.read(stream, 99, 2.0)
        == b"hello world"
    )
    assert stream.ended_there


def test_a_syn_may_carry_data_and_credit():
    session = quiet()
    session.receive(frame(DATA, SYN, 1, payload=b"first") + frame(WINDOW_UPDATE, SYN, 3, 1000), 1.0)
    first, second = session.streams.live.values()
    assert session.read(first, 99, 1.0) == b"first"
    assert second.send_window == INITIAL_WINDOW + 1000


@pytest.mark.parametrize("first", [frame(DATA, 0, 1, payload=b"x"), frame(DATA, FIN, 1)])
def test_a_stream_is_handed_on_with_its_first_bytes_or_its_end(first):
    session = quiet()
    session.receive(frame(WINDOW_UPDATE, SYN, 1) + frame(WINDOW_UPDATE, 0, 1, 1000), 1.0)
    assert not session.opened
    session.receive(first, 1.0)
    assert [stream.id for stream in session.opened] == [1]
    session.receive(frame(DATA, SYN, 3, payload=b"x") + frame(DATA, 0, 3, payload=b"more"), 1.0)
    assert [stream.id for stream in session.opened] == [1, 3]


def test_a_stream_on_which_nothing_comes_is_reset_and_one_that_was_used_is_not():
    session = quiet()
    used, silent, late = accepted(session, 1), accepted(session, 3), accepted(session, 5)
    session.receive(frame(DATA, 0, 1, payload=b"x"), 10.0)
    assert session.deadline <= 11.0
    session.tick(10.9)
    assert silent.lost is None
    session.receive(frame(DATA, 0, 5, payload=b"x"), 10.9)
    session.tick(11.0)
    assert silent.lost is not None and used.lost is None and late.lost is None
    assert (WINDOW_UPDATE, RST, 3, 0, b"") in frames_of(session)
    assert session.opened and all(stream is not silent for stream in session.opened)


def test_sending_stops_at_the_window_and_goes_on_with_credit():
    session = quiet(initiator=True)
    stream = session.open(1.0)
    session.send(stream, [bytes(INITIAL_WINDOW + 5)])
    sizes = [size for kind, _, _, size, _ in frames_of(session) if kind == DATA]
    assert sum(sizes) == INITIAL_WINDOW and max(sizes) == MAX_PAYLOAD
    session.receive(frame(WINDOW_UPDATE, 0, 1, 3), 1.0)
    assert [size for _, _, _, size, _ in frames_of(session)] == [3]
    session.receive(frame(WINDOW_UPDATE, 0, 1, 100), 1.0)
    assert [size for _, _, _, size, _ in frames_of(session)] == [2]


def test_withdrawing_takes_back_only_what_was_added_last():
    session = quiet(initiator=True)
    stream = session.open(1.0)
    session.send(stream, [b"kept"])
    session.send(stream, [b"taken", b"back"])
    stream.withdraw(7)
    assert [payload for *_, payload in frames_of(session)][1:] == [b"keptta"]
    stream.withdraw(9)
    assert frames_of(session) == []


def test_credit_goes_back_in_steps_of_half_a_window():
    session = quiet()
    stream = accepted(session)
    half = INITIAL_WINDOW // 2
    session.receive(frame(DATA, 0, 1, payload=bytes(half)), 100.0)
    assert len(session.read(stream, half - 1, 100.0)) == half - 1
    assert frames_of(session) == []
    session.read(stream, 1, 100.0)
    assert frames_of(session) == [(WINDOW_UPDATE, 0, 1, half, b"")]
    assert stream.window.credit == INITIAL_WINDOW


def test_the_window_doubles_while_it_sets_the_pace_and_no_further():
    session = quiet()  # the round trip was measured as 0.1 s
    stream = accepted(session)
    now, buffer = 1.0, memoryview(bytearray(MAX_WINDOW))
    for _ in range(40):
        now += 0.1
        session.receive(frame(DATA, 0, 1, payload=bytes(stream.window.credit)), now)
        session.read_into(stream, buffer, now)
        frames_of(session)
    assert stream.window.size == MAX_WINDOW
    slow = accepted(session, 3)
    for _ in range(40):
        now += 10.0
        session.receive(frame(DATA, 0, 3, payload=bytes(slow.window.credit)), now)
        session.read_into(slow, buffer, now)
        frames_of(session)
    assert slow.window.size == INITIAL_WINDOW


def test_windows_grow_only_within_the_connections_bound():
    session = quiet(growth=INITIAL_WINDOW)
    streams, now = [accepted(session, 1), accepted(session, 3)], 1.0
    for _ in range(40):
        now += 0.1
        for stream in streams:
            session.receive(frame(DATA, 0, stream.id, payload=bytes(stream.window.credit)), now)
            session.read_into(stream, memoryview(bytearray(MAX_WINDOW)), now)
            frames_of(session)
    assert sorted(stream.window.size for stream in streams) == [INITIAL_WINDOW, 2 * INITIAL_WINDOW]
    session.reset(max(streams, key=lambda stream: stream.window.size))
    assert session.streams._grown == 0


def test_a_sink_takes_what_comes_without_a_buffer_between():
    session = quiet()
    stream = accepted(session)
    sink = bytearray(6)
    stream.open_sink(memoryview(sink))
    session.receive(frame(DATA, 0, 1, payload=b"abcd") + frame(DATA, 0, 1, payload=b"efgh"), 1.0)
    assert stream.close_sink() == 6 and sink == b"abcdef"
    assert session.read(stream, 99, 1.0) == b"gh"


def test_many_tiny_frames_cost_few_objects():
    session = quiet(frames_per_turn=1 << 20)
    stream = accepted(session)
    session.receive(frame(DATA, 0, 1, payload=b"x") * 100_000, 1.0)
    assert stream.buffered == 100_000 and len(stream._chunks) <= 2


def test_a_reset_there_loses_the_stream_and_never_looks_like_an_end():
    session = quiet()
    stream = accepted(session)
    session.send(stream, [bytes(1000)])
    session.receive(frame(DATA, FIN, 1) + frame(WINDOW_UPDATE, RST, 1), 1.0)
    assert stream.lost == "the peer reset the stream" and not stream.ended_there
    assert stream not in session.streams and frames_of(session) == []
    for stream_id in (3, 5, 7):  # what a lost stream has left unread does not count for ever
        accepted(session, stream_id)
        session.receive(frame(DATA, 0, stream_id, payload=b"x") + frame(WINDOW_UPDATE, RST, stream_id), 1.0)
    assert session.streams.buffered == 0


def test_a_reset_here_tells_the_peer_once_and_late_frames_are_dropped():
    session = quiet()
    stream = accepted(session)
    session.receive(frame(DATA, 0, 1, payload=b"unread"), 1.0)
    session.reset(stream)
    session.reset(stream)
    assert frames_of(session) == [(WINDOW_UPDATE, RST, 1, 0, b"")]
    late = frame(DATA, 0, 1, payload=bytes(1000)) + frame(WINDOW_UPDATE, 0, 1, 5) + frame(DATA, FIN, 1)
    session.receive(late + frame(WINDOW_UPDATE, RST, 1), 1.0)
    assert session.over is None and session.streams.buffered == 0
    session.receive(frame(DATA, 0, 1, payload=bytes(INITIAL_WINDOW)), 1.0)
    assert session.fault == "sent more than its window allows"


def test_a_little_that_was_sent_goes_before_the_reset():
    session = quiet()
    stream = accepted(session)
    session.send(stream, [b"what is ", b"wrong"])
    session.reset(stream)
    assert frames_of(session) == [(DATA, 0, 1, 13, b"what is wrong"), (WINDOW_UPDATE, RST, 1, 0, b"")]


def test_closing_drops_what_comes_and_gives_up_after_a_while():
    session = quiet()
    stream = accepted(session)
    session.receive(frame(DATA, 0, 1, payload=b"unread"), 1.0)
    session.close(stream, 1.0)
    assert frames_of(session) == [(DATA, FIN, 1, 0, b"")]
    session.receive(frame(DATA, 0, 1, payload=bytes(200_000)), 2.0)
    assert stream.buffered == 0 and session.streams.buffered == 0
    assert (WINDOW_UPDATE, 0, 1, 200_006, b"") in frames_of(session)
    session.tick(11.5)
    assert (WINDOW_UPDATE, RST, 1, 0, b"") in frames_of(session)
    assert not session.streams.live


def test_what_was_unread_at_closing_is_given_back_so_that_the_peer_can_finish():
    session = quiet()
    stream = accepted(session)
    session.receive(frame(DATA, 0, 1, payload=bytes(INITIAL_WINDOW)), 1.0)
    session.close(stream, 1.0)
    assert (WINDOW_UPDATE, 0, 1, INITIAL_WINDOW, b"") in frames_of(session)


def test_closing_when_the_peer_has_ended_frees_the_stream_at_once():
    session = quiet()
    stream = accepted(session)
    session.receive(frame(DATA, FIN, 1), 1.0)
    session.close(stream, 1.0)
    frames_of(session)
    assert not session.streams.live


def test_too_many_streams_of_ours_are_an_error():
    session = quiet(initiator=True, outbound_streams=2)
    session.open(1.0)
    stream = session.open(1.0)
    assert not session.streams.has_room
    with pytest.raises(TooManyStreams, match="2 streams to this peer are open already"):
        session.open(1.0)
    session.reset(stream)
    assert session.open(1.0).id == 5


def test_too_many_streams_of_the_peer_are_reset():
    session = quiet(inbound_streams=2)
    for stream_id in (1, 3):
        accepted(session, stream_id)
    session.receive(frame(DATA, SYN, 5, payload=b"data that came along"), 1.0)
    assert frames_of(session) == [(WINDOW_UPDATE, RST, 5, 0, b"")]
    assert len(session.streams.live) == 2 and session.over is None


def test_pings_are_answered_up_to_a_rate():
    session = quiet()
    session.receive(frame(PING, SYN, 0, 7) * 100, 1.0)
    assert frames_of(session) == [(PING, ACK, 0, 7, b"")] * 10
    session.receive(frame(PING, SYN, 0, 8), 1.1)
    assert frames_of(session) == [(PING, ACK, 0, 8, b"")]


def test_a_peer_in_doubt_has_to_answer_soon():
    for answers in (False, True):
        pulse = Pulse(0.0)
        assert pulse.due_ping(0.0) == 1
        pulse.pong(1, 0.01)
        pulse.doubt(2.0)
        assert pulse.due_ping(2.0) == 2 and pulse.deadline == 2.0 + DOUBT_SECONDS
        if answers:
            pulse.heard(3.0)
        assert pulse.is_lost(2.0 + DOUBT_SECONDS) is not answers
        assert pulse.deadline == (3.0 + SILENCE_SECONDS if answers else 2.0 + DOUBT_SECONDS)


def test_who_is_heard_anyway_is_pinged_every_third_time() -> None:
    pulse, now = Pulse(0.0), 0.0
    for value in range(1, 6):  # the first ones follow each other closely
        now = pulse.deadline
        assert pulse.due_ping(now) == value
        pulse.pong(value, now)
    pings = []
    for _ in range(9):
        pulse.heard(pulse.deadline - 1.0)
        now = pulse.deadline
        if (value := pulse.due_ping(now)) is not None:
            pings.append(value)
            pulse.pong(value, now)
    assert pings == [6, 7, 8]
    pulse.heard(now + 1.0)
    now = pulse.deadline
    assert pulse.due_ping(now) is None and pulse.deadline < now + PING_SECONDS
    assert pulse.due_ping(pulse.deadline) == 9, "nobody was heard for so long"
    assert not pulse.is_lost(pulse.deadline - 0.1) and pulse.is_lost(pulse.deadline)


@pytest.mark.parametrize("answers", [False, True])
def test_a_peer_that_does_not_answer_to_a_new_stream_is_in_doubt(answers):
    session = quiet(initiator=True)
    while session.deadline < 1.0:
        now = session.deadline
        session.tick(now)
        for _, _, _, value, _ in frames_of(session):
            session.receive(frame(PING, ACK, 0, value), now)
    session.open(1.0)
    if answers:
        session.receive(frame(WINDOW_UPDATE, ACK, 1), 1.1)
    while session.over is None and session.deadline <= 1.0 + UNANSWERED_SECONDS + DOUBT_SECONDS:
        session.tick(session.deadline)
    assert (session.over is None) == answers


def test_a_silent_peer_is_lost_within_fifteen_seconds_and_a_talking_one_is_not():
    assert PING_SECONDS + SILENCE_SECONDS < 15
    for talks in (False, True):
        session = YamuxSession(True, 0.0)
        stream = session.open(0.0)
        heard = now = 0.0
        while session.over is None and now < 60:
            for kind, flags, _, value, _ in frames_of(session):
                if talks and kind == PING and flags == SYN:
                    heard = now = now + 0.2
                    session.receive(frame(PING, ACK, 0, value), now)
            now = session.deadline
            session.tick(now)
        assert (session.over is None) == talks
        assert (stream.lost is None) == talks
        assert talks or now - heard < 15


def test_a_process_that_slept_itself_gives_the_peer_another_round():
    session = YamuxSession(True, 0.0)
    session.tick(1000.0)
    assert session.over is None
    session.tick(1000.0 + SILENCE_SECONDS)
    assert session.over is not None


def test_go_away_ends_opening_but_not_what_is_open():
    session = quiet(initiator=True)
    stream = session.open(1.0)
    session.receive(frame(GO_AWAY, 0, 0, 0), 1.0)
    with pytest.raises(SessionOver):
        session.open(1.0)
    session.receive(frame(DATA, 0, 1, payload=b"still"), 1.0)
    assert session.read(stream, 9, 1.0) == b"still"
    session.receive(frame(GO_AWAY, 0, 0, 2), 1.0)
    assert session.over == "the peer ended the connection (code 2)"


def test_the_end_of_the_connection_is_an_end_only_for_who_has_received_one():
    session = quiet()
    ended, cut = accepted(session, 1), accepted(session, 3)
    session.receive(frame(DATA, FIN, 1, payload=b"all") + frame(DATA, 0, 3, payload=b"par"), 1.0)
    session.end("the connection was lost")
    assert session.read(ended, 9, 1.0) == b"all" and ended.ended_there
    assert session.read(cut, 9, 1.0) == b"par" and not cut.ended_there and cut.lost


def test_leaving_sends_what_is_queued_and_then_says_so():
    session = quiet(initiator=True)
    stream = session.open(1.0)
    session.send(stream, [b"last words"])
    session.leave("closing")
    assert [(kind, payload) for kind, _, _, _, payload in frames_of(session)] == [
        (WINDOW_UPDATE, b""),
        (DATA, b"last words"),
        (GO_AWAY, b""),
    ]


@pytest.mark.parametrize(
    ("wire", "fault"),
    [
        (b"\x01" + bytes(11), "version 1"),
        (frame(4), "unknown type 4"),
        (frame(DATA, 16, 1), "unknown flags 0x10"),
        (frame(DATA, 0, 0), "without a stream"),
        (frame(WINDOW_UPDATE, SYN | ACK, 1), "in one frame"),
        (frame(PING, 0, 0), "neither asks nor answers"),
        (frame(PING, SYN, 1), "for one stream"),
        (frame(GO_AWAY, 0, 1), "for one stream"),
        (frame(WINDOW_UPDATE, SYN, 2), "not its to open"),
        (frame(WINDOW_UPDATE, SYN, 1) * 2, "not its to open"),
        (frame(DATA, 0, 1, payload=b"x"), "never was"),
        (frame(WINDOW_UPDATE, 0, 2, 1), "never was"),
        (frame(DATA, SYN, 1, INITIAL_WINDOW + 1), "more than its window"),
        (frame(DATA, SYN | FIN, 1) + frame(DATA, 0, 1, payload=b"x"), "after the end"),
        (frame(WINDOW_UPDATE, SYN, 1, 2**32 - 1), "more than a window can be"),
    ],
)
def test_what_breaks_the_protocol_ends_it_and_is_told(wire, fault):
    session = quiet()
    session.receive(wire + frame(WINDOW_UPDATE, SYN, 99), 1.0)
    assert session.over is not None and session.fault is not None and fault in session.fault
    assert frames_of(session) == [(GO_AWAY, 0, 0, 1, b"")]
    assert not session.streams.live


def test_a_peer_that_asks_and_never_reads_is_cut():
    session = quiet(control_frames=50, inbound_streams=2000, frames_per_turn=1 << 20)
    session.receive(b"".join(frame(WINDOW_UPDATE, SYN, 2 * n + 1) for n in range(100)), 1.0)
    assert session.over == "the peer asks and does not read the answers"


def test_unread_bytes_of_all_streams_together_are_bounded():
    session = quiet(buffered=INITIAL_WINDOW)
    first, second = accepted(session, 1), accepted(session, 3)
    session.receive(frame(DATA, 0, 1, payload=bytes(INITIAL_WINDOW)), 1.0)
    session.receive(frame(DATA, 0, 3, payload=b"x"), 1.0)
    assert second.lost is not None and first.lost is None and session.over is None
    assert session.streams.buffered == INITIAL_WINDOW


def test_rapid_resets_are_cheap_and_end_the_connection():
    """P6: a hundred thousand streams opened and reset."""
    session = quiet()
    wire = b"".join(
        frame(WINDOW_UPDATE, SYN, 2 * n + 1) + frame(WINDOW_UPDATE, RST, 2 * n + 1) for n in range(100_000)
    )
    at = turns = 0
    while at < len(wire) and session.over is None:
        at += session.receive(wire[at : at + 65536], 1.0)
        assert len(session.streams.live) <= 1
        frames_of(session)
        turns += 1
    assert session.fault is not None and "kept on" in session.fault
    assert at <= 24 * (1280 + 1024) + 65536  # its burst of streams and the patience after it
    assert len(session.guard._gone) <= 2048 and not session.streams.live


@pytest.mark.parametrize("kind", ["pings", "opens"])
def test_a_flood_is_heard_slower_and_slower(kind):
    """P6: 10,000 a second, for ten seconds, in the session's own time."""
    session, now, at = quiet(), 1.0, 0
    wire = b"".join(
        frame(PING, SYN, 0, 7)
        if kind == "pings"
        else frame(WINDOW_UPDATE, SYN, 2 * n + 1) + frame(WINDOW_UPDATE, RST, 2 * n + 1)
        for n in range(100_000)
    )
    heard = []
    while session.over is None and now < 11.0:
        before = at
        sent = int((now - 1.0) * 10_000 + 100) * (12 if kind == "pings" else 24)
        at += session.receive(wire[at:sent][:65536], now)
        heard.append((now, (at - before) // 12))
        frames_of(session)
        now = max(now + 0.001, session.guard.rests_until)
    assert max(frames for _, frames in heard) <= session.limits.frames_per_turn
    assert session.fault is not None and "kept on" in session.fault
    late = sum(frames for when, frames in heard if when > heard[-1][0] - 1.0)
    assert late <= 2 * 2600  # of the 20,000 frames that were sent in that second


def test_small_writes_and_new_streams_go_before_bulk_and_bulk_takes_turns():
    session = quiet(initiator=True)
    bulk = [session.open(1.0), session.open(1.0)]
    for stream in bulk:
        stream.send_window = 1 << 30
        session.send(stream, [bytes(100 * MAX_PAYLOAD)])
    first = session.take()
    assert first
    session.written(0.0)
    request = session.open(1.0)
    session.send(request, [b"request"])
    order = [stream_id for kind, _, stream_id, _, _ in frames_of(session) if kind == DATA]
    assert order[0] == request.id
    assert all({a, b} == {bulk[0].id, bulk[1].id} for a, b in zip(order[1:50:2], order[2:50:2], strict=False))


def test_a_slow_path_makes_runs_short():
    session = quiet(initiator=True)
    stream = session.open(1.0)
    stream.send_window = 1 << 30
    session.send(stream, [bytes(100 * MAX_PAYLOAD)])
    sizes = []
    for wait in [0.1] * 3 + [0.0005] * 40:
        sizes.append(sum(map(len, session.take())))
        session.written(wait)
    assert sizes[0] > 500_000 and sizes[2] == sizes[3] == TURN_PAYLOAD + 12
    assert sizes[-1] > TURN_PAYLOAD + 12  # 131 MB/s: more in a millisecond


def test_a_path_that_never_lets_wait_keeps_its_long_runs():
    session = quiet(initiator=True)
    stream = session.open(1.0)
    stream.send_window = 1 << 30
    session.send(stream, [bytes(100 * MAX_PAYLOAD)])
    for _ in range(20):
        assert 0 <= sum(map(len, session.take())) - 2 * (MAX_PAYLOAD + 12) <= 12  # the first opens the stream
        session.written(0.0)


def test_a_lone_stream_sends_longer_frames_than_those_that_share():
    session = quiet(initiator=True)
    alone, other = session.open(1.0), session.open(1.0)
    for stream in alone, other:
        stream.send_window = 1 << 30
    session.send(alone, [bytes(3 * MAX_PAYLOAD)])
    sizes = [size for kind, _, _, size, _ in frames_of(session) if kind == DATA]
    assert sizes == [MAX_PAYLOAD] * 3
    for stream in alone, other:
        session.send(stream, [bytes(3 * MAX_PAYLOAD)])
    session.take()
    session.written(0.1)  # the path is slow
    frames = [(stream_id, size) for _, _, stream_id, size, _ in frames_of(session)]
    assert {size for _, size in frames[:6]} == {TURN_PAYLOAD}
    assert all(a != b for (a, _), (b, _) in itertools.pairwise(frames[:6]))
