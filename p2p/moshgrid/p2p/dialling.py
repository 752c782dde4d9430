"""Dialling: all known addresses of a peer, one after the other at short intervals, and the first that works.

After RFC 8305 ("happy eyeballs"): the next address is tried when the last one failed, or after a quarter
of a second without an outcome; what is under way goes on. Those who want the same peer at the same time
share one dial, and bring their addresses to it. Nothing is remembered of a failure. Relayed addresses wait
a little longer for the direct ones, which are better, and no longer than a user would.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import trio

from moshgrid.p2p.addresses import relay_of
from moshgrid.p2p.dial_order import dial_order
from moshgrid.p2p.errors import Closed, Unreachable
from moshgrid.p2p.identity import PeerId

__all__ = ["RELAY_STAGGER_SECONDS", "STAGGER_SECONDS", "DialFailed", "Dialler"]

Connection = TypeVar("Connection")

STAGGER_SECONDS = 0.25
RELAY_STAGGER_SECONDS = 0.75
"""From the last direct address to the first relayed one: most connections are secured within that time."""


class DialFailed(Exception):
    """One address did not lead to the peer; the text says why."""


Attempt = Callable[[str, PeerId], Awaitable[Connection]]
"""Connects to one full multiaddr. Raises DialFailed. Cancelled, it leaves nothing behind."""


class Dialler(Generic[Connection]):
    """Reaches peers. ``begin`` takes the connection that won, ``discard`` one that came too late."""

    def __init__(
        self,
        nursery: trio.Nursery,
        attempt: Attempt[Connection],
        begin: Callable[[Connection], Awaitable[None]],
        discard: Callable[[Connection], Awaitable[None]],
        seconds: float,
    ) -> None:
        self._nursery = nursery
        self._attempt = attempt
        self._begin = begin
        self._discard = discard
        self._seconds = seconds
        self._dials: dict[PeerId, _Dial[Connection]] = {}

    async def reach(self, peer: PeerId, addrs: Sequence[str]) -> str:
        """Connects to ``peer``; the address that worked. Raises Unreachable."""
        dial = self._dials.get(peer)
        if dial is None:
            dial = self._dials[peer] = _Dial(peer, self._attempt, self._discard, self._seconds)
            dial.add(addrs)
            self._nursery.start_soon(self._run, dial)
        else:
            dial.add(addrs)
        dial.waiting += 1
        try:
            await dial.done.wait()
        finally:
            dial.waiting -= 1
            if not dial.waiting:
                self._end(dial)
        if dial.answered_at is None:
            raise dial.error or Unreachable(peer, dial.failures())
        return dial.answered_at

    def _end(self, dial: _Dial[Connection]) -> None:
        dial.scope.cancel()
        if self._dials.get(dial.peer) is dial:
            del self._dials[dial.peer]

    async def _run(self, dial: _Dial[Connection]) -> None:
        try:
            with dial.scope:
                if (won := await dial.race()) is not None:
                    addr, connection = won
                    with trio.CancelScope(shield=True):
                        await self._begin(connection)
                    dial.answered_at = addr
                else:
                    dial.error = Unreachable(dial.peer, dial.failures())
        finally:
            dial.error = dial.error or Closed("the network is closed")
            if self._dials.get(dial.peer) is dial:
                del self._dials[dial.peer]
            dial.done.set()


class _Dial(Generic[Connection]):
    """One peer being dialled."""

    def __init__(
        self,
        peer: PeerId,
        attempt: Attempt[Connection],
        discard: Callable[[Connection], Awaitable[None]],
        seconds: float,
    ) -> None:
        self.peer = peer
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self.waiting = 0
        self.answered_at: str | None = None
        self.error: Exception | None = None
        self._attempt = attempt
        self._discard = discard
        self._seconds = seconds
        self._next: list[str] = []
        self._outcomes: dict[str, str | None] = {}
        """Of each address that was tried or is: why it failed, None while nothing is known."""
        self._under_way = 0
        self._changed = trio.Event()
        self._won: tuple[str, Connection] | None = None

    def add(self, addrs: Sequence[str]) -> None:
        """More addresses to try; known ones change nothing."""
        fresh = [addr for addr in addrs if addr not in self._outcomes and addr not in self._next]
        if fresh:
            self._next = dial_order([*self._next, *fresh])
            self._changed.set()

    def failures(self) -> list[tuple[str, str]]:
        """Each address and what happened, in the order of trying."""
        pairs = [(addr, why or "was still being tried") for addr, why in self._outcomes.items()]
        return pairs or [("no address", "none is known for this peer")]

    async def race(self) -> tuple[str, Connection] | None:
        """The first address that works, and its connection; None when none does."""
        async with trio.open_nursery() as nursery:
            while self._next or self._under_way:
                wait = float("inf")
                if self._next:
                    addr = self._next.pop(0)
                    self._outcomes[addr] = None
                    self._under_way += 1
                    nursery.start_soon(self._try, addr, nursery.cancel_scope)
                    if self._next:
                        to_relays = relay_of(addr) is None and relay_of(self._next[0]) is not None
                        wait = RELAY_STAGGER_SECONDS if to_relays else STAGGER_SECONDS
                self._changed = trio.Event()
                with trio.move_on_after(wait):
                    await self._changed.wait()
        return self._won

    async def _try(self, addr: str, race: trio.CancelScope) -> None:
        try:
            with trio.fail_after(self._seconds):
                connection = await self._attempt(addr, self.peer)
        except trio.TooSlowError:
            self._outcomes[addr] = f"no answer within {self._seconds:g} s (filtered?)"
        except DialFailed as error:
            self._outcomes[addr] = str(error)
        else:
            if self._won is None:
                self._won = addr, connection
                race.cancel()
            else:
                with trio.CancelScope(shield=True):
                    await self._discard(connection)
        finally:
            self._under_way -= 1
            self._changed.set()
