"""What the members of a run agree on beforehand."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moshgrid.averaging.match_messages import MAX_OUTLINE, Offer
from moshgrid.averaging.schema import Schema
from moshgrid.averaging.topology import Topology
from moshgrid.p2p.identity import PeerId

__all__ = ["RunConfig", "run_digest"]


def run_digest(network: str, run_id: str) -> bytes:
    """The 16 bytes that name a run on the wire."""
    return hashlib.sha256(f"{network}\x00{run_id}".encode()).digest()[:16]


@dataclass(frozen=True)
class RunConfig:
    """What the members of a run agree on beforehand."""

    run_id: str
    schema: Schema
    topology: Topology
    group_size: int
    min_group_size: int
    layout: str
    """Which codec for which stretch of the flat vector; see ``layout``."""
    order: tuple[int, ...]
    """The arrays' indices in the order in which they stand in the flat vector."""
    dtype: np.dtype[Any]
    """Of the flat vector: float64 or float32."""
    reducer: str = "mean"
    deadline: float | None = None
    """Seconds that a step may look for a group in all; None adapts."""
    seats_per_block: int | None = None
    """Members of a group of eight or more that may be seen in one address block; None: any number."""

    authority: PeerId | None = None
    """Whose word counts for states, and who admits others; None in an open run."""
    admission: bytes = b""
    """By what right this peer speaks in a run with an authority."""
    downloads: Path | None = None
    """Where this peer keeps what has come of a state, until it has the whole."""

    def arranged(self, arrays: Sequence[Any]) -> list[Any]:
        """``arrays`` in the order of the flat vector."""
        return [arrays[index] for index in self.order]

    def offer(self, weight: float, bandwidth: float, reference: bytes) -> Offer:
        """What this peer brings to a group; ``reference``: the digest of what it can subtract."""
        digest, outline = self.schema.digest, self.schema.outline(MAX_OUTLINE)
        return Offer(weight, bandwidth, digest, self.layout, True, self.reducer, reference, outline=outline)
