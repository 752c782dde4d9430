"""One member's round: countersign, exchange, seal, in one machine.

The exchange says what moves, the seal what is applied; this machine feeds them, watches the members,
and ends the round: by ``Commit``, or by ``Abort`` when a majority is gone or the time is over. After a
commit it goes on answering members that are behind, until all have sealed or asked nothing for a while.
"""

from __future__ import annotations

from moshgrid.averaging.attestation import Attestation
from moshgrid.averaging.effects import (
    Abort,
    Emit,
    Finish,
    Heard,
    LinkDown,
    MemberLost,
    PartArrived,
    Received,
    Reduced,
    ResultArrived,
    ResultTaken,
    RoundEffect,
    RoundEvent,
    Send,
    SendResult,
)
from moshgrid.averaging.exchange import Exchange
from moshgrid.averaging.manifest import SignedManifest
from moshgrid.averaging.messages import (
    Alive,
    Attested,
    Decided,
    Decline,
    Fetch,
    GroupMessage,
    Learn,
    NotHeld,
    Prepare,
    Promise,
    Propose,
    Ready,
    Refusing,
    Sealed,
    TakingOver,
    TooLow,
    Vote,
)
from moshgrid.averaging.seal import Seal, Sign, Verify
from moshgrid.averaging.standing import Standing
from moshgrid.averaging.suspicion import PaceBook, Suspicion, bytes_owed, longest_wait, round_seconds
from moshgrid.p2p.machine import DeadlinePassed

__all__ = ["GroupRound"]

_ALIVE_EVERY = 0.1
_LINGER = 5.0
_START_WITHIN = 3.0
_LATE_START = 3.0  # seconds after all should have countersigned, until more than half must have
_STOOD_STILL = 5.0
"""Seconds that this process was stopped, at most, before it takes the others to have gone on."""


