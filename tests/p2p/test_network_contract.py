"""What every Network promises, checked on the in-memory one and on libp2p, direct and relayed."""

from __future__ import annotations

import hashlib
import logging
import random
import re

import pytest
import trio
import trio.testing
from echoing import ECHO, echo

from moshgrid.p2p.errors import Closed, LocalProtocolError, RemoteProtocolError, StreamReset, Unreachable
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.network import Network, Stream

DIRECT = ("memory", "libp2p", "websocket")
WORLDS = (*DIRECT, "relayed")


async def never(stream: Stream) -> None:
    await trio.sleep_forever()


async def drain(stream: Stream, chunk: int = 65536) -> bytes:
    out = bytearray()
    while data := await stream.receive(chunk):
        out += data
    return bytes(out)


async def lost_event(network: Network, peer: str) -> trio.Event:
    event = trio.Event()
    network.on_lost(lambda lost: event.set() if lost == peer else None)
    return event


def test_what_is_sent_comes_back(world):
    async def scenario(mesh):
        a, b = await mesh.pair()
        b.serve(ECHO, echo)
        stream = await a.open_stream(b.peer_id, ECHO)
        assert (stream.peer, stream.protocol) == (b.peer_id, ECHO)
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"
        await stream.send(bytearray(b"ab"))
        await stream.send(memoryview(b"cd"))
        await stream.send(b"")
        await stream.close_write()
        assert await drain(stream) == b"abcd"

    world.run(scenario)


def test_addresses_are_full_and_dial_returns_the_peer(world):
    async def scenario(mesh):
        a, b = await mesh.network(), await mesh.network()
        assert b.addrs and all(addr.endswith(f"/p2p/{b.peer_id}") for addr in b.addrs)
        assert await a.dial(b.addrs[0]) == b.peer_id
        assert await a.dial(b.addrs[0]) == b.peer_id
        assert a.connected() - {world.relay} == {b.peer_id}
        assert a.addrs_of(b.peer_id) == (b.addrs[0],)

    world.run(scenario)


def test_the_ip_of_a_peer_is_what_is_seen_and_not_what_it_says(world):
    async def scenario(mesh):
        a, b = await mesh.network(), await mesh.network()
        assert a.observed_ip(b.peer_id) is None
        await a.dial(b.addrs[0])
        a.learn_addrs(b.peer_id, [f"/ip4/203.0.113.9/tcp/1/p2p/{b.peer_id}"])
        # The in-memory network has no addresses but those that a test gives; behind a relay none is seen.
        seen = "ip4" in b.addrs[0] and "p2p-circuit" not in b.addrs[0]
        assert a.observed_ip(b.peer_id) == ("127.0.0.1" if seen else None)

    world.run(scenario)


def test_receive_never_gives_more_than_asked(world):
    async def scenario(mesh):
        a, b = await mesh.pair()
        b.serve(ECHO, echo)
        stream = await a.open_stream(b.peer_id, ECHO)
        await stream.send(b"x" * 1000)
        seen = 0
        while seen < 1000:
            data = await stream.receive(7)
            assert 1 <= len(data) <= 7
            seen += len(data)

    world.run(scenario)


def test_a_big_transfer_in_both_directions_at_once(world):
    async def scenario(mesh):
        a, b = await mesh.pair()
        up, down = (random.Random(seed).randbytes(3_000_000) for seed in (1, 2))
        arrived = {}
        finished = trio.Event()

        async def both_ways(stream: Stream) -> None:
            async with trio.open_nursery() as nursery:

                async def send() -> None:
                    await stream.send(down)
                    await stream.close_write()

                nursery.start_soon(send)
                arrived["up"] = await drain(stream)
            finished.set()

        b.serve("/test/both/1", both_ways)
        stream = await a.open_stream(b.peer_id, "/test/both/1")
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                await stream.send(up)
                await stream.close_write()

            nursery.start_soon(send)
            arrived["down"] = await drain(stream, 1 << 20)
        await finished.wait()
        for name, sent in (("up", up), ("down", down)):
            assert hashlib.sha256(arrived[name]).digest() == hashlib.sha256(sent).digest()

    world.run(scenario)


