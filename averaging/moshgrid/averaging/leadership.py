"""Leadership: the manifests that one peer signs for the groups it leads, one for each attempt at a round."""

from __future__ import annotations

from collections.abc import Sequence

from moshgrid.averaging.address_blocks import block_seen
from moshgrid.averaging.leading import compose_manifest
from moshgrid.averaging.manifest import SignedManifest, sign_manifest
from moshgrid.averaging.messages import Offer
from moshgrid.averaging.run_config import RunConfig
from moshgrid.averaging.seats import Applicant, Seats
from moshgrid.p2p.host import Host
from moshgrid.p2p.identity import PeerId

__all__ = ["Leadership"]


class Leadership:
    """What one peer signs as a leader."""

    def __init__(self, host: Host, run: bytes, config: RunConfig) -> None:
        self._host = host
        self._run = run
        self._config = config
        self._seats = Seats(host.peer_id, config.group_size, config.seats_per_block)
        self._attempt = ("", 0, 0)

    def without_seat(self, members: Sequence[tuple[PeerId, Offer]]) -> list[PeerId]:
        """Those of ``members`` (this peer first) that have no seat by where they are seen now.

        They may have joined through a relay, and have a direct connection since.
        """
        if not self._seats.are_limited:
            return []
        others = {peer: Applicant(offer, block_seen(self._host.network, peer)) for peer, offer in members[1:]}
        taken = self._seats.taken(others)
        return [peer for peer in others if peer not in taken]

    @property
    def why_none(self) -> str:
        """What is said to them."""
        return self._seats.why

    def sign(
        self, group_key: str, round_number: int, members: Sequence[tuple[PeerId, Offer]]
    ) -> SignedManifest:
        """The manifest of a group of ``members``, this peer first."""
        key, last, attempts = self._attempt
        again = (key, last) == (group_key, round_number)
        self._attempt = (group_key, round_number, attempts + 1 if again else 1)
        manifest = compose_manifest(
            self._run, group_key, round_number, members, self._config, self._host.rng, self._attempt[2]
        )
        return sign_manifest(self._host.identity, manifest)
