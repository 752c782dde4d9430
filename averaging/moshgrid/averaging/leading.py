"""Leading: what a leader writes into the manifest of the group that came together, and what its
followers check. Pure.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from moshgrid.averaging.fractions import fair_fractions
from moshgrid.averaging.manifest import MAX_PART_BYTES, Manifest, Member, SignedManifest
from moshgrid.averaging.messages import Offer
from moshgrid.averaging.run_config import RunConfig
from moshgrid.averaging.schema import Schema
from moshgrid.compression import Codec
from moshgrid.p2p.errors import RemoteProtocolError
from moshgrid.p2p.identity import PeerId

__all__ = ["check_manifest", "compose_manifest"]


def compose_manifest(
    run: bytes,
    group_key: str,
    round_number: int,
    members: Sequence[tuple[PeerId, Offer]],
    schema: Schema,
    codec: Codec,
    reducer: str,
    rng: random.Random,
    attempt: int = 1,
) -> Manifest:
    """The manifest for ``members``, leader first; the others are shuffled, so that turns are fair.

    Every reducer gets at least a part where the vector is long enough; fractions are water-filled on
    what the members say of their bandwidths, a member that says nothing counting as the median.
    """
    leader, *others = members
    rng.shuffle(others)
    roster = [leader, *others]
    fractions = fair_fractions([offer.bandwidth if offer.reduces else None for _, offer in roster])
    dtype = schema.wire_dtype(codec.dtypes)
    largest = MAX_PART_BYTES
    while codec.encoded_bytes(largest, dtype) > MAX_PART_BYTES:
        largest //= 2
    return Manifest(
        run=run,
        group_key=group_key,
        round=round_number,
        members=tuple(
            Member(peer, "full" if offer.reduces else "client", offer.weight, fraction)
            for (peer, offer), fraction in zip(roster, fractions, strict=True)
        ),
        codec=codec.name,
        dtype="float64" if dtype.itemsize == 8 else "float32",
        elements=schema.elements,
        part_elements=max(1, min(largest, -(-schema.elements // len(roster)))),
        schema=schema.digest,
        reference=b"",
        nonce=rng.randbytes(16),
        reducer=reducer,
        attempt=attempt,
    )


def check_manifest(signed: SignedManifest, sender: PeerId, me: PeerId, run: bytes, config: RunConfig) -> None:
    """Raises RemoteProtocolError, blaming ``sender``, for a manifest that is not for this peer and run."""
    manifest, schema = signed.manifest, config.schema
    dtype = schema.wire_dtype(signed.codec.dtypes)
    if me not in signed.peers or manifest.run != run:
        raise RemoteProtocolError(sender, "sent a manifest of others")
    if manifest.schema != schema.digest or manifest.elements != schema.elements:
        raise RemoteProtocolError(sender, "sent a manifest for other tensors")
    if manifest.codec != config.codec or manifest.dtype != dtype.name or manifest.reference:
        raise RemoteProtocolError(sender, "sent a manifest with another codec or reference")
    if manifest.reducer != config.reducer:
        raise RemoteProtocolError(sender, f"sent a manifest with the reducer {manifest.reducer}")
    if len(signed.peers) > config.group_size:
        raise RemoteProtocolError(sender, f"sent a manifest of {len(signed.peers)} members")