def test_half_close_leaves_the_other_direction_open(world):
    async def scenario(mesh):
        a, b = await mesh.pair()

        async def answer_after_the_end(stream: Stream) -> None:
            question = await drain(stream)
            await stream.send(question[::-1])

        b.serve("/test/reverse/1", answer_after_the_end)
        stream = await a.open_stream(b.peer_id, "/test/reverse/1")
        await stream.send(b"abc")
        await stream.close_write()
        assert await drain(stream) == b"cba"
        assert await stream.receive() == b""
        assert await stream.receive() == b""
        with pytest.raises(LocalProtocolError):
            await stream.send(b"more")

    world.run(scenario)


def test_a_clean_end_can_be_seen_again_after_the_peer_left(world):
    async def scenario(mesh):
        a, b = await mesh.pair()
        served = trio.Event()

        async def say_and_end(stream: Stream) -> None:
            await stream.send(b"last words")
            await stream.close_write()
            served.set()
            await stream.receive()

        b.serve("/test/last/1", say_and_end)
        stream = await a.open_stream(b.peer_id, "/test/last/1")
        await served.wait()
        assert await drain(stream) == b"last words"
        lost = await lost_event(a, b.peer_id)
        await mesh.close(b)
        await lost.wait()
        assert b.peer_id not in a.connected()

    world.run(scenario)


def test_a_reset_is_seen_by_reader_and_writer(world):
    async def scenario(mesh):
        a, b = await mesh.pair()

        async def reset_at_once(stream: Stream) -> None:
            await stream.receive()
            await stream.reset()

        b.serve("/test/reset/1", reset_at_once)
        stream = await a.open_stream(b.peer_id, "/test/reset/1")
        await stream.send(b"x")
        with pytest.raises(StreamReset):
            await stream.receive()
        with pytest.raises(StreamReset):
            for _ in range(10_000):
                await stream.send(b"y" * 10_000)

    world.run(scenario)


def test_a_reset_wakes_our_own_waiting_reader_and_writer(world):
    async def scenario(mesh):
        a, b = await mesh.pair()
        b.serve("/test/never/1", never)
        stream = await a.open_stream(b.peer_id, "/test/never/1")
        ended = []

        async def expect_reset(fn) -> None:
            with pytest.raises(StreamReset):
                await fn()
            ended.append(fn)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_reset, stream.receive)
            nursery.start_soon(expect_reset, lambda: stream.send(bytes(10_000_000)))
            await trio.testing.wait_all_tasks_blocked(0.01)
            await stream.reset()
        assert len(ended) == 2

    world.run(scenario)


def test_a_slow_reader_gets_everything(world):
    # Over stock py-libp2p a writer gives up after 5 s of a full window.
    pause = {"memory": 100.0, "libp2p": 6.0}.get(world.kind, 1.0)

    async def scenario(mesh):
        a, b = await mesh.pair()
        received = []

        async def wait_then_read(stream: Stream) -> None:
            await trio.sleep(pause)
            received.append(await drain(stream))

        b.serve("/test/slow/1", wait_then_read)
        stream = await a.open_stream(b.peer_id, "/test/slow/1")
        data = random.Random(3).randbytes(2_000_000)
        await stream.send(data)
        await stream.close_write()
        assert await stream.receive() == b""
        assert received == [data]

    world.run(scenario, limit=200.0)


def test_a_writer_waits_while_nobody_reads(world):
    async def scenario(mesh):
        a, b = await mesh.pair()
        go = trio.Event()

        async def wait_then_read(stream: Stream) -> None:
            await go.wait()
            await drain(stream)

        b.serve("/test/slow/1", wait_then_read)
        stream = await a.open_stream(b.peer_id, "/test/slow/1")
        with trio.move_on_after(0.3) as scope:
            await stream.send(bytes(50_000_000))
        assert scope.cancelled_caught
        go.set()

    world.run(scenario)


def test_many_streams_at_once(world):
    async def scenario(mesh):
        a, b = await mesh.pair()
        b.serve(ECHO, echo)
        done = []

        async def one(number: int) -> None:
            stream = await a.open_stream(b.peer_id, ECHO)
            data = random.Random(number).randbytes(20_000)
            async with trio.open_nursery() as nursery:

                async def send() -> None:
                    await stream.send(data)
                    await stream.close_write()

                nursery.start_soon(send)
                assert await drain(stream) == data
            await stream.close()
            done.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(one, number)
        assert len(done) == 100

    world.run(scenario)


