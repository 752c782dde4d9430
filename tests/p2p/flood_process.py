"""An attacker in a process of its own: opens and resets streams, or pings, as fast as it is let.

usage: flood_process.py ADDRESS opens|pings PER_SECOND SECONDS SOURCE. Prints ``ready``, waits for a line, floods
over one connection after the other, and prints how many frames it got rid of over how many connections, out of
how many that it tried.
It is somebody else each time, always from the address SOURCE.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from victim import Flood, raw_session_at


async def main() -> None:
    addr, kind, rate, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
    print("ready", flush=True)
    await trio.to_thread.run_sync(sys.stdin.readline)
    sent = connections = knocks = 0
    with trio.move_on_after(seconds):
        while True:
            knocks += 1
            try:
                session = await raw_session_at(addr, sys.argv[5])
            except Exception:
                continue
            connections += 1
            sent += await Flood(session, kind, rate).run(1 << 62)
    print(sent, connections, knocks, flush=True)


trio.run(main)
