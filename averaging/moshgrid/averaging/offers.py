"""Offers: whether what a peer brings to a group goes with what this one brings, said in words. Pure."""

from __future__ import annotations

from moshgrid.averaging.messages import Offer

__all__ = ["MISFITS", "misfit"]

MISFITS = ("your tensors differ", "this group uses the ", "your offer's numbers")
"""How the reasons begin."""


def misfit(theirs: Offer, ours: Offer) -> str:
    """Why the two cannot be in one group; empty when they can."""
    if not theirs.is_sound:
        return "your offer's numbers make no sense"
    if theirs.schema != ours.schema:
        return "your tensors differ in number, shape or dtype from the group's"
    if theirs.codec != ours.codec:
        return f"this group uses the codec {ours.codec}"
    if theirs.reducer != ours.reducer:
        return f"this group uses the reducer {ours.reducer}"
    return ""
