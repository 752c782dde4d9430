"""Averaging processes that step when they are told to and say in JSON lines what happens."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

__all__ = ["Process"]

SCRIPT = Path(__file__).parents[1] / "averaging" / "averaging_process.py"
_SECONDS = 120.0


class Process:
    """One ``averaging_process.py``; ``hold_at`` is the event at which it stands still."""

    def __init__(self, bootstrap: str, seed: int, hold_at: str = "") -> None:
        self.popen = subprocess.Popen(
            [sys.executable, str(SCRIPT), bootstrap, str(seed), hold_at],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.said: list[dict[str, Any]] = []
        """Everything, in order."""
        self._news = threading.Condition()
        self._heard = 0
        self._ended = False
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def hear(self, event: str) -> dict[str, Any]:
        """The next of that kind after what was heard before; waits for it."""
        with self._news:
            while not self.has_said(event):
                assert self._news.wait(_SECONDS) and not self._ended, f"the process never said {event!r}"
            while self.said[self._heard]["event"] != event:
                self._heard += 1
            self._heard += 1
            return self.said[self._heard - 1]

    def has_said(self, event: str) -> bool:
        """Whether ``hear`` would return at once."""
        return any(told["event"] == event for told in self.said[self._heard :])

    def step(self) -> None:
        """Begins a round."""
        assert self.popen.stdin is not None
        self.popen.stdin.write("step\n")
        self.popen.stdin.flush()

    def end(self) -> None:
        """Kills it."""
        self.popen.kill()
        self.popen.wait()
        self._listener.join()
        for pipe in (self.popen.stdin, self.popen.stdout):
            assert pipe is not None
            pipe.close()

    def _listen(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            with self._news:
                self.said.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()
