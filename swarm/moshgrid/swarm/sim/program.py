"""``moshgrid sim``: settings in, the curves of every way to average and the laws they follow out."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from moshgrid.p2p.errors import ConfigurationError
from moshgrid.swarm.sim.convergence import METHODS, Outcome, converge, summary
from moshgrid.swarm.sim.laws import LOSSES, contraction, drift, reducer_loss
from moshgrid.swarm.sim.settings import SimSettings

__all__ = ["TABLE_FAILURES", "TABLE_PEERS", "run_sim", "simulate"]

TABLE_PEERS = (512, 768, 900, 1024)
TABLE_FAILURES = (0.0, 0.001, 0.005, 0.01)
_TABLE_METHODS = ("grid", "sliding", "key sliding", "random grid", "random groups")
_LAW_PEERS_DRAWN = 40 * 1024
_MOST_LAW_DRAWS = 256
_MOST_LAW_PEERS = 1024


def run_sim(settings: SimSettings, table: bool, as_json: bool) -> None:
    """Runs the simulation, writes ``sim.json`` and ``sim.png`` into the folder, and prints a summary."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        report = simulate(settings, table, progress)
    try:
        _write(report, settings.out)
    except OSError as error:
        raise ConfigurationError(f"--out: {settings.out} cannot be written: {error}") from error
    print(_told(report, settings.out), file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print(json.dumps(report))


def simulate(settings: SimSettings, table: bool, progress: Progress) -> dict[str, Any]:
    """The report, as ``docs/schemas/sim.schema.json`` describes it."""
    s = settings
    report: dict[str, Any] = {"settings": {**asdict(s), "out": str(s.out)}, "methods": {}, "laws": {}}
    for method in METHODS:
        report["methods"][method] = _run(method, s.peers, s.failure, s, progress)
    report["laws"] = _laws(s, progress)
    if table:
        report["table"] = [
            {
                "peers": peers,
                "failure": failure,
                "rounds_to_1e-9": {
                    method: _run(method, peers, failure, s, progress)["rounds_to_1e-9"]
                    for method in _TABLE_METHODS
                },
            }
            for peers in TABLE_PEERS
            for failure in TABLE_FAILURES
        ]
    return report


def _run(method: str, peers: int, failure: float, s: SimSettings, progress: Progress) -> dict[str, Any]:
    outcomes: list[Outcome] = []
    task = progress.add_task(f"{method}, {peers} peers, p = {failure:g}", total=s.restarts)
    for outcome in converge(method, peers, s.group_size, s.rounds, failure, s.restarts, s.seed):
        outcomes.append(outcome)
        progress.advance(task)
    progress.remove_task(task)
    return summary(outcomes, s.rounds)


def _laws(s: SimSettings, progress: Progress) -> dict[str, Any]:
    """Theory holds for groups of equal size: as many peers as fill all groups, at least two of them."""
    groups = max(2, min(s.peers, _MOST_LAW_PEERS) // s.group_size)
    peers = groups * s.group_size
    draws = min(_MOST_LAW_DRAWS, -(-_LAW_PEERS_DRAWN // peers))
    task = progress.add_task("what theory says", total=2 + len(LOSSES))
    laws: dict[str, Any] = {"contraction": contraction(peers, s.group_size, draws, s.seed)}
    progress.advance(task)
    laws["reducer_loss"] = []
    for loss in LOSSES:
        laws["reducer_loss"].append(reducer_loss(peers, s.group_size, loss, draws, s.seed))
        progress.advance(task)
    laws["drift"] = drift(peers, s.group_size, 10, max(s.failure, 0.1), s.restarts, s.seed)
    progress.remove_task(task)
    return laws


def _write(report: dict[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "sim.json").write_text(json.dumps(report, indent=1))
    if importlib.util.find_spec("matplotlib") is not None:
        from moshgrid.swarm.sim.plot import draw

        with (out / "sim.png").open("wb") as file:
            draw(report, file)


def _told(report: dict[str, Any], out: Path) -> str:
    s = report["settings"]
    lines = [
        f"{s['peers']} peers in groups of {s['group_size']}, each missing a round with p = {s['failure']:g}; "
        f"mean of {s['restarts']} restarts",
        f"{'':18}{'rounds to 1e-4':>16}{'to 1e-9':>10}{'reached':>10}",
    ]
    for method, found in report["methods"].items():
        lines.append(
            f"{method:18}{found['rounds_to_1e-4']:16.1f}{found['rounds_to_1e-9']:10.1f}"
            f"{found['reached']:7}/{s['restarts']}"
        )
    for row in report.get("table", []):
        found = ", ".join(f"{name} {mean:.1f}" for name, mean in row["rounds_to_1e-9"].items())
        lines.append(f"{row['peers']} peers, p = {row['failure']:g}: {found}")
    one, moved = report["laws"]["contraction"], report["laws"]["drift"]
    lines.append(f"contraction {one['measured']:.4f} a round (theory {one['expected']:.4f})")
    for law in report["laws"]["reducer_loss"]:
        lines.append(f"with {law['loss']:.0%} of reducers lost {law['measured']:.4f} ({law['expected']:.4f})")
    lines.append(f"drift of the mean {moved['drift']:.3f} σ in {moved['rounds']} rounds")
    picture = importlib.util.find_spec("matplotlib") is not None
    lines.append(f"written: {out / 'sim.json'}" + (f", {out / 'sim.png'}" if picture else ""))
    if not picture:
        lines.append("for the picture too:  pip install 'moshgrid[demo]'")
    return "\n".join(lines)
