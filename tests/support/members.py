"""Members of a run as real processes: started, killed, frozen, woken, and listened to."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "swarm" / "member_process.py"


class Member:
    def __init__(self, name, process, identity):
        self.name, self.process, self.identity = name, process, identity
        self.said = []
        self.frozen = False
        self._news = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            try:
                self._news.put(json.loads(line))
            except ValueError:
                continue  # cut off by SIGKILL
        self._news.put({"event": "ended", "t": time.time(), "code": self.process.wait()})

    def listen(self, seconds=0.0):
        """What was said since the last time; waits at most ``seconds`` for the first of it."""
        heard = []
        try:
            heard.append(self._news.get(timeout=seconds) if seconds else self._news.get_nowait())
            while True:
                heard.append(self._news.get_nowait())
        except queue.Empty:
            pass
        self.said += heard
        return heard

    def until(self, wanted, seconds=60.0):
        """The first thing said, from now on, of which ``wanted`` is true."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            for each in self.listen(min(left, 1.0)):
                if wanted(each):
                    return each
                assert each["event"] != "ended", (self.name, each)
        raise AssertionError(f"{self.name} did not say it within {seconds} s; last: {self.said[-3:]}")

    def order(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)
        self.frozen = True

    def wake(self):
        self.process.send_signal(signal.SIGCONT)
        self.frozen = False

    def kill(self):
        self.process.kill()
        self.process.wait()

    @property
    def rounds(self):
        return [each for each in self.said if each["event"] == "round" and each["committed"]]


class Members:
    """A context manager: however it is left, no process remains. ``pause``: seconds between their rounds."""

    def __init__(self, folder, pause=0.1):
        self.folder = Path(folder)
        self.pause = pause
        self.all = []
        self.addr = ""

    def start(self, name=None, identity=None):
        name = name or f"m{len(self.all)}"
        identity = identity or self.folder / f"{name}.key"
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), self.addr, str(identity), str(len(self.all)), str(self.pause)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.folder / f"{name}.err").open("a"),
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        )
        member = Member(name, process, identity)
        self.all.append(member)
        if not self.addr:
            self.addr = member.until(lambda each: each["event"] == "ready")["addr"]
        return member

    def live(self):
        return [member for member in self.all if member.process.poll() is None]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for member in self.live():
            member.process.kill()
        for member in self.all:
            member.process.wait()


def is_round(at_least=2):
    return lambda each: each["event"] == "round" and each["committed"] and len(each["group"]) >= at_least