def test_streams_that_end_make_room_for_others(world):
    async def scenario(mesh):
        a, b = await mesh.pair()
        b.serve(ECHO, echo)
        for number in range(1200):  # yamux allows 1,024 at once
            stream = await a.open_stream(b.peer_id, ECHO)
            await stream.send(b"x")
            assert await stream.receive() == b"x"
            await (stream.close() if number % 2 else stream.reset())

    world.run(scenario, limit=60.0)


def test_a_failing_handler_resets_its_stream_and_nothing_else(world, caplog):
    async def scenario(mesh):
        a, b = await mesh.pair()
        b.serve(ECHO, echo)

        async def fail(stream: Stream) -> None:
            await stream.receive()
            raise ZeroDivisionError("a bug in a handler")

        b.serve("/test/fail/1", fail)
        healthy = await a.open_stream(b.peer_id, ECHO)
        failing = await a.open_stream(b.peer_id, "/test/fail/1")
        await failing.send(b"x")
        with pytest.raises(StreamReset):
            await failing.receive()
        await healthy.send(b"still here")
        assert await healthy.receive() == b"still here"

    with caplog.at_level(logging.WARNING, "moshgrid.p2p"):
        world.run(scenario)
    failures = [entry for entry in caplog.records if entry.exc_info]
    assert caplog.text.count("ZeroDivisionError: a bug in a handler") == 1
    assert len(failures) == 1
    assert Identity.from_seed(bytes([1]) * 32).peer_id in failures[0].getMessage()


def test_an_unknown_protocol_is_the_peers_answer(world):
    async def scenario(mesh):
        a, b = await mesh.pair()
        b.serve(ECHO, echo)
        with pytest.raises(RemoteProtocolError, match="does not speak /test/unknown/1"):
            await a.open_stream(b.peer_id, "/test/unknown/1")
        stream = await a.open_stream(b.peer_id, ECHO)
        await stream.send(b"x")
        assert await stream.receive() == b"x"

    world.run(scenario)


def test_an_unreachable_peer_lists_every_attempt(world):
    async def scenario(mesh):
        a, b, c = [await mesh.network() for _ in range(3)]
        gone = Identity.generate().peer_id
        places = [network.addrs[0].rsplit("/", 1)[0] + f"/{gone}" for network in (b, c)]
        await mesh.close(c)
        a.learn_addrs(gone, places)
        with pytest.raises(Unreachable) as caught:
            await a.open_stream(gone, ECHO)
        assert [tried for tried, _ in caught.value.attempts] == places
        outcomes = [outcome for _, outcome in caught.value.attempts]
        assert b.peer_id in outcomes[0]
        assert "refused" in outcomes[1]
        with pytest.raises(Unreachable):
            await a.open_stream(Identity.generate().peer_id, ECHO)
        for nonsense in ("", "nonsense", "/ip4/127.0.0.1/udp/1", "/memory/x/p2p/y", f"/p2p/{gone}"):
            with pytest.raises(Unreachable):
                await a.dial(nonsense)

    world.run(scenario)


test_an_unreachable_peer_lists_every_attempt.worlds = DIRECT


def test_another_peer_at_the_address_is_refused(world):
    async def scenario(mesh):
        a, b = await mesh.network(), await mesh.network()
        other = Identity.generate().peer_id
        with pytest.raises(Unreachable) as caught:
            await a.dial(b.addrs[0].replace(b.peer_id, other))
        assert caught.value.peer == other
        assert a.connected() <= {world.relay}

    world.run(scenario)


def test_only_addresses_of_the_peer_itself_are_learnt_and_few(world):
    async def scenario(mesh):
        a, b, c = [await mesh.network() for _ in range(3)]
        a.learn_addrs(b.peer_id, [*c.addrs, "nonsense", *b.addrs])
        assert a.addrs_of(b.peer_id) == b.addrs
        number = re.search(r"\d+(?=(/ws)?/p2p/)", b.addrs[0])
        head, tail = b.addrs[0][: number.start()], b.addrs[0][number.end() :]
        many = [f"{head}{port}{tail}" for port in range(1, 41)]
        a.learn_addrs(b.peer_id, many)
        assert a.addrs_of(b.peer_id) == tuple(many[:16])

    world.run(scenario)


