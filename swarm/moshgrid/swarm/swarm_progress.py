"""Swarm progress: what all members have done since the last synchronisation, and when the next is due.

Every member publishes {epoch, samples, samples/s}; the sum over those of the highest epoch, each carried on
at its rate since it was heard, estimates where the swarm is (the trigger of DeDLOC, Diskin et al. 2021).
Pure: time is an argument, in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moshgrid.p2p import PeerId

__all__ = ["PROGRESS_TTL", "ProgressReport", "SwarmProgress", "SwarmView"]

PROGRESS_TTL = 60.0
"""Seconds that a member's progress counts when nothing more is heard of it."""

_CARRIED_ON = 10.0
"""For at most so many seconds a rate is believed to go on."""
_SHORTEST, _LONGEST = 0.5, 10.0
_MEMORY = 0.8
_MAX_COUNT = 2**48


@dataclass(frozen=True, slots=True)
class ProgressReport:
    """What one member says."""

    epoch: int
    samples: int
    """Since its last synchronisation."""
    rate: float
    """Samples per second."""

    def to_value(self) -> dict[str, Any]:
        """For a record."""
        return {"epoch": self.epoch, "samples": self.samples, "rate": round(self.rate, 3)}

    @classmethod
    def from_value(cls, value: Any) -> ProgressReport | None:
        """The inverse; None for what is none, a stranger may write anything."""
        if not isinstance(value, dict):
            return None
        epoch, samples, rate = (value.get(key) for key in ("epoch", "samples", "rate"))
        if not isinstance(epoch, int) or not isinstance(samples, int) or not isinstance(rate, int | float):
            return None
        if not 0 <= epoch < 2**40 or not 0 <= samples < _MAX_COUNT or not 0 <= rate < 1e12:
            return None
        return cls(epoch, samples, float(rate))


@dataclass(frozen=True, slots=True)
class SwarmView:
    """The swarm as this peer sees it."""

    epoch: int
    """The highest of all members."""
    behind: int
    """By how many epochs this peer is behind it."""
    samples: int
    """Accumulated in this epoch by all members that are in it."""
    rate: float
    """Samples per second of all members."""
    peers: int
    """Members heard of lately, this peer included."""
    share: float
    """This peer's part of ``samples``, 0 … 1."""
    eta: float | None
    """Seconds until the target is reached; None without a target or when nobody trains."""


class SwarmProgress:
    """This peer's count, and the others' as far as they are known."""

    def __init__(self, target: int | None = None) -> None:
        self.target = target
        self._heard: dict[PeerId, tuple[ProgressReport, float]] = {}
        self._epoch = 0
        self._samples = 0
        self._rate = 0.0
        self._counted_at: float | None = None
        self._published_at: float | None = None
        self._published: ProgressReport | None = None

    @property
    def own(self) -> ProgressReport:
        """What this peer says of itself."""
        return ProgressReport(self._epoch, self._samples, self._rate)

    def heard(self, peer: PeerId, report: ProgressReport, now: float) -> None:
        """A record of another member arrived."""
        self._heard[peer] = (report, now)

    def gone(self, peer: PeerId) -> None:
        """A member took its record back."""
        self._heard.pop(peer, None)

    def counted(self, samples: int, now: float) -> None:
        """This peer has trained on ``samples`` more."""
        if self._counted_at is not None and now > self._counted_at:
            rate = samples / (now - self._counted_at)
            self._rate = rate if not self._rate else _MEMORY * self._rate + (1 - _MEMORY) * rate
        self._counted_at = now
        self._samples += samples

    def entered(self, epoch: int, now: float, carried_over: int = 0) -> None:
        """This peer is in ``epoch`` now, with ``carried_over`` samples that count for it already."""
        self._epoch, self._samples = epoch, carried_over
        self._counted_at = now  # what a synchronisation took is not the speed of training

    def peers(self, now: float) -> list[PeerId]:
        """The other members heard of lately."""
        return [peer for peer, (_, at) in self._heard.items() if now < at + PROGRESS_TTL]

    def view(self, now: float) -> SwarmView:
        """The swarm at ``now``."""
        self._heard = {peer: one for peer, one in self._heard.items() if now < one[1] + PROGRESS_TTL}
        epoch = max([self._epoch, *(report.epoch for report, _ in self._heard.values())])
        own = self._samples if self._epoch == epoch else 0
        samples, rate = float(own), self._rate
        for report, at in self._heard.values():
            rate += report.rate
            if report.epoch == epoch:
                samples += report.samples + report.rate * min(now - at, _CARRIED_ON)
        eta = None
        if self.target is not None and (rate > 0 or samples >= self.target):
            eta = max(0.0, (self.target - samples) / rate) if samples < self.target else 0.0
        peers = 1 + len(self._heard)
        share = own / samples if samples else 0.0
        return SwarmView(epoch, epoch - self._epoch, int(samples), rate, peers, share, eta)

    def due(self, now: float) -> bool:
        """Whether the swarm has accumulated the target in this peer's epoch."""
        view = self.view(now)
        return self.target is not None and not view.behind and view.samples >= self.target

    def to_publish(self, now: float) -> ProgressReport | None:
        """What to tell the swarm now; None when it was told lately, the more often the nearer the target."""
        own = self.own
        if self._published is not None and self._published_at is not None:
            view = self.view(now)
            wait = (
                _LONGEST
                if view.eta is None
                else view.eta * view.peers / max(view.peers + 3, 1.2 * view.peers)
            )
            if own.epoch == self._published.epoch and (
                own == self._published or now < self._published_at + min(max(wait, _SHORTEST), _LONGEST)
            ):
                return None
        self._published, self._published_at = own, now
        return own
