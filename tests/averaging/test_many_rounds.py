"""Many rounds of real processes to which nothing is done: nobody is suspected, and none fails."""

import json
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from moshgrid.dht import DHT
from moshgrid.p2p import Node

PEERS = 4
SUSPICIONS = ("peer_lost", "takeover", "refused", "no_group", "equivocation")


def end(process):
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def said(process):
    return json.loads(process.stdout.readline())


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("rounds", "busy"), [(1000, 0), (200, 6)], ids=["calm", "busy"])
def test_no_round_of_many_fails_and_nobody_is_suspected(rounds, busy):
    """``busy``: so many processes compute without end meanwhile."""
    script = Path(__file__).with_name("rounds_process.py")
    with ExitStack() as stack:
        for _ in range(busy):
            stack.callback(end, subprocess.Popen([sys.executable, "-c", "while True: pass"]))
        node = stack.enter_context(Node(listen=["/ip4/127.0.0.1/tcp/0"]))
        stack.enter_context(DHT(node))
        processes = []
        for rank in range(PEERS):
            process = subprocess.Popen(
                [sys.executable, str(script), node.addrs[0], str(rank), str(PEERS), str(rounds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(end, process)
            processes.append(process)
        for process in processes:
            assert "ready" in said(process)
        for process in processes:
            process.stdin.write("begin\n")
            process.stdin.flush()
        told = [said(process) for process in processes]
    events = Counter()
    for one in told:
        events.update(one["events"])
    print(f"{rounds} rounds of {PEERS}, {busy} busy processes: {dict(events)}")
    assert [one["wrong"] for one in told] == [[]] * PEERS
    assert not {event: count for event, count in events.items() if event in SUSPICIONS}
    assert events["applied"] == PEERS * rounds
