"""Votes: who accepted which value in which ballot, and whether that decides it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from blake3 import blake3

from moshgrid.averaging.messages import Decided, Vote

__all__ = ["Value", "Votes", "value_digest"]

Value = tuple[bytes, ...]
"""One result digest per part."""

_MAX_BALLOTS = 256
"""Ballots and values remembered; an honest group needs a handful."""


def value_digest(value: Sequence[bytes]) -> bytes:
    """What a vote names instead of the whole value."""
    return blake3(b"".join(value)).digest()


class Votes:
    """The learner's memory. A value is decided when more than half of the roster voted for it in a ballot."""

    def __init__(
        self,
        members: int,
        group_id: bytes,
        sign: Callable[[bytes], bytes],
        verify: Callable[[int, bytes, bytes], bool],
    ) -> None:
        self._members = members
        self._group_id = group_id
        self._sign = sign
        self._verify = verify
        self._values: dict[bytes, Value] = {}
        self._votes: dict[tuple[int, bytes], dict[int, bytes]] = {}
        self.decision: tuple[int, Value] | None = None
        """The deciding ballot and its value, once known."""

    def know(self, value: Value) -> None:
        """A value that votes may name was seen."""
        if len(self._values) < _MAX_BALLOTS:
            self._values.setdefault(value_digest(value), value)
        self._decide()

    def cast(self, me: int, ballot: int, value: Value) -> Vote:
        """This member's vote."""
        digest = value_digest(value)
        vote = Vote(ballot, digest, self._sign(self._signed_bytes(ballot, digest)))
        self._add(ballot, digest, [(me, vote.signature)])
        return vote

    def receive(self, member: int, vote: Vote) -> bool:
        """Takes another member's vote; False when it decides a value that is not known here."""
        if self._verify(member, vote.signature, self._signed_bytes(vote.ballot, vote.value_digest)):
            self._add(vote.ballot, vote.value_digest, [(member, vote.signature)])
        votes = self._votes.get((vote.ballot, vote.value_digest), {})
        return len(votes) * 2 <= self._members or vote.value_digest in self._values

    def receive_decision(self, message: Decided) -> None:
        """Takes a decision with its proof; votes whose signatures do not verify do not count."""
        digest = value_digest(message.value)
        signed = self._signed_bytes(message.ballot, digest)
        self._add(
            message.ballot,
            digest,
            [
                (voter, signature)
                for voter, signature in message.votes[: self._members]
                if 0 <= voter < self._members and self._verify(voter, signature, signed)
            ],
        )
        self.know(message.value)

    def voters(self) -> list[int]:
        """Who voted for the decision, and so holds its bytes."""
        if self.decision is None:
            return []
        ballot, value = self.decision
        return sorted(self._votes[ballot, value_digest(value)])

    def proof(self) -> Decided:
        """The decision with the votes that make it one."""
        assert self.decision is not None
        ballot, value = self.decision
        return Decided(ballot, value, tuple(self._votes[ballot, value_digest(value)].items()))

    def _add(self, ballot: int, digest: bytes, votes: Iterable[tuple[int, bytes]]) -> None:
        key = (ballot, digest)
        if key in self._votes or len(self._votes) < _MAX_BALLOTS:
            self._votes.setdefault(key, {}).update(votes)
        self._decide()

    def _decide(self) -> None:
        if self.decision is not None:
            return
        for (ballot, digest), votes in self._votes.items():
            if len(votes) * 2 > self._members and digest in self._values:
                self.decision = (ballot, self._values[digest])
                return

    def _signed_bytes(self, ballot: int, digest: bytes) -> bytes:
        return b"moshgrid-vote\x00" + self._group_id + ballot.to_bytes(8, "big") + digest
