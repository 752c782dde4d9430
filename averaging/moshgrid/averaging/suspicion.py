"""Suspicion: when a member that went silent, or is too slow, is no longer waited for.

Adaptive to each member: it is suspected when no byte came for max(250 ms, 4 × its largest usual gap), or
when what is waited for takes 3 × as long as its bytes should at its own measured rate. A wrong
suspicion costs traffic, never correctness.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from moshgrid.p2p.identity import PeerId

__all__ = ["PaceBook", "Suspicion"]

_MIN_SILENCE = 0.25
_GAP_FACTOR = 4.0
_FIRST_GAP = 0.75
"""Assumed largest gap of a member that was not observed yet; a loaded machine shows such gaps."""
_GAP_DECAY = 0.9
_EXPECTED_FACTOR = 3.0
_FIRST_EXPECTED = 10.0
_MIN_EXPECTED = 1.0
_MAX_PEERS = 4096


@dataclass
class _Pace:
    gap: float = _FIRST_GAP
    rate: float | None = None


@dataclass
class PaceBook:
    """What earlier rounds taught about each peer's pace. Lives as long as the averager."""

    _paces: dict[PeerId, _Pace] = field(default_factory=dict)

    def silence_limit(self, peer: PeerId) -> float:
        """Seconds of silence after which ``peer`` is suspected."""
        return max(_MIN_SILENCE, _GAP_FACTOR * self._pace(peer).gap)

    def expected(self, peer: PeerId, size: int) -> float:
        """Seconds that ``size`` bytes from ``peer`` may take before it is suspected."""
        rate = self._pace(peer).rate
        if rate is None:
            return _EXPECTED_FACTOR * _FIRST_EXPECTED
        return _EXPECTED_FACTOR * max(_MIN_EXPECTED, size / rate)

    def observed_gap(self, peer: PeerId, largest: float) -> None:
        """The largest gap of a whole round; a smaller one lowers the estimate only slowly."""
        pace = self._pace(peer)
        pace.gap = max(largest, pace.gap * _GAP_DECAY)

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


class Suspicion:
    """Watches the members of one round. Members are roster indices, ``sizes`` the bytes each may send."""

    def __init__(
        self, book: PaceBook, peers: tuple[PeerId, ...], me: int, sizes: list[int], now: float
    ) -> None:
        self._book = book
        self._peers = peers
        self._sizes = sizes
        self._heard = {member: now for member in range(len(peers)) if member != me}
        self._largest = dict.fromkeys(self._heard, 0.0)
        self._waiting_since: dict[int, float] = {}

    def heard(self, member: int, now: float) -> None:
        """Bytes came from ``member``."""
        if member in self._heard:
            self._largest[member] = max(self._largest[member], now - self._heard[member])
            self._heard[member] = now

    def waiting(self, members: frozenset[int], now: float) -> None:
        """This peer cannot go on without something from these ``members`` (and no others)."""
        for member in self._waiting_since.keys() - members:
            waited = now - self._waiting_since.pop(member)
            self._book.observed_rate(self._peers[member], self._sizes[member], waited)
        for member in members & self._heard.keys():
            self._waiting_since.setdefault(member, now)

    def forget(self, member: int) -> None:
        """``member`` is lost; nothing is expected of it."""
        self._heard.pop(member, None)
        self._waiting_since.pop(member, None)

    def suspects(self, now: float) -> list[tuple[int, str]]:
        """Members to suspect now, with the reason."""
        found = []
        for member, heard in self._heard.items():
            if now >= self._silent_at(member):
                found.append((member, f"silent for {now - heard:.1f} s"))
            elif now >= self._late_at(member):
                waited = now - self._waiting_since[member]
                found.append((member, f"too slow: not done after {waited:.1f} s"))
        return found

    @property
    def deadline(self) -> float | None:
        """When the next member becomes suspect if nothing is heard."""
        limits = [min(self._silent_at(member), self._late_at(member)) for member in self._heard]
        return min(limits, default=None)

    def close(self) -> None:
        """Hands what was learned to the pace book."""
        for member in self._heard:
            self._book.observed_gap(self._peers[member], self._largest[member])

    def _silent_at(self, member: int) -> float:
        return self._heard[member] + self._book.silence_limit(self._peers[member])

    def _late_at(self, member: int) -> float:
        since = self._waiting_since.get(member, math.inf)
        return since + self._book.expected(self._peers[member], self._sizes[member])
