"""Progress bars: show on a terminal what is being waited for, once it takes longer than a second."""

from __future__ import annotations

import logging
import sys
import threading
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TextIO

from moshgrid.averaging import Progress

__all__ = ["downloading", "is_watched", "waiting"]

_PATIENCE = 1.0


def is_watched(stream: TextIO | None = None) -> bool:
    """True when ``stream`` (stderr) is a terminal."""
    stream = stream or sys.stderr
    return stream is not None and stream.isatty()


class waiting:
    """A context manager: after a second in it, ``what`` is shown on stderr with the time; gone at its end.

    ``shown`` False shows nothing, True shows it anywhere; None asks whether stderr is a terminal. Needs
    ``rich`` to show anything. What is logged to stderr meanwhile stands above the bar.
    """

    def __init__(self, what: str, shown: bool | None = None) -> None:
        self.what = what
        self._shown = is_watched() if shown is None else shown
        self._forced = True if shown else None
        self._lock = threading.Lock()
        self._over = False
        self._timer: threading.Timer | None = None
        self._bar: Any = None
        self._task: Any = None
        self._stderr: Any = None
        self._handlers: list[logging.StreamHandler[Any]] = []

    def __enter__(self) -> Self:
        if self._shown:
            self._timer = threading.Timer(_PATIENCE, self._show)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is None:
            return
        self._timer.cancel()
        with self._lock:
            self._over = True
            if self._bar is not None:
                for handler in self._handlers:
                    handler.setStream(self._stderr)
                self._bar.stop()

    def _columns(self) -> tuple[Any, ...]:
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

        return SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()

    def _show(self) -> None:
        with self._lock, suppress(ImportError):
            if self._over:
                return
            from rich.console import Console
            from rich.progress import Progress as Bar

            console = Console(stderr=True, force_terminal=self._forced)
            bar = Bar(*self._columns(), console=console, transient=True)
            self._task = bar.add_task(self.what, total=None)
            self._stderr = sys.stderr
            bar.start()  # puts itself in the place of sys.stderr; log handlers hold the old one
            self._handlers = [
                handler
                for name in (None, "moshgrid", "moshgrid.swarm")
                for handler in logging.getLogger(name).handlers
                if isinstance(handler, logging.StreamHandler) and handler.stream is self._stderr
            ]
            for handler in self._handlers:
                handler.setStream(sys.stderr)
            self._bar = bar


class downloading(waiting):
    """The same for a download, to be called with each ``Progress``: bytes, rate and time left are shown.

    ``last`` is the newest ``Progress``.
    """

    last: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        self.last = progress
        bar = self._bar
        if bar is not None:
            bar.update(self._task, completed=progress.bytes_done, total=progress.bytes_total)

    def _columns(self) -> tuple[Any, ...]:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        return (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
