"""The seal: one decision per round on which result of every part is applied, by single-decree Paxos.

Ballot b is proposed by roster index b mod n; ballot 0 is the leader's and needs no first phase. A higher
ballot first asks a majority what it accepted (Prepare, Promise) and must propose that again. A member
votes only while it holds all the bytes a value names, fetching what it lacks from any holder by digest,
and the value is applied with the votes of more than half of the roster. (Lamport, "Paxos made simple",
§2; a value here is one digest per part.) So, without lies: no two members apply different bytes for a
part, whoever crashes, freezes or is cut off; and a connected majority always decides.
"""

from __future__ import annotations

from collections.abc import Callable

from moshgrid.averaging.effects import Commit, Emit, RoundEffect, Send
from moshgrid.averaging.exchange import Exchange
from moshgrid.averaging.fetching import Fetching
from moshgrid.averaging.messages import (
    Decided,
    Learn,
    NotHeld,
    Prepare,
    Promise,
    Propose,
    Sealed,
    TooLow,
    Vote,
)
from moshgrid.averaging.votes import Value, Votes

__all__ = ["Seal", "Sign", "Verify"]

Sign = Callable[[bytes], bytes]
Verify = Callable[[int, bytes, bytes], bool]

_STEP = 1.0
"""Seconds by which the ballots of successive members wait for each other."""
_MAX_WAIT = 8.0


