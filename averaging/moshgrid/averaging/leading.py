"""Leading: what a leader writes into the manifest of the group that came together, and what its
followers check. Pure.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from moshgrid.averaging.fractions import fair_fractions
from moshgrid.averaging.layout import largest_part, without_reference
from moshgrid.averaging.manifest import Manifest, Member, SignedManifest
from moshgrid.averaging.messages import Offer
from moshgrid.averaging.run_config import RunConfig
from moshgrid.p2p.errors import RemoteProtocolError
from moshgrid.p2p.identity import PeerId

__all__ = ["check_manifest", "compose_manifest"]


def compose_manifest(
    run: bytes,
    group_key: str,
    round_number: int,
    members: Sequence[tuple[PeerId, Offer]],
    config: RunConfig,
    rng: random.Random,
    attempt: int = 1,
) -> Manifest:
    """The manifest for ``members``, leader first; the others are shuffled, so that turns are fair.

    Every reducer gets at least a part where the vector is long enough; fractions are water-filled on
    what the members say of their bandwidths, a member that says nothing counting as the median. When
    they do not all name the same reference, the round does without, and with codecs fit for that.
    """
    schema, layout, dtype = config.schema, config.layout, config.dtype
    leader, *others = members
    rng.shuffle(others)
    roster = [leader, *others]
    fractions = fair_fractions([offer.bandwidth if offer.reduces else None for _, offer in roster])
    references = {offer.reference for _, offer in roster}
    reference = references.pop() if len(references) == 1 else b""
    if references:
        layout = without_reference(layout)
    return Manifest(
        run=run,
        group_key=group_key,
        round=round_number,
        members=tuple(
            Member(peer, "full" if offer.reduces else "client", offer.weight, fraction)
            for (peer, offer), fraction in zip(roster, fractions, strict=True)
        ),
        codec=layout,
        dtype="float64" if dtype.itemsize == 8 else "float32",
        elements=schema.elements,
        part_elements=largest_part(layout, schema.elements, dtype, len(roster)),
        schema=schema.digest,
        reference=reference,
        nonce=rng.randbytes(16),
        reducer=config.reducer,
        attempt=attempt,
    )


def check_manifest(
    signed: SignedManifest, sender: PeerId, me: PeerId, run: bytes, config: RunConfig, reference: bytes
) -> None:
    """Raises RemoteProtocolError, blaming ``sender``, for a manifest that is not for this peer and run."""
    manifest, schema = signed.manifest, config.schema
    if me not in signed.peers or manifest.run != run:
        raise RemoteProtocolError(sender, "sent a manifest of others")
    if manifest.schema != schema.digest or manifest.elements != schema.elements:
        raise RemoteProtocolError(sender, "sent a manifest for other tensors")
    if manifest.dtype != config.dtype.name or (manifest.codec, manifest.reference) not in (
        (config.layout, reference),
        (without_reference(config.layout), b""),
    ):
        raise RemoteProtocolError(sender, "sent a manifest with another codec or reference")
    if manifest.reducer != config.reducer:
        raise RemoteProtocolError(sender, f"sent a manifest with the reducer {manifest.reducer}")
    if len(signed.peers) > config.group_size:
        raise RemoteProtocolError(sender, f"sent a manifest of {len(signed.peers)} members")
