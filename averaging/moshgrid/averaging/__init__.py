"""Averaging: Moshpit rounds over numpy arrays or torch tensors, with whoever is there.

``Averager`` is for blocking code, ``AsyncAverager`` for asyncio. Needs numpy; torch is used when the
caller's tensors are torch's.
"""

from moshgrid.averaging.async_averager import AsyncAverager
from moshgrid.averaging.averager import Averager
from moshgrid.averaging.chunk_transfer import Progress
from moshgrid.averaging.named_arrays import NamedState
from moshgrid.averaging.report import RoundReport
from moshgrid.averaging.run_state import StateSnapshot

__all__ = ["AsyncAverager", "Averager", "NamedState", "Progress", "RoundReport", "StateSnapshot"]
