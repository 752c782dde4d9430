"""The address groups that this peer has ever called: nobody in them can witness that strangers get in."""

from __future__ import annotations

from collections import OrderedDict

from moshgrid.p2p.ip_ranges import group_of, is_home

__all__ = ["Contacts"]

_MAX_GROUPS = 65_536
"""There are no more in IPv4."""


class Contacts:
    """A router lets answers in, and some let in whatever comes from whom one has called."""

    def __init__(self) -> None:
        self._groups: OrderedDict[str, None] = OrderedDict()

    def called(self, host: str) -> None:
        """A call to the IP address ``host`` begins."""
        if is_home(host):
            return
        group = group_of(host)
        self._groups[group] = None
        self._groups.move_to_end(group)
        while len(self._groups) > _MAX_GROUPS:
            self._groups.popitem(last=False)

    def knows(self, host: str) -> bool:
        """True when anybody in the group of ``host`` was called."""
        return group_of(host) in self._groups

    def newest(self, count: int) -> tuple[str, ...]:
        """The groups called last, at most ``count``."""
        return tuple(list(reversed(self._groups))[:count])
