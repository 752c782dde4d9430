"""A future whose waiting thread answers Ctrl+C, and which is otherwise like any other."""

import threading
from concurrent.futures import CancelledError

import pytest
from interrupting import interrupted_elsewhere

from moshgrid.p2p.prompt_future import PromptFuture


@pytest.mark.parametrize("wait", [lambda f: f.result(), lambda f: f.result(60), lambda f: f.exception()])
def test_ctrl_c_reaches_who_waits(wait):
    with interrupted_elsewhere(), pytest.raises(KeyboardInterrupt):
        wait(PromptFuture())


def test_an_outcome_that_comes_after_several_slices():
    future = PromptFuture()
    timer = threading.Timer(1.2, future.set_result, [7])
    timer.start()
    assert (future.result(), future.result(0), future.exception()) == (7, 7, None)


def test_waiting_ends_at_its_time():
    future = PromptFuture()
    for seconds in (-1, 0, 0.01, 0.6):
        with pytest.raises(TimeoutError):
            future.result(seconds)
    assert not future.done()


def test_an_error_that_is_a_timeout_is_the_outcome():
    future = PromptFuture()
    error = TimeoutError("the peer's")
    future.set_exception(error)
    with pytest.raises(TimeoutError, match="the peer's"):
        future.result()
    assert future.exception(5) is error


def test_a_cancelled_one_says_so():
    future = PromptFuture()
    assert future.cancel()
    for ask in (future.result, future.exception):
        with pytest.raises(CancelledError):
            ask()
