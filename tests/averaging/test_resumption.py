"""Links over relays: what a circuit that breaks had not delivered comes over the next, once and in order."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager

import pytest
import trio
from victim import until

from moshgrid.averaging.links import Links
from moshgrid.averaging.messages import Leave
from moshgrid.averaging.outgoing_link import PROTOCOL
from moshgrid.averaging.resumption import GRACE_SECONDS, Unacknowledged, may_be_reached_again
from moshgrid.averaging.wire import Greeting, decode_greeting, encode_frame, encode_greeting
from moshgrid.p2p.clock import VirtualClock
from moshgrid.p2p.errors import RemoteProtocolError
from moshgrid.p2p.framing import FrameReader, send_frame
from moshgrid.p2p.host import open_host
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.testing import MemorySwitch, Reachability, run_virtual

RUN = bytes(16)
SEEDS = 20


def test_what_is_not_acknowledged_is_sent_again():
    kept = Unacknowledged()
    frames = [(bytes([number]), b"x" * number) for number in range(5)]
    for frame in frames:
        kept.add(*frame)
    kept.acknowledge(2)
    assert kept.missing_after(2) == frames[2:]
    assert kept.missing_after(4) == frames[4:]
    assert kept.missing_after(5) == []


@pytest.mark.parametrize("count", [1, 6])
def test_who_says_to_have_less_than_before_or_more_than_was_sent_is_wrong(count):
    kept = Unacknowledged()
    for number in range(5):
        kept.add(bytes([number]), b"")
    kept.acknowledge(2)
    with pytest.raises(ValueError, match="are said to have come"):
        kept.missing_after(count)
    with pytest.raises(ValueError, match="are said to have come"):
        kept.acknowledge(6)


def test_only_so_much_is_on_its_way():
    kept = Unacknowledged()
    while not kept.is_full:
        kept.add(b"", bytes(512 * 1024))
    assert 4 << 20 < sum(len(payload) for _, payload in kept.missing_after(0)) <= (4 << 20) + 512 * 1024
    kept.acknowledge(1)
    assert not kept.is_full


def test_a_link_whose_streams_all_break_before_anything_came_is_given_up():
    kept = Unacknowledged()
    kept.add(b"", b"")
    assert [kept.breaks_in_vain() for _ in range(6)] == [False] * 5 + [True]
    kept.add(b"", b"")
    kept.acknowledge(1)
    assert not kept.breaks_in_vain()


def test_a_peer_is_sought_where_the_relay_is_gone_and_not_where_the_peer_is():
    assert may_be_reached_again(was_relayed=True, relay_connected=False)
    assert not may_be_reached_again(was_relayed=True, relay_connected=True)
    assert not may_be_reached_again(was_relayed=False, relay_connected=False)


@pytest.mark.parametrize("data", [b"", b"\xc0", encode_greeting(Greeting(b"short", True)), b"\x92\xc4\x01"])
def test_greetings_that_are_not_well_formed_are_refused(data):
    with pytest.raises(RemoteProtocolError, match="sent a"):
        decode_greeting(data, "them")


# Over a network ------------------------------------------------------------------------------------


class User:
    """A run that takes down what the links say."""

    def __init__(self):
        self.frames, self.down, self.lost = [], [], []

    def frame_arrived(self, peer, frame):
        self.frames.append(frame.message.round)

    def bytes_arrived(self, peer, count):
        pass

    def link_down(self, peer, seconds):
        self.down.append((peer, trio.current_time()))

    def link_lost(self, peer, reason):
        self.lost.append((peer, reason, trio.current_time()))


class End:
    def __init__(self, host):
        self.host, self.id, self.links, self.user = host, host.peer_id, Links.of(host), User()
        self.links.attach(RUN, self.user)

    def send(self, to, number):
        self.links.send(to.id, encode_frame(RUN, b"", Leave("key", number)))


@asynccontextmanager
async def two_ends(seed, home=True):
    """Two that reach each other through relays only where they are at home."""
    reachability = Reachability(relay_bytes=1 << 30)
    async with MemorySwitch(seed=seed, jitter=0.02, reachability=reachability) as switch:
        identities = [Identity.from_seed(bytes([number, seed % 256]) * 16) for number in (1, 2)]
        networks = [switch.network(identity) for identity in identities]
        if home:
            reachability.nat = {identity.peer_id: "symmetric" for identity in identities}
        for one, other in (networks, networks[::-1]):
            one.learn_addrs(other.peer_id, other.addrs)
        async with (
            open_host(networks[0], identities[0], clock=VirtualClock()) as first,
            open_host(networks[1], identities[1], clock=VirtualClock()) as second,
        ):
            yield switch, End(first), End(second)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_frame_comes_once_and_in_order_however_often_the_circuit_breaks(seed):
    count = 200

    async def main():
        rng = random.Random(seed)
        async with two_ends(seed) as (switch, one, other):
            for number in range(count):
                one.send(other, number)
                other.send(one, number)
                if not number:  # a connection that never came about is nobody's broken link
                    await until(lambda: one.user.frames and other.user.frames, 30.0)
                if rng.random() < 0.05:
                    switch.disconnect(one.id, other.id)
                await trio.sleep(rng.choice((0.0, 0.001, 0.03)))
            await until(lambda: len(one.user.frames) == len(other.user.frames) == count, 30.0)
            await trio.sleep(2 * GRACE_SECONDS)
            assert one.user.frames == other.user.frames == list(range(count))
            assert one.user.down, "no circuit broke"
            assert not one.user.lost and not other.user.lost

    run_virtual(main, seed=seed)


def test_a_circuit_that_breaks_while_there_is_nothing_to_send_is_taken_up_again():
    async def main():
        async with two_ends(0) as (switch, one, other):
            one.send(other, 1)
            await until(lambda: other.user.frames == [1], 30.0)
            switch.disconnect(one.id, other.id)
            await trio.sleep(2 * GRACE_SECONDS)
            one.send(other, 2)
            await until(lambda: other.user.frames == [1, 2], 30.0)
            assert other.user.down and not (one.user.lost or other.user.lost)

    run_virtual(main)


def test_a_peer_that_is_not_found_again_in_time_is_lost():
    async def main():
        async with two_ends(0) as (switch, one, other):
            one.send(other, 1)
            await until(lambda: other.user.frames == [1], 30.0)
            broken = trio.current_time()
            switch.reachability.relays = False
            switch.disconnect(one.id, other.id)
            await until(lambda: one.user.lost and other.user.lost, 30.0)
            (_, reason, at) = one.user.lost[0]
            assert "no other way was found" in reason
            assert one.user.down[0][1] < broken + 1
            assert GRACE_SECONDS <= at - broken < GRACE_SECONDS + 1
            assert GRACE_SECONDS <= other.user.lost[0][2] - broken < GRACE_SECONDS + 1
            one.send(other, 2)  # a link of its own, which does not go on with the lost one
            switch.reachability.relays = True
            one.send(other, 3)
            await until(lambda: other.user.frames[-1:] == [3], 30.0)

    run_virtual(main)


def test_a_link_over_a_direct_connection_is_lost_with_it_at_once():
    async def main():
        async with two_ends(0, home=False) as (switch, one, other):
            one.send(other, 1)
            await until(lambda: other.user.frames == [1], 30.0)
            broken = trio.current_time()
            switch.disconnect(one.id, other.id)
            await until(lambda: one.user.lost and other.user.lost, 30.0)
            assert trio.current_time() < broken + 1
            assert not one.user.down and not other.user.down

    run_virtual(main)


def test_who_begins_another_link_after_a_broken_one_is_lost_first():
    """What the broken one did not deliver will not come any more."""

    async def main():
        async with two_ends(0) as (_, one, other):
            streams = []
            for link in (b"1" * 16, b"2" * 16):
                stream = await one.host.network.open_stream(other.id, PROTOCOL)
                await send_frame(stream, encode_greeting(Greeting(link, True)))
                await send_frame(stream, encode_frame(RUN, b"", Leave("key", len(streams))))
                streams.append(stream)
                await until(lambda: len(other.user.frames) == len(streams), 30.0)
                if len(streams) == 1:
                    assert not other.user.lost
                    await stream.reset()
                    await until(lambda: other.user.down, 30.0)
            assert [reason for _, reason, _ in other.user.lost] == ["its link broke, and it began another"]
            await trio.sleep(2 * GRACE_SECONDS)
            assert len(other.user.lost) == 1

    run_virtual(main)


def test_a_frame_that_the_other_end_refuses_is_not_sent_for_ever():
    async def main():
        async with two_ends(0) as (_, one, other):
            one.links.send(other.id, b"\xff\xff nothing that anybody could read")
            await until(lambda: one.user.lost, 60.0)
            assert "ended every stream" in one.user.lost[0][1]
            one.send(other, 1)
            await until(lambda: other.user.frames == [1], 30.0)

    run_virtual(main)


def test_a_stream_without_a_greeting_is_ended_and_harms_nobody():
    async def main():
        async with two_ends(0) as (_, one, other):
            stream = await one.host.network.open_stream(other.id, PROTOCOL)
            await send_frame(stream, b"\xc0" * 40)
            with pytest.raises(Exception, match="reset"):
                await FrameReader(stream, 100).read()
            silent = await one.host.network.open_stream(other.id, PROTOCOL)
            with trio.fail_after(60), pytest.raises(Exception, match="reset"):
                await FrameReader(silent, 100).read()
            one.send(other, 1)
            await until(lambda: other.user.frames == [1], 30.0)
            assert not other.user.lost

    run_virtual(main)


def test_frames_that_nobody_wants_any_more_are_left_out():
    async def main():
        async with two_ends(0) as (_, one, other):
            for number in range(4):
                frame = encode_frame(RUN, b"", Leave("key", number))
                one.links.send(other.id, frame, wanted=lambda number=number: number % 2 == 1)
            await until(lambda: other.user.frames == [1, 3], 30.0)

    run_virtual(main)
