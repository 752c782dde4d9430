"""Matchmaking: peers that declared themselves under one group key and round agree on who leads whom.

Rank = H(group key ‖ round ‖ peer id), lower leads. A member asks the three lowest ranks below its own
in parallel and follows the lowest that accepts; whoever follows sends its own followers on, so mutual
requests cannot deadlock. A leader closes its group when it is full, when every declared peer has come
(or is known to be elsewhere) and a short silence has passed, or when its patience is over.
"""

from __future__ import annotations

from collections.abc import Sequence

from moshgrid.averaging.closing_times import ClosingTimes
from moshgrid.averaging.match_events import (
    Formed,
    MatchEffect,
    MatchEvent,
    NoGroup,
    OthersAwaited,
    Overtaken,
    PeerLost,
    SeekerGone,
    SeekerSeen,
    Tell,
    Told,
)
from moshgrid.averaging.messages import (
    Accepted,
    Disbanded,
    Draft,
    Excluded,
    Handover,
    Join,
    Leave,
    MatchMessage,
    Offer,
    Refused,
)
from moshgrid.averaging.offers import misfit
from moshgrid.averaging.seats import NO_SEAT, Applicant, Seats
from moshgrid.averaging.seekers import Seekers
from moshgrid.p2p.identity import PeerId

__all__ = ["Matchmaking"]

_MAX_REASON = 200


