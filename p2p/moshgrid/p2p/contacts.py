"""The address groups that this peer has ever called: nobody in them can witness that strangers get in."""

from __future__ import annotations

from moshgrid.p2p.ip_ranges import group_of, is_home
from moshgrid.p2p.last_used import LastUsed

__all__ = ["Contacts"]

_MAX_GROUPS = 65_536
"""There are no more in IPv4."""


class Contacts:
    """A router lets answers in, and some let in whatever comes from whom one has called."""

    def __init__(self) -> None:
        self._groups: LastUsed[str, None] = LastUsed(_MAX_GROUPS)

    def called(self, host: str) -> None:
        """A call to the IP address ``host`` begins."""
        if not is_home(host):
            self._groups[group_of(host)] = None

    def knows(self, host: str) -> bool:
        """True when anybody in the group of ``host`` was called."""
        return group_of(host) in self._groups

    def newest(self, count: int) -> tuple[str, ...]:
        """The groups called last, at most ``count``."""
        return self._groups.newest(count)
