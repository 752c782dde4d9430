"""A process that stays while others come, are killed or leave: it ends up with what it had before."""

import os
import random
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from ranked_processes import end, said, tell
from running import running

from moshgrid.averaging import Averager
from moshgrid.p2p import Node

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

HERE = Path(__file__).parent
PATIENCE = 240.0
"""Seconds. Threads that are done wait 10 s for more work; who was lost is dialled again for 70 s."""
REDIALLING = ("_redial", "call", "reach", "_dial")
ONCE = ("Membership._follow", "Watching._subscribe", "moshgrid timer queue")
"""Made once, by some visit: whose group fell apart follows from then on who is in the lobby."""


class Staying:
    """``staying_process.py``, told and asked."""

    def __init__(self, stack):
        self._process = started(stack, "staying_process.py")
        self.alone = self._next("ready")
        self.addr = self._next("open")["addr"]

    def tell(self, line, answer):
        tell(self._process, line)
        return self._next(answer)

    def go(self):
        tell(self._process, "go")

    def count(self):
        return self.tell("count", "count")

    def until(self, wanted):
        """The first count of which ``wanted`` is true; the last one when that takes too long."""
        deadline = time.monotonic() + PATIENCE
        while not wanted(now := self.count()) and time.monotonic() < deadline:
            threading.Event().wait(0.1)
        return now

    def _next(self, event):
        while (each := said(self._process))["event"] != event:
            pass
        return each


def started(stack, script, *arguments):
    process = subprocess.Popen(
        [sys.executable, str(HERE / script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    stack.callback(end, process)
    return process


def visit(visitors, how):
    tell(visitors, how)
    word, code = visitors.stdout.readline().split()
    assert word == how.split()[0]
    assert int(code) == (-9 if word == "killed" else 0), how


def more(now, before):
    """What is not as before."""
    tasks = {name: count - before["tasks"].get(name, 0) for name, count in now["tasks"].items()}
    tasks = {name: count for name, count in tasks.items() if count > name.endswith(ONCE)}
    system = {
        name: (now[name], before[name]) for name in ("descriptors", "threads") if now[name] != before[name]
    }
    return {**tasks, **system}


def check(visits):
    with ExitStack() as stack:
        staying = Staying(stack)
        visitors = started(stack, "visiting_process.py", staying.addr)
        assert visitors.stdout.readline() == "ready\n"
        before = staying.count()
        staying.go()
        for how in visits:
            visit(visitors, how)
        staying.tell("rest", "resting")
        began = time.monotonic()
        after = staying.until(lambda now: not more(now, before))
        print(f"after {len(visits)} visits as before within {time.monotonic() - began:.1f} s: {before}")
        assert not more(after, before)
        staying.tell("close", "closed")
        assert not more(staying.until(lambda now: not more(now, staying.alone)), staying.alone)


def of_this_process():
    """Sockets, which no other test leaves behind."""
    descriptors = Path("/proc/self/fd")
    return sum(
        os.path.realpath(each).rpartition("/")[2].startswith("socket:") for each in descriptors.iterdir()
    )


def awaited(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    assert condition()


def test_visitors_that_close_leave_no_task_and_no_socket_behind():
    values, at_first = [np.ones(100, np.float32)], of_this_process()
    listen = ["/ip4/127.0.0.1/tcp/0"]

    def visit(staying, averager):
        with (
            Node(listen=listen, bootstrap=staying.addrs) as node,
            Averager(node, "staying", like=values, deadline=0.3) as visiting,
        ):
            rounds = averager.step_soon(values), visiting.step_soon(values)
            assert all(each.result() for each in rounds)

    with Node(listen=listen) as staying, Averager(staying, "staying", like=values, deadline=0.3) as averager:
        visit(staying, averager)
        awaited(lambda: not staying.host.network.connected())
        before, tasks = of_this_process(), staying.call(running)
        for _ in range(3):
            visit(staying, averager)
        awaited(lambda: of_this_process() <= before)
        awaited(
            lambda: (
                not [
                    name for name in staying.call(running) - tasks if not name.endswith((*ONCE, *REDIALLING))
                ]
            )
        )
    awaited(lambda: of_this_process() <= at_first)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_tens_of_visits_leave_nothing_behind():
    rng = random.Random(1)
    visits = ["closed", *(rng.choice(["closed", f"killed {rng.randrange(600)}"]) for _ in range(60))]
    check(visits)
