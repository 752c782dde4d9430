"""The other end of ``peer_process.py``: processes with nodes on the lab's hosts, told what to do."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from lab import Host

FORK_SERVER = Path(__file__).with_name("fork_server.py")
PATIENCE = 60.0  # seconds for an answer; what is to be quicker says so in its command


class PeerFailed(Exception):
    """A command came back with an error, or its process ended."""


class _ForkServer:
    """The process that the others are forked from; one for all labs of this process."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._lock = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(FORK_SERVER), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )

    def start(self, host: Host, debug: bool) -> tuple[int, IO[str], IO[str]]:
        """A new process on a host: its pid, stdin and stdout."""
        their_stdin, stdin = os.pipe()
        stdout, their_stdout = os.pipe()
        message = json.dumps({"namespace": host.namespace.name, "debug": "yes" if debug else "no"})
        with self._lock:
            socket.send_fds(self._socket, [message.encode()], [their_stdin, their_stdout])
            pid = int.from_bytes(self._socket.recv(4), "big")
        os.close(their_stdin)
        os.close(their_stdout)
        if not pid:
            raise PeerFailed("the process that starts the others has ended: see what it said on stderr")
        return pid, open(stdin, "w"), open(stdout)


@cache
def _fork_server() -> _ForkServer:
    return _ForkServer()


class Process:
    """A process on a host; commands may run side by side."""

    def __init__(self, host: Host, debug: bool = False) -> None:
        self.host = host
        self._pid, self._stdin, self._stdout = _fork_server().start(host, debug)
        host.on_close(self.kill)
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def soon(self, do: str, **given: Any) -> Future[dict[str, Any]]:
        """Give a command; its answer."""
        answer: Future[dict[str, Any]] = Future()
        with self._lock:
            number = next(self._numbers)
            self._waiting[number] = answer
            self._stdin.write(json.dumps({"id": number, "do": do, **given}) + "\n")
            self._stdin.flush()
        return answer

    def call(self, do: str, **given: Any) -> dict[str, Any]:
        """Give a command and wait for its answer. Raises PeerFailed."""
        return self.soon(do, **given).result(PATIENCE)

    def open(self, **options: Any) -> Peer:
        """A new node."""
        said = self.call("open", **options)
        return Peer(self, said["node"], said["peer"], tuple(said["addrs"]))

    def kill(self) -> None:
        """As a crash or a power cut ends it. May be called again."""
        if not self._ended.is_set():
            os.kill(self._pid, signal.SIGKILL)
            self._ended.wait(PATIENCE)

    def freeze(self) -> None:
        """As one that nobody hears of any more, though nothing of it is closed."""
        os.kill(self._pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        os.kill(self._pid, signal.SIGCONT)

    def _listen(self) -> None:
        try:
            for line in self._stdout:
                said = json.loads(line)
                answer = self._waiting.pop(said.pop("id"))
                if "error" in said:
                    answer.set_exception(PeerFailed(f"{self.host.name}: {said['error']}"))
                else:
                    answer.set_result(said)
        finally:
            self._ended.set()
            self._stdout.close()
            with suppress(BrokenPipeError):
                self._stdin.close()
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
