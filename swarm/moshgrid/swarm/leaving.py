"""Leaving: SIGTERM ends a volunteer politely: its records are taken back, its peers told, exit status 0."""

from __future__ import annotations

import atexit
import logging
import signal
import threading
import weakref
from types import FrameType
from typing import Protocol

from moshgrid.swarm import log_lines

__all__ = ["leave_on_sigterm"]

_LEAVE_SECONDS = 1.5

_log = logging.getLogger("moshgrid.swarm")


class _Closing(Protocol):
    def close(self) -> None: ...


_open: weakref.WeakSet[_Closing] = weakref.WeakSet()
_registered = False


def leave_on_sigterm(member: _Closing) -> None:
    """Closes ``member`` when the process ends, and lets SIGTERM end it by ``SystemExit(0)``.

    Leaves a handler alone that the application has set itself, and does nothing about signals outside
    the main thread, where Python does not allow it.
    """
    global _registered
    _open.add(member)
    if not _registered:
        _registered = True
        atexit.register(_close_all)
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) in (
        signal.SIG_DFL,
        None,
    ):
        signal.signal(signal.SIGTERM, _terminated)


def _terminated(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one ends it at once
    _log.info(log_lines.leaving())
    raise SystemExit(0)


def _close_all() -> None:
    threads = [threading.Thread(target=member.close, daemon=True) for member in list(_open)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_LEAVE_SECONDS)