class Matchmaking:
    """One peer's search for a group. Ends with ``Formed``, ``NoGroup``, or a Begin from ``leader``.

    Peers that took part lately and have not declared themselves for this round yet, here or
    elsewhere, get ``undeclared`` seconds to do so. ``seats_per_block``: see ``seats``; None for no limit.
    """

    def __init__(
        self,
        me: PeerId,
        group_key: str,
        round_number: int,
        offer: Offer,
        group_size: int,
        min_group_size: int,
        now: float,
        *,
        patience: float = 3.0,
        undeclared: float = 1.0,
        silence: float = 0.1,
        hard_limit: float = 15.0,
        seats_per_block: int | None = None,
    ) -> None:
        self._me = me
        self._key = group_key
        self._round = round_number
        self._offer = offer
        self._seats = Seats(me, group_size, seats_per_block)
        self._min_size = min_group_size
        self._times = ClosingTimes(now, silence, undeclared, patience, hard_limit)
        self.seekers = Seekers(me, group_key, round_number)
        self._followers: dict[PeerId, Applicant] = {}
        self._overtaken = False
        self.is_drafted = False
        """True while the leader may yet name another one to begin."""
        self.leader: PeerId | None = None
        """Whom this peer follows; None while it seeks or leads."""
        self.over = False

    @property
    def deadline(self) -> float | None:
        """When to hand in ``DeadlinePassed``."""
        if self.over:
            return None
        may_close = self.leader is None and not self._pending() and self._everybody_is_here()
        return self._times.next_due(may_close and len(self._seats.taken(self._followers)) >= self._min_size)

    def handle(self, event: MatchEvent, now: float) -> list[MatchEffect]:
        """Takes one event and returns what is to be done, in order."""
        if self.over:
            return self._after_the_end(event)
        effects: list[MatchEffect] = []
        match event:
            case SeekerSeen(peer):
                self._see(peer, now)
            case SeekerGone(peer) if peer not in self._followers and peer != self.leader:
                self._forget(peer)
            case PeerLost(peer):
                self._forget(peer)
            case Told(peer, message, block):
                effects += self._told(peer, message, block, now)
            case OthersAwaited(any_left):
                self._times.others_awaited = any_left
            case Overtaken():
                self._overtaken = True
        return effects if self.over else effects + self._advance(now)

    def would_follow(self, leader: PeerId) -> bool:
        """True when a manifest of ``leader`` is to be taken.

        Its acceptance may still be under way: another member can be quicker to pass the manifest on. So
        it counts that this peer asked, not what it has heard since. A group that has begun is worth more
        than a leader of lower rank that may yet begin: either way one of the two will miss this peer.
        """
        return not self.over and self.seekers.was_asked(leader)

    def began(self, roster: Sequence[PeerId]) -> list[MatchEffect]:
        """A leader began: this peer is in a group with ``roster``; its own followers must look on."""
        effects = self._send_on("", but=roster)
        if self.leader is not None and self.leader != roster[0]:
            effects.append(Tell(self.leader, Leave(self._key, self._round)))
        self._close(roster)
        return effects

    def _close(self, roster: Sequence[PeerId]) -> None:
        self.over = True
        self.seekers.taken = sorted(roster)

    def _after_the_end(self, event: MatchEvent) -> list[MatchEffect]:
        """Whoever still asks is told at once, so that it need not wait for an answer."""
        match event:
            case Told(peer, Join()):
                return [self._refuse(peer, "not looking for a group any more", taken=self.seekers.taken)]
            case Told(peer, Accepted()):
                return [Tell(peer, Leave(self._key, self._round))]
        return []

    # Messages --------------------------------------------------------------------------------------

    def _told(self, peer: PeerId, message: MatchMessage, block: str | None, now: float) -> list[MatchEffect]:
        match message:
            case Join():
                self._see(peer, now)
                return self._joined(peer, Applicant.of(message, block), now)
            case Accepted():
                return self._accepted(peer, now)
            case Refused(reason=reason, try_instead=other, taken=taken):
                if self.leader == peer:
                    self._lose_leader()
                    if reason.startswith(NO_SEAT):
                        self._times.left_without_seat(now)
                self.seekers.refused(peer, reason[:_MAX_REASON], taken)
                self._see(PeerId(other), now)
            case Leave():
                self._followers.pop(peer, None)
            case Draft() if peer == self.leader:
                self.is_drafted = True
                self._times.drafted(now)
            case Handover(members=members) if peer == self.leader:
                return self._handed_over(members, now)
            case Excluded(reason=reason) if peer == self.leader:
                self._close([self._me])
                return [NoGroup(reason[:_MAX_REASON], is_final=True)]
            case Disbanded(try_instead=other):
                if self.leader == peer:
                    self._lose_leader()
                self.seekers.pass_over(peer)
                self._see(PeerId(other), now)
        return []

    def _joined(self, peer: PeerId, applicant: Applicant, now: float) -> list[MatchEffect]:
        offer = applicant.offer
        if reason := misfit(offer, self._offer):
            self.seekers.misfits[peer] = misfit(self._offer, offer) or "it offers what no honest peer would"
            return [self._refuse(peer, reason)]
        if self.leader is not None:
            return [self._refuse(peer, "following another leader", self.leader)]
        if self.seekers.outranks(peer):
            return [self._refuse(peer, "outranked: you lead")]
        if reason := self._seats.refusal(self._followers, peer, applicant):
            self.seekers.turn_away(peer, reason)
            return [self._refuse(peer, reason, taken=self._seats.taken(self._followers))]
        self.seekers.turned_away.discard(peer)
        self._followers[peer] = applicant
        self._times.news(now)
        return [Tell(peer, Accepted(self._key, self._round))]

    def _handed_over(self, members: Sequence[tuple[str, Offer]], now: float) -> list[MatchEffect]:
        """The leader made several groups of its draft; the first member leads this peer's."""
        roster = tuple((PeerId(name), offer) for name, offer in members)
        if self._me not in dict(roster):
            return []
        if roster[0][0] != self._me:
            self.follow(roster[0][0], now)
            return []
        self._close([peer for peer, _ in roster])
        return [Formed(roster, is_settled=True)]

    def follow(self, leader: PeerId, now: float) -> None:
        """``leader`` begins a group with this peer, by the word of a leader that both followed.

        Called from outside it opens a search again that had ended in a draft of this peer's own.
        """
        self.over = self.is_drafted = False
        self.leader = leader
        self.seekers.ask([leader])
        self._followers.clear()
        self._times.followed(now)

    def _accepted(self, peer: PeerId, now: float) -> list[MatchEffect]:
        if not self.seekers.was_asked(peer):
            return [Tell(peer, Leave(self._key, self._round))]
        self.seekers.accepted(peer)
        if self.leader is not None and self.seekers.rank(self.leader) <= self.seekers.rank(peer):
            return [Tell(peer, Leave(self._key, self._round))] if peer != self.leader else []
        effects = self._send_on(peer)
        if self.leader is not None:
            effects.append(Tell(self.leader, Leave(self._key, self._round)))
        self.leader = peer
        self._times.followed(now)
        self._followers.clear()
        return effects

    # Steps -----------------------------------------------------------------------------------------

    def _advance(self, now: float) -> list[MatchEffect]:
        effects: list[MatchEffect] = []
        if self._times.patience_ends(now):
            self.seekers.pass_over_silent()
        if now >= self._times.hard_due:
            return self._give_up()
        if self.leader is None and self._times.patience_due is not None:
            # A follower asks nobody new: its leader does, and would send it on. If it moved by itself
            # it might be missing from a group that its leader closes at the same moment.
            join = Join(self._key, self._round, self._offer)
            effects += [Tell(peer, join) for peer in self.seekers.to_ask()]
        if self.leader is None and not self._pending():
            effects += self._close_if_due(now)
        company = self.leader is not None or self._followers or self.seekers.present
        if self._overtaken and not (self.over or self._times.others_awaited or company):
            effects += self._give_up("others sealed this round meanwhile")
        return effects

    def _close_if_due(self, now: float) -> list[MatchEffect]:
        roster, impatient = self._seats.taken(self._followers), self._times.patience_due is None
        quiet = self._everybody_is_here() and now >= self._times.quiet_at
        if len(roster) < self._seats.size and not (len(roster) >= self._min_size and (impatient or quiet)):
            return self._give_up() if impatient else []
        self._close(roster)
        left = sorted(self._followers.keys() - set(roster), key=self.seekers.rank)
        effects: list[MatchEffect] = [self._refuse(p, self._seats.why, left[0], roster) for p in left]
        members = ((peer, self._followers[peer].offer) for peer in roster[1:])
        return [*effects, Formed(((self._me, self._offer), *members))]

    def _give_up(self, reason: str = "") -> list[MatchEffect]:
        self._close([self._me])
        effects = self._send_on("")
        if self.leader is not None:
            effects.append(Tell(self.leader, Leave(self._key, self._round)))
            return [*effects, NoGroup(f"the leader {self.leader} did not begin in time")]
        if self.seekers.misfits or not reason:
            reason = self.seekers.why_none_came
        return [*effects, NoGroup(reason)]

    def _send_on(self, other: str, but: Sequence[PeerId] = ()) -> list[MatchEffect]:
        left = [peer for peer in self._followers if peer not in but]
        return [Tell(peer, Disbanded(self._key, self._round, other)) for peer in left]

    def _pending(self) -> set[PeerId]:
        return set() if self._times.patience_due is None else self.seekers.unanswered

    def _everybody_is_here(self) -> bool:
        return bool(self._followers) and not (self.seekers.present - self._followers.keys())

    def _see(self, peer: PeerId, now: float) -> None:
        if self.seekers.see(peer):
            self._times.news(now)

    def _forget(self, peer: PeerId) -> None:
        self.seekers.forget(peer)
        self._followers.pop(peer, None)
        if self.leader == peer:
            self._lose_leader()

    def _lose_leader(self) -> None:
        self.leader = None
        self.seekers.begin_anew()

    def _refuse(self, peer: PeerId, reason: str, other: str = "", taken: Sequence[PeerId] = ()) -> Tell:
        return Tell(peer, Refused(self._key, self._round, reason, other, tuple(taken)))
