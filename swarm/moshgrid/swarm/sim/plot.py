"""The simulation's picture: the error of every way to average, round by round."""

from __future__ import annotations

from typing import Any, BinaryIO

from moshgrid.swarm.sim.convergence import GROUPED

__all__ = ["draw"]

_FLOOR = 1e-12
_COLORS = {
    "grid": "#1f6fb2", "sliding": "#2e8540", "random grid": "#7a4fb0", "random groups": "#b2561f",
    "all-reduce": "#c0262d", "parameter server": "#555555", "push-sum": "#b08900", "gossip ring": "#999999",
}  # fmt: skip


def draw(report: dict[str, Any], out: BinaryIO) -> None:
    """Writes a PNG: mean variance over the restarts against rounds, logarithmic."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    settings = report["settings"]
    for method, found in report["methods"].items():
        curve = [max(error, _FLOOR) for error in found["curve"]]
        panel.plot(
            range(len(curve)),
            curve,
            color=_COLORS[method],
            linestyle="-" if method in GROUPED else "--",
            marker="." if len(curve) <= 20 else None,
            label="all-reduce with restarts" if method == "all-reduce" else method,
        )
    panel.axhline(1e-9, color="#cccccc", linewidth=1)
    panel.set_yscale("log")
    panel.set_xlabel("round")
    panel.set_ylabel("variance of the peers' values (mean of restarts)")
    panel.set_title(
        f"{settings['peers']} peers, groups of {settings['group_size']}, "
        f"each misses a round with p = {settings['failure']:g}, {settings['restarts']} restarts",
        fontsize=11,
    )
    panel.grid(True, alpha=0.25)
    panel.legend(loc="upper right", fontsize=8, framealpha=0.9)
    figure.savefig(out, format="png")
