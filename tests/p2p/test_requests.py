"""Typed requests, in memory and over libp2p."""

from __future__ import annotations

import contextlib
import random

import msgspec
import pytest
import trio

from moshgrid.p2p.errors import AccessDenied, RemoteProtocolError, StreamReset, Unreachable
from moshgrid.p2p.framing import FrameReader, send_frame
from moshgrid.p2p.requests import Requests, Service


class Ask(msgspec.Struct):
    number: int
    pad: bytes = b""


class Told(msgspec.Struct):
    number: int
    pad: bytes = b""


SERVICE = Service("/test/double/1", Ask, Told, max_query=1000, max_answer=1000, deadline=2.0, concurrency=8)


async def double(peer: str, ask: Ask) -> Told:
    return Told(ask.number * 2)


async def pair(mesh, handler, service=SERVICE):
    a, b = await mesh.pair()
    asking, answering = Requests(a, mesh.nursery), Requests(b, mesh.nursery)
    answering.serve(service, handler)
    return a, b, asking


def scenario_over(world, handler, body, service=SERVICE, limit=30.0):
    async def scenario(mesh):
        a, b, asking = await pair(mesh, handler, service)
        await body(mesh, a, b, asking)
        mesh.nursery.cancel_scope.cancel()

    world.run(scenario, limit)


def test_a_question_is_answered(world):
    seen = []

    async def handler(peer, ask):
        seen.append(peer)
        return Told(ask.number * 2)

    async def body(mesh, a, b, asking):
        assert await asking.ask(b.peer_id, SERVICE, Ask(21)) == Told(42)
        assert seen == [a.peer_id]

    scenario_over(world, handler, body)


def test_a_handler_that_need_not_wait_answers_at_once(world):
    def handler(peer, ask):
        if ask.number == 13:
            raise AccessDenied("not that one")
        if ask.number == 14:
            raise RuntimeError("a bug")
        return Told(ask.number * 2, bytes(2000) if ask.number == 15 else b"")

    async def body(mesh, a, b, asking):
        async def one(number):
            assert (await asking.ask(b.peer_id, SERVICE, Ask(number))).number == 2 * number

        async with trio.open_nursery() as nursery:
            for number in range(20, 80):  # no such bound as on those that wait
                nursery.start_soon(one, number)
        for number, reason in ((13, "not that one"), (14, "internal error"), (15, "the answer is too large")):
            with pytest.raises(RemoteProtocolError, match=reason):
                await asking.ask(b.peer_id, SERVICE, Ask(number))
        await one(1)

    scenario_over(world, handler, body)


def test_many_queries_answered_at_once_leave_others_their_turns(world):
    """The answering computer's own tasks go on while a peer asks as fast as it may."""
    answered, woken_after = 0, []
    wake = trio.Event()

    def handler(peer, ask):
        nonlocal answered
        answered += 1
        wake.set()
        return Told(0)

    async def others():
        nonlocal wake
        while True:
            before = answered
            await wake.wait()
            woken_after.append(answered - before)
            wake = trio.Event()

    async def body(mesh, a, b, asking):
        mesh.nursery.start_soon(others)
        stream, query = await a.open_stream(b.peer_id, SERVICE.protocol), msgspec.msgpack.encode(Ask(1))
        frames = [bytes([0]) + number.to_bytes(4, "big") + query for number in range(500)]
        await stream.send(b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames))
        answers = FrameReader(stream, 100)
        for _ in frames:
            assert await answers.read() is not None
        assert sum(woken_after) >= 500 - 32
        assert max(woken_after) <= 32

    scenario_over(world, handler, body)


def test_many_at_once_get_their_own_answers(world):
    most = running = 0

    async def handler(peer, ask):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(0.01 * (ask.number % 5))
        running -= 1
        return Told(ask.number * 2)

    async def body(mesh, a, b, asking):
        async def one(number):
            assert (await asking.ask(b.peer_id, SERVICE, Ask(number))).number == 2 * number

        for batch in range(10):
            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(one, batch * 8 + number)
        assert 1 < most <= 8

    scenario_over(world, handler, body)


