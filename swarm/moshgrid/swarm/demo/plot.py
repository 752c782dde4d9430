"""The demo's picture: loss and disagreement between peers, round by round."""

from __future__ import annotations

from typing import Any, BinaryIO

__all__ = ["draw"]

_NO_DISAGREEMENT = 1e-3
_LOSS, _DISAGREEMENT, _KILL, _LATE = "#1f6fb2", "#b2561f", "#c0262d", "#2e8540"


def draw(report: dict[str, Any], out: BinaryIO) -> None:
    """Writes a PNG with two panels over the rounds; kills and the late join are marked in both."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    settings, accuracy = report["settings"], report["accuracy"]
    figure.suptitle(
        f"{settings['peers']} volunteers, groups of at most {settings['group_size']}, {settings['codec']} — "
        f"test accuracy {accuracy['swarm']:.1f} %, central process {accuracy['central']:.1f} %, "
        f"best alone {max(accuracy['alone'].values()):.1f} %",
        fontsize=11,
    )
    _draw_loss(above, report["rounds"])
    _draw_disagreement(below, report["rounds"])
    for panel, free_corner in ((above, "upper right"), (below, "lower left")):
        _mark(panel, report, named=panel is below)
        panel.grid(True, alpha=0.25)
        panel.legend(loc=free_corner, fontsize=8, framealpha=0.9)
    below.set_xlabel("round")
    figure.savefig(out, format="png")


def _draw_loss(panel: Any, rounds: list[dict[str, Any]]) -> None:
    trained = [r for r in rounds if r["loss"] is not None]
    losses = [[p["loss"] for p in r["peers"].values() if p["loss"] is not None] for r in trained]
    numbers = [r["round"] for r in trained]
    panel.fill_between(
        numbers,
        [min(x) for x in losses],
        [max(x) for x in losses],
        color=_LOSS,
        alpha=0.18,
        label="range of volunteers",
    )
    panel.plot(numbers, [r["loss"] for r in trained], color=_LOSS, label="mean of volunteers")
    panel.set_ylabel("training loss\n(on each one's own images)")
    panel.set_yscale("log")


def _draw_disagreement(panel: Any, rounds: list[dict[str, Any]]) -> None:
    known = [r for r in rounds if r["disagreement"]]
    panel.plot(
        [r["round"] for r in known],
        [100 * r["disagreement"] for r in known],
        color=_DISAGREEMENT,
        marker=".",
        label="distance of the models from their mean",
    )
    if known:
        # Perfect agreement would squeeze everything else into the upper edge.
        panel.set_ylim(bottom=max(_NO_DISAGREEMENT, min(100 * r["disagreement"] for r in known) / 2))
    panel.set_ylabel("disagreement after averaging\n(% of the model's length)")
    panel.set_yscale("log")


def _mark(panel: Any, report: dict[str, Any], named: bool) -> None:
    for i, kill in enumerate(report["kills"]):
        panel.axvline(kill["round"], color=_KILL, linestyle="--", linewidth=1, label=None if i else "killed")
        if named:
            _name(panel, kill["round"], 0.5, f"volunteer {kill['volunteer']} killed", _KILL)
    late = report["late_join"]
    if late is not None:
        panel.axvline(late["round"], color=_LATE, linestyle=":", linewidth=1.5, label="joined late")
        if named:
            _name(panel, late["round"], 0.75, f"volunteer {late['volunteer']} joined", _LATE)


def _name(panel: Any, x: int, height: float, text: str, color: str) -> None:
    panel.annotate(
        text,
        (x, height),
        xycoords=("data", "axes fraction"),
        xytext=(3, 0),
        textcoords="offset points",
        rotation=90,
        fontsize=8,
        color=color,
        va="top",
    )
