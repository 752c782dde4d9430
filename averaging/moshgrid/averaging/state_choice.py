"""Which of the states that peers offer a newcomer takes. Pure.

The newest round alone would let anybody win who names a high one, and most votes alone would keep a
newcomer at an old state. So: no state is believed that is ahead of what half of the votes have reached;
of the others the one with most votes counts, the newer of equals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from moshgrid.averaging.state import Brief
from moshgrid.p2p.identity import PeerId

__all__ = ["Choice", "choose_state"]

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Choice:
    """A state to take, and who has it."""

    state: Brief
    donors: tuple[PeerId, ...]
    """Everybody who offered it, voter or not: bytes are checked, whoever sends them."""
    has_majority: bool
    """More than half of the votes are for it."""


def choose_state(
    offers: Mapping[PeerId, Brief],
    votes: Mapping[PeerId, float],
    schema: bytes | None,
    authority: PeerId | None = None,
) -> Choice | None:
    """The state to take among sound ``offers`` of the run's ``schema`` (None: any); None without any.

    ``votes`` says how much each peer's word counts; those not in it do not count. What the ``authority``
    itself offers is taken before all else.
    """
    sound = {
        peer: offer
        for peer, offer in offers.items()
        if offer.is_sound and (schema is None or offer.schema == schema)
    }
    counted = {peer: offer for peer, offer in sound.items() if votes.get(peer, 0.0) > 0.0}
    if not counted:
        return None
    if authority is not None and authority in counted:
        taken, majority = counted[authority], True
    else:
        taken, majority = _elect(counted, votes)
    donors = tuple(peer for peer, offer in sound.items() if offer.id == taken.id)
    return Choice(taken, donors, majority)


def _elect(offers: Mapping[PeerId, Brief], votes: Mapping[PeerId, float]) -> tuple[Brief, bool]:
    total = sum(votes[peer] for peer in offers)
    reached = 0.0
    bound = 0
    for peer in sorted(offers, key=lambda peer: -offers[peer].round):
        reached += votes[peer]
        if 2 * reached >= total - _ROUNDING:
            bound = offers[peer].round
            break
    support: dict[bytes, float] = {}
    states: dict[bytes, Brief] = {}
    for peer, offer in offers.items():
        if offer.round <= bound:
            support[offer.id] = support.get(offer.id, 0.0) + votes[peer]
            states[offer.id] = offer
    best = max(states, key=lambda each: (round(support[each], 9), states[each].round, each))
    return states[best], 2 * support[best] > total + _ROUNDING
