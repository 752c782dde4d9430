"""The demo's results: what follows from what was heard, and that it fits its schema."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from moshgrid.swarm.demo.chronicle import Chronicle, Kill, LateJoin
from moshgrid.swarm.demo.comparison import Comparison
from moshgrid.swarm.demo.digits import Share
from moshgrid.swarm.demo.messages import pack_floats
from moshgrid.swarm.demo.report import build_report, summary, write
from moshgrid.swarm.demo.settings import DemoSettings
from moshgrid.swarm.demo.table import PlainLines

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/schemas/demo-report.schema.json").read_text())
COMPARISON = Comparison(
    swarm=96.5,
    central=97.5,
    alone={1: 39.0, 2: 38.0, 3: 37.0, 4: 30.0},
    peers={1: 96.5, 2: 96.0, 3: 96.5},
    central_steps=300,
    central_images=900,
    donors=3,
)


def _step(chronicle: Chronicle, volunteer: int, number: int, loss: float | None, value: float) -> None:
    report = {
        "round": number,
        "group": ["P1", "P2", "P4"],
        "dropped": {"P4": "died mid-round"} if number == 2 else {},
        "committed": number != 3,
        "reason": "" if number != 3 else "nobody came",
        "completeness": 1.0,
        "bytes_sent": 1000,
        "bytes_received": 2000,
        "seconds_matching": 0.1,
        "seconds_reducing": 0.2,
    }
    message = {"report": report, "loss": loss, "steps": 10 * number}
    chronicle.heard_round(volunteer, {**message, "parameters": pack_floats(np.full(4, value, np.float32))})


@pytest.fixture
def chronicle() -> Chronicle:
    made = Chronicle(peers={"P1": 1, "P2": 2, "P3": 3, "P4": 4})
    for number in (1, 2, 3):
        _step(made, 1, number, 0.5, 1.0)
        _step(made, 2, number, 0.3, 1.2)
    _step(made, 1, 5, None, 1.0)
    made.kills.append(Kill(4, 2, "g", exchange_started_at=10.0, killed_at=10.1))
    made.heard_event({"t": 10.9, "peer": "P2", "event": "sealed", "group": "g", "round": 2})
    made.heard_event({"t": 10.7, "peer": "P1", "event": "sealed", "group": "g", "round": 2})
    made.heard_event({"t": 9.0, "peer": "P1", "event": "sealed", "group": "other", "round": 1})
    made.late_join = LateJoin(1, 1, ("2", "3"), 0.2)
    return made


@pytest.fixture
def report(chronicle: Chronicle) -> dict[str, Any]:
    shares = [Share(np.arange(20), (0, 1, 2, 3))] * 4
    return build_report(DemoSettings(peers=4, kill=1, rounds=6), shares, chronicle, COMPARISON, 50.0)


def test_the_report_fits_its_schema(report: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(report, SCHEMA)


def test_a_kill_counts_when_it_fell_between_start_and_first_seal(report: dict[str, Any]) -> None:
    (kill,) = report["kills"]
    assert kill["sealed_at"] == 10.7
    assert kill["mid_round"]
    assert report["volunteers"]["4"]["fate"] == "killed"


def test_rounds_have_loss_and_disagreement(report: dict[str, Any]) -> None:
    first, second, third, last = report["rounds"]
    assert first["loss"] == pytest.approx(0.4)
    assert first["disagreement"] == pytest.approx(0.1 / 1.1, rel=1e-3)
    assert second["peers"]["1"]["dropped"] == {"4": "died mid-round"}
    assert not third["peers"]["2"]["committed"]
    assert last["loss"] is None and last["disagreement"] is None


def test_bars_that_are_not_met_are_said_to_be(chronicle: Chronicle, report: dict[str, Any]) -> None:
    assert all(bar["met"] for bar in report["bars"])
    assert "NOT MET" not in summary(report, Path("out"))
    chronicle.kills.clear()
    again = build_report(DemoSettings(peers=4, kill=1, rounds=6), [], chronicle, COMPARISON, 500.0)
    assert [bar["met"] for bar in again["bars"]] == [True, True, True, False, True, False]
    assert summary(again, Path("out")).count("NOT MET") == 2


def test_the_folder_is_written_whole(chronicle: Chronicle, report: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    write(report, chronicle, out)
    assert sorted(p.name for p in out.iterdir()) == ["events.jsonl", "progress.png", "report.json"]
    assert json.loads((out / "report.json").read_text()) == report
    assert (out / "progress.png").read_bytes().startswith(b"\x89PNG")
    times = [json.loads(line)["t"] for line in (out / "events.jsonl").read_text().splitlines()]
    assert times == sorted(times) and len(times) == 3


def test_plain_lines_name_peer_round_group_loss_bytes_and_who_dropped(chronicle: Chronicle) -> None:
    out = io.StringIO()
    with PlainLines(out) as view:
        for step in chronicle.steps:
            view.stepped(step.volunteer, chronicle.part_of(step), step.round)
    lines = out.getvalue().splitlines()
    assert len(lines) == 7
    for text in (
        "volunteer 1",
        "round   2",
        "group 1 2 4",
        "loss 0.500",
        "↑1.0 kB ↓2.0 kB",
        "4 (died mid-round)",
    ):
        assert text in lines[2]
    assert "not averaged: nobody came" in lines[4]
