"""Dialling with several addresses, in virtual time: who is tried when, who wins, who shares."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from moshgrid.p2p.dial_order import dial_order
from moshgrid.p2p.dialling import DialFailed, Dialler
from moshgrid.p2p.errors import Closed, Unreachable
from moshgrid.p2p.identity import PeerId
from moshgrid.p2p.testing import run_virtual

PEER = PeerId("somebody")


def at(host: str, kind: str = "ip4") -> str:
    return f"/{kind}/{host}/tcp/1/p2p/{PEER}"


A, B, C, D = (at(f"203.0.113.{number}") for number in range(1, 5))


class World:
    """Addresses that answer or fail after some time; keeps what happened when."""

    def __init__(self, nursery: trio.Nursery, **fates: float | str | tuple[float, str]) -> None:
        self.fates = {globals()[name]: fate for name, fate in fates.items()}
        self.tried: list[tuple[str, float]] = []
        self.begun: list[str] = []
        self.discarded: list[str] = []
        self.cancelled: list[str] = []
        self._start = trio.current_time()
        self.dialler = Dialler(nursery, self.attempt, self.begin, self.discard, 10.0)

    def now(self) -> float:
        return round(trio.current_time() - self._start, 3)

    async def attempt(self, addr: str, peer: PeerId) -> str:
        self.tried.append((addr, self.now()))
        fate = self.fates[addr]
        try:
            if isinstance(fate, tuple):
                await trio.sleep(fate[0])
                raise DialFailed(fate[1])
            if isinstance(fate, str):
                raise DialFailed(fate)
            await trio.sleep(fate)
        except trio.Cancelled:
            self.cancelled.append(addr)
            raise
        return addr

    async def begin(self, connection: str) -> None:
        self.begun.append(connection)

    async def discard(self, connection: str) -> None:
        self.discarded.append(connection)


def scenario(test: Callable[[World], Awaitable[Any]], **fates: Any) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await test(World(nursery, **fates))
            nursery.cancel_scope.cancel()

    run_virtual(main)


def test_one_that_answers_is_all_that_is_needed_and_nothing_is_waited_for():
    async def test(world):
        assert await world.dialler.reach(PEER, [A, B]) == A
        assert world.now() == 0.02
        assert (world.tried, world.begun) == ([(A, 0.0)], [A])

    scenario(test, A=0.02, B=0.02)


def test_a_failure_makes_the_next_one_start_at_once():
    async def test(world):
        assert await world.dialler.reach(PEER, [A, B, C]) == C
        assert world.tried == [(A, 0.0), (B, 0.0), (C, 0.1)]
        assert world.now() == 0.15

    scenario(test, A="refused", B=(0.1, "refused"), C=0.05)


def test_silence_makes_the_next_one_start_after_a_quarter_of_a_second():
    async def test(world):
        assert await world.dialler.reach(PEER, [A, B, C, D]) == C
        assert world.tried == [(A, 0.0), (B, 0.25), (C, 0.5)]
        assert world.now() == 0.6
        assert sorted(world.cancelled) == [A, B]

    scenario(test, A=9.0, B=9.0, C=0.1, D=0.0)


def test_a_slow_first_may_still_win():
    async def test(world):
        assert await world.dialler.reach(PEER, [A, B]) == A
        assert (world.now(), world.begun, world.cancelled) == (0.3, [A], [B])

    scenario(test, A=0.3, B=0.2)


def test_two_that_answer_in_one_instant_are_one_connection():
    async def test(world):
        assert await world.dialler.reach(PEER, [A, B]) in (A, B)
        assert len(world.begun) == 1
        assert len(world.discarded) + len(world.cancelled) == 1

    scenario(test, A=0.35, B=0.1)


def test_every_address_is_in_the_error_with_its_reason_in_order():
    async def test(world):
        with pytest.raises(Unreachable) as caught:
            await world.dialler.reach(PEER, [A, B, C])
        assert caught.value.attempts == (
            (A, "refused"),
            (B, "no answer within 10 s (filtered?)"),
            (C, "no route"),
        )
        assert world.now() == 10.0

    scenario(test, A="refused", B=60.0, C=(1.0, "no route"))


def test_without_an_address_it_says_so_at_once():
    async def test(world):
        with pytest.raises(Unreachable, match="none is known"):
            await world.dialler.reach(PEER, [])
        assert world.now() == 0.0

    scenario(test)


def test_a_failure_is_not_held_against_the_address():
    async def test(world):
        with pytest.raises(Unreachable):
            await world.dialler.reach(PEER, [A])
        world.fates[A] = 0.01
        assert await world.dialler.reach(PEER, [A]) == A

    scenario(test, A="refused")


def test_those_who_want_the_same_peer_share_one_dial():
    async def test(world):
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(world.dialler.reach, PEER, [A])
        assert (world.tried, world.begun) == ([(A, 0.0)], [A])

    scenario(test, A=0.1)


def test_those_who_share_a_failure_do_not_try_one_after_the_other():
    failures = []

    async def test(world):
        async def one():
            with pytest.raises(Unreachable) as caught:
                await world.dialler.reach(PEER, [A])
            failures.append(caught.value.attempts)

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(one)
        assert world.now() == 10.0
        assert len(failures) == 50 and len(world.tried) == 1

    scenario(test, A=60.0)


def test_who_comes_later_brings_an_address():
    async def test(world):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.dialler.reach, PEER, [A])
            await trio.sleep(2.0)
            nursery.start_soon(world.dialler.reach, PEER, [A, B])
        assert world.tried == [(A, 0.0), (B, 2.0)]
        assert (world.now(), world.begun) == (2.1, [B])

    scenario(test, A=9.0, B=0.1)


def test_one_that_gives_up_does_not_stop_the_others_and_the_last_one_does():
    async def test(world):
        async with trio.open_nursery() as nursery:

            async def impatient():
                with trio.move_on_after(0.1):
                    await world.dialler.reach(PEER, [A])

            nursery.start_soon(impatient)
            assert await world.dialler.reach(PEER, [A]) == A
        with trio.move_on_after(0.1) as scope:
            await world.dialler.reach(PEER, [B])
        await trio.sleep(0.01)
        assert scope.cancelled_caught
        assert world.cancelled == [B]

    scenario(test, A=0.5, B=5.0)


def test_a_dial_that_began_anew_is_not_harmed_by_one_that_was_given_up():
    async def test(world):
        with trio.move_on_after(0.1):
            await world.dialler.reach(PEER, [A])
        assert await world.dialler.reach(PEER, [B]) == B
        assert await world.dialler.reach(PEER, [B]) == B

    scenario(test, A=5.0, B=0.1)


def test_the_end_of_the_network_ends_a_dial():
    async def main() -> None:
        async with trio.open_nursery() as outer:
            outcome: list[Exception] = []
            async with trio.open_nursery() as nursery:
                world = World(nursery, A=5.0)

                async def one() -> None:
                    try:
                        await world.dialler.reach(PEER, [A])
                    except (Closed, Unreachable) as error:
                        outcome.append(error)

                outer.start_soon(one)
                await trio.sleep(0.1)
                nursery.cancel_scope.cancel()
        assert [type(error) for error in outcome] == [Closed]

    run_virtual(main)


def test_near_addresses_come_first_and_the_two_families_by_turns():
    near, lan, lan6, name = (
        at("127.0.0.1"),
        at("192.168.0.2"),
        at("fd00::1", "ip6"),
        at("example.org", "dns4"),
    )
    far4, far4b, far6 = at("8.8.8.8"), at("9.9.9.9"), at("2001:4860::1", "ip6")
    assert dial_order([far4, far4b, far6, lan, lan6, near]) == [near, lan6, lan, far6, far4, far4b]
    assert dial_order([far4b, name, far4]) == [far4b, name, far4]
    assert dial_order([at("localhost", "dns4"), near, near]) == [at("localhost", "dns4"), near]
    assert dial_order([]) == []
    web, web_tls = f"/ip4/8.8.8.8/tcp/80/ws/p2p/{PEER}", f"/dns4/a.example/tcp/443/tls/ws/p2p/{PEER}"
    assert dial_order([web, web_tls, far6, far4]) == [far6, far4, web, web_tls]


def through(relay: str) -> str:
    return f"{relay.replace(PEER, 'relay')}/p2p-circuit/p2p/{PEER}"


def test_relayed_addresses_come_last_however_near_the_relay_is():
    near, far, web = (
        through(at("127.0.0.1")),
        through(at("8.8.8.8")),
        through(f"/ip4/8.8.8.8/tcp/80/ws/p2p/{PEER}"),
    )
    assert dial_order([near, web, far, at("9.9.9.9")]) == [at("9.9.9.9"), near, far, web]


@pytest.mark.parametrize(("direct", "winner"), [(0.7, "A"), (5.0, "R"), ("refused", "R")])
def test_a_relayed_address_waits_a_little_for_a_direct_one(direct, winner):
    async def main():
        async with trio.open_nursery() as nursery:
            world = World(nursery, A=direct)
            world.fates[through(B)] = 0.1
            answered = await world.dialler.reach(PEER, [through(B), A])
            assert answered == (A if winner == "A" else through(B))
            expected = {0.7: [A], 5.0: [A, through(B)], "refused": [A, through(B)]}[direct]
            assert [addr for addr, _ in world.tried] == expected
            assert world.tried[-1][1] == {0.7: 0.0, 5.0: 0.75, "refused": 0.0}[direct]
            nursery.cancel_scope.cancel()

    run_virtual(main)
