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
@pytest.mark.timeout(900)
def test_rounds_are_whole_though_a_relay_is_gone_in_the_middle_of_each():
    """Of twenty rounds nineteen at least have everybody, as there is a second relay."""
    outcomes = [round_that_loses_a_relay(size=4, elements=2_000_000) for _ in range(20)]
    assert sum(outcomes) >= 19, outcomes


@pytest.mark.timeout(120)
def test_a_round_that_loses_its_relay_goes_on_over_the_other():
    """With everybody in it; of two such rounds one at least, as a loaded computer may lose one."""
    assert any(round_that_loses_a_relay(size=3, elements=300_000) for _ in range(2))


def round_that_loses_a_relay(size: int, elements: int) -> bool:
    """Whether everybody is in the round. If not, nobody applies anything else; the next has all."""
    started = threading.Event()
    with ExitStack() as stack:
        second = stack.enter_context(Node(listen=LOCAL, relay=True))
        first = Node(listen=LOCAL, relay=True, bootstrap=second.addrs)
        stack.callback(first.close)
        both = [*first.addrs, *second.addrs]
        homes = [stack.enter_context(Node(listen=[], bootstrap=both)) for _ in range(size)]
        for home in homes:
            home.call(until, lambda home=home: len(home.addrs) == 2, 60.0)
        arrays = [[np.full(elements, float(number), np.float32)] for number in range(size)]
        averagers = [
            stack.enter_context(Averager(home, run_id="gone", like=mine, group_size=size, compression="none"))
            for home, mine in zip(homes, arrays, strict=True)
        ]

        def step() -> list[RoundReport]:
            with ThreadPoolExecutor(size) as pool:
                return list(pool.map(lambda pair: pair[0].step(pair[1]), zip(averagers, arrays, strict=True)))

        for home, averager in zip(homes, averagers, strict=True):
            home.call(until, lambda averager=averager: len(averager.peers) == size, 60.0)
            averager.add_event_sink(lambda entry: entry["event"] == "exchange_started" and started.set())
        carried: list[int] = []

        def close_one() -> None:
            started.wait(60)
            doomed = first if circuits(homes, first) else second
            carried.append(circuits(homes, doomed))
            doomed.close()

        closing = threading.Thread(target=close_one)
        closing.start()
        reports = step()
        closing.join()
        assert carried[0] > 0, "no link went over the relay that was closed"
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
        return all(
            report.committed and not report.dropped and len(report.group) == size for report in reports
        )


def circuits(homes: list[Node], relay: Node) -> int:
    """How many connections between two of ``homes`` go over that relay."""
    found = [
        one.host.network.circuit_of(other.peer_id) for one in homes for other in homes if one is not other
    ]
    return sum(circuit is not None and circuit.relay == relay.peer_id for circuit in found)
