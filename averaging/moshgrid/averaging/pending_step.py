"""A pending step: the future of a round that goes on while its caller trains."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future
from typing import Any

from moshgrid.averaging.flat_arrays import Vector
from moshgrid.averaging.report import RoundReport
from moshgrid.p2p.prompt_future import PromptFuture

__all__ = ["Averaged", "PendingStep"]

Averaged = tuple[RoundReport, list[Vector] | None]
"""A report, and the average of each array if there is one."""


class PendingStep(PromptFuture[RoundReport]):
    """A future of a report, and of the average that goes with it.

    The average is added to the arrays, as the difference that it makes to what they held at the start,
    by the thread that asks for the outcome: with ``result``, ``exception``, ``done`` or ``await``. So it
    never changes them while that thread computes with them, and nothing of its progress is lost.
    Cancelling leaves the arrays as they are; the group finishes the round without them.
    """

    def __init__(self, operation: Future[Averaged], apply: Callable[[list[Vector]], None]) -> None:
        super().__init__()
        self._operation = operation
        self._apply = apply
        self._average: list[Vector] | None = None
        self._applying = threading.Lock()
        operation.add_done_callback(self._finished)

    def done(self) -> bool:
        """True when it is over; the average is in the arrays then."""
        if not super().done():
            return False
        self._settle()
        return True

    def result(self, timeout: float | None = None) -> RoundReport:
        """The report, the average being in the arrays. Raises as ``step``; CancelledError, TimeoutError."""
        report = super().result(timeout)
        self._settle()
        return report

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What ``result`` would raise, or None."""
        error = super().exception(timeout)
        self._settle()
        return error

    def cancel(self) -> bool:
        """Stops looking for a group or waiting for it; False when it is over already."""
        cancelled = super().cancel()
        if cancelled:
            self._operation.cancel()
        return cancelled

    def __await__(self) -> Generator[Any, None, RoundReport]:
        return asyncio.wrap_future(self).__await__()

    def _finished(self, operation: Future[Averaged]) -> None:
        try:
            report, self._average = operation.result()
        except CancelledError:
            super().cancel()
            self.set_running_or_notify_cancel()
        except Exception as error:  # whatever it is, it is the caller's to see
            if self.set_running_or_notify_cancel():
                self.set_exception(error)
        else:
            if self.set_running_or_notify_cancel():
                self.set_result(report)

    def _settle(self) -> None:
        with self._applying:
            average, self._average = self._average, None
            if average is not None and not self.cancelled():
                self._apply(average)
