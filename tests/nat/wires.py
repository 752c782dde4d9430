"""Long ways: a namespace with the forwarder between a host and the internet, and offloads switched off."""

from __future__ import annotations

import ctypes
import fcntl
import json
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from namespaces import LabError, Namespace

FORWARDER = Path(__file__).with_name("forwarder.py")
NEAR, FAR = "near", "far"  # the devices of a wire: towards the internet, towards the host

_SIOCETHTOOL = 0x8946
# rx and tx checksums, scatter-gather, TSO, GSO, GRO: a frame that is passed on by hand has to be whole.
_OFFLOADS = (0x15, 0x17, 0x19, 0x1F, 0x24, 0x2C)


@dataclass(frozen=True, slots=True)
class Wire:
    """What happens to packets between a host and the internet, each way; a path has two such wires.

    delay and jitter in seconds, loss as a share, rate in bits a second (0: unlimited).
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    rate: float = 0.0
    seed: int = 0


class LaidWire:
    """A wire at work."""

    def __init__(self, wire: Wire, namespace: Namespace) -> None:
        self._process: subprocess.Popen[Any] = namespace.start(
            [
                *(sys.executable, str(FORWARDER), NEAR, FAR, f"--delay={wire.delay}"),
                *(f"--jitter={wire.jitter}", f"--loss={wire.loss}", f"--rate={wire.rate}"),
                f"--seed={wire.seed}",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        if self._process.stdout.readline().strip() != "ready":
            raise LabError("the forwarder of a wire did not start: see what it said on stderr")

    def counts(self) -> dict[str, dict[str, int]]:
        """Frames so far: {"out", "back"}: {"forwarded", "lost", "overflowed"}; out is to the host."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write("counts\n")
        self._process.stdin.flush()
        counts: dict[str, dict[str, int]] = json.loads(self._process.stdout.readline())
        return counts

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def switch_offloads_off(namespace: Namespace, device: str) -> None:
    """As `ethtool -K` does: what leaves this device is single frames with checksums in them."""
    with namespace.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for command in _OFFLOADS:
            value = ctypes.create_string_buffer(struct.pack("II", command, 0))
            request = struct.pack("16sP", device.encode(), ctypes.addressof(value)).ljust(40, b"\0")
            fcntl.ioctl(sock.fileno(), _SIOCETHTOOL, request)