def test_streams_can_be_opened_back_over_an_inbound_connection(world):
    async def scenario(mesh):
        a, b = await mesh.pair()
        a.serve(ECHO, echo)
        b.serve(ECHO, echo)
        await (await a.open_stream(b.peer_id, ECHO)).close()  # so that the connection is known there too
        stream = await b.open_stream(a.peer_id, ECHO)
        await stream.send(b"back")
        assert await stream.receive() == b"back"

    world.run(scenario)


def test_known_addresses_are_dialled_when_a_stream_is_wanted(world):
    async def scenario(mesh):
        a, b = await mesh.network(), await mesh.network()
        b.serve(ECHO, echo)
        a.learn_addrs(b.peer_id, b.addrs)
        results = []

        async def one() -> None:
            stream = await a.open_stream(b.peer_id, ECHO)
            await stream.send(b"x")
            results.append(await stream.receive())

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(one)
        assert results == [b"x"] * 5

    world.run(scenario)


def test_a_direct_connection_is_made_when_wanted_and_can_be(world):
    async def scenario(mesh):
        a, b = await mesh.network(), await mesh.network()
        assert not a.is_direct(b.peer_id)
        assert not await a.reach_directly(b.peer_id, 5.0), "no address is known"
        a.learn_addrs(b.peer_id, b.addrs)
        assert await a.reach_directly(b.peer_id, 5.0)
        assert a.is_direct(b.peer_id)
        assert await a.reach_directly(b.peer_id, 0.0), "it is there already"

    world.run(scenario)


test_a_direct_connection_is_made_when_wanted_and_can_be.worlds = DIRECT


def test_a_cancelled_send_leaves_the_connection_usable(world):
    async def scenario(mesh):
        a, b = await mesh.pair()
        b.serve(ECHO, echo)
        b.serve("/test/drain/1", drain)
        b.serve("/test/never/1", never)
        bystander = await a.open_stream(b.peer_id, ECHO)
        rng = random.Random(5)
        for turn in range(30):
            protocol = "/test/drain/1" if turn % 2 else "/test/never/1"
            stream = await a.open_stream(b.peer_id, protocol)
            with trio.move_on_after(rng.uniform(0, 0.02)):
                await stream.send(bytes(20_000_000))
            await stream.reset()
            await bystander.send(b"ok")
            assert await bystander.receive() == b"ok"

    world.run(scenario, limit=60.0)


def test_a_cancelled_receive_loses_nothing(world):
    async def scenario(mesh):
        a, b = await mesh.pair()
        data = random.Random(6).randbytes(500_000)

        async def trickle(stream: Stream) -> None:
            for at in range(0, len(data), 5_000):
                await stream.send(data[at : at + 5_000])

        b.serve("/test/trickle/1", trickle)
        stream = await a.open_stream(b.peer_id, "/test/trickle/1")
        got = bytearray()
        rng = random.Random(7)
        ended = False
        while not ended:
            with trio.move_on_after(rng.uniform(0, 0.002)):
                while True:
                    piece = await stream.receive(rng.randrange(1, 10_000))
                    got += piece
                    if not piece:
                        ended = True
                        break
        assert got == data

    world.run(scenario, limit=60.0)


def test_closing_while_the_peer_sends_does_not_hold_it_up(world):
    async def scenario(mesh):
        a, b = await mesh.pair()
        outcome = []

        async def send_much(stream: Stream) -> None:
            try:
                await stream.send(bytes(5_000_000))
                outcome.append("sent")
            except StreamReset:
                outcome.append("reset")
            finished.set()

        finished = trio.Event()
        b.serve("/test/much/1", send_much)
        stream = await a.open_stream(b.peer_id, "/test/much/1")
        assert await stream.receive()
        await stream.close()
        with trio.fail_after(5.0):  # and not until patience ends, after ten
            await finished.wait()
        assert outcome in (["sent"], ["reset"])

    world.run(scenario)