def test_more_than_agreed_are_refused_and_the_rest_served(world):
    async def body(mesh, a, b, asking):
        outcomes = []

        async def one(number):
            try:
                await asking.ask(b.peer_id, SERVICE, Ask(number))
                outcomes.append("answered")
            except RemoteProtocolError as error:
                assert "more than 8 requests at once" in str(error)
                outcomes.append("refused")

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(one, number)
        assert sorted(outcomes) == ["answered"] * 8 + ["refused"] * 4

    async def handler(peer, ask):
        await trio.sleep(0.3)
        return Told(0)

    scenario_over(world, handler, body)


def test_a_refusal_carries_its_text(world):
    async def handler(peer, ask):
        raise AccessDenied("invite 'alice' expired")

    async def body(mesh, a, b, asking):
        with pytest.raises(RemoteProtocolError) as caught:
            await asking.ask(b.peer_id, SERVICE, Ask(1))
        assert (caught.value.peer, caught.value.reason) == (b.peer_id, "invite 'alice' expired")

    scenario_over(world, handler, body)


def test_a_bug_in_a_handler_is_internal_and_the_stream_goes_on(world, caplog):
    async def handler(peer, ask):
        if ask.number == 13:
            raise ZeroDivisionError("secret detail")
        return Told(ask.number)

    async def body(mesh, a, b, asking):
        with pytest.raises(RemoteProtocolError, match="internal error") as caught:
            await asking.ask(b.peer_id, SERVICE, Ask(13))
        assert "secret" not in str(caught.value)
        assert await asking.ask(b.peer_id, SERVICE, Ask(1)) == Told(1)

    scenario_over(world, handler, body)


def test_the_callers_deadline(world):
    async def handler(peer, ask):
        await trio.sleep_forever()

    async def body(mesh, a, b, asking):
        start = trio.current_time()
        with pytest.raises(Unreachable, match=r"no answer within 0\.2 s"):
            await asking.ask(b.peer_id, SERVICE, Ask(1), timeout=0.2)
        assert 0.2 <= trio.current_time() - start < 5.0

    scenario_over(world, handler, body)


def test_the_handlers_deadline(world):
    async def handler(peer, ask):
        await trio.sleep_forever()

    service = Service("/test/double/1", Ask, Told, deadline=0.2)

    async def body(mesh, a, b, asking):
        with pytest.raises(RemoteProtocolError, match="took too long"):
            await asking.ask(b.peer_id, service, Ask(1), timeout=5.0)

    scenario_over(world, handler, body, service)


def test_cancelling_the_caller_cancels_the_work(world):
    started, cancelled, ended = [], [], trio.Event()

    async def handler(peer, ask):
        started.append(ask.number)
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append(ask.number)
            ended.set()
            raise

    async def body(mesh, a, b, asking):
        with trio.move_on_after(0.2):
            await asking.ask(b.peer_id, SERVICE, Ask(7), timeout=10.0)
        with trio.fail_after(1.0):
            await ended.wait()
        assert started == cancelled == [7]

    scenario_over(world, handler, body)


def test_too_large_a_query_breaks_the_rules_and_too_large_an_answer_does_not_leave(world, caplog):
    async def handler(peer, ask):
        return Told(0, bytes(ask.number))

    async def body(mesh, a, b, asking):
        with pytest.raises(RemoteProtocolError, match="too large"):
            await asking.ask(b.peer_id, SERVICE, Ask(5000))
        with pytest.raises((StreamReset, Unreachable)):
            await asking.ask(b.peer_id, SERVICE, Ask(0, bytes(5000)))
        assert await asking.ask(b.peer_id, SERVICE, Ask(3)) == Told(0, bytes(3))

    scenario_over(world, handler, body)


def test_a_peer_that_sends_garbage_is_cut_off_and_others_are_not(world):
    async def body(mesh, a, b, asking):
        async def raw(data):
            stream = await a.open_stream(b.peer_id, SERVICE.protocol)
            await stream.send(data)
            with pytest.raises(StreamReset), trio.fail_after(5.0):
                while True:
                    assert await stream.receive() != b""

        for data in (
            b"GET / HTTP/1.1\r\n\r\n",  # a length of over a gigabyte
            (3).to_bytes(4, "big") + b"abc",  # shorter than a header
            (6).to_bytes(4, "big") + b"\x09\0\0\0\0x",  # an unknown kind
        ):
            await raw(data)
        assert await asking.ask(b.peer_id, SERVICE, Ask(4)) == Told(8)

    scenario_over(world, double, body)


