"""The ``moshgrid`` command's entry: it works without the ``cli`` extra far enough to say what to install."""

from __future__ import annotations

import importlib.util
import sys

__all__ = ["main"]

_NEEDED = ("typer", "rich")


def main() -> None:
    """Runs the command line; errors of the user's making are one line, with exit status 2."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"moshgrid: the command line needs {' and '.join(missing)}:  pip install 'moshgrid[cli]'")
    try:
        from moshgrid.swarm.commands import run

        run()
    except KeyboardInterrupt:
        print("moshgrid: interrupted", file=sys.stderr)
        sys.exit(130)
