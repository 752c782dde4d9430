"""The outcome of a round that was begun in the background: its report and average, or why there is none."""

from __future__ import annotations

from concurrent.futures import CancelledError, Future

from moshgrid.averaging import Averager, RoundReport
from moshgrid.averaging.pending_step import Averaged
from moshgrid.p2p import Closed
from moshgrid.swarm.progress_bar import waiting

__all__ = ["no_round", "outcome_of"]


def no_round(averager: Averager, reason: str) -> Averaged:
    """What stands for the round that did not come about."""
    return RoundReport(averager.round + 1, reason=reason), None


def outcome_of(averager: Averager, future: Future[Averaged], seconds: float, shown: bool | None) -> Averaged:
    """Waits for at most ``seconds``, visibly when it takes long (``shown`` as in ``waiting``).

    Raises what the round raises, but not for being late or for the run being closed: the report says it.
    """
    try:
        try:
            with waiting(f"round {averager.round + 1}: waiting for the swarm", shown):
                return future.result(seconds)
        except TimeoutError:
            if not future.done() and future.cancel():
                return no_round(averager, f"it took longer than averaging_timeout ({seconds:g} s)")
            return future.result()  # it came just now, or the error is its own
    except (CancelledError, Closed):
        return no_round(averager, "the run was closed")
