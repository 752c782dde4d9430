"""A relay at work, in virtual time: what it passes on, when it cuts, and what it answers to whom."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import trio

from moshgrid.p2p.clock import VirtualClock
from moshgrid.p2p.delimited import read_delimited, send_delimited
from moshgrid.p2p.errors import RemoteProtocolError, StreamReset
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.network import Network, Stream
from moshgrid.p2p.relay_asking import RelayRefused, ask_circuit, reserve
from moshgrid.p2p.relay_limits import RelayLimits
from moshgrid.p2p.relay_messages import HOP, STOP, HopMessage, HopType, RelayStatus, StopMessage, StopType
from moshgrid.p2p.relay_server import RelayServer
from moshgrid.p2p.relay_voucher import open_voucher
from moshgrid.p2p.testing import MemorySwitch, run_virtual

RELAY = Identity.from_seed(bytes([9]) * 32)
ASKER, TARGET, OTHER = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2, 3))


class World:
    """A relay and three peers; ``TARGET`` holds a reservation, and keeps the circuits it is brought."""

    def __init__(self, switch: MemorySwitch, limits: RelayLimits, serve: Callable | None) -> None:
        self.switch = switch
        self.relay, self.asker, self.target, self.other = (
            switch.network(each) for each in (RELAY, ASKER, TARGET, OTHER)
        )
        self.addresses: dict[str, str | None] = {}
        self.server = RelayServer(
            self.relay, RELAY, VirtualClock(), lambda peer: self.addresses.get(peer, "203.0.113.7"), limits
        )
        self.brought: list[Stream] = []
        self._arrived = trio.Event()
        self.target.serve(STOP, serve or self.accept)

    async def accept(self, stream: Stream) -> None:
        message = StopMessage.parse(await read_delimited(stream, 4096))
        assert message.type is StopType.CONNECT and message.peer in (ASKER.peer_id, OTHER.peer_id)
        await send_delimited(stream, StopMessage(StopType.STATUS, status=RelayStatus.OK).encode())
        self.brought.append(stream)
        self._arrived.set()
        await trio.sleep_forever()

    async def start(self) -> None:
        self.server.start()
        for peer in (self.asker, self.target, self.other):
            await peer.dial(self.relay.addrs[0])
        await reserve(self.target, RELAY.peer_id)

    async def circuit(self, asker: Network | None = None) -> tuple[Stream, Stream]:
        """Both ends of a new one."""
        self._arrived = trio.Event()
        stream = await (asker or self.asker).open_stream(RELAY.peer_id, HOP)
        await ask_circuit(stream, TARGET.peer_id)
        await self._arrived.wait()
        return stream, self.brought[-1]

    async def unused(self) -> None:
        while self.server.table.circuits:  # noqa: ASYNC110  nobody tells
            await trio.sleep(0.01)

    async def answer_to(self, data: bytes, *, end: bool = False) -> int:
        """The status that a relay gives to raw bytes."""
        stream = await self.asker.open_stream(RELAY.peer_id, HOP)
        await stream.send(data)
        if end:
            await stream.close_write()
        return HopMessage.parse(await read_delimited(stream, 4096)).status


def run(test, limits: RelayLimits | None = None, serve: Callable | None = None) -> None:
    async def main() -> None:
        with trio.fail_after(10_000):
            async with MemorySwitch() as switch:
                world = World(switch, limits or RelayLimits(), serve)
                await world.start()
                await test(world)

    run_virtual(main)


async def drain(stream: Stream) -> tuple[bytes, bool]:
    """Everything until the end, and whether that was a clean one."""
    out = bytearray()
    try:
        while data := await stream.receive():
            out += data
    except StreamReset:
        return bytes(out), False
    return bytes(out), True


def test_a_reservation_says_for_how_long_where_and_how_much_in_the_relays_own_hand():
    async def scenario(world: World) -> None:
        granted = await reserve(world.other, RELAY.peer_id)
        assert granted.limit is not None
        assert (granted.limit.seconds, granted.limit.bytes) == (600, 64 << 20)
        assert granted.expires == VirtualClock().wall_ms() // 1000 + 3600
        stream = await world.other.open_stream(RELAY.peer_id, HOP)
        await send_delimited(stream, HopMessage(HopType.RESERVE).encode())
        answer = HopMessage.parse(await read_delimited(stream, 4096))
        assert answer.reserved is not None
        voucher = open_voucher(answer.reserved.voucher)
        assert (voucher.relay, voucher.peer) == (RELAY.peer_id, OTHER.peer_id)
        assert voucher.expires == answer.reserved.expires

    run(scenario)


def test_an_end_is_passed_on_and_the_other_direction_goes_on():
    async def scenario(world: World) -> None:
        here, there = await world.circuit()
        await here.send(b"question")
        await here.close_write()
        assert await drain(there) == (b"question", True)
        await trio.sleep(100)
        await there.send(b"answer")
        await there.close_write()
        assert await drain(here) == (b"answer", True)
        await world.unused()

    run(scenario)


def test_two_circuits_to_one_peer_have_nothing_to_do_with_each_other():
    async def scenario(world: World) -> None:
        one, one_there = await world.circuit()
        two, two_there = await world.circuit(world.other)
        three, three_there = await world.circuit()
        await one.reset()
        assert await drain(one_there) == (b"", False)
        await three_there.reset()
        assert await drain(three) == (b"", False)
        for near, far in ((two, two_there), (two_there, two)):
            await near.send(b"still here")
            assert await far.receive() == b"still here"
        assert world.server.table.circuits == 1

    run(scenario)


@pytest.mark.parametrize("direction", [0, 1])
@pytest.mark.parametrize("beyond", [0, 1, 50_000])
def test_a_circuit_carries_exactly_what_it_may_in_each_direction(direction, beyond):
    async def scenario(world: World) -> None:
        ends = await world.circuit()
        source, sink = ends[direction], ends[1 - direction]
        data = bytes(100_000 + beyond)
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                try:
                    await source.send(data)
                    await source.close_write()
                except StreamReset:
                    assert beyond

            nursery.start_soon(send)
            heard, clean = await drain(sink)
        assert clean == (not beyond)
        assert world.server.table.bytes_relayed == 100_000
        assert (
            len(heard) == 100_000 if clean else len(heard) <= 100_000
        )  # a reset overtakes what is under way
        if beyond:
            assert await drain(source) == (b"", False)
            await world.unused()
        else:
            await sink.send(b"the other way has its own")
            await sink.close_write()
            assert await drain(source) == (b"the other way has its own", True)

    run(scenario, RelayLimits(circuit_bytes=100_000))


def test_a_circuit_ends_when_its_time_is_over_however_silent_or_busy_it_is():
    async def scenario(world: World) -> None:
        started = trio.current_time()
        silent, _ = await world.circuit()
        busy, busy_there = await world.circuit()

        async def chat() -> None:
            while True:
                await busy.send(b"x")
                await busy_there.receive()
                await trio.sleep(1)

        with pytest.RaisesGroup(StreamReset):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(chat)
                assert await drain(silent) == (b"", False)
        assert 600 <= trio.current_time() - started < 602
        await world.unused()

    run(scenario)


def test_what_nobody_reads_is_not_taken_from_the_sender():
    async def scenario(world: World) -> None:
        here, there = await world.circuit()
        with trio.move_on_after(300):
            await here.send(bytes(60 << 20))
            raise AssertionError("it was all taken")
        assert world.server.table.bytes_relayed < 2 << 20
        other, other_there = await world.circuit(world.other)
        await other.send(b"not held up")
        assert await other_there.receive() == b"not held up"
        assert await there.receive()

    run(scenario)


def test_hundreds_of_circuits_leave_no_trace():
    async def scenario(world: World) -> None:
        async def one(number: int) -> None:
            near, far = await world.circuit((world.asker, world.other)[number % 2])
            await near.send(b"x" * 100)
            assert await far.receive()
            if number % 3 == 0:
                await near.close()
                await far.close()
            elif number % 3 == 1:
                await near.reset()
            else:
                await far.reset()

        for number in range(300):
            await one(number)
        await world.unused()
        assert world.server.table.bytes_relayed == 30_000
        await world.target.aclose()
        await trio.sleep(30)
        assert not any(world.server.table.counts.values())
        assert not world.server._unanswered

    run(scenario)


GARBAGE = [
    (b"\x00", RelayStatus.MALFORMED_MESSAGE),
    (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", RelayStatus.MALFORMED_MESSAGE),
    (b"\x81\x20" + bytes(4097), RelayStatus.MALFORMED_MESSAGE),
    (b"\x04\x08\x01\x12", RelayStatus.MALFORMED_MESSAGE),
    (b"\x02\x08\x07", RelayStatus.MALFORMED_MESSAGE),
    (b"\x02\x08\x01", RelayStatus.MALFORMED_MESSAGE),
    (b"\x06\x08\x01\x12\x02\x0a\x00", RelayStatus.MALFORMED_MESSAGE),
    (b"\x03GET", RelayStatus.MALFORMED_MESSAGE),
    (b"\x02\x08\x02", RelayStatus.UNEXPECTED_MESSAGE),
]


@pytest.mark.parametrize(("data", "status"), GARBAGE)
def test_what_is_no_request_is_told_so(data, status):
    async def scenario(world: World) -> None:
        assert await world.answer_to(data, end=True) == status
        await world.circuit()

    run(scenario)


def test_half_a_request_has_ten_seconds_and_a_peer_only_so_many():
    async def scenario(world: World) -> None:
        started = trio.current_time()
        halves = [await world.asker.open_stream(RELAY.peer_id, HOP) for _ in range(60)]
        for half in halves:
            with contextlib.suppress(StreamReset):  # it was one too many
                await half.send(b"\x08\x08\x01")
        ended: list[float] = []

        async def watch(half: Stream) -> None:
            assert await drain(half) == (b"", False)
            ended.append(trio.current_time() - started)

        async with trio.open_nursery() as nursery:
            for half in halves:
                nursery.start_soon(watch, half)
        assert sum(when < 1 for when in ended) == 60 - RelayLimits().requests_per_peer
        assert all(when < 1 or 10 <= when < 11 for when in ended)
        await world.circuit()

    run(scenario)


def test_five_hundred_identities_of_one_address_over_real_requests():
    async def scenario(world: World) -> None:
        answers = []
        for number in range(500):
            seed = number.to_bytes(4, "big") * 8
            network = world.switch.network(Identity.from_seed(seed))
            await network.dial(world.relay.addrs[0])
            try:
                await reserve(network, RELAY.peer_id)
                answers.append(RelayStatus.OK)
            except RelayRefused as error:
                answers.append(error.status)
        assert answers.count(RelayStatus.OK) == RelayLimits().reservations_per_source - 1  # TARGET has one
        assert set(answers) == {RelayStatus.OK, RelayStatus.RESERVATION_REFUSED}

    run(scenario)


def test_who_comes_through_a_relay_gets_nothing_from_this_one():
    async def scenario(world: World) -> None:
        world.addresses[ASKER.peer_id] = None
        for ask in (reserve(world.asker, RELAY.peer_id), world.circuit()):
            with pytest.raises(RelayRefused) as caught:
                await ask
            assert caught.value.status == RelayStatus.PERMISSION_DENIED

    run(scenario)


async def refuse(stream: Stream) -> None:
    await read_delimited(stream, 4096)
    await send_delimited(
        stream, StopMessage(StopType.STATUS, status=RelayStatus.RESOURCE_LIMIT_EXCEEDED).encode()
    )


async def say_nothing(stream: Stream) -> None:
    await trio.sleep_forever()


async def babble(stream: Stream) -> None:
    await stream.send(b"\xff" * 5000)


async def go_away(stream: Stream) -> None:
    await stream.reset()


@pytest.mark.parametrize("serve", [refuse, say_nothing, babble, go_away])
def test_a_target_that_does_not_accept_is_told_and_costs_nothing(serve):
    async def scenario(world: World) -> None:
        with pytest.raises(RelayRefused) as caught:
            await world.circuit()
        assert caught.value.status == RelayStatus.CONNECTION_FAILED
        await world.unused()

    run(scenario, serve=serve)


def test_a_peer_without_a_reservation_is_not_reached_nor_one_that_left():
    async def scenario(world: World) -> None:
        stream = await world.asker.open_stream(RELAY.peer_id, HOP)
        with pytest.raises(RelayRefused, match="is not at this relay"):
            await ask_circuit(stream, OTHER.peer_id)
        await world.target.aclose()
        await trio.sleep(1)
        stream = await world.asker.open_stream(RELAY.peer_id, HOP)
        with pytest.raises(RelayRefused, match="is not at this relay"):
            await ask_circuit(stream, TARGET.peer_id)

    run(scenario)


def test_a_circuit_ends_with_either_peer():
    async def scenario(world: World) -> None:
        here, _ = await world.circuit()
        _, there = await world.circuit(world.other)
        world.switch.crash(OTHER.peer_id)
        assert await drain(there) == (b"", False)
        world.switch.crash(TARGET.peer_id)
        assert await drain(here) == (b"", False)
        await world.unused()
        assert not any(world.server.table.counts.values())

    run(scenario)


@pytest.mark.parametrize(
    "answer",
    [
        b"\x02\x08\x00",
        b"\x00",
        b"\xff\xff\x7f",
        b"\x05\x08\x02\x28\x64" + b"x",
        b"",
    ],
)
def test_a_relay_that_does_not_answer_as_one_is_told_apart(answer):
    async def scenario(world: World) -> None:
        async def false_relay(stream: Stream) -> None:
            await stream.receive()
            await stream.send(answer)

        world.other.serve(HOP, false_relay)
        await world.asker.dial(world.other.addrs[0])
        with pytest.raises(RemoteProtocolError):
            await reserve(world.asker, OTHER.peer_id)

    run(scenario)
