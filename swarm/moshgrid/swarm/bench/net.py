"""``moshgrid bench net``: what the wire does here, between two processes of this computer, in some seconds.

Beside it plain sockets, and sockets with the standard library's TLS: the same bytes, without identities and
without many streams over one connection. Both processes share this computer's cores.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import trio

from moshgrid.p2p.addresses import split_addr
from moshgrid.p2p.errors import ConfigurationError, MoshgridError
from moshgrid.swarm.bench.sockets import Sockets
from moshgrid.swarm.bench.streams import PING, Streams

__all__ = ["measure_here", "measure_peer", "table"]

_TRY_BYTES = 8_000_000
_MOST_BYTES = 2_000_000_000
_REQUESTS = 500
_SET_UPS = 10
_IDLE = 50

Progress = Callable[[str], None]
"""Called with what is being measured now."""


class _End(Protocol):
    """What is measured, waiting for it included."""

    transfer: Callable[[int, bool], Awaitable[float]]
    requests: Callable[[int], Awaitable[list[float]]]
    set_ups: Callable[[int], Awaitable[list[float]]]


class _Threaded:
    """Blocking sockets in a worker thread, to be awaited."""

    def __init__(self, sockets: Sockets) -> None:
        self.transfer = partial(trio.to_thread.run_sync, sockets.transfer)
        self.requests = partial(trio.to_thread.run_sync, sockets.requests)
        self.set_ups = partial(trio.to_thread.run_sync, sockets.set_ups)


def measure_here(progress: Progress, seconds: float = 1.0) -> dict[str, Any]:
    """Measures two processes on this computer; each transfer takes about ``seconds``."""
    with _listener() as place:
        result = trio.run(_measure_all, place, progress, seconds)
    return {"bench": "net", "cpus": os.cpu_count(), "load": round(_load(), 2), "systems": result}


def measure_peer(addr: str, progress: Progress) -> dict[str, Any]:
    """Measures the way to a running peer. Raises ConfigurationError and Unreachable."""
    try:
        split_addr(addr)
    except ValueError as error:
        raise ConfigurationError(f"{addr[:200]!r}: {error}") from None

    async def measure() -> tuple[list[float], list[float]]:
        streams = Streams(addr)
        progress("connection set-up")
        set_ups = await streams.set_ups(_SET_UPS, PING)
        progress("requests")
        with trio.move_on_after(5.0):
            return set_ups, await streams.requests(50, PING)
        return set_ups, await streams.requests(3, PING)

    try:
        set_ups, requests = trio.run(measure)
    except BaseExceptionGroup as group:  # from the nursery of the network that dialled
        raise _first(group) from None
    return {"bench": "net", "address": addr, "set_up_ms": _ms(set_ups), "request_ms": _ms(requests)}


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    if "address" in result:
        return (
            f"{result['address']}\n"
            f"  connection set-up, median   {result['set_up_ms']:10.2f} ms\n"
            f"  request and answer, median  {result['request_ms']:10.3f} ms"
        )
    systems = result["systems"]
    lines = [f"{'between two processes here':34}" + "".join(f"{name:>12}" for name in systems)]
    for key, title in (
        ("one_way_mb_per_s", "one stream, one way, MB/s"),
        ("both_ways_mb_per_s", "one stream, both ways, MB/s in all"),
        ("request_us", "request of 64 bytes, median, µs"),
        ("set_up_ms", "connection set-up, median, ms"),
        ("idle_connection_kib", "idle connection, KiB of memory"),
    ):
        cells = ["-" if each[key] is None else f"{each[key]:.1f}" for each in systems.values()]
        lines.append(f"{title:34}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


async def _measure_all(place: dict[str, Any], progress: Progress, seconds: float) -> dict[str, Any]:
    streams = Streams(place["addr"])
    ends: dict[str, Any] = {
        "moshgrid": streams,
        "ssl": _Threaded(Sockets(place["ssl"], tls=True)),
        "raw": _Threaded(Sockets(place["raw"], tls=False)),
    }
    result = {}
    for name, end in ends.items():
        result[name] = await _measure(name, end, progress, seconds)
    progress("moshgrid: idle connections")
    result["moshgrid"]["idle_connection_kib"] = await _idle_kib(streams, place["pid"])
    return result


async def _measure(name: str, end: _End, progress: Progress, seconds: float) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for both, key in ((False, "one_way_mb_per_s"), (True, "both_ways_mb_per_s")):
        progress(f"{name}: {'both ways' if both else 'one way'}")
        rate = _TRY_BYTES / await end.transfer(_TRY_BYTES, both)
        size = int(min(_MOST_BYTES, max(_TRY_BYTES, rate * seconds)))
        row[key] = round(size * (1 + both) / await end.transfer(size, both) / 1e6, 1)
    progress(f"{name}: requests")
    row["request_us"] = round(statistics.median(await end.requests(_REQUESTS)) * 1e6, 1)
    progress(f"{name}: connection set-up")
    row["set_up_ms"] = _ms(await end.set_ups(_SET_UPS))
    row["idle_connection_kib"] = None
    return row


async def _idle_kib(streams: Streams, pid: int) -> float | None:
    """The listener's memory for each of some idle connections; None where it cannot be seen."""
    if (before := _resident_kib(pid)) is None:
        return None
    held, enough = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(streams.hold, _IDLE, enough, held)
        await held.wait()
        growth = (_resident_kib(pid) or before) - before
        enough.set()
    return round(max(0.0, growth) / _IDLE, 1)


def _resident_kib(pid: int) -> float | None:
    file = Path(f"/proc/{pid}/statm")
    if not file.exists():
        return None
    pages = int(file.read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024


@contextmanager
def _listener() -> Iterator[dict[str, Any]]:
    command = [sys.executable, str(Path(__file__).with_name("listener.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise MoshgridError("the listening process ended before it began; its words are above")
            yield json.loads(line)
        finally:
            process.stdin.close()
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                process.kill()


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _ms(times: list[float]) -> float:
    return round(statistics.median(times) * 1e3, 3)


def _load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
