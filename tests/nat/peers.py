"""The other end of ``peer_process.py``: processes with nodes on the lab's hosts, told what to do."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import Host

SCRIPT = Path(__file__).with_name("peer_process.py")
PATIENCE = 60.0  # seconds for an answer; what is to be quicker says so in its command


class PeerFailed(Exception):
    """A command came back with an error, or its process ended."""


class Process:
    """A process on a host; commands may run side by side."""

    def __init__(self, host: Host, *arguments: str) -> None:
        self.host = host
        self._process: subprocess.Popen[Any] = host.start(
            [sys.executable, str(SCRIPT), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def soon(self, do: str, **given: Any) -> Future[dict[str, Any]]:
        """Give a command; its answer."""
        answer: Future[dict[str, Any]] = Future()
        with self._lock:
            number = next(self._numbers)
            self._waiting[number] = answer
            assert self._process.stdin
            self._process.stdin.write(json.dumps({"id": number, "do": do, **given}) + "\n")
            self._process.stdin.flush()
        return answer

    def call(self, do: str, **given: Any) -> dict[str, Any]:
        """Give a command and wait for its answer. Raises PeerFailed."""
        return self.soon(do, **given).result(PATIENCE)

    def open(self, **options: Any) -> Peer:
        """A new node."""
        said = self.call("open", **options)
        return Peer(self, said["node"], said["peer"], tuple(said["addrs"]))

    def kill(self) -> None:
        """As a crash or a power cut ends it."""
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout
        try:
            for line in self._process.stdout:
                said = json.loads(line)
                answer = self._waiting.pop(said.pop("id"))
                if "error" in said:
                    answer.set_exception(PeerFailed(f"{self.host.name}: {said['error']}"))
                else:
                    answer.set_result(said)
        except ValueError:  # closed meanwhile
            pass
        for answer in list(self._waiting.values()):
            answer.set_exception(PeerFailed(f"{self.host.name}: the process ended"))


@dataclass(frozen=True)
class Peer:
    """A node in a process of the lab."""

    process: Process
    node: int
    peer_id: str
    addrs: tuple[str, ...]
    """Its own when it was opened."""

    def soon(self, do: str, **given: Any) -> Future[dict[str, Any]]:
        return self.process.soon(do, node=self.node, **given)

    def call(self, do: str, **given: Any) -> dict[str, Any]:
        return self.process.call(do, node=self.node, **given)

    @property
    def port(self) -> int:
        """What it listens on."""
        return int(self.addrs[0].split("/")[4])
