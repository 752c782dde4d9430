"""The ``moshgrid`` command within the test's own process: a new one takes a second to import everything."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from unittest import mock

from moshgrid.swarm.cli import main


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What ``moshgrid ARGUMENTS`` prints, and its exit status."""
    said, complained, status = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["moshgrid", *arguments]),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(complained),
    ):
        try:
            main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return subprocess.CompletedProcess(arguments, status, said.getvalue(), complained.getvalue())
