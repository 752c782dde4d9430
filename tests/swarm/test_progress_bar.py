"""What is shown while something is waited for."""

from __future__ import annotations

import threading
from concurrent.futures import Future, TimeoutError

import pytest

from moshgrid.swarm import progress_bar
from moshgrid.swarm.progress_bar import await_visibly


def test_a_short_wait_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    future: Future[int] = Future()
    future.set_result(3)
    assert await_visibly(future, "round 3", shown=True) == 3
    assert capsys.readouterr().err == ""


def test_a_long_wait_shows_what_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_bar, "_PATIENCE", 0.01)
    future: Future[int] = Future()
    threading.Timer(0.3, future.set_result, [3]).start()
    assert await_visibly(future, "round 3: waiting for the swarm", shown=True) == 3
    assert "round 3: waiting for the swarm" in capsys.readouterr().err


@pytest.mark.parametrize("shown", [True, False])
def test_waiting_ends(shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_bar, "_PATIENCE", 0.01)
    with pytest.raises(TimeoutError):
        await_visibly(Future(), "for ever", timeout=0.3, shown=shown)
    with pytest.raises(TimeoutError):
        await_visibly(Future(), "for ever", timeout=0.005, shown=shown)


def test_what_the_future_raises_comes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_bar, "_PATIENCE", 0.01)
    for error in (ValueError("its own"), TimeoutError("its own")):
        future: Future[int] = Future()
        threading.Timer(0.1, future.set_exception, [error]).start()
        with pytest.raises(type(error), match="its own"):
            await_visibly(future, "it", timeout=10, shown=True)


def test_who_looks_at_no_terminal_sees_nothing() -> None:
    assert not progress_bar.is_watched()
