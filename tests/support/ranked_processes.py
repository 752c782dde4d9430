"""Processes of one script, each with a rank, around a bootstrap node; they speak in JSON lines."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from moshgrid.dht import DHT
from moshgrid.p2p import Node


@contextmanager
def ranked_processes(script: Path, count: int, argument: object) -> Iterator[list[subprocess.Popen[str]]]:
    """``script ADDRESS RANK COUNT ARGUMENT`` for each rank, all of them ready; ended with the block."""
    with ExitStack() as stack:
        node = stack.enter_context(Node(listen=["/ip4/127.0.0.1/tcp/0"]))
        stack.enter_context(DHT(node))
        processes = []
        for rank in range(count):
            process = subprocess.Popen(
                [sys.executable, str(script), node.addrs[0], str(rank), str(count), str(argument)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(end, process)
            processes.append(process)
        for process in processes:
            assert "ready" in said(process)
        yield processes


def said(process: subprocess.Popen[str]) -> Any:
    """The next line of a process."""
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def tell(process: subprocess.Popen[str], line: str) -> None:
    """One line to a process."""
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def end(process: subprocess.Popen[Any]) -> None:
    """Kills a process and closes what leads to it."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
