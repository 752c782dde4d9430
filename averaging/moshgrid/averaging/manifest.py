"""The manifest: what a group agrees on before a byte of tensor moves, signed by its leader.

The group id is the hash of the manifest; every member countersigns it and every message of the round
carries it. Nothing about a part is believed from its sender but its bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
from blake3 import blake3

from moshgrid.averaging.fractions import part_counts
from moshgrid.averaging.layout import cut
from moshgrid.averaging.messages import MAX_WEIGHT
from moshgrid.averaging.reducers import Reducer, get_reducer
from moshgrid.compression import Codec
from moshgrid.p2p.decoding import decode
from moshgrid.p2p.envelope import open_envelope, seal
from moshgrid.p2p.errors import RecordRejected, RemoteProtocolError
from moshgrid.p2p.identity import Identity, PeerId, peer_id_to_bytes, public_key_of, verify

__all__ = ["Manifest", "Member", "Part", "SignedManifest", "countersign", "is_countersigned", "open_manifest"]

MAX_MEMBERS = 64
MAX_MANIFEST_BYTES = 16 * 1024
MAX_ELEMENTS = 2**36
MAX_PARTS = 2**18
_DOMAIN = "moshgrid-manifest"
_TYPE = b"/moshgrid/manifest/1"
_READY = b"moshgrid-ready\x00"

Role = Literal["full", "client", "auxiliary"]
"""full: sends and reduces; client: sends only; auxiliary: reduces only (weight 0)."""


class Member(msgspec.Struct, frozen=True, array_like=True):
    """One seat in the roster. ``weight`` ≥ 0 scales its tensors; ``fraction`` is its share as reducer."""

    peer: str
    role: Role
    weight: float
    fraction: float


class Manifest(msgspec.Struct, frozen=True):
    """One round of one group. The first member is the leader."""

    run: bytes
    """16 bytes: which run of which network."""
    group_key: str
    round: int
    members: tuple[Member, ...]
    codec: str
    """The layout of the flat vector: a codec, or several with the elements of each."""
    dtype: Literal["float32", "float64"]
    elements: int
    part_elements: int
    schema: bytes
    """32 bytes: the digest of the arrays' shapes and dtypes."""
    reference: bytes
    """Digest of the reference state that is subtracted before encoding; empty for none."""
    nonce: bytes
    """16 random bytes: no two rounds share a group id."""
    reducer: str = "mean"
    attempt: int = 1
    """How often this leader has begun this round under this group key; it never signs two alike."""


_decoder = msgspec.msgpack.Decoder(Manifest)


@dataclass(frozen=True, slots=True)
class Part:
    """Elements ``start`` to ``stop`` of the flat vector; ``owner`` is the roster index of its reducer."""

    start: int
    stop: int
    owner: int
    codec: Codec

    @property
    def elements(self) -> int:
        """How many values it holds."""
        return self.stop - self.start


class SignedManifest:
    """A verified manifest with everything that follows from it."""

    def __init__(self, manifest: Manifest, raw: bytes, payload: bytes) -> None:
        self.manifest = manifest
        self.raw = raw
        self.group_id = blake3(payload).digest()
        self.peers: tuple[PeerId, ...] = tuple(PeerId(member.peer) for member in manifest.members)
        self.reducer: Reducer = get_reducer(manifest.reducer)
        self.dtype: np.dtype[Any] = np.dtype(manifest.dtype)
        self.parts = _assign_parts(manifest)

    @property
    def leader(self) -> PeerId:
        """The member that signed, and whose ballot is 0."""
        return self.peers[0]

    @property
    def total_bytes(self) -> int:
        """The encoded length of the whole vector."""
        return sum(self.part_bytes(part) for part in range(len(self.parts)))

    def part_bytes(self, part: int) -> int:
        """The encoded length of a part."""
        one = self.parts[part]
        return one.codec.encoded_bytes(one.elements, self.dtype)


def sign_manifest(identity: Identity, manifest: Manifest) -> SignedManifest:
    """Signs ``manifest`` as its leader. Raises ValueError when its own rules refuse it."""
    payload = msgspec.msgpack.encode(manifest)
    raw = seal(identity, _DOMAIN, _TYPE, payload)
    try:
        return open_manifest(raw, identity.peer_id)
    except RemoteProtocolError as error:
        raise ValueError(error.reason) from error


def open_manifest(raw: bytes, sender: PeerId) -> SignedManifest:
    """Parses, verifies and checks a manifest that ``sender`` passed on.

    Raises RemoteProtocolError (blaming ``sender``) for any rule it breaks.
    """
    try:
        envelope = open_envelope(raw, _DOMAIN, _TYPE, MAX_MANIFEST_BYTES)
        manifest = decode(_decoder, envelope.payload)
        _check(manifest, envelope.author)
        return SignedManifest(manifest, raw, envelope.payload)
    except (RecordRejected, KeyError, ValueError) as error:
        raise RemoteProtocolError(sender, f"sent a manifest that is refused: {error}") from error


def countersign(identity: Identity, group_id: bytes) -> bytes:
    """This peer's agreement to the manifest with that hash."""
    return identity.sign(_READY + group_id)


def is_countersigned(peer: PeerId, group_id: bytes, signature: bytes) -> bool:
    """True when ``signature`` is ``peer``'s agreement."""
    return verify(public_key_of(peer), signature, _READY + group_id)


def _check(manifest: Manifest, author: PeerId) -> None:
    members = manifest.members
    if not 2 <= len(members) <= MAX_MEMBERS:
        raise ValueError(f"a group has 2 to {MAX_MEMBERS} members, not {len(members)}")
    if members[0].peer != author:
        raise ValueError("it is not signed by its leader")
    if len({member.peer for member in members}) != len(members):
        raise ValueError("a member is named twice")
    for member in members:
        peer_id_to_bytes(PeerId(member.peer))
        if not (math.isfinite(member.weight) and 0 <= member.weight <= MAX_WEIGHT):
            raise ValueError(f"weight {member.weight} is not in 0 … 1e9")
        if not (math.isfinite(member.fraction) and 0 <= member.fraction <= 1):
            raise ValueError(f"fraction {member.fraction} is not in 0 … 1")
    if not any(member.weight > 0 for member in members):
        raise ValueError("nobody has a weight")
    if abs(sum(member.fraction for member in members) - 1) > 1e-6:
        raise ValueError("the fractions do not sum to 1")
    if not 1 <= manifest.elements <= MAX_ELEMENTS or not 1 <= manifest.part_elements <= manifest.elements:
        raise ValueError("the sizes make no sense")
    if len(manifest.run) != 16 or len(manifest.schema) != 32 or len(manifest.nonce) != 16:
        raise ValueError("an id has the wrong length")
    if len(manifest.reference) not in (0, 32) or len(manifest.group_key) > 128:
        raise ValueError("a field is out of range")
    if manifest.round < 1 or manifest.attempt < 1:
        raise ValueError("a field is out of range")


def _assign_parts(manifest: Manifest) -> tuple[Part, ...]:
    """Cuts the vector into parts and gives each reducer a run of them, by fraction."""
    pieces = cut(
        manifest.codec, manifest.elements, manifest.part_elements, np.dtype(manifest.dtype), MAX_PARTS
    )
    counts = part_counts([member.fraction for member in manifest.members], len(pieces))
    owners = (owner for owner, count in enumerate(counts) for _ in range(count))
    return tuple(
        Part(piece.start, piece.stop, owner, piece.codec) for piece, owner in zip(pieces, owners, strict=True)
    )
