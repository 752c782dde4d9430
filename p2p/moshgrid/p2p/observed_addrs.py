"""What others see of us: where calls from our listening port seem to come from, and whether that holds.

Behind a router a peer does not know its own address; those that it calls tell it. One of them may lie or
err, so a place counts as known when two in different address groups saw the same. If each sees another
port, the router gives every destination a port of its own ("symmetric"): then nobody can be told where to
call, and a hole can be punched only by those whose own router lets everybody in.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass

from moshgrid.p2p.ip_ranges import group_of, is_home, is_nowhere

__all__ = ["ObservedAddrs", "Place"]

Place = tuple[str, int]
"""An IP address as text, and a TCP port."""

_MAX_OBSERVERS = 32
_SECONDS = 3600.0
_AGREEING = 2


@dataclass(frozen=True, slots=True)
class _Seen:
    host: str
    port: int | None
    """None when we did not call from the listening port: then the port means nothing."""
    at: float


class ObservedAddrs:
    """Of one listening port in one address family. One voice for each address group, its last word."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, _Seen] = OrderedDict()

    def saw(self, observer: str, host: str, port: int, now: float, *, listening_port: bool) -> bool:
        """A peer at the IP address ``observer`` saw us at ``host`` and ``port``; True when that is news.

        ``listening_port``: we called from there. What makes no sense for others is ignored, and what a
        neighbour says, who sees us from within.
        """
        try:
            if is_home(observer) or is_home(host) or is_nowhere(host) or not 0 < port < 65536:
                return False
            group = group_of(observer)
        except ValueError:
            return False
        before = self._seen.pop(group, None)
        if before is not None and before.port is not None and not listening_port and before.host == host:
            self._seen[group] = before  # it knows less now than it did
            return False
        fresh = _Seen(host, port if listening_port else None, now)
        self._seen[group] = fresh
        while len(self._seen) > _MAX_OBSERVERS:
            self._seen.popitem(last=False)
        self._forget_where_we_were()
        return before is None or (before.host, before.port) != (fresh.host, fresh.port)

    def _forget_where_we_were(self) -> None:
        """When the last two groups name one host, whoever named another one before is out of date."""
        last = [seen.host for seen in list(self._seen.values())[-_AGREEING:]]
        if len(last) == _AGREEING and len(set(last)) == 1:
            for group in [group for group, seen in self._seen.items() if seen.host != last[0]]:
                del self._seen[group]

    @property
    def in_doubt(self) -> bool:
        """True when who spoke last named another host than most do: we may have moved."""
        return bool(self._seen) and next(reversed(self._seen.values())).host != self.hosts[0]

    def forget_old(self, now: float) -> None:
        """Drops what was seen over an hour ago."""
        for group in [group for group, seen in self._seen.items() if now - seen.at > _SECONDS]:
            del self._seen[group]

    def clear(self) -> None:
        """The computer's addresses changed: nothing holds any more."""
        self._seen.clear()

    @property
    def observers(self) -> int:
        """How many address groups saw calls from the listening port."""
        return sum(seen.port is not None for seen in self._seen.values())

    @property
    def hosts(self) -> list[str]:
        """IP addresses that we were seen at, the one that most saw first."""
        return [host for host, _ in Counter(seen.host for seen in self._seen.values()).most_common()]

    @property
    def places(self) -> list[Place]:
        """Where the listening port was seen, what most saw first."""
        return [place for place, _ in self._votes().most_common()]

    @property
    def agreed(self) -> Place | None:
        """Where observers in two address groups saw the listening port; None as long as no two agree."""
        for place, count in self._votes().most_common(1):
            if count >= _AGREEING:
                return place
        return None

    @property
    def differs(self) -> bool:
        """True when every observer saw another port: a symmetric router."""
        return self.agreed is None and len({port for _, port in self._votes()}) >= _AGREEING

    def _votes(self) -> Counter[Place]:
        return Counter((seen.host, seen.port) for seen in self._seen.values() if seen.port is not None)
