"""The demo's results: what goes to report.json and the closing words for a person."""

from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path
from typing import Any

from moshgrid.p2p.errors import ConfigurationError
from moshgrid.swarm.demo.chronicle import Chronicle, Kill
from moshgrid.swarm.demo.comparison import Comparison
from moshgrid.swarm.demo.digits import Share
from moshgrid.swarm.demo.plot import draw
from moshgrid.swarm.demo.settings import GROUP_SIZE, DemoSettings
from moshgrid.swarm.demo.training import TRAINING

__all__ = [
    "CENTRAL_AT_LEAST",
    "POINTS_ABOVE_ALONE",
    "POINTS_BELOW_CENTRAL",
    "build_report",
    "summary",
    "write",
]

CENTRAL_AT_LEAST = 95.0
POINTS_BELOW_CENTRAL = 3.0
"""For one seed; the mean of several is to be within 2."""
POINTS_ABOVE_ALONE = 15.0
SECONDS = 120.0


def build_report(
    settings: DemoSettings, shares: list[Share], chronicle: Chronicle, comparison: Comparison, seconds: float
) -> dict[str, Any]:
    """Everything about one demo as JSON values; docs/schemas/demo-report.schema.json describes it."""
    rounds = chronicle.rounds()
    steps = chronicle.steps_taken()
    killed = {kill.volunteer for kill in chronicle.kills}
    late = chronicle.late_join
    report = {
        "accuracy": {
            "swarm": comparison.swarm,
            "central": comparison.central,
            "alone": {str(number): value for number, value in comparison.alone.items()},
            "peers": {str(number): value for number, value in comparison.peers.items()},
        },
        "rounds": rounds,
        "seconds": round(seconds, 2),
        "settings": {
            "seed": settings.seed,
            "peers": settings.peers,
            "rounds": settings.rounds,
            "codec": settings.codec,
            "kill": settings.kill,
            "group_size": GROUP_SIZE,
            "batch_size": TRAINING.batch_size,
            "steps_per_round": TRAINING.steps_per_round,
            "learning_rate": TRAINING.learning_rate,
            "momentum": TRAINING.momentum,
        },
        "volunteers": {
            str(number): {
                "images": len(share.indices),
                "classes": list(share.classes),
                "steps": steps.get(number, 0),
                "fate": "killed" if number in killed else "stayed" if number in comparison.peers else "lost",
            }
            for number, share in enumerate(shares, start=1)
        },
        "central": {"images": comparison.central_images, "steps": comparison.central_steps},
        "swarm_downloaded_from": comparison.donors,
        "kills": [_kill(kill) for kill in chronicle.kills],
        "late_join": None
        if late is None
        else {
            "volunteer": late.volunteer,
            "round": late.round,
            "donors": list(late.donors),
            "seconds": late.seconds,
        },
        "bytes_sent": sum(step.report["bytes_sent"] for step in chronicle.steps),
        "final_disagreement": rounds[-1]["disagreement"] if rounds else None,
    }
    return {**report, "bars": _bars(report)}


def summary(report: dict[str, Any], out: Path) -> str:
    """The closing words: what was reached, beside what was to be reached."""
    accuracy, bars = report["accuracy"], report["bars"]
    alone = max(accuracy["alone"].values())
    kills = ", ".join(f"volunteer {k['volunteer']} in round {k['round']}" for k in report["kills"])
    late = report["late_join"]
    lines = [
        f"Test accuracy, {report['settings']['peers']} volunteers, seed {report['settings']['seed']}:",
        f"  the swarm's model          {accuracy['swarm']:5.1f} %",
        f"  one central process        {accuracy['central']:5.1f} %   (all survivors' images, "
        f"{report['central']['steps']} steps)",
        f"  the best lone volunteer    {alone:5.1f} %   (at most 4 of the 10 classes)",
        f"Killed with SIGKILL in the middle of a round: {kills or 'nobody'}.",
        "Nobody joined late."
        if late is None
        else f"Volunteer {late['volunteer']} joined late, with the state of round {late['round']} from "
        f"{len(late['donors'])} peers.",
        f"{len(report['rounds'])} rounds in {report['seconds']:.0f} s; "
        f"{report['bytes_sent'] / 1e6:.1f} MB sent in all ({report['settings']['codec']}).",
        "",
        *(f"  {'met    ' if bar['met'] else 'NOT MET'}  {bar['text']}" for bar in bars),
        "",
        f"Written: {out / 'report.json'}, {out / 'progress.png'}, {out / 'events.jsonl'}",
    ]
    return "\n".join(lines)


def write(report: dict[str, Any], chronicle: Chronicle, out: Path) -> None:
    """Writes the folder. Everything is made in memory first, so an interrupted run leaves nothing.

    Raises ConfigurationError.
    """
    picture = io.BytesIO()
    draw(report, picture)
    events = sorted(chronicle.events, key=lambda entry: entry["t"])
    files = {
        "events.jsonl": "".join(json.dumps(e, separators=(",", ":")) + "\n" for e in events).encode(),
        "progress.png": picture.getvalue(),
        "report.json": (json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode(),
    }
    # A few milliseconds in which Ctrl+C has to wait: a file is there whole or not at all.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            draft = out / f".{name}.{os.getpid()}"
            draft.write_bytes(data)
            draft.replace(out / name)
    except OSError as error:
        raise ConfigurationError(f"--out {out} cannot be written: {error.strerror}") from error
    finally:
        signal.signal(signal.SIGINT, before)


def _kill(kill: Kill) -> dict[str, Any]:
    return {
        "volunteer": kill.volunteer,
        "round": kill.round,
        "group": kill.group,
        "exchange_started_at": kill.exchange_started_at,
        "killed_at": kill.killed_at,
        "sealed_at": kill.sealed_at,
        "mid_round": kill.mid_round,
    }


def _bars(report: dict[str, Any]) -> list[dict[str, Any]]:
    accuracy = report["accuracy"]
    swarm, central, alone = accuracy["swarm"], accuracy["central"], max(accuracy["alone"].values())
    kills = report["kills"]
    wanted = report["settings"]["kill"]
    late = report["late_join"]
    return [
        _bar(
            central >= CENTRAL_AT_LEAST,
            f"the central process reaches {CENTRAL_AT_LEAST:.0f} %: {central:.1f}",
        ),
        _bar(
            swarm >= central - POINTS_BELOW_CENTRAL,
            f"the swarm is at most {POINTS_BELOW_CENTRAL:.0f} points below it: {swarm - central:+.1f}",
        ),
        _bar(
            swarm >= alone + POINTS_ABOVE_ALONE,
            f"the swarm is at least {POINTS_ABOVE_ALONE:.0f} points above the best lone volunteer: "
            f"{swarm - alone:+.1f}",
        ),
        _bar(
            len(kills) == wanted and all(kill["mid_round"] for kill in kills),
            f"{wanted} volunteers killed between exchange_started and sealed: "
            f"{sum(kill['mid_round'] for kill in kills)}",
        ),
        _bar(
            late is not None and bool(late["donors"]),
            "the late volunteer got its state from peers: "
            + (f"{len(late['donors'])} of them" if late else "it did not come in"),
        ),
        _bar(report["seconds"] <= SECONDS, f"done within {SECONDS:.0f} s: {report['seconds']:.0f} s"),
    ]


def _bar(met: bool, text: str) -> dict[str, Any]:
    return {"text": text, "met": bool(met)}
