"""What a person sees while the demo runs: a live table in a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

__all__ = ["LiveTable", "PlainLines", "Row", "open_view"]


@dataclass
class Row:
    """One volunteer's line."""

    volunteer: int
    state: str = "starting"
    round: str = ""
    group: str = ""
    loss: str = ""
    traffic: str = ""
    dropped: str = ""


class PlainLines:
    """One line for each thing that happens."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._started = time.monotonic()

    def __enter__(self) -> PlainLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def note(self, text: str) -> None:
        """Something that is not about one volunteer's round."""
        print(f"{time.monotonic() - self._started:6.1f} s  {text}", file=self._out, flush=True)

    def state(self, volunteer: int, state: str) -> None:
        """A volunteer's state has changed."""
        self.note(f"volunteer {volunteer}: {state}")

    def stepped(self, volunteer: int, part: Mapping[str, Any], number: int) -> None:
        """A volunteer has finished a round."""
        row = row_of(volunteer, part, number)
        fields = [
            f"volunteer {volunteer}",
            f"round {row.round:>3}",
            f"group {row.group:<10}",
            f"loss {row.loss:<6}",
            row.traffic,
            row.dropped,
        ]
        self.note("  ".join(field for field in fields if field).rstrip())


class LiveTable:
    """One row per volunteer, redrawn in place, under it the last few things that happened."""

    def __init__(self, console: Console, peers: int) -> None:
        self._rows = {number: Row(number) for number in range(1, peers + 1)}
        self._notes = ["starting the volunteers' processes"]
        self._started = time.monotonic()
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=8)

    def __enter__(self) -> LiveTable:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def note(self, text: str) -> None:
        """Something that is not about one volunteer's round."""
        self._notes = [*self._notes, f"{time.monotonic() - self._started:5.1f} s  {text}"][-4:]

    def state(self, volunteer: int, state: str) -> None:
        """A volunteer's state has changed."""
        self._rows[volunteer].state = state

    def stepped(self, volunteer: int, part: Mapping[str, Any], number: int) -> None:
        """A volunteer has finished a round."""
        row = row_of(volunteer, part, number)
        row.state = self._rows[volunteer].state
        # Who dropped stays visible for more than the blink of one round.
        row.dropped = row.dropped or self._rows[volunteer].dropped
        self._rows[volunteer] = row

    def _table(self) -> Table:
        table = Table(title="moshgrid demo", caption="\n".join(self._notes), caption_justify="left")
        for name in ("volunteer", "state", "round", "group", "loss", "bytes", "who dropped, and why"):
            table.add_column(name, justify="right" if name in ("round", "loss") else "left")
        for row in self._rows.values():
            style = "dim" if row.state.startswith(("killed", "ended", "late")) else ""
            cells = (row.state, row.round, row.group, row.loss, row.traffic, row.dropped)
            table.add_row(str(row.volunteer), *cells, style=style)
        return table


def open_view(out: TextIO, peers: int) -> PlainLines | LiveTable:
    """The view that suits ``out``."""
    console = Console(file=out)
    return (
        LiveTable(console, peers) if console.is_terminal and not console.is_dumb_terminal else PlainLines(out)
    )


def row_of(volunteer: int, part: Mapping[str, Any], number: int) -> Row:
    """A volunteer's part in a round as the texts of a line."""
    loss = part["loss"]
    dropped = [f"round {number}: {who} ({why})" for who, why in part["dropped"].items()]
    if not part["committed"]:
        dropped.append(f"round {number}: not averaged: {part['reason']}")
    return Row(
        volunteer=volunteer,
        state="training",
        round=str(number),
        group=" ".join(part["group"]) or "-",
        loss="-" if loss is None else f"{loss:.3f}",
        traffic=f"↑{_size(part['bytes_sent'])} ↓{_size(part['bytes_received'])}",
        dropped="; ".join(dropped),
    )


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
