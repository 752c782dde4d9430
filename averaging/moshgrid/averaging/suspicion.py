"""Suspicion: when a member that went silent, or is too slow, is no longer waited for.

Adaptive to each member: it is suspected when no byte came for max(250 ms, 4 × its largest usual gap), or
when what is waited for takes 3 × as long as its bytes should at its own measured rate, in this round or
in earlier ones. A reducer can only be as quick as the slowest sender, and is given that time on top. Time
in which this peer itself stood still is nobody's silence. A wrong suspicion costs traffic, never
correctness.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from moshgrid.averaging.manifest import SignedManifest
from moshgrid.p2p.identity import PeerId

__all__ = ["PaceBook", "Suspicion", "bytes_owed", "longest_wait", "round_seconds"]

_MIN_SILENCE = 0.25
_GAP_FACTOR = 4.0
_FIRST_GAP = 0.75
"""Assumed largest gap of a member that was not observed yet; a loaded machine shows such gaps."""
_GAP_DECAY = 0.9
"""Of a round of ``_GAP_SECONDS`` or more. Shorter ones show less of how long a member may pause."""
_GAP_SECONDS = 5.0
_LONGEST_USUAL_GAP = 2.5
"""Who was silent for longer had stopped, or its link had; that is no reason to wait longer next time."""
_EXPECTED_FACTOR = 3.0
_FIRST_EXPECTED = 10.0
_ALONE_SECONDS = 20.0
"""Seconds without a majority that can be heard until a peer takes itself to be cut off."""
_MIN_EXPECTED = 1.0
_ROUND_SECONDS = 120.0
_SLOWEST = 250_000.0
"""Bytes per second; a round gives a member with such a link the time to send its values."""
_MAX_GRACE = 15.0
"""Seconds in a round for which a member's broken links excuse its silence."""
_MAX_PEERS = 4096


@dataclass
class _Pace:
    gap: float = _FIRST_GAP
    rate: float | None = None
    """Bytes a second."""


@dataclass
class PaceBook:
    """What earlier rounds taught about each peer's pace. Lives as long as the averager."""

    _paces: dict[PeerId, _Pace] = field(default_factory=dict)

    def silence_limit(self, peer: PeerId) -> float:
        """Seconds of silence after which ``peer`` is suspected."""
        return max(_MIN_SILENCE, _GAP_FACTOR * self._pace(peer).gap)

    def expected(self, peer: PeerId, size: int) -> float:
        """Seconds that ``size`` bytes from ``peer`` should take."""
        rate = self._pace(peer).rate
        return _FIRST_EXPECTED if rate is None else max(_MIN_EXPECTED, size / rate)

    def observed_gap(self, peer: PeerId, largest: float, seconds: float) -> None:
        """The largest gap of a round of so many seconds; a smaller one lowers the estimate only slowly."""
        pace = self._pace(peer)
        decay = _GAP_DECAY ** min(1.0, seconds / _GAP_SECONDS)
        pace.gap = max(min(largest, _LONGEST_USUAL_GAP), pace.gap * decay)

    def observed_rate(self, peer: PeerId, size: int, seconds: float) -> None:
        """``size`` bytes came from ``peer`` in ``seconds``."""
        if size > 0 and seconds > 0:
            pace = self._pace(peer)
            rate = size / seconds
            pace.rate = rate if pace.rate is None else 0.7 * pace.rate + 0.3 * rate

    def _pace(self, peer: PeerId) -> _Pace:
        pace = self._paces.pop(peer, None) or _Pace()
        self._paces[peer] = pace  # most recently used last
        while len(self._paces) > _MAX_PEERS:
            del self._paces[next(iter(self._paces))]
        return pace


@dataclass
class _Wait:
    """Waiting for one member: since when, how much came since, and when the last of it."""

    since: float
    got: int = 0
    last: float = 0.0


