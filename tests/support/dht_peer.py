"""A process with one DHT node that does what it reads from its standard input, a JSON line for each thing.

``python dht_peer.py LISTEN IDENTITY_FILE [LINK]`` prints ``{"link": …}`` when it has joined. A request is
``[name, arguments…]``; its answer has ``ms``, how long it took. What a watch hears comes in between.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

SECONDS = 60.0


def main(listen: str, identity: str, *link: str) -> None:
    from moshgrid.dht import DHT, Kept
    from moshgrid.p2p import Node

    if link:
        dht = DHT.join(link[0], listen=[listen], identity=identity, timeout=SECONDS)
    else:
        dht = DHT(Node([listen], identity=identity, network="processes"))
    kept: dict[str, Kept] = {}

    def say(**message: Any) -> None:
        # one write, not print's two: a watch speaks from a thread of its own
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()

    def listen_to(key: str) -> None:
        for record in dht.watch(key):
            say(heard=record.value, at=time.time())

    say(link=dht.node.link)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        began, result = time.perf_counter(), None
        match name, arguments:
            case "put", [key, value, acks]:
                result = len(dht.put(key, value, acks=acks).stored_at)
            case "get_all", [key]:
                result = sorted(record.value for record in dht.get_all(key).values())
            case "get", [key]:
                record = dht.get(key)
                result = record.value if record else None
            case "keep", [key, value, ttl]:
                kept[key] = dht.keep(key, value, ttl=ttl)
            case "update", [key, value]:
                result = len(kept[key].update(value).stored_at)
            case "watch", [key]:
                threading.Thread(target=listen_to, args=[key], daemon=True).start()
            case _:
                raise ValueError(line)
        say(result=result, ms=(time.perf_counter() - began) * 1000, at=time.time())


class PeerProcess:
    """The asking end. Raises TimeoutError when the process says nothing for long."""

    def __init__(self, listen: str, identity: str, *link: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, listen, identity, *link],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()
        self._news: deque[dict[str, Any]] = deque()
        threading.Thread(target=self._read, daemon=True).start()
        self._link = ""

    @property
    def link(self) -> str:
        """Waits until it has joined."""
        if not self._link:
            self._link = self._next()["link"]
        return self._link

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(json.loads(line))

    def _next(self) -> dict[str, Any]:
        try:
            return self._lines.get(timeout=SECONDS)
        except queue.Empty:
            ended = self.process.poll()
            state = "is running" if ended is None else f"ended with {ended}"
            raise TimeoutError(
                f"process {self.process.pid} said nothing for {SECONDS:g} s; it {state}"
            ) from None

    def tell(self, *request: Any) -> None:
        """Asks and does not wait."""
        assert self.link and self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """The next answer."""
        while "result" not in (message := self._next()):
            self._news.append(message)
        return message

    def ask(self, *request: Any) -> Any:
        """The result of one request."""
        self.tell(*request)
        return self.answer()["result"]

    def hears(self, value: Any) -> dict[str, Any]:
        """Waits until a watch there hears ``value``."""
        while (message := self._news.popleft() if self._news else self._next())["heard"] != value:
            pass
        return message

    def kill(self) -> None:
        """As a crash: nobody is told."""
        self.process.kill()
        self.process.wait()


def kill_all(peers: Sequence[PeerProcess]) -> None:
    """The end of a test."""
    for peer in peers:
        peer.kill()


if __name__ == "__main__":
    main(*sys.argv[1:])
