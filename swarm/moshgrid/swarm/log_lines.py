"""Log lines of a training: one readable line per event, in a wording that does not change.

People search logs for these: docs/log-lines.md lists them. They go to the logger ``moshgrid.swarm`` at level
INFO, troubles at WARNING.
"""

from __future__ import annotations

from moshgrid.averaging import Progress, RoundReport
from moshgrid.swarm.swarm_progress import SwarmView

__all__ = [
    "cannot_save",
    "caught_up",
    "gradients_not_finite",
    "joined",
    "leaving",
    "no_group",
    "not_finite",
    "own_part",
    "round_done",
    "seconds",
    "size",
    "state_fetched",
    "united",
    "unreadable",
]


def joined(run_id: str, peers: int, epoch: int, behind: int) -> str:
    """A peer has joined a training; ``peers`` counts itself."""
    text = f"joined {run_id}: {peers} {'peer' if peers == 1 else 'peers'}, epoch {epoch}"
    if behind:
        text += f", you are {behind} {'epoch' if behind == 1 else 'epochs'} behind"
    return text


def round_done(report: RoundReport, part: str = "") -> str:
    """A round whose average counts. ``part`` names the fragment, or what was averaged."""
    others = len(report.group) - 1
    reached = max(sum(share > 0 for share in report.contributors.values()) - 1, 0)
    total = report.seconds_matching + report.seconds_reducing
    text = (
        f"round {report.round}{f' ({part})' if part else ''}: averaged with {reached}/{others} peers "
        f"in {total:.1f} s (match {report.seconds_matching:.1f} s, reduce {report.seconds_reducing:.1f} s), "
        f"↑{size(report.bytes_sent)} ↓{size(report.bytes_received)}, {report.codec}"
    )
    for peer, why in report.dropped.items():
        text += f"; {peer[:4]}…{peer[-4:]} left mid-round ({why})"
    return text


def no_group(report: RoundReport, in_a_row: int) -> str:
    """A round that came to nothing."""
    times = f" ({in_a_row} in a row)" if in_a_row > 1 else ""
    return f"round {report.round}: no group{times}: continuing locally, will try again: {report.reason}"


def own_part(samples: int, view: SwarmView) -> str:
    """What this peer does, beside the swarm."""
    text = f"you: {samples:,} samples ({100 * view.share:.1f} % of swarm) · {view.rate:.1f} samples/s in all"
    if view.eta is not None:
        text += f" · next sync in {seconds(view.eta)}"
    return text


def caught_up(round_number: int, how: str) -> str:
    """This peer had missed rounds. ``how``: "its average was replayed", for example."""
    return f"caught up to round {round_number}: {how}"


def united(round_number: int) -> str:
    """Members came together that did not share one state: two swarms of one run that began apart."""
    return (
        f"round {round_number}: the members' states differed; their average is the run's state now, and "
        "outer momentum begins anew"
    )


def unreadable(run_id: str, why: str) -> str:
    """The run's records did not come when this peer joined."""
    return f"run {run_id}: its records cannot be read yet: {why}"


def leaving() -> str:
    """SIGTERM came."""
    return "asked to leave: taking records back and saying goodbye"


def state_fetched(round_number: int, progress: Progress | None) -> str:
    """A newcomer has the swarm's state."""
    if progress is None or not progress.bytes_done:
        return f"state of round {round_number}: verified"
    megabits = progress.rate * 8 / 1e6
    before = f"{size(progress.bytes_before)} were here, " if progress.bytes_before else ""
    return (
        f"state of round {round_number}: {size(progress.bytes_done - progress.bytes_before)} from "
        f"{progress.donors} {'peer' if progress.donors == 1 else 'peers'} in {progress.seconds:.1f} s "
        f"({megabits:.0f} Mbit/s), {before}verified"
    )


def cannot_save(path: str, why: str) -> str:
    """A checkpoint could not be written."""
    return f"checkpoint {path} cannot be written ({why}); training goes on. Free space, or give another path"


def not_finite(round_number: int) -> str:
    """This peer's own values were spoilt."""
    return (
        f"your model holds NaN or infinite values; nothing of it was sent, and it went back to the swarm's "
        f"state of round {round_number}. Lower the learning rate, or clip gradients"
    )


def gradients_not_finite() -> str:
    """What this peer accumulated was spoilt."""
    return (
        "your gradients hold NaN or infinite values; they were dropped, and the step is the others'. "
        "Use a GradScaler, lower the learning rate, or clip gradients"
    )


def seconds(duration: float) -> str:
    """A duration for a person: ``12 s``, ``1 m 12 s``, ``3 h 05 m``."""
    whole = round(duration)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} m"


def size(count: float) -> str:
    """A number of bytes for a person."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
