"""Next round: averages values that are for the round after a known one, and for no later one. Awaits.

The difference to a state that holds after round n means nothing to members that are in round n + 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moshgrid.averaging.pending_step import Averaged
from moshgrid.averaging.run_core import RunCore

__all__ = ["average_next"]


async def average_next(
    core: RunCore, arrays: Sequence[Any], weight: float, reference: Sequence[Any] | None, since: int | None
) -> Averaged:
    """``core.average`` for round ``since`` + 1; nothing is averaged where the run is further. None: any."""
    core.only_after = since
    try:
        return await core.average(arrays, weight, 1, reference)
    finally:
        core.only_after = None