def test_a_query_that_cannot_be_read_is_refused(world):
    async def body(mesh, a, b, asking):
        stream = await a.open_stream(b.peer_id, SERVICE.protocol)
        reader = FrameReader(stream, 1000)
        for junk in (b"", b"\xc1", b"\x81\xa6number\xa1x", bytes(900)):
            await send_frame(stream, b"\0\0\0\0\1", junk)
            frame = await reader.read()
            assert frame[0] == 2
            assert b"cannot be read" in frame
        await send_frame(stream, b"\0\0\0\0\2", msgspec.msgpack.encode(Ask(4)))
        assert msgspec.msgpack.decode((await reader.read())[5:], type=Told) == Told(8)

    scenario_over(world, double, body)


def test_a_peer_that_answers_garbage(world):
    async def body(mesh, a, b, asking):
        async def answer_junk(stream):
            reader = FrameReader(stream, 1000)
            while (frame := await reader.read()) is not None:
                await send_frame(stream, b"\1" + frame[1:5], b"\xc1")

        b.serve(SERVICE.protocol, answer_junk)
        with pytest.raises(RemoteProtocolError, match="cannot be read"):
            await asking.ask(b.peer_id, SERVICE, Ask(1))

        async def answer_too_much(stream):
            await stream.receive()
            await send_frame(stream, bytes(2000))
            await stream.receive()

        b.serve("/test/much/1", answer_too_much)
        with pytest.raises(RemoteProtocolError, match="at most"):
            await asking.ask(b.peer_id, Service("/test/much/1", Ask, Told, max_answer=1000), Ask(1))

    scenario_over(world, double, body)


def test_a_lost_peer_ends_the_call_and_a_new_one_is_tried(world):
    async def handler(peer, ask):
        await trio.sleep_forever()

    async def body(mesh, a, b, asking):
        async def close_soon():
            await trio.sleep(0.1)
            await mesh.close(b)

        mesh.nursery.start_soon(close_soon)
        start = trio.current_time()
        with pytest.raises(Unreachable):
            await asking.ask(b.peer_id, SERVICE, Ask(1), timeout=20.0)
        assert trio.current_time() - start < 10.0
        with pytest.raises(Unreachable):
            await asking.ask(b.peer_id, SERVICE, Ask(1))

    scenario_over(world, handler, body)


def test_an_unknown_service_is_the_peers_answer(world):
    async def body(mesh, a, b, asking):
        with pytest.raises(RemoteProtocolError, match="does not speak"):
            await asking.ask(b.peer_id, Service("/test/unknown/1", Ask, Told), Ask(1))

    scenario_over(world, double, body)


def test_the_concurrency_is_the_peers_over_all_its_streams(world):
    async def handler(peer, ask):
        await trio.sleep(0.5)
        return Told(0)

    async def body(mesh, a, b, asking):
        outcomes = []

        async def one(channel):
            try:
                await channel.ask(b.peer_id, SERVICE, Ask(1))
                outcomes.append("answered")
            except RemoteProtocolError as error:
                assert "requests at once" in str(error)
                outcomes.append("refused")

        async with trio.open_nursery() as nursery:
            for channel in (asking, Requests(a, mesh.nursery), Requests(a, mesh.nursery)):
                for _ in range(4):
                    nursery.start_soon(one, channel)
        assert sorted(outcomes) == ["answered"] * 8 + ["refused"] * 4

    scenario_over(world, handler, body)


def test_more_streams_than_agreed_are_reset(world):
    service = Service("/test/double/1", Ask, Told, streams=2)

    async def body(mesh, a, b, asking):
        streams = [await a.open_stream(b.peer_id, service.protocol) for _ in range(2)]
        with pytest.raises(Unreachable, match="reset"), trio.fail_after(5.0):
            await (await a.open_stream(b.peer_id, service.protocol)).receive()
        for stream in streams:
            await stream.close()
        with trio.fail_after(5.0):
            while True:
                try:
                    assert await asking.ask(b.peer_id, service, Ask(1)) == Told(2)
                    break
                except StreamReset:
                    await trio.sleep(0.01)

    scenario_over(world, double, body, service)


