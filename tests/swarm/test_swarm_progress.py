"""The sum of what members say they have done."""

from __future__ import annotations

import pytest

from moshgrid.swarm.swarm_progress import PROGRESS_TTL, ProgressReport, SwarmProgress

A, B = "12D3KooWA", "12D3KooWB"


def test_samples_of_the_highest_epoch_are_summed_and_carried_on_at_their_rate() -> None:
    progress = SwarmProgress(target=1000)
    progress.counted(0, 0.0)
    for second in range(1, 11):
        progress.counted(10, float(second))
    progress.heard(A, ProgressReport(0, 200, 50.0), 10.0)
    view = progress.view(12.0)
    assert view.samples == 100 + 200 + 100
    assert view.rate == pytest.approx(60.0)
    assert view.eta == pytest.approx(600 / 60)
    assert view.peers == 2 and not view.behind
    assert view.share == pytest.approx(0.25)


def test_it_is_due_when_the_target_is_reached_but_not_for_who_is_behind() -> None:
    progress = SwarmProgress(target=100)
    progress.counted(60, 0.0)
    assert not progress.due(0.0)
    progress.heard(A, ProgressReport(0, 60, 0.0), 0.0)
    assert progress.due(0.0)
    progress.heard(B, ProgressReport(3, 0, 0.0), 0.0)
    assert progress.view(0.0).behind == 3 and not progress.due(0.0)
    progress.entered(3, 0.0)
    assert progress.view(0.0).behind == 0
    assert progress.view(0.0).samples == 0, "samples of an earlier epoch count for nothing"


def test_a_member_that_is_silent_is_forgotten_and_its_rate_not_believed_for_long() -> None:
    progress = SwarmProgress(target=10_000)
    progress.heard(A, ProgressReport(0, 100, 10.0), 0.0)
    assert progress.view(5.0).samples == 150
    assert progress.view(PROGRESS_TTL - 1).samples == 200
    assert progress.view(PROGRESS_TTL).peers == 1
    progress.heard(B, ProgressReport(0, 1, 0.0), 100.0)
    progress.gone(B)
    assert progress.view(100.0).peers == 1


def test_progress_is_told_at_once_when_the_epoch_changes_and_more_often_near_the_target() -> None:
    progress = SwarmProgress(target=1000)
    assert progress.to_publish(0.0) == ProgressReport(0, 0, 0.0)
    progress.counted(1, 0.0)
    progress.counted(10, 1.0)
    assert progress.to_publish(1.0) is None, "far from the target every ten seconds are enough"
    assert progress.to_publish(10.0) is not None
    progress.counted(980, 11.0)
    assert progress.to_publish(11.0) is not None
    progress.counted(1, 11.1)
    assert progress.to_publish(11.1) is None
    progress.entered(1, 11.2)
    told = progress.to_publish(11.2)
    assert told is not None and told.epoch == 1


def test_nothing_is_told_twice() -> None:
    progress = SwarmProgress()
    assert progress.to_publish(0.0) is not None
    assert progress.to_publish(1000.0) is None


def test_what_a_synchronisation_takes_does_not_slow_the_rate() -> None:
    progress = SwarmProgress()
    progress.counted(1, 0.0)
    progress.counted(10, 1.0)
    progress.entered(1, 31.0)
    progress.counted(10, 32.0)
    assert progress.own.rate == pytest.approx(10.0)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"epoch": -1, "samples": 0, "rate": 0},
        {"epoch": 0, "samples": 2**60, "rate": 0},
        {"epoch": 0, "samples": 0, "rate": float("nan")},
        {"epoch": 0, "samples": 0, "rate": float("inf")},
        {"epoch": "1", "samples": 0, "rate": 0},
        {"epoch": 2**50, "samples": 0, "rate": 0},
    ],
)
def test_what_a_stranger_writes_need_not_make_sense(value: object) -> None:
    assert ProgressReport.from_value(value) is None


def test_a_report_survives_its_record() -> None:
    report = ProgressReport(3, 17, 2.5)
    assert ProgressReport.from_value(report.to_value()) == report
