"""The rounds of one run at this peer: what comes from members finds the round that it belongs to.

The drivers of rounds that go on (the last ones even after they were decided here, for members behind),
and the memory of rounds that are over, whose late messages nobody uses.
"""

from __future__ import annotations

from moshgrid.averaging.links import Links
from moshgrid.averaging.messages import Decline
from moshgrid.averaging.past_rounds import PastRounds
from moshgrid.averaging.round_driver import RoundDriver
from moshgrid.averaging.wire import Frame, encode_frame
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId

__all__ = ["RunRounds"]

_MAX_KEPT = 4


class RunRounds:
    """Keyed by group id."""

    def __init__(self, host: Host, links: Links, run: bytes) -> None:
        self._host = host
        self._links = links
        self._run = run
        self._live: dict[bytes, RoundDriver] = {}
        self._past = PastRounds()

    def add(self, driver: RoundDriver) -> None:
        """A round begins."""
        self._live[driver.signed.group_id] = driver
        self._forget_finished()
        while len(self._live) > _MAX_KEPT:
            del self._live[next(iter(self._live))]

    def frame_arrived(self, peer: PeerId, frame: Frame) -> bool:
        """Hands a frame of a group to its round; False when there is none and was none."""
        driver = self._live.get(frame.group)
        if driver is not None and not driver.finished.is_set():
            driver.arrived(peer, frame)
        elif driver is not None or frame.group in self._past:
            self._forget_finished()
            self._too_late(peer, frame)
        else:
            return False
        return True

    def bytes_arrived(self, peer: PeerId, count: int) -> None:
        """``count`` bytes came from a peer."""
        for driver in self._live.values():
            driver.heard(peer, count)

    def link_down(self, peer: PeerId, seconds: float) -> None:
        """A link broke that may go on."""
        for driver in self._live.values():
            driver.link_down(peer, seconds)

    def link_lost(self, peer: PeerId, reason: str) -> None:
        """A link ended."""
        for driver in self._live.values():
            driver.lost_link(peer, reason)

    def leader_gone(self, leader: PeerId, group_id: bytes, reason: str) -> None:
        """The leader of one round is not to be counted on any more."""
        if (driver := self._live.get(group_id)) is not None:
            driver.lost_link(leader, reason)

    def _too_late(self, peer: PeerId, frame: Frame) -> None:
        """A message of a round that is over here is used by nobody; its sender need not wait for more."""
        if self._past.is_to_be_told(frame.group, peer, frame.message):
            self._host.events.emit("late_message", sender=peer, group=frame.group.hex())
            over = Decline("that round is over here")
            self._links.send(peer, encode_frame(self._run, frame.group, over))

    def _forget_finished(self) -> None:
        for group_id, driver in list(self._live.items()):
            if driver.finished.is_set():
                self._past.add(group_id, driver.signed.peers)
                del self._live[group_id]
