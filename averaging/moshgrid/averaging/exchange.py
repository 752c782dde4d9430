"""The butterfly exchange: who sends which part to whom, when a part is averaged, who takes over.

Each part has an owner that averages it. An owner reduces a part as soon as every live sender has
delivered it, and sends the same encoded bytes to everybody. A sender that is lost counts for the parts
it delivered and no others; the parts of an owner that is lost go to the next live member in roster
order, to whom the senders send them again. Two versions of a part may come to exist that way; the
seal decides between them. ``lost`` here includes members that are merely suspected: that costs
traffic, never correctness.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moshgrid.averaging.effects import Emit, Reduce, RoundEffect, Send, SendPart, SendResult
from moshgrid.averaging.messages import TakingOver

__all__ = ["MAX_VERSIONS", "Exchange"]

MAX_VERSIONS = 8
"""Results kept per part; honest members make at most one per takeover."""


class Exchange:
    """One member's view of the exchange. Methods return what is to be done."""

    def __init__(
        self, me: int, members: int, owners: Sequence[int], senders: frozenset[int], reducers: frozenset[int]
    ) -> None:
        self._me = me
        self._members = members
        self._owners = tuple(owners)
        self._senders = senders
        self._reducers = reducers
        self._ready = {me}
        self._lost: set[int] = set()
        self._delivered: list[set[int]] = [set() for _ in owners]
        self._reducing: set[int] = set()
        self._made: dict[int, bytes] = {}
        self._held: list[list[bytes]] = [[] for _ in owners]
        self._inputs_sent: set[tuple[int, int]] = set()
        self._results_sent: set[tuple[int, int, bytes]] = set()
        self._started = False
        if me in senders:
            for delivered in self._delivered:
                delivered.add(me)
        self._owner_now: list[int] = []
        self._values_owed: dict[int, int] = {}
        self._results_owed: dict[int, int] = {}
        self._recount()

    # What the seal and the round ask ---------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """True when a result of every part is held."""
        return all(self._held)

    def first_results(self) -> tuple[bytes, ...]:
        """Per part the digest of the first result that came; empty where none has."""
        return tuple(held[0] if held else b"" for held in self._held)

    def gives(self, member: int, part: int, digest: bytes) -> bool:
        """True when that very result is kept, and ``member`` may have it from here."""
        return 0 <= part < len(self._held) and self.holds(part, digest) and self.may_move_data(member)

    @property
    def has_reducer(self) -> bool:
        """False when nobody is left that could average a part."""
        return bool(self._reducers - self._lost)

    def may_move_data(self, member: int) -> bool:
        """Whether values and results go between ``member`` and this one; between two clients, none do."""
        return self._me in self._reducers or member in self._reducers

    def holds(self, part: int, digest: bytes) -> bool:
        """True when that very result is kept."""
        return digest in self._held[part]

    def is_coming(self, part: int) -> bool:
        """True when the part's result should still come by itself: none has, and its owner is there."""
        return not self._held[part] and self._owners[part] not in self._lost

    def wants_another(self, part: int, digest: bytes) -> bool:
        """False when a result would be one version too many."""
        return digest in self._held[part] or len(self._held[part]) < MAX_VERSIONS

    @property
    def waits_for_values(self) -> frozenset[int]:
        """Who has to send values before this member can average all that it owns."""
        return frozenset(member for member, parts in self._values_owed.items() if parts)

    @property
    def waits_for_results(self) -> frozenset[int]:
        """Who has to send results before this member has one of every part."""
        return frozenset(member for member, parts in self._results_owed.items() if parts)

    def owner_of(self, part: int) -> int:
        """The first member not lost, from the part's owner on in roster order, that can reduce."""
        return self._owner_now[part]

    def _find_owner(self, part: int) -> int:
        order = [(self._owners[part] + step) % self._members for step in range(self._members)]
        alive = (member for member in order if member in self._reducers and member not in self._lost)
        return next(alive, self._owners[part])

    # What happens ----------------------------------------------------------------------------------

    def ready(self, member: int) -> list[RoundEffect]:
        """``member`` countersigned the manifest: it may be sent what it should have."""
        if member in self._ready or member in self._lost:
            return []
        self._ready.add(member)
        effects: list[RoundEffect] = []
        if not self._started:
            self._started = True
            effects.append(Emit("exchange_started"))
        effects += self._send_inputs(member)
        for part, digest in self._made.items():
            effects += self._send_result(member, part, digest)
        return effects

    def start(self) -> list[RoundEffect]:
        """Reduces what needs nobody else (a part whose only sender is this member)."""
        return self._reduce_what_is_whole()

    def part_arrived(self, member: int, part: int) -> list[RoundEffect]:
        """A member's values of a part are here."""
        if member not in self._senders or member in self._delivered[part]:
            return []
        self._delivered[part].add(member)
        if self.owner_of(part) == self._me and not self._held[part]:
            self._values_owed[member] -= 1
        return self._reduce_if_whole(part)

    def reduced(self, part: int, digest: bytes, refused: Sequence[int]) -> list[RoundEffect]:
        """The average of a part was made here; an empty digest says that nobody's values could be used."""
        if refused:
            self._delivered[part].difference_update(refused)
            self._recount()
        if not digest:
            self._reducing.discard(part)
            return self._reduce_if_whole(part)
        self._made[part] = digest
        self._keep(part, digest)
        effects: list[RoundEffect] = [Emit("result_sent", {"part": part})]
        for member in self._others():
            effects += self._send_result(member, part, digest)
        return effects

    def result_arrived(self, member: int, part: int, digest: bytes) -> list[RoundEffect]:
        """A result is here. What a lost owner left behind is passed on by who takes over."""
        self._keep(part, digest)
        self._results_sent.add((member, part, digest))
        owner = self._owners[part]
        if owner in self._lost and self.owner_of(part) == self._me and part not in self._reducing:
            return self._pass_on(part)
        return []

    def lost(self, member: int) -> list[RoundEffect]:
        """A member is lost or suspected; its parts and what waited for it move on."""
        if member in self._lost or member == self._me:
            return []
        before = self._owner_now
        self._lost.add(member)
        self._recount()
        moved = [part for part, owner in enumerate(before) if owner == member]
        mine = [part for part in moved if self.owner_of(part) == self._me]
        effects: list[RoundEffect] = []
        if mine:
            effects.append(Emit("takeover", {"parts": mine, "instead_of": member}))
            effects += [Send(other, TakingOver(tuple(mine), member)) for other in self._others()]
            for part in mine:
                effects += self._pass_on(part)
        for owner in sorted({self.owner_of(part) for part in moved} - {self._me}):
            effects += self._send_inputs(owner)
        return effects + self._reduce_what_is_whole()

    def taking_over(self, member: int, parts: Sequence[int]) -> list[RoundEffect]:
        """``member`` asks for these parts; it gets the result if there is one, else the values.

        This member need not share the suspicion: a version too many is for the seal to settle.
        """
        effects: list[RoundEffect] = []
        for part in parts:
            if 0 <= part < len(self._owners):
                effects += self._supply(member, part)
        return effects

    # Steps -----------------------------------------------------------------------------------------

    def _others(self) -> Iterator[int]:
        return (member for member in range(self._members) if member != self._me and member in self._ready)

    def _send_inputs(self, member: int) -> list[RoundEffect]:
        effects: list[RoundEffect] = []
        for part in range(len(self._owners)):
            if self.owner_of(part) == member:
                effects += self._supply(member, part)
        return effects

    def _supply(self, member: int, part: int) -> list[RoundEffect]:
        if member not in self._ready:
            return []
        if self._held[part]:
            return self._send_result(member, part, self._held[part][0])
        if self._me not in self._senders or (member, part) in self._inputs_sent:
            return []
        self._inputs_sent.add((member, part))
        return [SendPart(member, part)]

    def _send_result(self, member: int, part: int, digest: bytes) -> list[RoundEffect]:
        if (member, part, digest) in self._results_sent:
            return []
        self._results_sent.add((member, part, digest))
        return [SendResult(member, part, digest)]

    def _pass_on(self, part: int) -> list[RoundEffect]:
        effects: list[RoundEffect] = []
        if self._held[part]:
            for member in self._others():
                effects += self._send_result(member, part, self._held[part][0])
        return effects

    def _reduce_what_is_whole(self) -> list[RoundEffect]:
        effects: list[RoundEffect] = []
        for part in range(len(self._owners)):
            effects += self._reduce_if_whole(part)
        return effects

    def _reduce_if_whole(self, part: int) -> list[RoundEffect]:
        if part in self._reducing or self._held[part] or self.owner_of(part) != self._me:
            return []
        delivered = self._delivered[part]
        if not delivered or (self._senders - self._lost) - delivered:
            return []
        self._reducing.add(part)
        return [Reduce(part, tuple(sorted(delivered)))]

    def _keep(self, part: int, digest: bytes) -> None:
        if digest in self._held[part]:
            return
        if not self._held[part]:
            self._count(part, -1)
        self._held[part].append(digest)

    def _count(self, part: int, change: int) -> None:
        """Counts, or no longer counts, who has to send something so that this part gets a result here."""
        owner = self._owner_now[part]
        if owner != self._me:
            self._results_owed[owner] += change
            return
        for member in self._senders - self._delivered[part]:
            self._values_owed[member] += change

    def _recount(self) -> None:
        self._owner_now = [self._find_owner(part) for part in range(len(self._owners))]
        self._values_owed = dict.fromkeys(range(self._members), 0)
        self._results_owed = dict.fromkeys(range(self._members), 0)
        for part, held in enumerate(self._held):
            if not held:
                self._count(part, 1)
