"""Peers that come to one that stays, a process each: they average with it, and go in one of two ways.

usage: visiting_process.py ADDRESS; each line on stdin is for one visit: ``closed`` closes averager and node
after a round; ``killed MILLISECONDS`` is killed by SIGKILL so long after its first step began. Prints a line
when the visit is over.
"""

import os
import signal
import sys
import threading

import numpy as np

import moshgrid.p2p.libp2p_network  # noqa: F401  # once, before the processes part
from moshgrid.averaging import Averager
from moshgrid.p2p import Node


def visit(addr, begun, ends):
    values = [np.zeros(1000, np.float32)]
    with (
        Node(listen=["/ip4/127.0.0.1/tcp/0"], bootstrap=[addr]) as node,
        Averager(node, "staying", like=values, deadline=1.0) as averager,
    ):
        os.write(begun, b".")
        while not (averager.step(values).committed and ends):
            pass


def main():
    addr = sys.argv[1]
    print("ready", flush=True)
    for line in sys.stdin:
        how, _, milliseconds = line.strip().partition(" ")
        begins, begun = os.pipe()
        pid = os.fork()
        if not pid:
            code = 1
            try:
                visit(addr, begun, how == "closed")
                code = 0
            finally:
                os._exit(code)
        os.close(begun)
        if how == "killed" and os.read(begins, 1):
            threading.Event().wait(int(milliseconds) / 1000)  # it is to differ, no more
            os.kill(pid, signal.SIGKILL)
        os.close(begins)
        _, status = os.waitpid(pid, 0)
        print(how, os.waitstatus_to_exitcode(status), flush=True)


main()
