"""Prompt future: a future whose waiting thread answers a signal within half a second, whenever it comes."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

__all__ = ["PromptFuture"]

Result = TypeVar("Result")
Answer = TypeVar("Answer")

_SIGNAL_SECONDS = 0.5


class PromptFuture(Future[Result], Generic[Result]):
    """As any future, but Ctrl+C ends ``result`` and ``exception`` within half a second.

    Python looks at a signal that another thread received, or that came while the main thread was about to
    wait for a lock, only when that wait is over: so no wait is longer.
    """

    def result(self, timeout: float | None = None) -> Result:
        """What was computed. Raises its error, CancelledError, or TimeoutError after ``timeout`` seconds."""
        return self._in_slices(super().result, timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What ``result`` would raise, or None. Raises CancelledError, TimeoutError."""
        return self._in_slices(super().exception, timeout)

    def _in_slices(self, ask: Callable[[float], Answer], timeout: float | None) -> Answer:
        until = math.inf if timeout is None else time.monotonic() + timeout
        while not Future.done(self) and (left := until - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                return ask(min(left, _SIGNAL_SECONDS))
        return ask(0)
