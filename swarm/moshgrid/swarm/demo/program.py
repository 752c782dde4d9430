"""``moshgrid demo``: settings in, a report and its folder out."""

from __future__ import annotations

import json
import sys
import time

from moshgrid.swarm.demo.conductor import Conductor
from moshgrid.swarm.demo.report import build_report, summary, write
from moshgrid.swarm.demo.settings import DemoSettings

__all__ = ["INTERRUPTED", "run_demo"]

INTERRUPTED = 130
"""The exit status after Ctrl+C."""


def run_demo(settings: DemoSettings, as_json: bool) -> None:
    """Runs the demo; progress goes to stdout, or to stderr when stdout is for the JSON."""
    started = time.monotonic()
    out = sys.stderr if as_json else sys.stdout
    try:
        conductor = Conductor(settings, out)
        comparison = conductor.run()
        seconds = time.monotonic() - started
        report = build_report(settings, conductor.shares, conductor.chronicle, comparison, seconds)
        write(report, conductor.chronicle, settings.out)
    except KeyboardInterrupt:
        print(
            "moshgrid demo: interrupted; all volunteers have ended and nothing was written", file=sys.stderr
        )
        sys.exit(INTERRUPTED)
    print("\n" + summary(report, settings.out), file=out)
    if as_json:
        print(json.dumps(report, indent=1, ensure_ascii=False))