def test_several_buffers_are_sent_as_one_and_received_in_place(world):
    async def scenario(mesh):
        a, b = await mesh.pair()
        b.serve(ECHO, echo)
        stream = await a.open_stream(b.peer_id, ECHO)
        head, body = b"head", random.Random(8).randbytes(1_000_000)
        buffer, filled = memoryview(bytearray(4 + len(body))), 0
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                await stream.send([head, b"", memoryview(body)[:300_000], bytearray(body[300_000:])])
                await stream.close_write()

            nursery.start_soon(send)
            while count := await stream.receive_into(buffer[filled:] or bytearray(1)):
                filled += count
        assert filled == len(buffer) and buffer == head + body
        assert await stream.receive_into(bytearray(1)) == 0
        with pytest.raises(LocalProtocolError):
            await stream.receive_into(bytearray())

    world.run(scenario)


def test_a_reset_is_seen_by_receive_into(world):
    async def scenario(mesh):
        a, b = await mesh.pair()

        async def send_and_reset(stream: Stream) -> None:
            await stream.send(b"x")
            await stream.receive()
            await stream.reset()

        b.serve("/test/reset/1", send_and_reset)
        stream = await a.open_stream(b.peer_id, "/test/reset/1")
        buffer = bytearray(10)
        assert await stream.receive_into(buffer) == 1 and buffer[:1] == b"x"
        await stream.send(b"go")
        with pytest.raises(StreamReset):
            await stream.receive_into(buffer)

    world.run(scenario)


def test_a_frozen_peer_is_an_error_and_a_loss_in_time(world, monkeypatch):
    if world.kind != "memory":
        monkeypatch.setattr("moshgrid.p2p.yamux_pulse.PING_SECONDS", 0.2)
        monkeypatch.setattr("moshgrid.p2p.yamux_pulse.SILENCE_SECONDS", 0.6)

    async def scenario(mesh):
        a, b = await mesh.pair()
        b.serve("/test/never/1", never)
        stream = await a.open_stream(b.peer_id, "/test/never/1")
        lost = await lost_event(a, b.peer_id)
        mesh.freeze(b)
        ended = []

        async def expect_reset(fn) -> None:
            with pytest.raises(StreamReset):
                await fn()
            ended.append(fn)

        with trio.fail_after(15.0):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(expect_reset, stream.receive)
                nursery.start_soon(expect_reset, lambda: stream.send(bytes(10_000_000)))
            await lost.wait()
        assert len(ended) == 2
        assert b.peer_id not in a.connected()

    world.run(scenario)


class CancelAt(trio.abc.Instrument):
    """Cancels a scope when a task has come to its n-th wait."""

    def __init__(self, number: int) -> None:
        self.scope = trio.CancelScope()
        self.task = None
        self.left = number

    def after_task_step(self, task) -> None:
        if task is self.task:
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()


async def ask(stream: Stream) -> None:
    await stream.send(b"x")
    assert await stream.receive() == b"x"


async def ask_in_place(stream: Stream) -> None:
    await stream.send(b"x")
    assert await stream.receive_into(bytearray(9)) == 1


