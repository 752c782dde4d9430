"""Shards: a key with more authors than one set of storers takes is spread over several.

Rules, for which nobody has to agree with anybody: an author puts under the key itself. Storers that hold
as many records of a key as they may answer FULL; then the author goes on to one of the two shards below,
by the next bit of its own point, and so on. A storer that answered FULL says for an hour that the key is
split; readers and watchers of a split key go on to both shards below it. An author remembers where it
found room for half an hour and then begins at the top again: so a set that shrinks comes together, and
storers do not forget a split that is still needed.
"""

from __future__ import annotations

from collections import OrderedDict

from moshgrid.dht.keys import BITS, point_of_peer
from moshgrid.dht.record import MAX_KEY
from moshgrid.p2p.identity import PeerId

__all__ = [
    "MARK",
    "MAX_DEPTH",
    "MOST_RECORDS",
    "Depths",
    "Splits",
    "base_of",
    "belongs",
    "children",
    "shard_of",
]

MOST_RECORDS = 128
"""Of one key at one storer, unless its limits say otherwise."""
MARK = b"\x1f"
"""Between a key and the bits of its shard; users' keys do not contain it."""
MAX_DEPTH = 12
_SPLIT_MS = 3_600_000
_REMEMBERED_MS = 1_800_000
_MOST = 4096


def shard_of(key: bytes, author: PeerId, depth: int) -> bytes:
    """The key of the shard that ``author`` uses ``depth`` levels below ``key``."""
    if not depth:
        return key
    bits = point_of_peer(author) >> (BITS - depth)
    return key + MARK + format(bits, f"0{depth}b").encode()


def base_of(key: bytes) -> bytes:
    """The key that users know."""
    return key.partition(MARK)[0]


def children(key: bytes) -> list[bytes]:
    """The two shards below a key or shard; none below the last level, or when they would be too long."""
    _, mark, bits = key.partition(MARK)
    longer = key if mark else key + MARK
    if len(bits) >= MAX_DEPTH or len(longer) >= MAX_KEY:
        return []
    return [longer + b"0", longer + b"1"]


def belongs(key: bytes, author: PeerId) -> bool:
    """True when ``author`` may use the shard ``key``, or it is no shard."""
    base, mark, bits = key.partition(MARK)
    return not mark or (0 < len(bits) <= MAX_DEPTH and key == shard_of(base, author, len(bits)))


class Splits:
    """The keys that this storer was full for. Times are milliseconds of the wall clock."""

    def __init__(self) -> None:
        self._until: OrderedDict[bytes, int] = OrderedDict()

    def note(self, key: bytes, now_ms: int) -> bool:
        """A record found no room under ``key``; True when that is news."""
        fresh = not self.has(key, now_ms)
        self._until[key] = now_ms + _SPLIT_MS
        self._until.move_to_end(key)
        if len(self._until) > _MOST:
            self._until.popitem(last=False)
        return fresh

    def has(self, key: bytes, now_ms: int) -> bool:
        """True when there may be records in the shards below ``key``."""
        return self._until.get(key, 0) > now_ms


class Depths:
    """How deep this author found room, by key."""

    def __init__(self) -> None:
        self._found: OrderedDict[bytes, tuple[int, int]] = OrderedDict()

    def of(self, key: bytes, now_ms: int) -> int:
        """Where to begin."""
        depth, until = self._found.get(key, (0, 0))
        return depth if until > now_ms else 0

    def found(self, key: bytes, depth: int, now_ms: int) -> None:
        """There was room ``depth`` levels below ``key``."""
        _, until = self._found.pop(key, (0, 0))
        if depth:
            self._found[key] = depth, until if until > now_ms else now_ms + _REMEMBERED_MS
        if len(self._found) > _MOST:
            self._found.popitem(last=False)
