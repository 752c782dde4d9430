"""Standing: how each member of a round stands with this one. Pure."""

from __future__ import annotations

__all__ = ["Standing"]


class Standing:
    """Of the members, by roster index; ``me`` is this one."""

    def __init__(self, me: int, members: int) -> None:
        self._me = me
        self._members = members
        self.ready = {me}
        """Who countersigned."""
        self.gone: dict[int, str] = {}
        """Who left for good, with the reason."""
        self.suspected: dict[int, str] = {}
        """Who is not waited for, with the reason."""
        self.accused: dict[int, str] = {}
        """Of whom others say that they refused what those sent, with the reason."""
        self.sealed: set[int] = set()
        """Who applied the decision."""

    @property
    def lost(self) -> dict[int, str]:
        """Who is lost or suspected, with the reason."""
        return {**self.suspected, **self.gone}

    @property
    def others(self) -> list[int]:
        """Who takes part, but this one."""
        ready = (member for member in sorted(self.ready) if member != self._me)
        return [member for member in ready if member not in self.gone]

    @property
    def unsigned(self) -> list[int]:
        """Who has neither countersigned nor left."""
        return [m for m in range(self._members) if m not in self.ready and m not in self.gone]

    @property
    def has_majority(self) -> bool:
        """Whether more than half of the members have not left."""
        return (self._members - len(self.gone)) * 2 > self._members

    @property
    def has_quorum(self) -> bool:
        """Whether more than half of the members countersigned and have not left."""
        return len(self.ready - self.gone.keys()) * 2 > self._members

    @property
    def is_settled(self) -> bool:
        """True when nobody else needs anything more of the round."""
        return all(member == self._me or self.is_done_with(member) for member in range(self._members))

    def is_done_with(self, member: int) -> bool:
        """True when a member has applied the decision or left: it needs nothing more of the round."""
        return member in self.sealed or member in self.gone

    def accuse(self, member: int, reason: str) -> None:
        """Somebody refused what ``member`` sent."""
        if 0 <= member < self._members:
            self.accused[member] = reason