OPERATIONS = {
    "open": lambda a, b, stream: a.open_stream(b.peer_id, ECHO),
    "big send": lambda a, b, stream: stream.send(bytes(200_000)),
    "receive": lambda a, b, stream: ask(stream),
    "receive_into": lambda a, b, stream: ask_in_place(stream),
    "close_write": lambda a, b, stream: stream.close_write(),
    "close": lambda a, b, stream: stream.close(),
    "reset": lambda a, b, stream: stream.reset(),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_cancelled_at_every_wait_nothing_else_notices(world, operation):
    async def scenario(mesh):
        a, b = await mesh.pair()
        b.serve(ECHO, echo)
        b.serve("/test/drain/1", drain)
        bystander = await a.open_stream(b.peer_id, ECHO)
        at, cancelled = 1, True
        while cancelled and at < 100:
            stream = await a.open_stream(b.peer_id, "/test/drain/1" if "send" in operation else ECHO)
            cancel = CancelAt(at)
            trio.lowlevel.add_instrument(cancel)
            with cancel.scope:
                cancel.task = trio.lowlevel.current_task()
                await OPERATIONS[operation](a, b, stream)
            cancel.task = None
            trio.lowlevel.remove_instrument(cancel)
            cancelled = cancel.scope.cancelled_caught
            await bystander.send(b"ok")
            assert await bystander.receive() == b"ok"
            await stream.reset()
            at += 1
        assert at > 2

    world.run(scenario)


def test_a_dial_cancelled_at_every_wait_can_be_made_again(world):
    async def scenario(mesh):
        a, b = await mesh.pair()
        b.serve(ECHO, echo)
        bystander = await a.open_stream(b.peer_id, ECHO)
        at, cancelled = 1, True
        while cancelled and at < 50:
            other = await mesh.network()
            cancel = CancelAt(at)
            trio.lowlevel.add_instrument(cancel)
            with cancel.scope:
                cancel.task = trio.lowlevel.current_task()
                await a.dial(other.addrs[0])
            cancel.task = None
            trio.lowlevel.remove_instrument(cancel)
            cancelled = cancel.scope.cancelled_caught
            await ask(bystander)
            assert await a.dial(other.addrs[0]) == other.peer_id
            assert other.peer_id in a.connected()
            at += 1
        assert at > 2

    world.run(scenario)


def test_a_crash_is_an_error_for_reader_and_writer_and_never_a_clean_end(world):
    async def scenario(mesh):
        a, b = await mesh.pair()

        async def speak_and_stay(stream: Stream) -> None:
            await stream.send(b"x" * 1000)
            await trio.sleep_forever()

        b.serve("/test/speak/1", speak_and_stay)
        stream, other = [await a.open_stream(b.peer_id, "/test/speak/1") for _ in range(2)]
        assert await stream.receive(1000) and await other.receive(1000)
        lost = []
        a.on_lost(lost.append)
        gone = await lost_event(a, b.peer_id)
        async with trio.open_nursery() as nursery:

            async def expect_reset(fn) -> None:
                with pytest.raises(StreamReset):
                    while await fn() != b"":
                        pass

            with trio.fail_after(5.0):
                nursery.start_soon(expect_reset, stream.receive)
                nursery.start_soon(expect_reset, lambda: other.send(bytes(100_000)))
                await trio.testing.wait_all_tasks_blocked()
                mesh.crash(b)
                await gone.wait()
        with pytest.raises(StreamReset):
            await stream.send(b"x")
        assert lost == [b.peer_id] and a.connected() <= {world.relay}

    world.run(scenario)


def test_a_lost_peer_resets_streams_and_is_told_once(world):
    async def scenario(mesh):
        a, b = await mesh.pair()
        b.serve("/test/never/1", never)
        lost = []
        a.on_lost(lost.append)
        take_off = a.on_lost(lambda peer: lost.append("taken off"))
        take_off()
        stream = await a.open_stream(b.peer_id, "/test/never/1")
        gone = await lost_event(a, b.peer_id)
        await mesh.close(b)
        with pytest.raises(StreamReset):
            await stream.receive()
        with pytest.raises(StreamReset):
            await stream.send(b"x")
        with trio.fail_after(1.0):
            await gone.wait()
        assert lost == [b.peer_id]
        assert a.connected() <= {world.relay}
        with pytest.raises(Unreachable):
            await a.open_stream(b.peer_id, "/test/never/1")

    world.run(scenario)


def test_a_closed_network_says_so(world):
    async def scenario(mesh):
        a, b = await mesh.pair()
        await mesh.close(a)
        with pytest.raises(Closed):
            await a.dial(b.addrs[0])
        with pytest.raises(Closed):
            await a.open_stream(b.peer_id, ECHO)

    world.run(scenario)


def test_stream_operations_after_close_do_not_hang(world):
    async def scenario(mesh):
        a, b = await mesh.pair()
        b.serve(ECHO, echo)
        stream = await a.open_stream(b.peer_id, ECHO)
        await stream.close()
        await stream.close()
        await stream.reset()
        with pytest.raises(StreamReset):
            await stream.receive()
        with pytest.raises((StreamReset, LocalProtocolError)):
            await stream.send(b"x")

    world.run(scenario)


def test_a_thousand_streams_at_once(world):
    async def scenario(mesh):
        a, b = await mesh.pair()
        b.serve(ECHO, echo)
        everybody, ready, done = trio.Event(), [], []

        async def one(number: int) -> None:
            stream = await a.open_stream(b.peer_id, ECHO)
            ready.append(number)
            if len(ready) == 1000:
                everybody.set()
            await everybody.wait()
            await stream.send(b"%d" % number)
            assert await stream.receive() == b"%d" % number
            await stream.close()
            done.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(1000):
                nursery.start_soon(one, number)
        assert len(done) == 1000

    world.run(scenario, limit=60.0)
