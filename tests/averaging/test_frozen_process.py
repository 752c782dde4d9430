"""A process that stands still in a round (SIGSTOP) and wakes up when the others are long done with it."""

import signal
from contextlib import ExitStack

import numpy as np
import pytest
from averaging_processes import Process

from moshgrid.dht import DHT
from moshgrid.p2p import Node

PEERS, ROUNDS = 4, 5


def values(seed):
    return np.random.default_rng(seed).normal(size=5000).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("at", ["exchange_started", "manifest"])
def test_who_wakes_up_drops_its_round_and_is_taken_in_by_the_next(at):
    with ExitStack() as stack:
        bootstrap = stack.enter_context(Node(listen=["/ip4/127.0.0.1/tcp/0"]))
        stack.enter_context(DHT(bootstrap))
        processes = []
        for seed in range(PEERS):
            processes.append(Process(bootstrap.addrs[0], seed, f"stop:{at}" if seed == 0 else ""))
            stack.callback(processes[-1].end)
        names = [process.hear("ready")["peer"] for process in processes]
        frozen, *others = processes
        for process in processes:
            process.step()
        frozen.hear("holding")
        told = [process.hear("report") for process in others]
        (before,) = {entry["sum"] for entry in told}
        first = [entry["report"] for entry in told]
        assert all(report["committed"] for report in first), first
        assert len({report["digest"] for report in first}) == 1
        # It stood still before it sent a value: it is in nobody's average.
        assert all(report["contributors"].get(names[0], 0.0) == 0.0 for report in first), first
        for process in others:  # one more without it: whoever wakes up at once may yet learn of the first
            process.step()
        assert all(process.hear("report")["report"]["committed"] for process in others)
        frozen.popen.send_signal(signal.SIGCONT)
        for number in range(ROUNDS):
            for process in others:
                process.step()
            told = [process.hear("report") for process in others]
            if all(len(entry["report"]["group"]) == PEERS for entry in told):
                break
            assert number < ROUNDS - 1, told
            if frozen.has_said("report"):  # its step ended without a group: the next one, then
                early = frozen.hear("report")["report"]
                assert not early["committed"], (early, told)
                frozen.step()
        last = frozen.hear("report")
        told.append(last)
        assert len({entry["report"]["digest"] for entry in told}) == 1
        assert len({entry["report"]["round"] for entry in told}) == 1
        assert not any(entry["report"]["dropped"] for entry in told), told
        # What it applied was never that first round, and all its values came into the later one.
        applied = [entry["digest"] for entry in frozen.said if entry["event"] == "applied"]
        assert applied == [last["report"]["digest"]]
        exact = (values(0).sum() + 3 * before) / PEERS
        assert [entry["sum"] for entry in told] == pytest.approx([exact] * PEERS, abs=1e-2)