class Suspicion:
    """Watches the members of one round. Members are roster indices.

    ``sizes``: the bytes that each owes this peer. ``longest``: seconds after which a member is suspected
    whatever its rate, so that the others have time left to go on without it.
    """

    def __init__(
        self,
        book: PaceBook,
        peers: Sequence[PeerId],
        me: int,
        sizes: Sequence[int],
        now: float,
        longest: float = math.inf,
        beyond: frozenset[int] = frozenset(),
    ) -> None:
        """``beyond``: members that need not be heard as long as any of the others is."""
        self._book = book
        self._began = now
        self._peers = peers
        self._sizes = sizes
        self._longest = longest
        self._beyond = beyond - {me}
        self._heard = {member: now for member in range(len(peers)) if member != me}
        self._silence = {member: book.silence_limit(peers[member]) for member in self._heard}
        self._expected = {member: book.expected(peers[member], sizes[member]) for member in self._heard}
        self._largest = dict.fromkeys(self._heard, 0.0)
        self._silent_since: dict[int, float] = {}
        self._gone: set[int] = set()
        self._borne: dict[int, float] = {}
        self._grace_left: dict[int, float] = {}
        self._alone_since: float | None = None
        self._senders: dict[int, _Wait] = {}
        self._reducers: dict[int, _Wait] = {}

    def heard(self, member: int, now: float, size: int = 0) -> None:
        """``size`` bytes came from ``member``, or at least something."""
        self._note(member, now)
        for other in self._beyond if member not in self._beyond else ():
            self._note(other, now)
        for waits in (self._senders, self._reducers):
            if size and (wait := waits.get(member)) is not None:
                wait.got += size
                wait.last = now

    def _note(self, member: int, now: float) -> None:
        if member in self._gone:
            return  # whatever it says, it is not in this round any more
        if member in self._heard:
            if now > self._borne.get(member, -math.inf):  # how long another way took to find is no pause
                self._largest[member] = max(self._largest[member], now - self._heard[member])
            self._heard[member] = now
        elif member in self._silent_since:  # it was suspected wrongly, or is back: this gap counts, too
            self._largest[member] = max(self._largest[member], now - self._silent_since.pop(member))
            self._count(now)

    def stood_still(self, seconds: float) -> None:
        """This peer did nothing for ``seconds``: what others sent meanwhile waits to be read."""
        self._heard = {member: at + seconds for member, at in self._heard.items()}
        for wait in (*self._senders.values(), *self._reducers.values()):
            wait.since += seconds
            wait.last += seconds

    def bear_with(self, member: int, until: float, now: float) -> None:
        """The link to ``member`` broke and may go on: its silence till then means nothing, within limits."""
        already = max(now, self._borne.get(member, now))
        granted = min(until - already, self._grace_left.get(member, _MAX_GRACE))
        if member in self._heard and granted > 0:
            self._grace_left[member] = self._grace_left.get(member, _MAX_GRACE) - granted
            self._borne[member] = already + granted
            for waits in (self._senders, self._reducers):
                if (wait := waits.get(member)) is not None:
                    wait.since += granted
                    wait.last += granted

    def borne_until(self, members: Collection[int], now: float) -> float | None:
        """When the last of ``members`` whose link broke must be heard again; None where none did."""
        return max((at for m, at in self._borne.items() if m in members and at > now), default=None)

    def waiting(self, senders: frozenset[int], reducers: frozenset[int], now: float) -> None:
        """This peer cannot go on without values from ``senders`` and results from ``reducers``."""
        self._wait_for(self._senders, senders, now)
        self._wait_for(self._reducers, reducers, now)

    def gone(self, member: int, now: float) -> None:
        """``member`` has left for good."""
        self._gone.add(member)
        self.forget(member, now)

    def forget(self, member: int, now: float) -> None:
        """``member`` is lost; nothing is expected of it."""
        if (heard := self._heard.pop(member, None)) is not None:
            self._silent_since[member] = heard
            self._count(now)
        for waits in (self._senders, self._reducers):
            if (wait := waits.pop(member, None)) is not None:
                self._learn(member, wait, wait.last)

    def suspects(self, now: float) -> list[tuple[int, str]]:
        """Members to suspect now, with the reason."""
        found = []
        late = self._late()
        for member, heard in self._heard.items():
            if now >= self._silent_at(member):
                found.append((member, f"silent for {now - heard:.1f} s"))
            elif now >= late.get(member, math.inf):
                wait = self._senders.get(member) or self._reducers[member]
                found.append((member, f"too slow: not done after {now - wait.since:.1f} s"))
        return found

    @property
    def most_patient(self) -> float:
        """The longest silence that this peer would put up with from anybody."""
        return max(self._silence.values())

    @property
    def deadline(self) -> float | None:
        """When the next member becomes suspect if nothing is heard."""
        limits = [self._silent_at(member) for member in self._heard]
        limits += self._late().values()
        if self._alone_since is not None:
            limits.append(self._alone_since + _ALONE_SECONDS)
        return min(limits, default=None)

    def is_alone(self, now: float) -> bool:
        """True when no majority has been heard for a while."""
        return self._alone_since is not None and now >= self._alone_since + _ALONE_SECONDS

    def close(self, now: float) -> None:
        """Hands what was learned to the pace book."""
        for member in self._largest.keys() - self._silent_since.keys():
            self._book.observed_gap(self._peers[member], self._largest[member], now - self._began)

    def _count(self, now: float) -> None:
        if (len(self._peers) - len(self._silent_since)) * 2 > len(self._peers):
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now

    def _wait_for(self, waits: dict[int, _Wait], members: frozenset[int], now: float) -> None:
        for member in waits.keys() - members:
            self._learn(member, waits.pop(member), now)
        for member in members & self._heard.keys():
            if member not in waits:
                waits[member] = _Wait(now)

    def _learn(self, member: int, wait: _Wait, until: float) -> None:
        self._book.observed_rate(self._peers[member], wait.got, until - wait.since)

    def _silent_at(self, member: int) -> float:
        return max(self._heard[member] + self._silence[member], self._borne.get(member, -math.inf))

    def _late(self) -> dict[int, float]:
        """When each member that is waited for is too late."""
        late = {
            member: wait.since + self._allowed(member, wait)
            for member, wait in self._senders.items()
            if member in self._heard
        }
        # A reducer waits for all senders itself.
        slowest = max(
            (self._allowed(member, self._senders.get(member)) for member in self._heard), default=0.0
        )
        for member, wait in self._reducers.items():
            if member in self._heard and member not in late:
                late[member] = wait.since + slowest + self._allowed(member, wait)
        return late

    def _allowed(self, member: int, wait: _Wait | None) -> float:
        expected = self._expected[member]
        if wait is not None and wait.got:
            expected = max(expected, self._sizes[member] * (wait.last - wait.since) / wait.got)
        return min(_EXPECTED_FACTOR * expected, self._longest)


def round_seconds(signed: SignedManifest) -> float:
    """After how long an undecided round is given up."""
    return _ROUND_SECONDS + signed.total_bytes / _SLOWEST


def longest_wait(signed: SignedManifest) -> float:
    """Seconds after which a member is suspected whatever its rate: others need time to take over."""
    return _ROUND_SECONDS / 4 + 0.75 * signed.total_bytes / _SLOWEST


def bytes_owed(signed: SignedManifest, me: int) -> list[int]:
    """What each member has to send to ``me``: its values of the parts I average, results of those it does."""
    owned = [0] * len(signed.peers)
    for part, span in enumerate(signed.parts):
        owned[span.owner] += signed.part_bytes(part)
    members = signed.manifest.members
    return [owned[index] + (owned[me] if member.weight > 0 else 0) for index, member in enumerate(members)]