def test_a_flood_is_slowed_to_the_agreed_rate_and_nothing_is_lost(world):
    service = Service("/test/double/1", Ask, Told, rate=50.0, burst=10.0, concurrency=100)

    async def body(mesh, a, b, asking):
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(asking.ask, b.peer_id, service, Ask(number))
        assert 0.35 <= trio.current_time() - started < 10.0

    scenario_over(world, double, body, service)


@pytest.mark.parametrize("part", [b"\0", b"\0\0\0\x40", b"\0\0\0\x40\0\0\0\0\1half of it"])
def test_half_a_query_does_not_wait_for_ever_and_silence_may(world, part):
    service = Service("/test/double/1", Ask, Told, read_seconds=0.3)

    async def body(mesh, a, b, asking):
        idle = await a.open_stream(b.peer_id, service.protocol)
        half = await a.open_stream(b.peer_id, service.protocol)
        started = trio.current_time()
        await half.send(part)
        with pytest.raises(StreamReset), trio.fail_after(5.0):
            await half.receive()
        assert trio.current_time() - started >= 0.25
        await trio.sleep(0.5)
        await send_frame(idle, b"\0\0\0\0\1", msgspec.msgpack.encode(Ask(4)))
        assert (await FrameReader(idle, 1000).read())[0] == 1

    scenario_over(world, double, body, service)


def test_a_stream_that_never_asks_is_reset_and_one_that_asked_may_be_silent(world):
    service = Service("/test/double/1", Ask, Told, first_seconds=0.3)

    async def body(mesh, a, b, asking):
        assert await asking.ask(b.peer_id, service, Ask(1)) == Told(2)
        mute = await a.open_stream(b.peer_id, service.protocol)
        started = trio.current_time()
        with pytest.raises(StreamReset), trio.fail_after(5.0):
            await mute.receive()
        assert trio.current_time() - started >= 0.25
        (channel,) = asking._channels.values()
        assert await asking.ask(b.peer_id, service, Ask(2)) == Told(4)
        assert list(asking._channels.values()) == [channel]

    scenario_over(world, double, body, service)


def test_half_a_query_has_ten_seconds_by_default():
    assert SERVICE.read_seconds == 10.0


def test_a_cancelled_caller_is_heard_however_many_are_waiting(world):
    running = 0
    all_started, all_ended = trio.Event(), trio.Event()

    async def handler(peer, ask):
        nonlocal running
        running += 1
        if running == 300:
            all_started.set()
        try:
            await trio.sleep_forever()
        finally:
            running -= 1
            if not running:
                all_ended.set()

    service = Service("/test/double/1", Ask, Told, deadline=60.0, concurrency=300)

    async def body(mesh, a, b, asking):
        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(asking.ask, b.peer_id, service, Ask(number))
            with trio.fail_after(10.0):
                await all_started.wait()
            nursery.cancel_scope.cancel()
        with trio.fail_after(10.0):
            await all_ended.wait()

    scenario_over(world, handler, body, service)


def test_a_bug_is_logged_once_with_the_peer_and_other_queries_go_on(world, caplog):
    async def handler(peer, ask):
        if ask.number == 13:
            raise ZeroDivisionError("a bug")
        await trio.sleep(0.2)
        return Told(ask.number)

    async def body(mesh, a, b, asking):
        answers = []

        async def fine():
            answers.append(await asking.ask(b.peer_id, SERVICE, Ask(5)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fine)
            with pytest.raises(RemoteProtocolError, match="internal error"):
                await asking.ask(b.peer_id, SERVICE, Ask(13))
        assert answers == [Told(5)]
        (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
        assert a.peer_id in record.getMessage()

    scenario_over(world, handler, body)


def test_whatever_bytes_come_only_their_stream_is_reset(world):
    chance = random.Random(7)

    async def body(mesh, a, b, asking):
        for _ in range(30):
            stream = await a.open_stream(b.peer_id, SERVICE.protocol)
            with contextlib.suppress(StreamReset):
                for _ in range(chance.randrange(1, 6)):
                    junk = chance.randbytes(chance.randrange(64))
                    if chance.random() < 0.7:
                        junk = len(junk).to_bytes(4, "big") + junk
                    await stream.send(junk)
            await stream.reset()
        assert await asking.ask(b.peer_id, SERVICE, Ask(4)) == Told(8)

    scenario_over(world, double, body)