class GroupRound:
    """The machine of one round at one member. Call ``start`` once, then ``handle``."""

    def __init__(
        self,
        signed: SignedManifest,
        me: int,
        sign: Sign,
        verify: Verify,
        book: PaceBook,
        now: float,
    ) -> None:
        members = signed.manifest.members
        n = len(members)
        self._signed, self._me, self._n = signed, me, n
        self._exchange = Exchange(
            me,
            n,
            [part.owner for part in signed.parts],
            frozenset(i for i, member in enumerate(members) if member.weight > 0),
            frozenset(i for i, member in enumerate(members) if member.role != "client"),
        )
        self._seal = Seal(me, n, signed.group_id, self._exchange, sign, verify)
        owed = bytes_owed(signed, me)
        beyond = frozenset(i for i in range(n) if not self._exchange.may_move_data(i))
        self._suspicion = Suspicion(book, signed.peers, me, owed, now, longest_wait(signed), beyond)
        self.standing = Standing(me, n)
        self._attestation = Attestation(signed.group_id, sign, verify)
        self._made_at = now
        self._start_due: float | None = now + max(_START_WITHIN, self._suspicion.most_patient)
        self._quorum_due = self._start_due + _LATE_START
        self._end_due = self._latest = now + round_seconds(signed)
        self._alive_due = now + _ALIVE_EVERY
        self.deadline: float | None = self._end_due
        """When to hand in ``DeadlinePassed``."""
        self.over = False
        """True after Commit or Abort."""
        self.finished = False

    def _next_deadline(self) -> float | None:
        if self.over:
            return None if self.finished else self._end_due
        due = (self._end_due, self._alive_due, self._start_due, self._seal.deadline, self._suspicion.deadline)
        return min(at for at in due if at is not None)

    def start(self, signature: bytes, now: float) -> list[RoundEffect]:
        """Countersigns towards everybody. ``signature`` is this member's over the group id."""
        if self._has_stood_still(now - self._made_at):
            return self._drop_out(now - self._made_at, now)
        ready = Ready(self._signed.raw, signature)
        effects: list[RoundEffect] = [Send(member, ready) for member in range(self._n) if member != self._me]
        return self._go_on(effects + self._exchange.start(), now)

    def handle(self, event: RoundEvent, now: float) -> list[RoundEffect]:
        """Takes one event and returns what is to be done, in order."""
        if self.finished:
            return []
        late = now - (self.deadline or now)
        if self._has_stood_still(late) and not self.over:
            return self._drop_out(late, now)
        if late > 0:
            self._suspicion.stood_still(late)
        if isinstance(event, Received | ResultTaken):
            self._linger(event, now)
        effects: list[RoundEffect] = []
        match event:
            case Received(member, message):
                self._suspicion.heard(member, now)
                effects += self._receive(member, message, now)
            case Heard(member, size):
                self._suspicion.heard(member, now, size)
            case PartArrived(member, part):
                self._suspicion.heard(member, now)
                effects += self._exchange.part_arrived(member, part)
            case ResultArrived(member, part, digest):
                self._suspicion.heard(member, now)
                effects += self._result_arrived(member, part, digest)
                self._seal.result_arrived(now)
            case Reduced(part, digest, refused):
                effects += self._exchange.reduced(part, digest, refused)
                if digest:
                    self._attestation.made(part, digest)
            # Clients need not hear each other: what is decided they learn from their reducers.
            case MemberLost(member, reason, refused) if refused or self._exchange.may_move_data(member):
                effects += self._refuse(member, reason) if refused else []
                effects += self._member_gone(member, reason, now)
            case LinkDown(member, seconds):
                self._suspicion.bear_with(member, now + seconds, now)
            case DeadlinePassed():
                effects += self._deadline_passed(now)
        return self._go_on(effects, now)

    def _has_stood_still(self, seconds: float) -> bool:
        return seconds > min(_STOOD_STILL, self._suspicion.most_patient)

    def _drop_out(self, seconds: float, now: float) -> list[RoundEffect]:
        return self._go_on(self._abort(f"this peer stood still for {seconds:.1f} s", now), now)

    # Events ----------------------------------------------------------------------------------------

    def _receive(self, member: int, message: GroupMessage, now: float) -> list[RoundEffect]:
        seal = self._seal
        match message:
            case Ready():
                if member in self.standing.ready:
                    return []
                self.standing.ready.add(member)
                return self._exchange.ready(member) + seal.repeat_for(member)
            case Decline(reason):
                return self._member_gone(member, f"declined: {reason[:100]}", now)
            case Refusing(accused, reason):
                said = f"{reason[:100]}, says {self._signed.peers[member]}"
                self.standing.accuse(accused, said)
            case TakingOver(parts, _):
                return self._exchange.taking_over(member, parts)
            case Attested():
                fault = self._attestation.fault(member, message)
                if fault is None:
                    return []
                return self._refuse(member, fault) + self._member_gone(member, fault, now)
            case Prepare():
                return seal.prepare(member, message)
            case Promise():
                seal.promise(member, message)
            case TooLow():
                seal.too_low(message, now)
            case Propose():
                return seal.propose(member, message)
            case Vote():
                return seal.vote(member, message)
            case Fetch(part, digest):
                held = self._exchange.gives(member, part, digest)
                return [SendResult(member, part, digest) if held else Send(member, NotHeld(part, digest))]
            case NotHeld():
                return seal.fetched_in_vain(member, message, now)
            case Learn():
                return seal.learn(member)
            case Decided():
                seal.decided_elsewhere(message)
            case Sealed():
                self.standing.sealed.add(member)
                return seal.sealed_elsewhere(member)
        return []

    def _result_arrived(self, member: int, part: int, digest: bytes) -> list[RoundEffect]:
        if not self._exchange.wants_another(part, digest):
            return []
        self._attestation.got(member, part, digest)
        return self._exchange.result_arrived(member, part, digest)

    def _refuse(self, member: int, reason: str) -> list[RoundEffect]:
        """What a member sent is not used; the others are told why it is missing."""
        if member in self.standing.gone or member == self._me:
            return []
        told = [Send(other, Refusing(member, reason)) for other in self.standing.others if other != member]
        return [Emit("refused", {"sender": self._signed.peers[member], "reason": reason}), *told]

    def _member_gone(self, member: int, reason: str, now: float) -> list[RoundEffect]:
        if member in self.standing.gone or member == self._me:
            return []
        self.standing.gone[member] = reason
        self._suspicion.gone(member, now)
        return self._lose(member, reason, now)

    def _suspect(self, member: int, reason: str, now: float) -> list[RoundEffect]:
        self.standing.suspected[member] = reason
        return self._lose(member, reason, now)

    def _lose(self, member: int, reason: str, now: float) -> list[RoundEffect]:
        self._suspicion.forget(member, now)
        told: list[RoundEffect] = [Emit("peer_lost", {"lost": self._signed.peers[member], "reason": reason})]
        effects = [] if self.over or member in self.standing.sealed else told
        return effects + self._exchange.lost(member) + self._seal.lost(member, now)

    def _deadline_passed(self, now: float) -> list[RoundEffect]:
        if self.over:
            return []
        effects: list[RoundEffect] = []
        if self._start_due is not None and now >= self._start_due:
            late = self.standing.unsigned
            self._start_due = self._suspicion.borne_until(late, now)
            for member in late if self._start_due is None else ():
                effects += self._suspect(member, "did not countersign in time", now)
        for member, reason in self._suspicion.suspects(now):
            effects += self._suspect(member, reason, now)
        if now >= self._alive_due:
            self._alive_due = now + _ALIVE_EVERY
            effects += [Send(member, Alive()) for member in self.standing.others]
        if self._seal.deadline is not None and now >= self._seal.deadline:
            effects += self._seal.deadline_passed(now)
        return effects

    # Going on and ending ---------------------------------------------------------------------------

    def _go_on(self, effects: list[RoundEffect], now: float) -> list[RoundEffect]:
        """What follows from any change: attest, advance the seal, end the round."""
        effects += self._seal.advance(now) if not self.over else []
        effects += self._attest()
        if not self.over:
            self._suspicion.waiting(self._exchange.waits_for_values, self._exchange.waits_for_results, now)
            if self._seal.committed:
                self._end(now)
            elif not self.standing.has_majority:
                effects += self._abort(f"{len(self.standing.gone)} of {self._n} members are gone", now)
            elif not (self._exchange.has_reducer or self._exchange.complete or self._seal.decided):
                effects += self._abort("no member that could average is left", now)
            elif now >= self._quorum_due and not self.standing.has_quorum:
                effects += self._abort("half of the group or more did not countersign", now)
            elif self._suspicion.is_alone(now):
                effects += self._abort("more than half of the group can no longer be heard", now)
            elif now >= self._end_due:
                effects += self._abort("no decision within the round's time", now)
        if self.over and not self.finished and (now >= self._end_due or self.standing.is_settled):
            self.finished = True
            effects.append(Finish())
        self.deadline = self._next_deadline()
        return effects

    def _abort(self, reason: str, now: float) -> list[RoundEffect]:
        self._end(now)
        self._seal.give_up()
        return [Abort(reason), *(Send(member, Decline(reason)) for member in self.standing.others)]

    def _end(self, now: float) -> None:
        self.over = True
        self._end_due = now + _LINGER
        self._suspicion.close(now)

    def _linger(self, event: Received | ResultTaken, now: float) -> None:
        """A member on a slow link gets there after the others: whoever holds what it lacks stays for it."""
        is_news = isinstance(event, ResultTaken) or not isinstance(event.message, Alive)
        if self.over and is_news and not self.standing.is_done_with(event.member):
            self._end_due = max(self._end_due, min(now + _LINGER, self._latest))

    def _attest(self) -> list[RoundEffect]:
        attested = self._attestation.due(flush=self._exchange.complete)
        return [Send(member, signed) for signed in attested for member in self.standing.others]
