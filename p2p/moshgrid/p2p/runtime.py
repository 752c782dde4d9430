"""The one background thread that runs the event loop, and the bridge to it from blocking code.

The first user starts the thread and the last one ends it. Whole operations cross the bridge.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import ParamSpec, TypeVar

import trio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from moshgrid.p2p.errors import Closed, LocalProtocolError

__all__ = ["Runtime", "refuse_inside_event_loop", "wait_for"]

Args = ParamSpec("Args")
Result = TypeVar("Result")

_LEAVING_SECONDS = 5.0


class Runtime:
    """A lease on the background loop; ``release`` gives it back."""

    _lock = threading.Lock()
    _leases = 0
    _portal: BlockingPortal | None = None
    _context: AbstractContextManager[BlockingPortal] | None = None

    def __init__(self) -> None:
        cls = type(self)
        with cls._lock:
            if cls._portal is None:
                cls._context = start_blocking_portal("trio")
                cls._portal = cls._context.__enter__()
                cls._portal.call(_name_thread)
            cls._leases += 1
            self._own: BlockingPortal | None = cls._portal
        self._pid = os.getpid()

    def release(self) -> None:
        """Gives the lease back; the last one ends the thread. May be called twice."""
        if self._own is None:
            return
        self._own = None
        if self.is_foreign:
            return
        cls = type(self)
        context = None
        with cls._lock:
            cls._leases -= 1
            if not cls._leases:
                context, cls._context, cls._portal = cls._context, None, None
        if context is not None:
            context.__exit__(None, None, None)

    @classmethod
    def forget(cls) -> None:
        """After a fork: the thread exists in the parent only."""
        cls._lock = threading.Lock()
        cls._leases = 0
        cls._portal = None
        cls._context = None

    def call(self, fn: Callable[Args, Awaitable[Result]], *args: Args.args, **kwargs: Args.kwargs) -> Result:
        """Runs ``fn(*args)`` in the loop and returns what it returns.

        Ctrl+C cancels the operation, waits for it to end (5 s at most, or a second Ctrl+C), and is
        raised again. Raises LocalProtocolError inside an event loop.
        """
        refuse_inside_event_loop()
        return wait_for(self.soon(fn, *args, **kwargs))

    @property
    def is_foreign(self) -> bool:
        """True in a process that was forked from the one with the thread."""
        return self._pid != os.getpid()

    def soon(
        self, fn: Callable[Args, Awaitable[Result]], *args: Args.args, **kwargs: Args.kwargs
    ) -> Future[Result]:
        """Starts ``fn(*args)`` in the loop; cancelling the future cancels it."""
        if self.is_foreign:
            raise LocalProtocolError(
                "this object was made before a fork and belongs to the parent process: "
                "make a new Node in the child, or start processes with the 'spawn' method"
            )
        if self._own is None:
            raise Closed("it was closed")
        ended = threading.Event()

        async def run() -> Result:
            try:
                return await fn(*args, **kwargs)
            finally:
                ended.set()

        future: Future[Result] = self._own.start_task_soon(run)
        future.ended = ended  # type: ignore[attr-defined]  # a cancelled future is done before its task is
        return future


def _name_thread() -> None:
    threading.current_thread().name = "moshgrid"


def wait_for(future: Future[Result]) -> Result:
    """The result of a future from ``Runtime.soon``; Ctrl+C cancels the operation first."""
    try:
        return future.result()
    except KeyboardInterrupt:
        future.cancel()
        with contextlib.suppress(KeyboardInterrupt):
            future.ended.wait(_LEAVING_SECONDS)  # type: ignore[attr-defined]
        raise


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
