"""A peer as a process that stays while others come and go, and says what it holds on to.

Prints JSON lines. Lines on stdin: ``go`` steps again and again until ``rest``; ``count`` says which
descriptors, threads and tasks there are; ``close`` closes averager and node, and goes on counting.
"""

import json
import os
import sys
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np

from moshgrid.averaging import Averager
from moshgrid.p2p import Node

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
from running import running


def tell(**fields):
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def held():
    """What the process has of the operating system."""
    kinds = Counter()
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one that lists them
            kinds[os.readlink(f"/proc/self/fd/{descriptor}").partition(":")[0]] += 1
    return {"descriptors": kinds, "threads": len(os.listdir("/proc/self/task"))}


def step(averager, values, resting):
    while not resting.wait(0.02):
        report = averager.step(values)
        tell(event="round", committed=report.committed, group=list(report.group))


def main():
    tell(event="ready", tasks={}, **held())
    values = [np.ones(1000, np.float32)]
    node = Node(listen=["/ip4/127.0.0.1/tcp/0"])
    averager = Averager(node, "staying", like=values, deadline=1.0)
    tell(event="open", addr=node.addrs[0])
    resting, stepping = threading.Event(), None
    for line in sys.stdin:
        match line.strip():
            case "go":
                resting.clear()
                stepping = threading.Thread(target=step, args=(averager, values, resting))
                stepping.start()
            case "rest":
                resting.set()
                stepping.join()
                tell(event="resting")
            case "count":
                tasks = {} if averager is None else node.call(running)
                tell(event="count", tasks=tasks, **held())
            case "close":
                averager.close()
                node.close()
                averager = None
                tell(event="closed")


main()
