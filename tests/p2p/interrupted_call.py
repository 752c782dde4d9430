"""A script that is interrupted (SIGINT) inside a blocking call: prints what it saw. Started by path."""

from __future__ import annotations

import signal
import threading
import time

import trio

from moshgrid.p2p import Node


async def wait_long() -> None:
    print("waiting", flush=True)
    try:
        await trio.sleep(60)
    except trio.Cancelled:
        print("cancelled over there", flush=True)
        raise


signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts it in the background may ignore it
with Node(listen=["/ip4/127.0.0.1/tcp/0"]) as node:
    try:
        node.call(wait_long)
    except KeyboardInterrupt:
        print("interrupted here", flush=True)
    start = time.monotonic()
print("closed", time.monotonic() - start < 5, threading.active_count(), flush=True)
