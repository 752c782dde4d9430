"""Leading: what a leader writes into the manifest of the group that came together. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from moshgrid.averaging.fractions import water_filling
from moshgrid.averaging.layout import largest_part, without_reference
from moshgrid.averaging.manifest import Manifest, Member
from moshgrid.averaging.messages import Offer
from moshgrid.averaging.schema import Schema
from moshgrid.p2p.identity import PeerId

__all__ = ["compose_manifest"]


def compose_manifest(
    run: bytes,
    group_key: str,
    round_number: int,
    members: Sequence[tuple[PeerId, Offer]],
    schema: Schema,
    layout: str,
    dtype: np.dtype[Any],
    rng: random.Random,
) -> Manifest:
    """The manifest for ``members``, leader first; the others are shuffled, so that turns are fair.

    Every reducer gets at least a part where the vector is long enough; fractions are water-filled on
    what the members say of their bandwidths, a member that says nothing counting as the median. When
    they do not all name the same reference, the round does without, and with codecs fit for that.
    """
    leader, *others = members
    rng.shuffle(others)
    roster = [leader, *others]
    known = sorted(offer.bandwidth for _, offer in roster if offer.bandwidth > 0)
    usual = known[len(known) // 2] if known else 1.0
    fractions = water_filling([(offer.bandwidth or usual) if offer.reduces else 0.0 for _, offer in roster])
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
    )
