"""Worker processes of a benchmark, and what the kernel counts of them. Part of other scripts; Linux only.

A worker prints one JSON object a line and waits for ``go`` on its input. It is the head of a session: what
it starts (hivemind's peers are five processes each) is measured and ended with it.
"""

import contextlib
import ctypes
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class PeerProcess:
    """A worker process and what it says."""

    def __init__(self, command, rank=0, environment=None):
        self.rank = rank
        self.address = ""
        self.popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
            preexec_fn=_die_with_the_parent,
        )
        self._said = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self.popen.stdout:
            if line.startswith("{"):
                self._said.put(json.loads(line))
        self._said.put(None)  # it ended: nobody need wait for it

    def hear(self, timeout):
        """The next thing it says; None when it says nothing or has ended."""
        try:
            return self._said.get(timeout=max(0.0, timeout))
        except queue.Empty:
            return None

    def expect(self, timeout=240.0):
        """The next thing it says; ends the benchmark when nothing comes."""
        said = self.hear(timeout)
        if said is None:
            raise SystemExit(f"peer {self.rank} ended, or said nothing for {timeout:.0f} s")
        return said

    def go(self, word="go"):
        self.popen.stdin.write(f"{word}\n")
        self.popen.stdin.flush()

    def signal(self, number):
        os.killpg(self.popen.pid, number)

    def end(self):
        for number in (signal.SIGCONT, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                self.signal(number)
        self.popen.wait()

    def pids(self):
        """Its processes: everybody in its session."""
        return [pid for pid, fields in _stats() if int(fields[3]) == self.popen.pid]


def cpu_seconds(peers):
    """User and system CPU seconds that all processes of the peers have used."""
    sessions = {peer.popen.pid for peer in peers}
    # utime, stime, and those of children that have ended
    return sum(sum(map(int, fields[11:15])) / _TICKS for _, fields in _stats() if int(fields[3]) in sessions)


def bytes_sent(peers):
    """Bytes that the peers' TCP connections have sent so far, or None where ``ss`` cannot say."""
    pids = {str(pid) for peer in peers for pid in peer.pids()}
    try:
        told = subprocess.run(["ss", "-tinp"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    total, ours = 0, False
    for line in told.splitlines():
        if not line[:1].isspace():
            ours = not pids.isdisjoint(re.findall(r"pid=(\d+)", line))
        elif ours and (sent := re.search(r"\bbytes_sent:(\d+)", line)):
            total += int(sent[1])
    return total


class MemoryWatch:
    """The most memory that a peer's processes took together, in bytes of proportional set size, while in
    its ``with`` block: shared pages count in parts, so nothing counts twice."""

    def __init__(self, peers):
        self._pids = {peer: peer.pids() for peer in peers}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak = 0

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _watch(self):
        while not self._over.is_set():
            for pids in self._pids.values():
                self.peak = max(self.peak, sum(map(_proportional_set_size, pids)))
            time.sleep(0.02)


def end_workers_when_terminated():
    """Lets ``finally`` run on SIGTERM, too: workers die with this process, but not what they started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def _die_with_the_parent():
    """So that nothing stays behind when a benchmark is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _proportional_set_size(pid):
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _stats():
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            yield int(stat.parent.name), stat.read_text().rsplit(")", 1)[1].split()
