"""Download bar: bytes, rate and time left of a download, for who looks at a terminal."""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from moshgrid.averaging import Progress
from moshgrid.swarm.progress_bar import is_watched

__all__ = ["download_bar"]


class download_bar:
    """A context manager to be called with each ``Progress``; ``last`` is the newest of them.

    ``shown`` False shows nothing, None shows it on a terminal. Needs ``rich`` to show anything.
    """

    def __init__(self, what: str, shown: bool | None = None) -> None:
        self.last: Progress | None = None
        self._bar: Any = None
        self._task: Any = None
        self._what = what
        self._shown = is_watched() if shown is None else shown

    def __enter__(self) -> Self:
        if not self._shown:
            return self
        with suppress(ImportError):
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                DownloadColumn,
                TextColumn,
                TimeRemainingColumn,
                TransferSpeedColumn,
            )
            from rich.progress import Progress as RichProgress

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = RichProgress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=None)
        return self

    def __call__(self, progress: Progress) -> None:
        self.last = progress
        if self._bar is not None:
            self._bar.update(self._task, completed=progress.bytes_done, total=progress.bytes_total)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
