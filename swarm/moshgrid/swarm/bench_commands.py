"""``moshgrid bench``: measurements for a user on the user's own computer."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

__all__ = ["bench_app"]

bench_app = typer.Typer(help="Measure what this computer and its network can do.", no_args_is_help=True)


@bench_app.callback()
def bench() -> None:
    """Measure what this computer and its network can do."""


@bench_app.command("net")
def net(
    address: Annotated[
        str | None, typer.Argument(help="A running peer to measure the way to; without it, this computer.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON to stdout.")] = False,
) -> None:
    """Streams, requests, connection set-up and idle memory, beside plain and TLS sockets."""
    from moshgrid.swarm.bench.net import measure_here, measure_peer, table

    clear = "\r\x1b[K" if sys.stderr.isatty() else ""

    def progress(what: str) -> None:
        print(f"{clear}measuring {what} …", end="" if clear else "\n", file=sys.stderr, flush=True)

    result = measure_here(progress) if address is None else measure_peer(address, progress)
    print(clear, end="", file=sys.stderr, flush=True)
    print(json.dumps(result) if as_json else table(result))
