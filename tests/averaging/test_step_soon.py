"""``step_soon``: training goes on, the average comes as a difference, and the future tells the outcome."""

import asyncio
import threading
from concurrent.futures import CancelledError, Future, wait
from contextlib import ExitStack

import numpy as np
import pytest
from interrupting import interrupted_elsewhere

from moshgrid.averaging import AsyncAverager, Averager
from moshgrid.averaging.pending_step import PendingStep
from moshgrid.averaging.report import RoundReport
from moshgrid.dht import DHT
from moshgrid.p2p import AsyncNode, Node
from moshgrid.p2p.errors import Closed, ConfigurationError, SchemaMismatch

LOOPBACK = ["/ip4/127.0.0.1/tcp/0"]


@pytest.fixture
def pair():
    with ExitStack() as stack:
        first = stack.enter_context(Node(listen=LOOPBACK))
        stack.enter_context(DHT(first))
        second = stack.enter_context(Node(listen=LOOPBACK, bootstrap=first.addrs))
        like = [np.zeros(1000, np.float32)]
        yield [
            stack.enter_context(Averager(node, "soon", like=like, compression="none"))
            for node in (first, second)
        ]


def test_progress_made_meanwhile_is_kept(pair):
    arrays = [np.full(1000, value, np.float32) for value in (1.0, 3.0)]
    futures = [averager.step_soon([array]) for averager, array in zip(pair, arrays, strict=True)]
    arrays[0] += 10  # training goes on
    arrays[1][::2] += 100
    reports = [future.result(30) for future in futures]
    assert all(report.committed for report in reports)
    assert (arrays[0] == 12).all()
    assert (arrays[1][::2] == 102).all()
    assert (arrays[1][1::2] == 2).all()


def test_a_thread_that_never_stops_training_loses_no_step(pair):
    arrays = [np.zeros(1000, np.float32), np.full(1000, 2.0, np.float32)]
    steps = 0
    other = pair[1].step_soon([arrays[1]])
    for _ in range(5):
        future = pair[0].step_soon([arrays[0]])
        before = arrays[0].copy(), steps
        while not future.done():  # asking applies the average, here and now, between two steps
            arrays[0] += 1
            steps += 1
        report = future.result()
        mean = 0.5 * (before[0] + 2.0) if report.committed else before[0]
        assert (arrays[0] == mean + (steps - before[1])).all()
        if report.committed:
            break
    assert report.committed
    assert steps > 0
    assert other.result(30).committed


def test_two_rounds_and_every_way_to_wait(pair):
    arrays = [np.full(1000, value, np.float32) for value in (0.0, 4.0)]
    futures = [a.step_soon([array], rounds=2) for a, array in zip(pair, arrays, strict=True)]
    told = threading.Event()
    futures[1].add_done_callback(lambda _: told.set())
    assert wait(futures, 30).not_done == set()
    assert told.wait(10)
    assert futures[0].exception() is None
    assert futures[0].done()
    assert futures[0].result().round == 2
    assert (arrays[0] == 2).all()
    assert futures[1].result().committed
    assert (arrays[1] == 2).all()


def test_without_a_group_the_arrays_stay_and_the_report_says_why(pair):
    array = np.ones(1000, np.float32)
    report = pair[0].step_soon([array]).result(60)
    assert not report.committed
    assert report.reason
    assert (array == 1).all()


def test_cancelling_leaves_the_arrays_alone_and_the_next_step_works(pair):
    array = np.ones(1000, np.float32)
    future = pair[0].step_soon([array])
    assert future.cancel()
    assert future.cancelled()
    assert future.done()
    with pytest.raises(CancelledError):
        future.result()
    arrays = [array, np.full(1000, 3.0, np.float32)]
    futures = [averager.step_soon([a]) for averager, a in zip(pair, arrays, strict=True)]
    assert all(future.result(60).committed for future in futures)
    assert (arrays[0] == 2).all()


def test_errors_are_typed_and_come_at_once_or_from_the_future(pair):
    with pytest.raises(SchemaMismatch):
        pair[0].step_soon([np.zeros(3, np.float32)])
    with pytest.raises(ConfigurationError, match="weight"):
        pair[0].step_soon([np.zeros(1000, np.float32)], weight=-1)
    future = pair[0].step_soon([np.full(1000, np.nan, np.float32)])
    with pytest.raises(ConfigurationError, match="NaN"):
        future.result(30)
    assert isinstance(future.exception(), ConfigurationError)
    pair[0].close()
    with pytest.raises(Closed):
        pair[0].step_soon([np.zeros(1000, np.float32)]).result(30)


def test_torch_parameters_are_trained_meanwhile(pair):
    torch = pytest.importorskip("torch")
    parameters = [torch.nn.Parameter(torch.full((1000,), value)) for value in (1.0, 2.0)]
    futures = [a.step_soon([p]) for a, p in zip(pair, parameters, strict=True)]
    with torch.no_grad():
        parameters[0] -= 0.25
    assert all(future.result(30).committed for future in futures)
    assert torch.equal(parameters[0].data, torch.full((1000,), 1.25))
    assert torch.equal(parameters[1].data, torch.full((1000,), 1.5))


def test_the_average_is_applied_once_however_many_ask():
    applied = []
    operation = Future()
    pending = PendingStep(operation, applied.append)
    operation.set_result((RoundReport(1, committed=True), np.zeros(1)))
    threads = [threading.Thread(target=pending.result) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(applied) == 1


def test_nobody_asked_and_nothing_was_written():
    applied = []
    operation = Future()
    pending = PendingStep(operation, applied.append)
    operation.set_result((RoundReport(1, committed=True), np.zeros(1)))
    assert not applied
    assert pending.done()
    assert len(applied) == 1


@pytest.mark.parametrize("wait", [lambda f: f.result(), lambda f: f.result(60), lambda f: f.exception()])
def test_ctrl_c_reaches_who_waits_for_a_round(wait):
    applied = []
    pending = PendingStep(Future(), applied.append)
    with interrupted_elsewhere(), pytest.raises(KeyboardInterrupt):
        wait(pending)
    assert not applied and not pending.done()


@pytest.mark.asyncio
async def test_the_async_twin_can_be_awaited():
    async with (
        AsyncNode(listen=LOOPBACK) as first,
        AsyncNode(listen=LOOPBACK, bootstrap=first.addrs) as second,
    ):
        arrays = [[np.zeros(10, np.float64)], [np.ones(10, np.float64)]]
        async with (
            AsyncAverager(first, "async", like=arrays[0], compression="none") as one,
            AsyncAverager(second, "async", like=arrays[1], compression="none") as two,
        ):
            soon = [one.step_soon(arrays[0]), two.step_soon(arrays[1])]
            arrays[0][0] += 1
            reports = [await asyncio.wait_for(asyncio.wrap_future(soon[0]), 30), await soon[1]]
            assert all(report.committed for report in reports)
            assert (arrays[0][0] == 1.5).all()
            assert (arrays[1][0] == 0.5).all()
