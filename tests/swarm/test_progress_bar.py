"""What is shown while something is waited for: on a terminal only, and only when it takes long."""

from __future__ import annotations

import logging
import os
import sys
import threading

import pytest

from moshgrid.averaging import Progress
from moshgrid.swarm import progress_bar
from moshgrid.swarm.progress_bar import downloading, waiting


def until_shown(bar: waiting) -> None:
    tick = threading.Event()
    while bar._bar is None:
        tick.wait(0.01)


def test_a_short_wait_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting("round 3", shown=True):
        pass
    assert capsys.readouterr().err == ""


def test_a_long_wait_shows_what_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_bar, "_PATIENCE", 0.01)
    with waiting("round 3: waiting for the swarm", shown=True) as bar:
        until_shown(bar)
    assert "round 3: waiting for the swarm" in capsys.readouterr().err


def test_a_download_shows_bytes_and_remembers_how_far_it_came(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_bar, "_PATIENCE", 0.01)
    with downloading("state of r", shown=True) as bar:
        assert bar.last is None
        bar(Progress(1_000_000, 4_000_000, 1.0, 2))
        until_shown(bar)
        bar(Progress(3_000_000, 4_000_000, 2.0, 2))
    assert bar.last is not None and bar.last.bytes_done == 3_000_000
    shown = capsys.readouterr().err
    assert "state of r" in shown and "/4.0 MB" in shown


def test_what_is_raised_comes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_bar, "_PATIENCE", 0.01)
    with pytest.raises(ValueError, match="its own"), waiting("it", shown=True) as bar:
        until_shown(bar)
        raise ValueError("its own")


def test_who_looks_at_no_terminal_sees_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_bar, "_PATIENCE", 0.0)
    with waiting("round 1: waiting for the swarm"), downloading("state of r") as bar:
        bar(Progress(1, 2, 1.0, 1))
        threading.Event().wait(0.1)  # in which it would be shown
        print("round 1: done", file=sys.stderr)
    assert capsys.readouterr().err == "round 1: done\n"


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals here")
def test_on_a_terminal_it_is_shown_and_taken_away_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import pty

    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress_bar, "_PATIENCE", 0.01)
    with os.fdopen(theirs, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        handler = logging.StreamHandler()
        log = logging.getLogger("moshgrid.swarm")
        log.addHandler(handler)
        try:
            with waiting("round 1: waiting for the swarm") as bar:
                until_shown(bar)
                log.warning("a line of the log")
        finally:
            log.removeHandler(handler)
        assert handler.stream is terminal
        print("round 1: done", file=terminal, flush=True)
        shown = b""
        while b"round 1: done" not in shown:
            shown += os.read(ours, 65536)
    os.close(ours)
    before, _, after = shown.partition(b"round 1: done")
    assert b"round 1: waiting for the swarm" in before
    assert b"\x1b[2K" in before, "the line is cleared at the end"
    assert b"waiting" not in after
    assert b"\x1b[2Ka line of the log" in before, "on a line of its own, the bar's being cleared first"
