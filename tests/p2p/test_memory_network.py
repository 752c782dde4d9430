"""What the in-memory network can do to peers beyond the contract: delays, rates, crashes, partitions."""

from __future__ import annotations

import random

import pytest
import trio

from moshgrid.p2p.errors import Closed, ConfigurationError, StreamReset, Unreachable
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.testing import MemorySwitch, run_virtual

SINK = "/test/sink/1"
TALK = "/test/talk/1"


def make(switch, count, **kwargs):
    return [switch.network(Identity.from_seed(bytes([n + 1]) * 32), **kwargs) for n in range(count)]


async def echo(stream):
    while data := await stream.receive():
        await stream.send(data)


async def never(stream):
    await trio.sleep_forever()


def test_latency_and_rate_take_their_time():
    async def main():
        async with MemorySwitch(latency=0.05, rate=1_000_000) as switch:
            a, b = make(switch, 2)
            done = []

            async def sink(stream):
                while await stream.receive():
                    pass
                done.append(trio.current_time())

            b.serve(SINK, sink)
            await a.dial(b.addrs[0])
            stream = await a.open_stream(b.peer_id, SINK)
            start = trio.current_time()
            await stream.send(bytes(2_000_000))
            await stream.close_write()
            await trio.sleep(1)
            assert 2.0 < done[0] - start < 2.4

    run_virtual(main)


def test_a_slow_peer_is_slow_for_all_together():
    async def main():
        async with MemorySwitch(latency=0.001, rate=10_000_000) as switch:
            slow = switch.network(Identity.from_seed(bytes([9]) * 32), rate=500_000)
            senders = make(switch, 4)
            finished = []

            async def sink(stream):
                while await stream.receive():
                    pass
                finished.append(trio.current_time())

            slow.serve(SINK, sink)

            async def send(network):
                await network.dial(slow.addrs[0])
                stream = await network.open_stream(slow.peer_id, SINK)
                await stream.send(bytes(500_000))
                await stream.close_write()

            start = trio.current_time()
            async with trio.open_nursery() as nursery:
                for network in senders:
                    nursery.start_soon(send, network)
            await trio.sleep(5)
            assert 4.0 < max(finished) - start < 4.4

    run_virtual(main)


def test_equal_seeds_give_equal_runs():
    def run(seed):
        log = []

        async def main():
            async with MemorySwitch(seed=seed, latency=0.01, jitter=0.02, loss=0.05, rate=1e6) as switch:
                peers = make(switch, 5)
                for peer in peers:
                    peer.serve(TALK, echo)

                async def talk(me, other):
                    await me.dial(other.addrs[0])
                    stream = await me.open_stream(other.peer_id, TALK)
                    for size in (10, 1000, 50_000):
                        await stream.send(bytes(size))
                        got = 0
                        while got < size:
                            got += len(await stream.receive())
                            now = round(trio.current_time(), 9)
                            log.append((now, me.peer_id[-4:], other.peer_id[-4:], got))

                async with trio.open_nursery() as nursery:
                    for me in peers:
                        for other in peers:
                            if me is not other:
                                nursery.start_soon(talk, me, other)

        run_virtual(main, seed=seed)
        return log

    first = run(1)
    assert run(1) == first
    assert run(2) != first


def test_a_crash_is_seen_after_the_latency():
    async def main():
        async with MemorySwitch(latency=0.1) as switch:
            a, b = make(switch, 2)
            b.serve(TALK, never)
            lost = []
            a.on_lost(lambda peer: lost.append((peer, trio.current_time())))
            b.on_lost(lost.append)
            await a.dial(b.addrs[0])
            stream = await a.open_stream(b.peer_id, TALK)
            start = trio.current_time()
            switch.crash(b.peer_id)
            switch.crash(b.peer_id)
            with pytest.raises(StreamReset):
                await stream.receive()
            assert trio.current_time() - start == pytest.approx(0.1)
            await trio.sleep(1)
            assert lost == [(b.peer_id, pytest.approx(start + 0.1))]
            assert not a.connected()
            with pytest.raises(Closed):
                await b.dial(a.addrs[0])
            with pytest.raises(Unreachable, match="refused"):
                await a.dial(b.addrs[0])
            again = switch.network(Identity.from_seed(bytes([2]) * 32))
            assert again.addrs == b.addrs
            assert await a.dial(b.addrs[0]) == b.peer_id

    run_virtual(main)


def test_a_peer_frozen_for_long_is_given_up_and_finds_out():
    async def main():
        async with MemorySwitch() as switch:
            a, b = make(switch, 2)
            b.serve(TALK, echo)
            lost = []
            a.on_lost(lost.append)
            b.on_lost(lost.append)
            await a.dial(b.addrs[0])
            stream = await a.open_stream(b.peer_id, TALK)
            switch.freeze(b.peer_id)
            began = trio.current_time()
            with pytest.raises(StreamReset):
                await stream.receive()
            assert trio.current_time() - began < 15
            assert lost == [b.peer_id]
            switch.thaw(b.peer_id)
            assert lost == [b.peer_id, a.peer_id]
            stream = await a.open_stream(b.peer_id, TALK)
            await stream.send(b"again")
            assert await stream.receive() == b"again"

    run_virtual(main)


