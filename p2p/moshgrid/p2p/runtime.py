"""The one background thread that runs the event loop, and the bridge to it from blocking code.

The first user starts the thread and the last one ends it. Whole operations cross the bridge, each in
one hop: about 100 µs there and back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import partial
from typing import ClassVar, Generic, TypeVar

import trio

from moshgrid.p2p.errors import Closed, LocalProtocolError
from moshgrid.p2p.prompt_future import PromptFuture

__all__ = ["Operation", "Runtime", "refuse_inside_event_loop"]

Result = TypeVar("Result")

_LEAVING_SECONDS = 5.0
_THREAD_SECONDS = 1.0


class Operation(PromptFuture[Result], Generic[Result]):
    """What runs in the loop, as a future; cancelling it cancels the work over there."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Event()
        """Set when the work is over; a cancelled future is done before that."""

    def abandon(self) -> None:
        """Cancels the work and waits for its end: 5 s at most, or till Ctrl+C."""
        self.cancel()
        with contextlib.suppress(KeyboardInterrupt):
            self.ended.wait(_LEAVING_SECONDS)


class _Loop:
    """The thread and the event loop in it."""

    def __init__(self) -> None:
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="moshgrid", daemon=True)
        self._thread.start()
        self._started.result()

    def _run(self) -> None:
        trio.run(self._main)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        async with trio.open_nursery() as self._nursery:
            self._started.set_result(None)
            await self._stop.wait()
            self._nursery.cancel_scope.cancel()

    def submit(self, operation: Operation[Result], fn: Callable[[], Awaitable[Result]]) -> None:
        """Runs ``fn()`` for ``operation``. Never waits, so that Ctrl+C finds nothing half done."""

        async def run() -> None:
            try:
                with trio.CancelScope() as scope:
                    operation.add_done_callback(partial(self._cancel_if_asked, scope))
                    result = await fn()
                    if operation.set_running_or_notify_cancel():
                        operation.set_result(result)
            except Exception as error:  # the root of the operation's task: it is the caller's to see
                if operation.set_running_or_notify_cancel():
                    operation.set_exception(error)
            finally:
                operation.cancel()
                operation.ended.set()

        self._token.run_sync_soon(self._nursery.start_soon, run)

    def _cancel_if_asked(self, scope: trio.CancelScope, done: Future[Result]) -> None:
        if done.cancelled():
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(scope.cancel)

    def stop(self) -> None:
        """Cancels what still runs and ends the thread; what shields itself for long is left behind."""
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._stop.set)
        self._thread.join(_THREAD_SECONDS)


class Runtime:
    """A lease on the background loop; ``release`` gives it back."""

    _lock: ClassVar[threading.Lock] = threading.Lock()
    _leases: ClassVar[int] = 0
    _shared: ClassVar[_Loop | None] = None

    def __init__(self) -> None:
        cls = type(self)
        self._pid = os.getpid()
        with cls._lock:
            if cls._shared is None:
                cls._shared = _Loop()
            cls._leases += 1
            self._loop: _Loop | None = cls._shared

    @property
    def is_foreign(self) -> bool:
        """True in a process that was forked from the one with the thread."""
        return self._pid != os.getpid()

    def release(self) -> None:
        """Gives the lease back; the last one ends the thread. May be called twice."""
        if self._loop is None or self.is_foreign:
            return
        self._loop = None
        cls = type(self)
        with cls._lock:
            cls._leases -= 1
            last, cls._shared = (None, cls._shared) if cls._leases else (cls._shared, None)
        if last is not None:
            last.stop()

    @classmethod
    def forget(cls) -> None:
        """After a fork: the thread exists in the parent only."""
        cls._lock = threading.Lock()
        cls._leases = 0
        cls._shared = None

    def submit(self, operation: Operation[Result], fn: Callable[[], Awaitable[Result]]) -> None:
        """Starts ``fn()`` in the loop as ``operation``. Raises LocalProtocolError after a fork, or Closed."""
        if self.is_foreign:
            raise LocalProtocolError(
                "this object was made before a fork and belongs to the parent process: "
                "make a new Node in the child, or start processes with the 'spawn' method"
            )
        if self._loop is None:
            raise Closed("it was closed")
        self._loop.submit(operation, fn)


def refuse_inside_event_loop() -> None:
    """Raises LocalProtocolError where a blocking call would stop the caller's own event loop."""
    try:
        asyncio.get_running_loop()
        inside = "asyncio"
    except RuntimeError:
        if not _in_trio():
            return
        inside = "trio"
    if inside == "asyncio" and "IPython" in sys.modules and _in_notebook():
        return  # a notebook's cells run inside its loop, and blocking them is what users expect
    raise LocalProtocolError(
        f"a blocking call inside a running {inside} event loop would stop that loop. Use the Async twin "
        "with await instead: AsyncNode, AsyncDHT, AsyncAverager, AsyncRun"
    )


def _in_trio() -> bool:
    try:
        trio.lowlevel.current_trio_token()
    except RuntimeError:
        return False
    return True


def _in_notebook() -> bool:
    get_ipython = getattr(sys.modules["IPython"], "get_ipython", None)
    return get_ipython is not None and get_ipython() is not None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Runtime.forget)
