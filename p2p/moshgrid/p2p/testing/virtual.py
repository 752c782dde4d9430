"""Runs a test in virtual time, with the event loop's own order fixed by a seed."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio
import trio.testing
from trio._core import _run  # the only place where the scheduler's order can be fixed

__all__ = ["run_virtual"]

Result = TypeVar("Result")


def run_virtual(fn: Callable[..., Awaitable[Result]], *args: Any, seed: int = 0) -> Result:
    """Runs ``fn(*args)`` on a clock that jumps to the next deadline whenever all tasks wait.

    Worker threads count as waiting: the clock jumps past them, so keep them out of what runs here.
    """
    loop: Any = _run
    before = loop._ALLOW_DETERMINISTIC_SCHEDULING, loop._r
    loop._ALLOW_DETERMINISTIC_SCHEDULING, loop._r = True, random.Random(seed)
    try:
        return trio.run(fn, *args, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        loop._ALLOW_DETERMINISTIC_SCHEDULING, loop._r = before
