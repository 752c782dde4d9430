"""Offers: whether what a peer brings to a group goes with what this one brings, said in words. Pure."""

from __future__ import annotations

from moshgrid.averaging.messages import Offer

__all__ = ["MISFITS", "misfit"]

MISFITS = ("your tensors differ", "this group uses the ", "your offer's numbers")
"""How the reasons begin."""
_SHOWN = 48


def misfit(theirs: Offer, ours: Offer) -> str:
    """Why the two cannot be in one group; empty when they can."""
    if not theirs.is_sound:
        return "your offer's numbers make no sense"
    if theirs.schema != ours.schema:
        return f"your tensors differ from the group's: {_first_difference(theirs, ours)}"
    if theirs.codec != ours.codec:
        return f"this group uses the codec {ours.codec}"
    if theirs.reducer != ours.reducer:
        return f"this group uses the reducer {ours.reducer}"
    return ""


def _first_difference(theirs: Offer, ours: Offer) -> str:
    """What differs first, as far as the two offers describe their arrays."""
    one, other = theirs.outline.split(";"), ours.outline.split(";")
    shorter = min(len(one), len(other))
    for index in range(shorter):
        if one[index] != other[index]:
            if not one[index] or not other[index]:
                break
            return f"array {index}: yours {one[index][:_SHOWN]}, expected {other[index][:_SHOWN]}"
    else:
        return f"in number, shape or dtype after the first {shorter}"
    return "in number, shape or dtype"
