"""Starts peers' processes quickly: a process that has imported everything forks one on each request.

Started by path with the number of a Unix socket: each message on it names a namespace and brings the new
process's stdin and stdout; the answer is its pid. Ends with that socket, as its owner does.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import socket
import sys

import peer_process
from namespaces import enter_for_good

# What a node would import when it opens.
import moshgrid.averaging
import moshgrid.dht
import moshgrid.p2p.libp2p_network
import moshgrid.p2p.libp2p_reachability  # noqa: F401


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them here
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    asked = socket.socket(fileno=int(sys.argv[1]))
    while True:
        message, fds, _, _ = socket.recv_fds(asked, 4096, 2)
        if not message:
            return
        pid = os.fork()
        if pid == 0:
            asked.close()
            _become(json.loads(message), fds[0], fds[1])
        for fd in fds:
            os.close(fd)
        asked.sendall(pid.to_bytes(4, "big"))


def _become(given: dict[str, str], stdin: int, stdout: int) -> None:
    status = 1
    try:
        os.dup2(stdin, 0)
        os.dup2(stdout, 1)
        os.closerange(3, 256)
        enter_for_good(given["namespace"])
        random.seed()
        peer_process.main(given["debug"] == "yes")
        status = 0
    finally:
        sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
