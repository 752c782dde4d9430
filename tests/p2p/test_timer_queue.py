"""The timer queue: what is due is called once, at its time, whatever else was set before."""

import gc
import logging
import math
import weakref

import trio

from moshgrid.p2p.testing import run_virtual
from moshgrid.p2p.timer_queue import Timer, timer_queue


class Calls:
    """Notes at what times its timer fired."""

    def __init__(self) -> None:
        self.timer = Timer(timer_queue(), self.call)
        self.at: list[float] = []

    def call(self) -> None:
        self.at.append(trio.current_time() - START)


START = 0.0


def in_time(body):
    async def scenario():
        global START
        START = trio.current_time()
        await body(START)

    run_virtual(scenario)


def test_timers_fire_in_order_at_their_times():
    async def body(now):
        all_calls = [Calls() for _ in range(50)]
        for number, calls in enumerate(all_calls):
            calls.timer.set(now + (number * 7) % 50 + 1)
        await trio.sleep(100)
        assert [calls.at for calls in all_calls] == [[(number * 7) % 50 + 1.0] for number in range(50)]

    in_time(body)


def test_the_last_setting_counts():
    async def body(now):
        sooner, later, never, again = (Calls() for _ in range(4))
        for calls in (sooner, later, never, again):
            calls.timer.set(now + 5)
        sooner.timer.set(now + 2)
        later.timer.set(now + 9)
        never.timer.set(math.inf)
        again.timer.set(now + 1)
        again.timer.set(now + 5)
        await trio.sleep(20)
        assert [calls.at for calls in (sooner, later, never, again)] == [[2.0], [9.0], [], [5.0]]

    in_time(body)


def test_a_timer_may_set_itself_again_and_one_in_the_past_stops_nobody():
    async def body(now):
        class Periodic(Calls):
            def call(self) -> None:
                super().call()
                if len(self.at) < 4:
                    self.timer.set(trio.current_time() + 3)
                elif len(self.at) < 8:
                    self.timer.set(trio.current_time() - 1)

        periodic, other = Periodic(), Calls()
        periodic.timer.set(now + 3)
        other.timer.set(now + 12)
        await trio.sleep(30)
        assert periodic.at == [3.0, 6.0, 9.0, 12.0, 12.0, 12.0, 12.0, 12.0]
        assert other.at == [12.0]

    in_time(body)


def test_a_failing_timer_is_logged_and_leaves_the_others_alone(caplog):
    async def body(now):
        def fail() -> None:
            raise RuntimeError("a bug")

        failing, other = Timer(timer_queue(), fail), Calls()
        failing.set(now + 1)
        other.timer.set(now + 1)
        await trio.sleep(2)
        assert other.at == [1.0]

    with caplog.at_level(logging.ERROR, "moshgrid.p2p"):
        in_time(body)
    assert "a timer failed" in caplog.text
    assert "a bug" in caplog.text


def test_a_stopped_timer_never_fires_and_holds_nothing():
    async def body(now):
        calls = Calls()
        calls.timer.set(now + 5)
        calls.timer.stop()
        calls.timer.set(now + 6)
        gone = weakref.ref(calls)
        timer = calls.timer
        del calls
        gc.collect()
        assert gone() is None
        await trio.sleep(10)
        assert timer.when == math.inf

    in_time(body)


def test_there_is_one_queue_for_each_run_of_the_loop():
    queues = []

    async def scenario():
        queues.append(timer_queue())
        assert timer_queue() is queues[-1]
        await trio.lowlevel.checkpoint()

    run_virtual(scenario)
    run_virtual(scenario)
    assert queues[0] is not queues[1]
