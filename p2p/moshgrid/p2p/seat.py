"""A seat: where one task waits until another one wakes it, at a third of the price of an event."""

from __future__ import annotations

import trio

__all__ = ["Seat"]


class Seat:
    """Where one task waits; a parking lot for many costs three times as much."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    async def wait(self) -> None:
        """Returns after ``wake``. Raises BusyResourceError when another task waits here."""
        if self._task is not None:
            raise trio.BusyResourceError("another task does the same on this stream")
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._give_up)

    def _give_up(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def wake(self) -> None:
        """Lets the task go on that waits, if one does."""
        if (task := self._task) is not None:
            self._task = None
            trio.lowlevel.reschedule(task)
