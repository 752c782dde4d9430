"""Identity of a training: its tensors' names, shapes and dtypes, the protocol's version, and who disagrees.

Each member keeps a record of it in the DHT, with the name of a blob that lists the tensors, so that a peer
with another model is told which tensors differ instead of never finding a group. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from blake3 import blake3

from moshgrid.p2p import MoshgridError, PeerId, SchemaMismatch

if TYPE_CHECKING:
    import torch

__all__ = [
    "PROTOCOL",
    "Identity",
    "TensorEntry",
    "VersionMismatch",
    "compare",
    "decode_listing",
    "entries_of",
    "listing_of",
    "mismatch",
]

PROTOCOL = 1
"""What peers of one training must have in common beside the tensors: records, payloads, states."""

_MOST_SHOWN = 12
_MAX_TENSORS = 100_000


class VersionMismatch(MoshgridError):
    """The others in the run speak another version of the training protocol."""


class TensorEntry(msgspec.Struct, frozen=True, array_like=True):
    """One tensor of a model."""

    name: Annotated[str, msgspec.Meta(max_length=512)]
    shape: Annotated[tuple[int, ...], msgspec.Meta(max_length=16)]
    dtype: Annotated[str, msgspec.Meta(max_length=16)]

    def __str__(self) -> str:
        return f"{self.shape} {self.dtype}"


_Listing = Annotated[list[TensorEntry], msgspec.Meta(max_length=_MAX_TENSORS)]


@dataclass(frozen=True, slots=True)
class Identity:
    """What one member says that the training is."""

    protocol: int
    digest: bytes
    """32 bytes, the BLAKE3 of ``listing``: also the name of the blob that holds it."""
    tensors: int

    @classmethod
    def of(cls, listing: bytes, tensors: int) -> Identity:
        """The identity of a training of these tensors, see ``listing_of``."""
        return cls(PROTOCOL, blake3(listing).digest(), tensors)

    def to_value(self) -> dict[str, Any]:
        """For a record."""
        return {"protocol": self.protocol, "schema": self.digest, "tensors": self.tensors}

    @classmethod
    def from_value(cls, value: Any) -> Identity | None:
        """The inverse; None for what is none, a stranger may write anything."""
        if not isinstance(value, dict):
            return None
        protocol, digest, tensors = (value.get(key) for key in ("protocol", "schema", "tensors"))
        if not isinstance(protocol, int) or not isinstance(digest, bytes) or not isinstance(tensors, int):
            return None
        if len(digest) != 32 or not 0 < protocol < 2**31 or not 0 <= tensors <= _MAX_TENSORS:
            return None
        return cls(protocol, digest, tensors)


def entries_of(parameters: Mapping[str, torch.Tensor]) -> list[TensorEntry]:
    """A model's parameters as they are listed."""
    return [
        TensorEntry(name[:512], tuple(p.shape), str(p.dtype).removeprefix("torch."))
        for name, p in parameters.items()
    ]


def listing_of(entries: Sequence[TensorEntry]) -> bytes:
    """The bytes that name a model's tensors, in order."""
    return msgspec.msgpack.encode(list(entries))


def decode_listing(data: bytes) -> list[TensorEntry]:
    """The inverse. Raises ValueError."""
    return msgspec.msgpack.decode(data, type=_Listing)


def compare(mine: Identity, others: Mapping[PeerId, Identity]) -> Identity | None:
    """The identity that more members have than have mine, this peer left aside; None when there is none.

    One that differs while as many agree is the newcomer's trouble, not this peer's.
    """
    votes: dict[Identity, int] = {}
    for identity in others.values():
        votes[identity] = votes.get(identity, 0) + 1
    agreeing = votes.pop(mine, 0)
    if not votes:
        return None
    most = max(sorted(votes, key=lambda one: one.digest), key=lambda one: votes[one])
    return most if votes[most] > agreeing else None


def mismatch(
    run_id: str,
    mine: Identity,
    run: Identity,
    ours: Sequence[TensorEntry],
    theirs: Sequence[TensorEntry] | None,
) -> MoshgridError:
    """The error that tells a person what differs. ``theirs`` is None when nobody could send the list."""
    if run.protocol != mine.protocol:
        newer = run.protocol > mine.protocol
        return VersionMismatch(
            f"run {run_id!r} speaks training protocol {run.protocol}, this is protocol {mine.protocol}: "
            + (
                "update this moshgrid: pip install -U moshgrid"
                if newer
                else "the others have to update theirs"
            )
        )
    if theirs is None:
        return SchemaMismatch(
            f"your model differs from run {run_id!r}: yours has {mine.tensors} tensors, the run's "
            f"{run.tensors}, and no member could say which (hash {_short(mine)} vs {_short(run)})"
        )
    diff = _difference(ours, theirs)
    total = max(mine.tensors, run.tensors)
    shown = diff[:_MOST_SHOWN]
    if len(diff) > len(shown):
        shown.append(f"… and {len(diff) - len(shown)} more")
    return SchemaMismatch(
        f"your model differs from run {run_id!r} in {len(diff)} of {total} tensors "
        f"(hash {_short(mine)} vs {_short(run)})",
        shown,
    )


def _difference(ours: Sequence[TensorEntry], theirs: Sequence[TensorEntry]) -> list[str]:
    mine, run = {entry.name: entry for entry in ours}, {entry.name: entry for entry in theirs}
    lines = []
    for name in dict.fromkeys([*mine, *run]):
        here, there = mine.get(name), run.get(name)
        if here != there:
            lines.append(f"{name}  yours {here or 'nothing'}  run {there or 'nothing'}")
    if not lines and list(mine) != list(run):
        lines.append("the same tensors in another order")
    return lines


def _short(identity: Identity) -> str:
    return identity.digest[:2].hex()
