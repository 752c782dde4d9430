"""Warnings that strangers can cause, said so that they cannot flood a log.

The first of a kind is said in full, with the peer. For a minute the others are counted, and said at the level
of debugging only; the next one after that says how many there were.
"""

from __future__ import annotations

import logging

__all__ = ["Complaints"]

_SECONDS = 60.0
_MAX_KINDS = 256


class Complaints:
    """Says at most one thing of each kind a minute. Times are the loop's, in seconds."""

    def __init__(self, log: logging.Logger, seconds: float = _SECONDS) -> None:
        self._log = log
        self._seconds = seconds
        self._kinds: dict[object, tuple[float, int]] = {}
        """When each kind was said last, and how many were not said since."""

    def say(
        self,
        level: int,
        kind: object,
        now: float,
        text: str,
        *args: object,
        error: BaseException | None = None,
    ) -> None:
        """Logs ``text % args``, with ``error``'s traceback, unless one of this ``kind`` was said lately."""
        said_at, unsaid = self._kinds.pop(kind, (None, 0))
        if said_at is not None and now < said_at + self._seconds:
            self._kinds[kind] = said_at, unsaid + 1
            self._log.debug(text, *args)
            return
        self._kinds[kind] = now, 0
        if len(self._kinds) > _MAX_KINDS:
            del self._kinds[next(iter(self._kinds))]
        if unsaid and said_at is not None:
            text, args = f"{text} (after %d more of the kind in %.0f s)", (*args, unsaid, now - said_at)
        self._log.log(level, text, *args, exc_info=error)
