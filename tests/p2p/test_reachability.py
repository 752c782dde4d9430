"""Peers behind routers on the in-memory network: who is dialled, who is punched, what a relay carries."""

from __future__ import annotations

import msgspec
import pytest
import trio
import trio.testing
from echoing import ECHO, echo

from moshgrid.p2p.errors import StreamReset, Unreachable
from moshgrid.p2p.identity import Identity
from moshgrid.p2p.requests import Requests, Service
from moshgrid.p2p.testing import MemorySwitch, Reachability, run_virtual

IDS = [Identity.from_seed(bytes([n + 1]) * 32) for n in range(2)]


def with_pair(scenario, first="open", second="open", **kwargs):
    """Runs ``scenario(switch, a, b)`` with two peers of these types."""

    async def main():
        nat = {IDS[0].peer_id: first, IDS[1].peer_id: second}
        async with MemorySwitch(latency=0.01, reachability=Reachability(nat, **kwargs)) as switch:
            a, b = (switch.network(identity) for identity in IDS)
            a.serve(ECHO, echo)
            b.serve(ECHO, echo)
            assert all(("/p2p-circuit/" in addr) == (first != "open") for addr in a.addrs)
            a.learn_addrs(b.peer_id, b.addrs)
            b.learn_addrs(a.peer_id, a.addrs)
            await scenario(switch, a, b)

    run_virtual(main)


@pytest.mark.parametrize(
    "first, second, direct",
    [
        ("open", "open", True),
        ("symmetric", "open", True),
        ("open", "symmetric", True),
        ("port-restricted", "port-restricted", True),
        ("cone", "symmetric", True),
        ("symmetric", "port-restricted", False),
        ("symmetric", "symmetric", False),
    ],
)
def test_pairs_become_direct_where_their_routers_let_them(first, second, direct):
    async def scenario(switch, a, b):
        assert not a.is_direct(b.peer_id)
        assert await a.reach_directly(b.peer_id, 3.0) == direct
        assert a.is_direct(b.peer_id) == b.is_direct(a.peer_id) == direct
        assert a.connected() == {b.peer_id}
        stream = await b.open_stream(a.peer_id, ECHO)
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"
        assert (switch.relayed_bytes == 0) == direct

    with_pair(scenario, first, second)


def test_a_relayed_connection_breaks_when_it_carried_too_much():
    async def scenario(switch, a, b):
        stream = await a.open_stream(b.peer_id, ECHO)
        assert not a.is_direct(b.peer_id)
        with pytest.raises(StreamReset):
            for _ in range(3):
                await stream.send(bytes(1000))
                await trio.sleep(1)
        assert a.connected() == frozenset()

    with_pair(scenario, "symmetric", "symmetric", relay_bytes=1500)


def test_without_relays_a_peer_at_home_cannot_be_dialled():
    async def scenario(switch, a, b):
        with pytest.raises(Unreachable, match="none is known"):
            await a.open_stream(b.peer_id, ECHO)
        assert not await a.reach_directly(b.peer_id, 3.0)
        assert await b.reach_directly(a.peer_id, 3.0)
        assert a.is_direct(b.peer_id)

    with_pair(scenario, "open", "symmetric", relays=False)


def test_a_punch_that_never_ends_is_given_up_in_time():
    async def scenario(switch, a, b):
        start = trio.current_time()
        assert not await a.reach_directly(b.peer_id, 3.0)
        assert trio.current_time() - start == pytest.approx(3.0)
        assert a.connected() == {b.peer_id}

    pair = frozenset(identity.peer_id for identity in IDS)
    with_pair(scenario, "cone", "cone", endless={pair})


class Size(msgspec.Struct, frozen=True):
    bytes: int


class Data(msgspec.Struct, frozen=True):
    data: bytes


FETCH: Service[Size, Data] = Service("/test/fetch/1", Size, Data)


def test_requests_leave_the_relay_as_soon_as_there_is_a_direct_connection():
    async def scenario(switch, a, b):
        async with trio.open_nursery() as nursery:
            asking, answering = Requests(a, nursery), Requests(b, nursery)

            async def answer(peer, query):
                return Data(bytes(query.bytes))

            answering.serve(FETCH, answer)
            await asking.ask(b.peer_id, FETCH, Size(1000))
            assert not a.is_direct(b.peer_id)
            assert await a.reach_directly(b.peer_id, 5.0)
            for _ in range(5):  # together more than the relay carries
                assert len((await asking.ask(b.peer_id, FETCH, Size(60_000))).data) == 60_000
            nursery.cancel_scope.cancel()

    with_pair(scenario, "port-restricted", "port-restricted", relay_bytes=64 * 1024)


def test_a_channel_that_is_replaced_still_answers_what_it_was_asked():
    async def scenario(switch, a, b):
        async with trio.open_nursery() as nursery:
            asking, answering = Requests(a, nursery), Requests(b, nursery)
            go_on, done, answers = trio.Event(), trio.Event(), []

            async def answer(peer, query):
                if query.bytes == 1:
                    await go_on.wait()
                return Data(bytes(query.bytes))

            async def ask_slowly():
                answers.append((await asking.ask(b.peer_id, FETCH, Size(1))).data)
                done.set()

            answering.serve(FETCH, answer)
            nursery.start_soon(ask_slowly)
            await trio.testing.wait_all_tasks_blocked()
            await asking.ask(b.peer_id, FETCH, Size(2))
            assert await a.reach_directly(b.peer_id, 5.0)
            await asking.ask(b.peer_id, FETCH, Size(3))
            go_on.set()
            with trio.fail_after(5):
                await done.wait()
            assert answers == [bytes(1)]
            nursery.cancel_scope.cancel()

    with_pair(scenario, "port-restricted", "port-restricted")
