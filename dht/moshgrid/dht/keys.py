"""The key space: 256-bit points for keys and peers, and the XOR distance between them."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice

from moshgrid.p2p.identity import PeerId, peer_id_from_bytes, peer_id_to_bytes

__all__ = [
    "BITS",
    "PREFIX_BITS",
    "names",
    "peer_bytes",
    "peer_of",
    "point_of_key",
    "point_of_peer",
    "point_prefix",
    "prefix_numbers",
    "prefixes_of",
]

BITS = 256
PREFIX_BITS = 32
"""Of a point, as messages name peers: enough to tell apart the few that hold one key."""


def point_of_key(network: bytes, key: bytes) -> int:
    """Where a key lies. The network id is part of it, so that networks do not share hot spots."""
    return int.from_bytes(hashlib.sha256(network + key).digest())


@lru_cache(maxsize=16_384)
def peer_bytes(peer: PeerId) -> bytes:
    """The binary form of a peer id, remembered because base58 is slow; ValueError as there."""
    return peer_id_to_bytes(peer)


@lru_cache(maxsize=16_384)
def peer_of(raw: bytes) -> PeerId:
    """The peer id of its binary form; ValueError when it is none."""
    return peer_id_from_bytes(raw)


@lru_cache(maxsize=16_384)
def point_of_peer(peer: PeerId) -> int:
    """Where a peer lies; ValueError when ``peer`` is not an Ed25519 peer id."""
    return int.from_bytes(hashlib.sha256(peer_bytes(peer)).digest())


@lru_cache(maxsize=16_384)
def _prefix_of_peer(peer: PeerId) -> bytes:
    return point_prefix(point_of_peer(peer))


def names(prefixes: bytes, prefix: bytes) -> bool:
    """True when ``prefix`` is one of the concatenated ``prefixes``."""
    return any(prefixes[at : at + 4] == prefix for at in range(0, len(prefixes), 4))


def prefixes_of(peers: Iterable[PeerId], most: int = 20) -> bytes:
    """The point prefixes of the first ``most`` of ``peers``, concatenated."""
    return b"".join(map(_prefix_of_peer, islice(peers, most)))


def point_prefix(point: int) -> bytes:
    """The first four bytes of a point."""
    return (point >> (BITS - PREFIX_BITS)).to_bytes(4)


def prefix_numbers(prefixes: bytes) -> frozenset[int]:
    """The concatenated ``prefixes`` as numbers; what is left over of the last is not looked at."""
    return frozenset(struct.unpack_from(f">{len(prefixes) // 4}I", prefixes))
