"""An attacker in a process of its own: opens and resets streams, or pings, as fast as it is let.

usage: flood_process.py ADDRESS opens|words|pings|half-open PER_SECOND SECONDS SOURCE. Prints ``ready``, waits
for a line, floods over one connection after the other, and prints how many frames it got rid of over how many
connections, out of how many that it tried. It has a new name each time, and always the address SOURCE.
With half-open it keeps a thousand connections there that say nothing after their greeting.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from victim import Flood, is_closed_after, knock, raw_session_at


async def flood(addr: str, kind: str, rate: float, source: str, counts: list[int]) -> None:
    while True:
        counts[2] += 1
        try:
            session = await raw_session_at(addr, source)
        except Exception:
            continue
        counts[1] += 1
        counts[0] += await Flood(session, kind, rate).run(1 << 62)


async def keep_half_open(addr: str, source: str, counts: list[int]) -> None:
    async def one() -> None:
        while True:
            counts[2] += 1
            with suppress(OSError):
                await is_closed_after(
                    await knock(int(addr.split("/")[4]), source), b"\x13/multistream/1.0.0\n"
                )
            await trio.sleep(1.0)

    async with trio.open_nursery() as nursery:
        for _ in range(1000):
            nursery.start_soon(one)


async def main() -> None:
    addr, kind, rate, seconds, source = sys.argv[1:]
    print("ready", flush=True)
    await trio.to_thread.run_sync(sys.stdin.readline)
    counts = [0, 0, 0]
    with trio.move_on_after(float(seconds)):
        if kind == "half-open":
            await keep_half_open(addr, source, counts)
        else:
            await flood(addr, kind, float(rate), source, counts)
    print(*counts, flush=True)


trio.run(main)
