"""Many rounds of real processes to which nothing is done: nobody is suspected, and none fails."""

import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from ranked_processes import end, ranked_processes, said, tell

PEERS = 4
SUSPICIONS = ("peer_lost", "takeover", "refused", "no_group", "equivocation")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("rounds", "busy"), [(1000, 0), (200, 6)], ids=["calm", "busy"])
def test_no_round_of_many_fails_and_nobody_is_suspected(rounds, busy):
    """``busy``: so many processes compute without end meanwhile."""
    script = Path(__file__).with_name("rounds_process.py")
    with ExitStack() as stack:
        for _ in range(busy):
            stack.callback(end, subprocess.Popen([sys.executable, "-c", "while True: pass"]))
        processes = stack.enter_context(ranked_processes(script, PEERS, rounds))
        for process in processes:
            tell(process, "begin")
        told = [said(process) for process in processes]
    events = Counter()
    for one in told:
        events.update(one["events"])
    print(f"{rounds} rounds of {PEERS}, {busy} busy processes: {dict(events)}")
    assert [one["wrong"] for one in told] == [[]] * PEERS
    assert not {event: count for event, count in events.items() if event in SUSPICIONS}
    assert events["applied"] == PEERS * rounds
