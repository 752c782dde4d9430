"""The wording of log lines: people search for it, so it does not change."""

from __future__ import annotations

from pathlib import Path

import pytest

from moshgrid.averaging import Progress, RoundReport
from moshgrid.swarm import log_lines
from moshgrid.swarm.swarm_progress import SwarmView

LISTED = (Path(__file__).parents[2] / "docs/log-lines.md").read_text()
ME, OTHER, GONE = "12D3KooWme", "12D3KooWab", "12D3KooWxyz1"


def test_a_round() -> None:
    report = RoundReport(
        813,
        group=(ME, OTHER, GONE),
        contributors={ME: 1.0, OTHER: 1.0, GONE: 0.0},
        dropped={GONE: "connection lost"},
        committed=True,
        seconds_matching=1.1,
        seconds_reducing=5.1,
        bytes_sent=212_000_000,
        bytes_received=205_400_000,
        codec="int8",
    )
    assert log_lines.round_done(report) == (
        "round 813: averaged with 1/2 peers in 6.2 s (match 1.1 s, reduce 5.1 s), ↑212 MB ↓205 MB, int8; "
        "12D3…xyz1 left mid-round (connection lost)"
    )
    assert log_lines.round_done(report, "diloco1").startswith("round 813 (diloco1): averaged with 1/2 peers")


def test_no_group() -> None:
    report = RoundReport(814, reason="nobody else came")
    assert log_lines.no_group(report, 1) == (
        "round 814: no group: continuing locally, will try again: nobody else came"
    )
    assert log_lines.no_group(report, 3).startswith("round 814: no group (3 in a row): continuing locally")


def test_joining_and_catching_up() -> None:
    assert (
        log_lines.joined("albert", 14, 812, 3)
        == "joined albert: 14 peers, epoch 812, you are 3 epochs behind"
    )
    assert log_lines.joined("albert", 1, 0, 0) == "joined albert: 1 peer, epoch 0"
    assert log_lines.caught_up(9, "it was replayed") == "caught up to round 9: it was replayed"
    assert log_lines.not_finite(9).startswith(
        "your model holds NaN or infinite values; nothing of it was sent"
    )


def test_ones_own_part() -> None:
    view = SwarmView(3, 0, 69_161, 20.94, 8, 0.031, 72.0)
    assert log_lines.own_part(2144, view) == (
        "you: 2,144 samples (3.1 % of swarm) · 20.9 samples/s in all · next sync in 1 m 12 s"
    )


@pytest.mark.parametrize(
    ("duration", "text"),
    [(0, "0 s"), (59, "59 s"), (60, "1 m 00 s"), (3599.4, "59 m 59 s"), (11_100, "3 h 05 m")],
)
def test_durations(duration: float, text: str) -> None:
    assert log_lines.seconds(duration) == text


def test_every_line_is_listed_as_it_is() -> None:
    view = SwarmView(3, 0, 69_161, 20.94, 8, 0.031, 72.0)
    lost = RoundReport(814, reason="nobody else came")
    lines = {
        "joined": log_lines.joined("albert", 14, 812, 3),
        "unreadable": log_lines.unreadable("albert", "no peer answered"),
        "state_fetched": log_lines.state_fetched(812, Progress(1_400_000_000, 1_400_000_000, 38.0, 3)),
        "round_done": "round 813: averaged with 7/8 peers in 6.2 s (match 1.1 s, reduce 5.1 s)",
        "no_group": log_lines.no_group(lost, 3),
        "caught_up": log_lines.caught_up(815, "the average of the round that was missed was replayed"),
        "united": log_lines.united(816),
        "own_part": log_lines.own_part(2144, view),
        "not_finite": log_lines.not_finite(813),
        "gradients_not_finite": log_lines.gradients_not_finite(),
        "cannot_save": log_lines.cannot_save("ckpt", "No space left on device"),
        "leaving": log_lines.leaving(),
    }
    assert set(lines) == set(log_lines.__all__) - {"seconds", "size"}
    assert [line for line in lines.values() if line not in LISTED] == []
    assert all("\n" not in line for line in lines.values())
