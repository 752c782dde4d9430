"""The demo with real processes, real networking and real kills; small, so that it fits a test."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/schemas/demo-report.schema.json").read_text())
COMMAND = [sys.executable, "-c", "from moshgrid.swarm.cli import main; main()", "demo"]
SMALL = ["--peers", "4", "--rounds", "6", "--kill", "1"]

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.timeout(300),
]


def _processes_of(session: int) -> dict[int, str]:
    """Process ids and command lines of a session, zombies left out."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_a_small_demo_trains_loses_one_and_takes_one_in(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    done = subprocess.run(
        [*COMMAND, *SMALL, "--seed", "1", "--json", "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "MOSHGRID_EVENTS": str(log)},
        start_new_session=True,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    jsonschema.validate(report, SCHEMA)
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    assert (tmp_path / "out" / "progress.png").stat().st_size > 10_000
    assert "round   1" in done.stderr and "group" in done.stderr

    (kill,) = report["kills"]
    assert kill["volunteer"] == 4 and kill["mid_round"]
    assert report["volunteers"]["4"]["fate"] == "killed"
    assert report["late_join"]["volunteer"] == 1 and report["late_join"]["donors"]
    assert sorted(report["accuracy"]["peers"]) == ["1", "2", "3"]
    assert report["accuracy"]["swarm"] > max(report["accuracy"]["alone"].values())
    assert report["swarm_downloaded_from"] >= 1

    for events in (log, tmp_path / "out" / "events.jsonl"):
        entries = [json.loads(line) for line in events.read_text().splitlines()]
        (killed,) = [e for e in entries if e["event"] == "killed"]
        of_group = [e for e in entries if e.get("group") == killed["group"]]
        assert any(
            e["event"] == "exchange_started" and e["peer"] == killed["peer"] and e["t"] <= killed["t"]
            for e in of_group
        )
        seals = [e["t"] for e in of_group if e["event"] == "sealed"]
        assert seals and min(seals) > killed["t"]


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*COMMAND, *SMALL, "--rounds", "500", "--out", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as demo:
        try:
            yield demo
        finally:
            if demo.poll() is None:
                os.killpg(demo.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("moment", "signals"),
    [
        pytest.param("late: waits outside", [signal.SIGINT], marks=pytest.mark.slow),
        pytest.param("ready", [signal.SIGINT, signal.SIGINT], marks=pytest.mark.slow),
        ("round   2", [signal.SIGINT]),
        pytest.param("round   2", [signal.SIGTERM, signal.SIGINT], marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_leaves_nothing(
    demo: subprocess.Popen[str], tmp_path: Path, moment: str, signals: list[signal.Signals]
) -> None:
    assert demo.stdout is not None
    assert any(moment in line for line in demo.stdout)
    assert len(_processes_of(demo.pid)) == 5
    for number in signals:
        # To the whole group, as a terminal does.
        os.killpg(demo.pid, number)
    assert demo.wait(timeout=60) >= 128
    assert _processes_of(demo.pid) == {}
    assert list(tmp_path.iterdir()) == []


def test_volunteers_do_not_outlive_a_demo_that_is_killed(demo: subprocess.Popen[str]) -> None:
    assert demo.stdout is not None
    assert any("round   1" in line for line in demo.stdout)
    watched = [os.pidfd_open(pid) for pid in _processes_of(demo.pid) if pid != demo.pid]
    assert len(watched) == 4
    demo.kill()
    for handle in watched:
        # A process's handle becomes readable when the process has ended.
        assert select.select([handle], [], [], 60.0)[0]
        os.close(handle)
