"""Progress bar: shows on a terminal what is being waited for, once it takes longer than a second."""

from __future__ import annotations

import sys
import time
from concurrent.futures import Future, TimeoutError
from typing import TextIO, TypeVar

__all__ = ["await_visibly", "is_watched"]

Result = TypeVar("Result")

_PATIENCE = 1.0
_REFRESH = 0.2


def is_watched(stream: TextIO | None = None) -> bool:
    """True when ``stream`` (stderr) is a terminal."""
    stream = stream or sys.stderr
    return stream is not None and stream.isatty()


def await_visibly(
    future: Future[Result], what: str, timeout: float | None = None, shown: bool | None = None
) -> Result:
    """The future's result; shows ``what`` with the seconds beside it after one second on a terminal.

    ``shown`` False shows nothing, True shows it anywhere; None asks whether stderr is a terminal. Needs
    ``rich`` to show anything. Raises TimeoutError after ``timeout`` seconds, and what the future raises.
    """
    started = time.monotonic()
    patience = _PATIENCE if timeout is None else min(_PATIENCE, timeout)
    try:
        return future.result(patience)
    except TimeoutError:
        if future.done() or (timeout is not None and timeout <= patience):
            raise
    left = None if timeout is None else timeout - (time.monotonic() - started)
    if not (is_watched() if shown is None else shown):
        return future.result(left)
    try:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    except ImportError:
        return future.result(left)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True, force_terminal=shown), transient=True) as bar:
        bar.add_task(what, total=None)
        while True:
            left = None if timeout is None else timeout - (time.monotonic() - started)
            try:
                return future.result(_REFRESH if left is None else max(0.0, min(_REFRESH, left)))
            except TimeoutError:
                if future.done() or (left is not None and left <= _REFRESH):
                    raise