class Seal:
    """One member's part in the decision: proposer, acceptor and learner."""

    def __init__(
        self,
        me: int,
        members: int,
        group_id: bytes,
        exchange: Exchange,
        sign: Sign,
        verify: Verify,
    ) -> None:
        self._me = me
        self._members = members
        self._exchange = exchange
        self._promised = 0
        self._accepted: tuple[int, Value] | None = None
        self._pending: tuple[int, Value] | None = None
        self._votes = Votes(members, group_id, sign, verify)
        self._own_ballot = 0 if me == 0 else -1
        self._promises: dict[int, Promise] = {}
        self._proposed = False
        self._attempts = 0
        self._lost: set[int] = set()
        self._fetching = Fetching(me, members, exchange)
        self._ballot_due: float | None = None
        self.committed = False
        self._given_up = False

    # What the round asks ---------------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """When to call ``deadline_passed``."""
        if self.committed or self._given_up:
            return None
        due = [at for at in (self._fetching.deadline, self._ballot_due) if at is not None]
        return min(due, default=None)

    @property
    def decided(self) -> bool:
        """True when the decision is known here, whether or not its bytes are."""
        return self._votes.decision is not None

    def give_up(self) -> None:
        """This member will not apply the decision any more; it goes on answering others."""
        self._given_up = True

    def advance(self, now: float) -> list[RoundEffect]:
        """Goes as far as what is known and held allows; to be called after anything changed."""
        effects: list[RoundEffect] = []
        if self.committed or self._given_up:
            return effects
        if self._votes.decision is not None:
            ballot, value = self._votes.decision
            if missing := self._missing(value):
                return self._fetching.want(missing, self._votes.voters(), now)
            self.committed = True
            effects += [Emit("sealed", {"ballot": ballot}), Commit(ballot, value)]
            return effects + self._tell_all(Sealed(ballot))
        if self._own_ballot == 0 and not self._proposed and self._promised == 0 and self._exchange.complete:
            effects += self._propose(self._free_choice(), now)
        elif self._own_ballot > 0 and not self._proposed and len(self._promises) * 2 > self._members:
            effects += self._propose_after_promises(now)
        effects += self._vote_if_possible(now)
        if self._votes.decision is not None:
            effects += self.advance(now)
        self._schedule_ballot(now)
        return effects

    def repeat_for(self, member: int) -> list[RoundEffect]:
        """What a member that only now joined in has missed."""
        if self.committed:
            return [Send(member, self._votes.proof())]
        if self._pending is not None and self._pending[0] == self._own_ballot and self._proposed:
            return [Send(member, Propose(*self._pending))]
        if self._own_ballot > 0 and not self._proposed:
            return [Send(member, Prepare(self._own_ballot))]
        return []

    # What happens ----------------------------------------------------------------------------------

    def result_arrived(self, now: float) -> None:
        """Results still stream in: what has not been asked for elsewhere may yet come by itself."""
        self._fetching.result_arrived(now)

    def lost(self, member: int, now: float) -> list[RoundEffect]:
        """A member is lost or suspected: its turns to propose are passed over, fetches go elsewhere."""
        self._lost.add(member)
        self._ballot_due = None
        return self._fetching.lost(member, now) + self.advance(now)

    def deadline_passed(self, now: float) -> list[RoundEffect]:
        """Tries stalled fetches elsewhere, or begins a ballot of its own."""
        effects = self._fetching.deadline_passed(now)
        if self._ballot_due is not None and now >= self._ballot_due and not self.committed:
            self._ballot_due = None
            effects += self._begin_ballot(now)
        return effects + self.advance(now)

    def prepare(self, member: int, message: Prepare) -> list[RoundEffect]:
        """Paxos phase 1b."""
        if self.committed:
            return [Send(member, self._votes.proof())]
        if message.ballot <= self._promised or message.ballot % self._members != member:
            return [Send(member, TooLow(message.ballot, self._promised))]
        self._promised = message.ballot
        self._ballot_due = None
        return [Send(member, self._promise(message.ballot))]

    def promise(self, member: int, message: Promise) -> None:
        """An answer to this member's Prepare."""
        parts = len(self._exchange_value())
        if message.ballot != self._own_ballot or len(message.held) != parts:
            return
        if message.accepted_ballot >= 0 and len(message.accepted) != parts:
            return
        self._promises[member] = message

    def propose(self, member: int, message: Propose) -> list[RoundEffect]:
        """Paxos phase 2a; the vote follows when the bytes are here."""
        if self.committed:
            return [Send(member, self._votes.proof())]
        if message.ballot % self._members != member or len(message.value) != len(self._exchange_value()):
            return []
        if message.ballot < self._promised:
            return [Send(member, TooLow(message.ballot, self._promised))]
        self._promised = message.ballot
        self._ballot_due = None
        self._take(message.ballot, message.value)
        return []

    def too_low(self, message: TooLow, now: float) -> None:
        """Somebody promised a higher ballot: this member's own waits its turn."""
        if message.ballot == self._own_ballot and not self.committed:
            self._promised = max(self._promised, message.promised)
            self._ballot_due = None
            self._schedule_ballot(now)

    def vote(self, member: int, message: Vote) -> list[RoundEffect]:
        """A member accepted a value and holds its bytes."""
        return [] if self._votes.receive(member, message) else [Send(member, Learn())]

    def learn(self, member: int) -> list[RoundEffect]:
        """Somebody asks for the decision."""
        return [Send(member, self._votes.proof())] if self.decided else []

    def decided_elsewhere(self, message: Decided) -> None:
        """A decision with its proof."""
        if not self.decided and len(message.value) == len(self._exchange_value()):
            self._votes.receive_decision(message)

    def sealed_elsewhere(self, member: int) -> list[RoundEffect]:
        """A member applied the decision: ask for it if it is not known here."""
        return [] if self.decided else [Send(member, Learn())]

    def fetched_in_vain(self, member: int, message: NotHeld, now: float) -> list[RoundEffect]:
        """A member does not hold what was asked of it."""
        return self._fetching.refused(member, message.part, message.digest, now)

    # Proposing -------------------------------------------------------------------------------------

    def _exchange_value(self) -> Value:
        return self._exchange.first_results()

    def _free_choice(self) -> Value:
        """Per part the version most members of the majority hold among those held here."""
        own = self._exchange_value()
        chosen = []
        for part, first in enumerate(own):
            held = [promise.held[part] for promise in self._promises.values()]
            known = [digest for digest in held if self._exchange.holds(part, digest)]
            chosen.append(max(sorted(set(known)), key=known.count) if known else first)
        return tuple(chosen)

    def _begin_ballot(self, now: float) -> list[RoundEffect]:
        ballot = self._promised + 1
        while ballot % self._members != self._me:
            ballot += 1
        self._own_ballot = self._promised = ballot
        self._proposed = False
        self._attempts += 1
        self._promises = {self._me: self._promise(ballot)}
        return self._tell_all(Prepare(ballot))

    def _propose_after_promises(self, now: float) -> list[RoundEffect]:
        accepted = [promise for promise in self._promises.values() if promise.accepted_ballot >= 0]
        if self._promised != self._own_ballot:
            return []
        if accepted:
            return self._propose(max(accepted, key=lambda promise: promise.accepted_ballot).accepted, now)
        return self._propose(self._free_choice(), now) if self._exchange.complete else []

    def _propose(self, value: Value, now: float) -> list[RoundEffect]:
        self._proposed = True
        self._take(self._own_ballot, value)
        return self._tell_all(Propose(self._own_ballot, value))

    def _promise(self, ballot: int) -> Promise:
        accepted_ballot, accepted = self._accepted or (-1, ())
        return Promise(ballot, accepted_ballot, accepted, self._exchange_value())

    def _schedule_ballot(self, now: float) -> None:
        """Sets when this member begins a ballot: at once if all before it in turn are lost."""
        if self.committed or self.decided or self._ballot_due is not None:
            return
        if not self._exchange.complete and self._accepted is None:
            return  # others that are complete will, and need this member only as an acceptor
        current = self._promised % self._members
        turn = 0
        for step in range(1, self._members + 1):
            candidate = (current + step) % self._members
            if candidate == self._me:
                break
            turn += candidate not in self._lost
        wait = _STEP * turn
        if self._attempts or current not in self._lost:
            # Two members that suspect each other would outbid each other for ever: each waits longer
            # after every attempt of its own, and no two wait equally long.
            backoff = min(_STEP * 2.0 ** min(self._attempts, 8), _MAX_WAIT)
            wait += backoff * (1 + self._me / self._members)
        self._ballot_due = now + wait

    # Accepting and learning ------------------------------------------------------------------------

    def _take(self, ballot: int, value: Value) -> None:
        self._pending = (ballot, value)
        self._votes.know(value)

    def _vote_if_possible(self, now: float) -> list[RoundEffect]:
        if self._pending is None or self._pending[0] != self._promised or self._accepted == self._pending:
            return []
        ballot, value = self._pending
        if missing := self._missing(value):
            return self._fetching.want(missing, [ballot % self._members], now)
        self._accepted = self._pending
        return self._tell_all(self._votes.cast(self._me, ballot, value))

    def _missing(self, value: Value) -> list[tuple[int, bytes]]:
        return [(part, digest) for part, digest in enumerate(value) if not self._exchange.holds(part, digest)]

    def _tell_all(self, message: Prepare | Propose | Vote | Sealed) -> list[RoundEffect]:
        return [Send(member, message) for member in range(self._members) if member != self._me]