def test_a_frozen_peer_neither_speaks_nor_hears_until_it_thaws():
    async def main():
        async with MemorySwitch() as switch:
            a, b = make(switch, 2)
            b.serve(TALK, echo)
            lost = []
            a.on_lost(lost.append)
            await a.dial(b.addrs[0])
            stream = await a.open_stream(b.peer_id, TALK)
            switch.freeze(b.peer_id)
            await stream.send(b"hello?")
            with trio.move_on_after(2) as scope:
                await stream.receive()
            assert scope.cancelled_caught
            with pytest.raises(Unreachable, match="no answer within 10 s"):
                await a.open_stream(b.peer_id, TALK)
            assert lost == []
            switch.thaw(b.peer_id)
            assert await stream.receive() == b"hello?"

    run_virtual(main)


def test_a_partition_holds_everything_back_until_it_heals():
    async def main():
        async with MemorySwitch() as switch:
            a, b, c = make(switch, 3)
            lost = []
            for network in (a, b, c):
                network.serve(TALK, echo)
            b.on_lost(lost.append)
            await a.dial(b.addrs[0])
            stream = await a.open_stream(b.peer_id, TALK)
            switch.partition({a.peer_id}, {b.peer_id})
            await stream.send(b"late")
            with trio.move_on_after(50) as scope:
                await stream.receive()
            assert scope.cancelled_caught
            assert await a.dial(c.addrs[0]) == c.peer_id
            switch.crash(a.peer_id)
            await trio.sleep(50)
            assert lost == []  # b cannot know yet
            switch.heal()
            await trio.sleep(1)
            assert lost == [a.peer_id]

    run_virtual(main)


def test_a_disconnect_breaks_one_connection():
    async def main():
        async with MemorySwitch() as switch:
            a, b = make(switch, 2)
            b.serve(TALK, echo)
            lost = []
            a.on_lost(lost.append)
            b.on_lost(lost.append)
            await a.dial(b.addrs[0])
            stream = await a.open_stream(b.peer_id, TALK)
            switch.disconnect(a.peer_id, b.peer_id)
            with pytest.raises(StreamReset):
                await stream.receive()
            await trio.sleep(1)
            assert sorted(lost) == sorted([a.peer_id, b.peer_id])
            assert await a.dial(b.addrs[0]) == b.peer_id

    run_virtual(main)


def test_who_cannot_be_dialled_can_still_dial():
    async def main():
        async with MemorySwitch() as switch:
            a = switch.network(Identity.from_seed(bytes([1]) * 32), dialable=False)
            b = switch.network(Identity.from_seed(bytes([2]) * 32))
            a.serve(TALK, echo)
            assert a.addrs == ()
            with pytest.raises(Unreachable):
                await b.dial(f"/memory/1/p2p/{a.peer_id}")
            await a.dial(b.addrs[0])
            stream = await b.open_stream(a.peer_id, TALK)
            await stream.send(b"x")
            assert await stream.receive() == b"x"

    run_virtual(main)


def test_the_same_peer_twice_is_refused():
    async def main():
        async with MemorySwitch() as switch:
            make(switch, 1)
            with pytest.raises(ConfigurationError, match="on this switch already"):
                make(switch, 1)

    run_virtual(main)


def test_chaos_never_hangs_and_never_loses_order():
    async def main(seed):
        rng = random.Random(seed)
        async with MemorySwitch(seed=seed, latency=0.005, jitter=0.01, loss=0.02, rate=2e6) as switch:
            peers = make(switch, 6)
            for peer in peers:
                peer.serve(TALK, echo)

            async def talk(me, other):
                try:
                    await me.dial(other.addrs[0])
                    stream = await me.open_stream(other.peer_id, TALK)
                    sent = rng.randbytes(rng.randrange(1, 300_000))
                    got = bytearray()
                    async with trio.open_nursery() as nursery:

                        async def send():
                            await stream.send(sent)
                            await stream.close_write()

                        nursery.start_soon(send)
                        while data := await stream.receive(rng.randrange(1, 100_000)):
                            got += data
                            assert sent.startswith(got)
                    assert got == sent
                except* (Unreachable, Closed):
                    pass

            async with trio.open_nursery() as nursery:
                for me in peers:
                    for other in peers:
                        if me is not other:
                            nursery.start_soon(talk, me, other)
                for victim in rng.sample(peers, 2):
                    await trio.sleep(rng.uniform(0, 0.3))
                    switch.crash(victim.peer_id)

    for seed in range(10):
        run_virtual(main, seed, seed=seed)
