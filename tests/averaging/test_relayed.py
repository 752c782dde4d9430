"""Averaging between peers that can reach each other through a relay only."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
from victim import until

from moshgrid.averaging import Averager, RoundReport
from moshgrid.p2p import Node

LOCAL = ["/ip4/127.0.0.1/tcp/0"]


@pytest.mark.parametrize("size", [2, 4])
def test_peers_that_nobody_can_dial_average_through_their_relay(size):
    with Node(listen=LOCAL, relay=True) as relay:
        homes = [Node(listen=[], bootstrap=relay.addrs) for _ in range(size)]
        try:
            for home in homes:
                home.call(until, lambda home=home: home.addrs != (), 10.0)
            arrays = [[np.full(300_000, float(number), np.float32)] for number in range(size)]
            averagers = [
                Averager(home, run_id="far", like=mine, min_group_size=size, group_size=size)
                for home, mine in zip(homes, arrays, strict=True)
            ]
            reports: dict[int, RoundReport] = {}

            def step(number: int) -> None:
                reports[number] = averagers[number].step(arrays[number])

            threads = [threading.Thread(target=step, args=(number,)) for number in range(size)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert [reports[number].committed for number in range(size)] == [True] * size, reports
            for mine in arrays:
                assert np.allclose(mine[0], (size - 1) / 2)
            for home in homes:
                others = {each.peer_id for each in homes} - {home.peer_id}
                assert not any(home.host.network.is_direct(other) for other in others)
        finally:
            for home in homes:
                home.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("attempt", range(3))
def test_a_relay_that_is_gone_in_the_middle_of_a_round_costs_no_agreement(attempt: int) -> None:
    """Whom it connected lose each other and the round, where that leaves no majority; nobody applies anything
    else, nobody hangs, and over the second relay the next round has them all again.
    """
    size, gone = 4, threading.Event()
    with ExitStack() as stack:
        second = stack.enter_context(Node(listen=LOCAL, relay=True))
        first = Node(listen=LOCAL, relay=True, bootstrap=second.addrs)
        stack.callback(first.close)
        both = [*first.addrs, *second.addrs]
        homes = [stack.enter_context(Node(listen=[], bootstrap=both)) for _ in range(size)]
        for home in homes:
            home.call(until, lambda home=home: home.addrs != (), 20.0)
        arrays = [[np.full(2_000_000, float(number), np.float32)] for number in range(size)]
        averagers = [
            stack.enter_context(Averager(home, run_id="gone", like=mine, group_size=size, compression="none"))
            for home, mine in zip(homes, arrays, strict=True)
        ]

        def step() -> list[RoundReport]:
            with ThreadPoolExecutor(size) as pool:
                return list(pool.map(lambda pair: pair[0].step(pair[1]), zip(averagers, arrays, strict=True)))

        for home, averager in zip(homes, averagers, strict=True):
            home.call(until, lambda averager=averager: len(averager.peers) == size, 30.0)
            averager.add_event_sink(lambda entry: entry["event"] == "exchange_started" and gone.set())
        closing = threading.Thread(target=lambda: (gone.wait(60), first.close()))
        closing.start()
        reports = step()
        closing.join()
        assert gone.is_set(), reports
        agreed: dict[object, set[str]] = {}
        for report, mine, number in zip(reports, arrays, range(size), strict=True):
            if report.committed:
                agreed.setdefault((report.round, report.group), set()).add(report.digest)
            else:
                assert (mine[0] == number).all(), "what was not committed changed nothing"
        assert all(len(digests) == 1 for digests in agreed.values()), [str(report) for report in reports]
        for _ in range(6):
            again = step()
            if all(report.committed and len(report.group) == size for report in again):
                break
        assert len({report.digest for report in again}) == 1, again
        assert not any(report.dropped for report in again), again
